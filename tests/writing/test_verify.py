"""What verify must notice: something broken in every kind of place, one Problem line for each."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
from safetensors import SafetensorError

from rewriter import CheckpointError, PlanOptions, open_checkpoint, verify
from rewriter.writing.match_layers import Place, first_difference
from tests.support.builders import (
    MODELS,
    block_names,
    gguf_string,
    huggingface,
    llama_names,
    prune,
    split_files,
    split_gguf,
    write_config,
    write_gguf,
    write_safetensors,
)
from tests.support.damage import flip, in_json, lines, rename_tensor, replace

KEEP = [0, 2, 3, 5]
INDEX = "model.safetensors.index.json"
FIELDS = {
    "attention.head_count_kv": [8, 7, 6, 5, 4, 3],
    "context_length": 128,
    "general.license": "apache",
    "long.words": [f"word {number}" for number in range(5000)],
    "long.numbers": list(range(5000)),
}


def gguf_source(folder: Path) -> Path:
    return write_gguf(folder / "source.gguf", fields=FIELDS)


def directory_source(folder: Path) -> Path:
    path = huggingface(folder / "source", shards=2, hidden_size=8, layer_types=["a", "b", "c", "d", "e", "f"])
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling/config.json").write_text('{"pooling": true}')
    return path


def lone_source(folder: Path) -> Path:
    write_config(folder / "config.json", model_type="llama", num_hidden_layers=6, hidden_size=8)
    return write_safetensors(folder / "source.safetensors", llama_names(6), {"format": "pt"})


SOURCES = {"gguf": gguf_source, "split": split_gguf, "directory": directory_source, "lone": lone_source}


def swap_layers(path: Path, stem: bytes) -> None:
    """Layers 0 and 1 under each other's numbers: nothing in the file contradicts itself."""
    raw = path.read_bytes()
    raw = (
        raw.replace(stem + b"0.", stem + b"x.").replace(stem + b"1.", stem + b"0.").replace(stem + b"x.", stem + b"1.")
    )
    path.write_bytes(raw)


def last_shard(path: Path) -> Path:
    return path / "model-00002-of-00002.safetensors"


def replaced(old: bytes, new: bytes):
    return lambda path: replace(path, old, new)


def u32(key: str, old: int, new: int):
    return replaced(*(gguf_string(key) + struct.pack("<II", 4, value) for value in (old, new)))


def renamed(old: str, new: str, file: int = 0):
    return lambda path: rename_tensor(split_files(path)[file], old, new)


def config(**changes):
    return lambda path: in_json(path / "config.json", lambda value: value.update(changes))


def index(change):
    return lambda path: in_json(path / INDEX, change)


WITHOUT_2 = [name for name in llama_names(4) if ".2." not in name]
ALIASED = [name.replace("layers.1.", "layers.01.") for name in llama_names(4)]

