"""Tensors put into other files: as many as fit a size, or one for all. The tensors stay what they are."""

from __future__ import annotations

import json
import shutil
import struct
import sys
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from rewriter import (
    CheckpointError,
    PlanOptions,
    RequestError,
    UnsupportedError,
    make_output,
    make_plan,
    open_checkpoint,
    verify,
)
from rewriter.cli import main
from rewriter.layout.sharding import by_size
from rewriter.planning.saved_plan import load_plan, replan
from tests.support.builders import (
    MODELS,
    everything,
    gguf_field,
    gguf_metadata,
    gguf_record,
    gguf_string,
    huggingface,
    prune,
    raw_gguf,
    split_gguf,
    tensors_of,
    values,
    write_gguf,
)
from tests.support.checkpoints import llama


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments) -> Done:
        monkeypatch.setattr(sys, "argv", ["rewriter", *map(str, arguments)])
        monkeypatch.setattr("signal.signal", lambda *_: None)
        with pytest.raises(SystemExit) as stopped:
            main()
        return Done(stopped.value.code or 0, *capsys.readouterr())

    return call


LLAMA = MODELS / "tiny-llama-12L"
ONE, SMALL = PlanOptions(single_file=True), PlanOptions(max_size=700_000)
KEEP = [0, 1, 2, 5, 7, 10]


def index_of(folder: Path) -> dict:
    return json.loads((folder / "model.safetensors.index.json").read_text())


@pytest.mark.parametrize("keep", [KEEP, range(12)], ids=["some", "all"])
@pytest.mark.parametrize("options", [ONE, SMALL, PlanOptions(max_size=2_000_000), PlanOptions(max_size=10**9)])
def test_a_directory_in_other_files_holds_the_same(options, keep, tmp_path):
    plain = tensors_of(prune(LLAMA, tmp_path / "plain", keep))
    target = prune(LLAMA, tmp_path / "out", keep, options)
    assert tensors_of(target) == plain
    assert verify(target, LLAMA) == ()
    if options.max_size:
        assert all(file.stat().st_size <= options.max_size for file in target.glob("*.safetensors"))


def test_one_file_has_no_index(tmp_path):
    target = prune(LLAMA, tmp_path / "out", KEEP, ONE)
    assert [file.name for file in target.glob("model*")] == ["model.safetensors"]
    with safe_open(target / "model.safetensors", framework="numpy") as reader:
        assert reader.metadata() == {"format": "pt"}


def test_what_fits_into_one_file_has_no_index(tmp_path):
    target = prune(LLAMA, tmp_path / "out", KEEP, PlanOptions(max_size=10**9))
    assert [file.name for file in target.glob("model*")] == ["model.safetensors"]