# kind, what is broken, the one place that must be named (alone), with the source too
ALONE = [
    ("gguf", renamed("blk.1.attn_q.weight", "blk.7.attn_q.weight"), "", "layer 4 is missing"),
    ("gguf", replaced(b"GGUF\3", b"GGUF\4"), "p.gguf", "GGUF version 4"),
    ("gguf", lambda p: p.write_bytes(p.read_bytes()[:-40]), "p.gguf", "cut off"),
    ("gguf", u32("llama.block_count", 4, 5), "llama.block_count", "expected 4, as the tensors have layers, found 5"),
    ("split", lambda p: split_files(p)[1].unlink(), "p-00001-of-00003.gguf", "cannot open p-00002"),
    ("split", renamed("blk.3.attn_q.weight", "blk.0.attn_q.weight", file=2), "p-", "same tensor"),
    (
        "split",
        lambda p: replace(
            split_files(p)[2],
            gguf_string("split.no") + struct.pack("<IH", 2, 2),
            gguf_string("split.no") + struct.pack("<IH", 2, 3),
        ),
        "p-",
        "split.no is 3, expected 2",
    ),
    ("directory", config(num_hidden_layers=6), "num_hidden_layers", "expected 4, as the tensors have layers, found 6"),
    (
        "directory",
        lambda p: in_json(p / "config.json", lambda c: c["layer_types"].append("f")),
        "layer_types",
        "expected a value for 4 layers, found layer_types: has 5 entries for 4 layers",
    ),
    ("directory", index(lambda i: i["metadata"].update(total_size=6)), INDEX, "expected 1920, found 6"),
    ("directory", index(lambda i: i["weight_map"].popitem()), "p: ", f"{INDEX} does not name tensor"),
    ("directory", lambda p: last_shard(p).unlink(), "p: ", "cannot open model-00002-of-00002"),
    ("directory", lambda p: last_shard(p).write_bytes(last_shard(p).read_bytes() + b"x"), "p: ", "tensors end at byte"),
    ("directory", lambda p: (p / "config.json").write_text("{"), "p: ", "config.json is not valid JSON"),
    ("lone", lambda p: p.with_name("p.config.json").unlink(), "num_hidden_layers", "found 6"),
    ("lone", lambda p: p.write_bytes(p.read_bytes()[:-1]), "p.safetensors", "tensors end at byte"),
    ("lone", lambda p: write_safetensors(p, WITHOUT_2), "p.safetensors", "layer 2 is missing"),
    ("lone", lambda p: write_safetensors(p, ALIASED), "p.safetensors", "'01' is not"),
]
WITH_SOURCE = [
    (
        "gguf",
        lambda p: flip(p, open_checkpoint(p).tensors[5].offset + 7),
        "tensor blk.0.ffn_down.weight",
        "the source's 84 bytes, found another byte at 7",
    ),
    ("gguf", lambda p: flip(p, -13), "tensor blk.3.ffn_down.weight", "another byte at 83"),
    ("gguf", replaced(b"apache", b"Apache"), "general.license", "expected apache, found Apache"),
    ("gguf", u32("llama.context_length", 128, 127), "llama.context_length", "expected 128, found 127"),
    (
        "gguf",
        replaced(b"llama.context_length", b"llama.context_Length"),
        "llama.context_length",
        "expected 128, found no such key",
    ),
    (
        "gguf",
        replaced(b"llama.context_length", b"llama.context_Length"),
        "llama.context_Length",
        "expected no such key, found 128",
    ),
    ("gguf", replaced(b"word 4321", b"word 4329"), "llama.long.words", "another byte at"),
    (
        "gguf",
        replaced(struct.pack("<II", 4320, 4321), struct.pack("<II", 4320, 4322)),
        "llama.long.numbers",
        "another byte",
    ),
    (
        "gguf",
        replaced(struct.pack("<QIIII", 4, 8, 6, 5, 3), struct.pack("<QIIII", 4, 8, 6, 5, 4)),
        "llama.attention.head_count_kv",
        "expected (8, 6, 5, 3), found (8, 6, 5, 4)",
    ),
    ("gguf", lambda p: swap_layers(p, b"blk."), "tensor blk.0.attn_q.weight", "another byte at"),
    ("gguf", renamed("output.weight", "output.weighT"), "tensor output.weight", "F32 [7, 3], found nothing"),
    (
        "gguf",
        renamed("output.weight", "output.weighT"),
        "tensor output.weighT",
        "expected nothing, found a tensor that should be gone",
    ),
    ("split", lambda p: flip(split_files(p)[1], -20), "tensor blk.2.attn_q.weight", "another byte at"),
    ("split", replaced(b"stays", b"Stays"), "general.unknown", "expected stays, found Stays"),
    ("directory", lambda p: flip(last_shard(p), -1), "tensor model.layers.3.", "another byte at 127"),
    ("directory", config(hidden_size=9), "hidden_size", "expected 8, found 9"),
    (
        "directory",
        lambda p: in_json(p / "config.json", lambda c: c.pop("hidden_size")),
        "hidden_size",
        "found no such key",
    ),
    ("directory", config(new=1), "new", "expected no such key, found 1"),
    ("directory", config(layer_types=["a", "c", "d", "e"]), "layer_types", "['a', 'c', 'd', 'f']"),
    ("directory", lambda p: flip(p / "1_Pooling/config.json", 3), "1_Pooling/config.json", "another byte at 3"),
    (
        "directory",
        lambda p: (p / "1_Pooling/config.json").write_text("{}"),
        "1_Pooling/config.json",
        "17 bytes, found 2",
    ),
    (
        "directory",
        lambda p: shutil.rmtree(p / "1_Pooling"),
        "1_Pooling/config.json",
        "a side file of the source, found nothing",
    ),
    ("directory", lambda p: swap_layers(p / "model-00001-of-00002.safetensors", b"layers."), "", ""),
    ("lone", replaced(b'"format":"pt"', b'"format":"tf"'), "__metadata__", "tf"),
    (
        "lone",
        replaced(b'"F32","shape":[4,8],"data_offsets":[0,', b'"F32","shape":[8,4],"data_offsets":[0,'),
        "tensor ",
        "expected F32 [4, 8], found F32 [8, 4]",
    ),
    (
        "lone",
        lambda p: in_json(p.with_name("p.config.json"), lambda c: c.update(hidden_size=9)),
        "hidden_size",
        "found 9",
    ),
]
IN_THE_RECORD = [
    (
        "directory",
        lambda p: in_json(p / "rewriter.json", lambda r: r["layers"].update(kept=[0, 1, 3, 5])),
        "tensor model.layers.1.",
        "another byte at",
    ),
    (
        "directory",
        lambda p: in_json(p / "rewriter.json", lambda r: r["layers"].update(kept=[0, 2, 3, 9])),
        "p: ",
        "layers run from 0 to 5",
    ),
]