def test_shards_are_named_numbered_and_indexed(tmp_path):
    target = prune(LLAMA, tmp_path / "out", KEEP, SMALL)
    files = sorted(file.name for file in target.glob("*.safetensors"))
    count = len(files)
    assert files == [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    index, tensors = index_of(target), tensors_of(target)
    assert index["metadata"]["total_size"] == sum(len(data) for _, _, data in tensors.values())
    assert index["weight_map"] == {name: file for file in files for name in tensors_of(target / file)}


def test_an_index_that_was_not_there_is_made(tmp_path):
    source = huggingface(tmp_path / "in", layers=4)
    target = prune(source, tmp_path / "out", [0, 2], PlanOptions(max_size=1500))
    assert list(index_of(target)) == ["metadata", "weight_map"]
    assert list(index_of(target)["weight_map"]) == sorted(tensors_of(target))
    assert verify(target, source) == ()


def test_there_and_back_again_gives_the_same_bytes(tmp_path):
    shards = prune(LLAMA, tmp_path / "shards", range(12), PlanOptions(max_size=500_000, provenance=False))
    one = prune(LLAMA, tmp_path / "one", range(12), PlanOptions(single_file=True, provenance=False))
    again = prune(shards, tmp_path / "again", range(12), PlanOptions(single_file=True, provenance=False))
    names = [[tensor.name for tensor in open_checkpoint(each).tensors] for each in (one, again, LLAMA)]
    assert names[0] == names[1] == names[2]
    assert tensors_of(again) == tensors_of(one) == tensors_of(LLAMA)


def test_a_tensor_larger_than_the_limit_has_a_file_of_its_own(tmp_path):
    target = prune(LLAMA, tmp_path / "out", KEEP, PlanOptions(max_size=5000))
    sizes = {file.name: len(tensors_of(file)) for file in target.glob("*.safetensors")}
    assert sorted(name for name, (_, _, data) in tensors_of(target).items() if len(data) > 5000)
    assert all(count == 1 for name, count in sizes.items() if (target / name).stat().st_size > 5000)
    assert verify(target, LLAMA) == ()


def test_the_order_of_files_does_not_depend_on_chance(tmp_path):
    one, other = (prune(LLAMA, tmp_path / name, KEEP, SMALL) for name in ("a", "b"))
    assert everything(one) == everything(other)


def test_metadata_that_contradicts_itself_is_not_joined(tmp_path):
    source = huggingface(tmp_path / "in", shards=2)
    file = source / "model-00002-of-00002.safetensors"
    save_file({name: values(name) for name in tensors_of(file)}, file, metadata={"format": "flax"})
    with pytest.raises(UnsupportedError, match="disagree about format in their __metadata__"):
        prune(source, tmp_path / "out", [0, 1], ONE)


def test_metadata_of_all_files_is_joined(tmp_path):
    source = huggingface(tmp_path / "in", shards=2)
    file = source / "model-00002-of-00002.safetensors"
    save_file({name: values(name) for name in tensors_of(file)}, file, metadata={"note": "second"})
    target = prune(source, tmp_path / "out", [0, 1], ONE)
    with safe_open(target / "model.safetensors", framework="numpy") as reader:
        assert reader.metadata() == {"format": "pt", "note": "second"}
    assert verify(target, source) == ()


def test_wide_numbers_stay_aligned(tmp_path):
    """A reader views the bytes in place: after odd bytes of one shard, those of the next would be off."""
    source = huggingface(tmp_path / "in", shards=2)
    file = source / "model-00001-of-00002.safetensors"
    tensors = {name: values(name) for name in tensors_of(file)}
    save_file({**tensors, "model.odd": np.ones(7, "uint8")}, file, metadata={"format": "pt"})
    index = index_of(source)
    index["weight_map"]["model.odd"] = file.name
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    target = prune(source, tmp_path / "out", range(6), ONE)
    assert all(tensor.offset % 4 == 0 for tensor in open_checkpoint(target).tensors if tensor.dtype == "F32")
    assert tensors_of(target) == tensors_of(source)


def test_a_side_file_keeps_its_name(tmp_path):
    source = huggingface(tmp_path / "in")
    (source / "model-00001-of-00002.safetensors").write_bytes(b"not ours")
    (source / "model-00002-of-00002.safetensors").write_bytes(b"not ours")
    with pytest.raises(UnsupportedError, match="goes along as it is, and the weights would take its name"):
        prune(source, tmp_path / "out", range(6), PlanOptions(max_size=3000))


def test_a_lone_file_cannot_become_shards(tmp_path):
    shutil.copy(huggingface(tmp_path / "in") / "model.safetensors", tmp_path / "lone.safetensors")
    with pytest.raises(RequestError, match="a lone safetensors file stays one file"):
        prune(tmp_path / "lone.safetensors", tmp_path / "x", [0], PlanOptions(generic=True, max_size=1000))


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1, [1, 1, 1, 1]),
        (10, [1, 1, 1, 1]),
        (12, [1, 1, 1, 1]),
        (13, [1, 2, 1]),
        (16, [1, 2, 1]),
        (17, [2, 2]),
        (25, [4]),
    ],
)
def test_files_are_filled_to_the_byte(limit, expected):
    """The first file holds 9 bytes besides its tensors, the others 5; each tensor takes 4."""
    plan = make_plan(llama(2), [0, 1], PlanOptions(max_size=limit))
    groups = by_size(plan, lambda copy: 4, lambda number: 5 if number else 9)
    assert [len(group) for group in groups] == expected
    assert [copy for group in groups for copy in group] == list(plan.tensors)


# GGUF


def split_values(path: Path) -> tuple:
    fields = gguf_metadata(path)
    return tuple(fields[f"split.{key}"] for key in ("no", "count", "tensors.count"))


def small_gguf(folder: Path, **more) -> Path:
    folder.mkdir(exist_ok=True)
    return write_gguf(folder / "model.gguf", **more)


@pytest.mark.parametrize("keep", [[0, 2, 5], range(6)], ids=["some", "all"])
@pytest.mark.parametrize("make", [small_gguf, split_gguf], ids=["single", "split"])
@pytest.mark.parametrize(
    "options", [ONE, PlanOptions(max_size=2_500), PlanOptions(max_size=20), PlanOptions(max_size=10**9)]
)
def test_a_gguf_in_other_files_holds_the_same(options, make, keep, tmp_path):
    source = make(tmp_path / "in")
    target = prune(source, tmp_path / "out.gguf", keep, options)
    plain = tensors_of(prune(source, tmp_path / "plain.gguf", keep))
    assert tensors_of(target) == plain
    assert verify(target, source) == ()
    files = list(tmp_path.glob("out*"))
    if len(files) == 1:
        assert target.name == "out.gguf"
        assert not [key for key in gguf_metadata(target) if key.startswith("split.")]
        return
    kinds = [gguf.GGUFValueType.UINT16], [gguf.GGUFValueType.UINT16], [gguf.GGUFValueType.INT32]
    for number in range(len(files)):
        file = tmp_path / f"out-{number + 1:05}-of-{len(files):05}.gguf"
        told = (number, len(files), len(plain))
        assert split_values(file) == tuple(zip(kinds, told, strict=True))
        assert number == 0 or len(gguf_metadata(file)) <= 4


@pytest.mark.parametrize("provenance", [True, False])
def test_no_gguf_is_larger_than_asked_for(provenance, tmp_path):
    source = MODELS / "tiny-llama-12L-F16.gguf"
    prune(source, tmp_path / "out.gguf", KEEP, PlanOptions(max_size=900_000, provenance=provenance))
    sizes = [file.stat().st_size for file in tmp_path.glob("out-*")]
    assert len(sizes) > 3
    assert max(sizes) <= 900_000


def test_every_file_keeps_the_alignment(tmp_path):
    source = write_gguf(tmp_path / "in.gguf", alignment=128)
    target = prune(source, tmp_path / "out.gguf", range(6), PlanOptions(max_size=2_500))
    files = sorted(tmp_path.glob("out-*"))
    assert len(files) > 1
    assert all(tensor.data_offset % 128 == 0 for file in files for tensor in gguf.GGUFReader(file).tensors)
    assert verify(target, source) == ()


def test_a_gguf_there_and_back_again(tmp_path):
    source = MODELS / "tiny-llama-12L-Q8_0.gguf"
    bare = {"provenance": False}
    split = prune(source, tmp_path / "split.gguf", range(12), PlanOptions(max_size=500_000, **bare))
    prune(split, tmp_path / "again.gguf", range(12), PlanOptions(single_file=True, **bare))
    assert (tmp_path / "again.gguf").read_bytes() == source.read_bytes()


def test_what_llama_cpp_merged_is_split_again(tmp_path):
    """gguf-split --merge leaves split.count = 0."""
    numbers = [gguf_field(f"split.{key}", 2, struct.pack("<H", 0)) for key in ("no", "count")]
    total = gguf_field("split.tensors.count", 5, struct.pack("<i", 4))
    fields = [gguf_field("general.architecture", 8, gguf_string("llama")), *numbers, total]
    fields += [gguf_field("llama.block_count", 4, struct.pack("<I", 4))]
    records = [gguf_record(f"blk.{layer}.x", (32,), 0, 128 * layer) for layer in range(4)]
    source = raw_gguf(tmp_path / "in.gguf", fields, records, bytes(512))
    target = prune(source, tmp_path / "out.gguf", [0, 2, 3], PlanOptions(max_size=200))
    assert [value for _, value in split_values(target)] == [0, 3, 3]
    assert verify(target, source) == ()
    one = prune(source, tmp_path / "one.gguf", [0, 2, 3], ONE)
    assert not [key for key in gguf_metadata(one) if key.startswith("split.")]