def pruned(kind: str, folder: Path, **options) -> tuple[Path, Path]:
    source = SOURCES[kind](folder)
    name = {"directory": "p", "lone": "p.safetensors"}.get(kind, "p.gguf")
    return source, prune(source, folder / name, KEEP, PlanOptions(**options))


@pytest.mark.parametrize(("kind", "damage", "where", "what"), ALONE)
def test_what_is_noticed_without_the_source(kind, damage, where, what, tmp_path):
    source, target = pruned(kind, tmp_path)
    assert verify(target) == ()
    damage(target)
    assert len(lines(verify(target), where, what)) == 1
    assert lines(verify(target, source), where, what)


@pytest.mark.parametrize("provenance", [True, False])
@pytest.mark.parametrize(("kind", "damage", "where", "what"), WITH_SOURCE)
def test_what_is_noticed_with_the_source(kind, damage, where, what, provenance, tmp_path):
    source, target = pruned(kind, tmp_path, provenance=provenance)
    assert verify(target, source) == ()
    damage(target)
    found = verify(target, source)
    assert found
    # without a record a damaged layer is like none of the source, and that is what the problem says
    assert lines(found, where, what) or (not provenance and lines(found, "p", "matches no later layer"))


@pytest.mark.parametrize(("kind", "damage", "where", "what"), IN_THE_RECORD)
def test_a_record_that_lies(kind, damage, where, what, tmp_path):
    source, target = pruned(kind, tmp_path)
    damage(target)
    assert lines(verify(target, source), where, what)


# Files that were never right


@pytest.mark.parametrize(
    ("arch", "key", "value"),
    [
        ("llama", "attention.head_count_kv", [8, 7, 6, 5, 4, 3]),
        ("gemma3", "attention.sliding_window_pattern", [True] * 5 + [False]),
        ("llama", "feed_forward_length", [1, 2, 3, 4, 5, 6]),
    ],
)
def test_an_array_left_uncut(arch, key, value, tmp_path):
    source = write_gguf(tmp_path / "source.gguf", layers=6, arch=arch, fields={key: value})
    uncut = write_gguf(tmp_path / "uncut.gguf", layers=5, arch=arch, fields={key: value})
    assert [problem.where for problem in verify(uncut)] == [f"{arch}.{key}"]
    assert "has 6 entries for 5 layers" in str(verify(uncut)[0])
    assert verify(uncut, source)
    assert verify(source) == ()


def test_a_layer_that_was_not_renumbered(tmp_path):
    names = [name for name in block_names(6) if not name.startswith("blk.4.")]
    path = write_gguf(tmp_path / "x.gguf", layers=5, names=names)
    (problem,) = verify(path)
    assert "layer 4 is missing among 5 layers" in str(problem)


def test_a_threshold_left_alone(tmp_path):
    source = huggingface(tmp_path / "in", first_k_dense_replace=3)
    target = prune(source, tmp_path / "out", [0, 3, 4, 5])
    assert json.loads((target / "config.json").read_text())["first_k_dense_replace"] == 1
    in_json(target / "config.json", lambda config: config.update(first_k_dense_replace=3))
    assert [str(problem) for problem in verify(target, source)] == ["first_k_dense_replace: expected 1, found 3"]


@pytest.mark.parametrize("kind", ["gguf", "directory"])
def test_a_list_that_is_as_long_as_the_new_count(kind, tmp_path):
    if kind == "gguf":
        source = write_gguf(tmp_path / "in.gguf", fields={"mystery": [1, 2, 3]})
    else:
        source = huggingface(tmp_path / "in", mystery=[1, 2, 3])
    target = prune(source, tmp_path / f"out{source.suffix}", [0, 2, 5])
    assert verify(target) == verify(target, source) == ()