def test_metadata_of_a_later_file_is_not_lost(tmp_path):
    source = split_gguf(tmp_path / "in", files=2)
    second = source.with_name("model-00002-of-00002.gguf")
    raw = second.read_bytes()
    extra = gguf_field("mine.note", 8, gguf_string("x"))
    count = struct.unpack_from("<Q", raw, 16)[0] + 1
    padding = b"" if len(extra) % 32 == 0 else None
    if padding is None:
        extra = gguf_field("mine.note", 8, gguf_string("x" * (1 + -len(extra) % 32)))
    second.write_bytes(raw[:16] + struct.pack("<Q", count) + extra + raw[24:])
    with pytest.raises(UnsupportedError, match=r"has metadata of its own, mine\.note"):
        prune(source, tmp_path / "out.gguf", [0, 1], ONE)


# Plans, records, the command line


def test_a_saved_plan_says_which_files(run, tmp_path):
    assert run("plan", LLAMA, "--drop", "3", "--shard-size", "700kB", "-o", tmp_path / "plan.json").code == 0
    saved = load_plan(tmp_path / "plan.json")
    assert saved.options.max_size == 700_000
    plan, same = replan(saved, open_checkpoint(LLAMA))
    said = [(file["name"], file["bytes"]) for file in json.loads((tmp_path / "plan.json").read_text())["files"]]
    assert same
    assert said == [(file.name, file.nbytes) for file in make_output(plan, "out").files]
    assert run("prune", LLAMA, tmp_path / "out", "--plan", tmp_path / "plan.json").code == 0
    assert {name: len(data) for name, data in everything(tmp_path / "out").items()} == dict(said)


@pytest.mark.parametrize("value", [0, -1, "x", True, 1.5])
def test_a_saved_plan_with_a_bad_size(run, value, tmp_path):
    run("plan", LLAMA, "--drop", "3", "--single-file", "-o", tmp_path / "plan.json")
    saved = json.loads((tmp_path / "plan.json").read_text())
    saved["options"]["max_size"] = value
    (tmp_path / "plan.json").write_text(json.dumps(saved))
    with pytest.raises(CheckpointError, match="is not a plan"):
        load_plan(tmp_path / "plan.json")


def test_the_record_says_it_again(tmp_path):
    target = prune(LLAMA, tmp_path / "out", KEEP, SMALL)
    record = json.loads((target / "rewriter.json").read_text())
    assert record["selection"] == "--stack main --keep 0-2,5,7,10 --shard-size 700000"
    plan = make_plan(open_checkpoint(LLAMA), KEEP, ONE)
    assert plan.provenance.selection.endswith(" --single-file")


@pytest.mark.parametrize("size", ["--shard-size", "--split-max-size"])
def test_without_a_choice_of_layers_all_stay(run, size, tmp_path):
    done = run("prune", LLAMA, tmp_path / "out", size, "700k")
    assert (done.code, done.err) == (0, "")
    assert "note: nothing is dropped, the same tensors are put into other files" in done.out
    assert tensors_of(tmp_path / "out") == tensors_of(LLAMA)


def test_mtp_layers_stay_when_nothing_is_chosen(run, tmp_path):
    source = huggingface(tmp_path / "in", layers=5, model_type="deepseek_v3", num_nextn_predict_layers=1)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    assert run("prune", source, tmp_path / "out", "--single-file").code == 0
    assert tensors_of(tmp_path / "out") == tensors_of(source)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard-size", "1GB", "--single-file"], "cannot be combined"),
        (["--shard-size", "many"], "is not a size"),
        (["--shard-size", "0"], "at least 1 byte"),
    ],
)
def test_wrong_requests(run, words, message, tmp_path):
    done = run("prune", LLAMA, tmp_path / "out", "--drop", "3", *words)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "out").exists()


def test_overwrite_replaces_a_set_of_another_number(tmp_path):
    source = MODELS / "tiny-llama-12L-Q8_0.gguf"
    prune(source, tmp_path / "x.gguf", KEEP, PlanOptions(max_size=400_000))
    before = len(list(tmp_path.iterdir()))
    target = prune(source, tmp_path / "x.gguf", KEEP, PlanOptions(max_size=800_000), overwrite=True)
    assert 1 < len(list(tmp_path.iterdir())) < before
    assert verify(target, source) == ()