def test_the_pruned_tokens_of_another_length(tmp_path):
    source = write_gguf(tmp_path / "a.gguf", fields=FIELDS)
    target = prune(
        write_gguf(tmp_path / "b.gguf", fields={**FIELDS, "long.words": ["x"] * 5001}), tmp_path / "p.gguf", KEEP
    )
    assert [problem.where for problem in verify(target, source)] == ["llama.long.words"]


# Which layers were kept: the record, the origin, the bytes


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("provenance", [True, False])
def test_a_twice_pruned_file_against_both_sources(kind, provenance, tmp_path):
    source, middle = pruned(kind, tmp_path, provenance=provenance)
    last = prune(middle, tmp_path / f"last{middle.suffix}", [1, 3], PlanOptions(provenance=provenance))
    assert verify(last) == verify(last, middle) == verify(last, source) == ()
    wrong = prune(source, tmp_path / f"wrong{middle.suffix}", [2, 4], PlanOptions(provenance=provenance))
    assert verify(wrong, middle) != ()


@pytest.mark.parametrize("kind", SOURCES)
def test_an_untouched_source_agrees_with_itself(kind, tmp_path):
    source = SOURCES[kind](tmp_path)
    assert verify(source) == ()
    assert verify(source, source) == ()


@pytest.mark.parametrize("kind", SOURCES)
def test_an_unrelated_source(kind, tmp_path):
    _, target = pruned(kind, tmp_path)
    other = MODELS / ("tiny-llama-12L-Q8_0.gguf" if kind in ("gguf", "split") else "tiny-llama-12L")
    assert verify(target, other) != ()


def test_a_source_of_another_kind(tmp_path):
    _, target = pruned("gguf", tmp_path)
    assert verify(target, MODELS / "tiny-llama-12L") != ()


def test_the_options_are_read_from_the_record(tmp_path):
    source = huggingface(tmp_path / "in", model_type="novel", strange=["a"] * 6, other=[1] * 6)
    options = PlanOptions(generic=True, keep_fields=("other",), per_layer_fields=("strange",))
    target = prune(source, tmp_path / "out", [0, 1], options)
    assert verify(target) == verify(target, source) == ()
    config = json.loads((target / "config.json").read_text())
    assert (config["strange"], config["other"]) == (["a"] * 2, [1] * 6)


def test_a_bad_source_is_an_error(tmp_path):
    _, target = pruned("gguf", tmp_path)
    with pytest.raises(CheckpointError, match="cannot open nowhere"):
        verify(target, tmp_path / "nowhere")


def test_a_bad_output_is_a_problem(tmp_path):
    assert [problem.where for problem in verify(tmp_path / "nowhere")] == ["nowhere"]


def test_a_flip_anywhere_in_the_data_is_seen(tmp_path):
    source, target = pruned("gguf", tmp_path)
    raw = target.read_bytes()
    for tensor in open_checkpoint(target).tensors:
        for place in (tensor.offset, tensor.offset + tensor.nbytes - 1):
            flip(target, place)
            assert [problem.where for problem in verify(target, source)] == [f"tensor {tensor.name}"]
            target.write_bytes(raw)
    assert verify(target, source) == ()


@pytest.mark.parametrize("place", [0, 1, (1 << 20) - 1, 1 << 20, (2 << 20) + 5])
def test_the_first_difference_is_counted_from_the_start(place, tmp_path):
    (tmp_path / "a").write_bytes(bytes(3 << 20))
    (tmp_path / "b").write_bytes(bytes(7 + place) + b"x" + bytes((3 << 20) - 8 - place))
    a, b = Place(str(tmp_path / "a"), 0), Place(str(tmp_path / "b"), 7)
    assert first_difference(a, b, (3 << 20) - 7) == place
    assert first_difference(a, b, place) is None


def test_a_second_reader_is_asked(tmp_path, monkeypatch):
    _, target = pruned("lone", tmp_path)

    def refuse(*arguments, **named):
        raise SafetensorError("something\nnew")

    monkeypatch.setattr("safetensors.safe_open", refuse)
    (problem,) = verify(target)
    assert str(problem) == r"p.safetensors: expected a file that safetensors opens, found something\nnew"
