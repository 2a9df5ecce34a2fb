"""Hugging Face directories: the index, the side files, and the weights that would be stale."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from rewriter import CheckpointError, PlanOptions, open_checkpoint, verify
from tests.support.builders import (
    everything,
    huggingface,
    llama_names,
    prune,
    tensors_of,
    write_config,
    write_safetensors,
)

INDEX = "model.safetensors.index.json"


@pytest.fixture
def shards(tmp_path):
    return huggingface(tmp_path / "in", layers=6, shards=3)


def change_index(path, change) -> None:
    index = json.loads((path / INDEX).read_text())
    change(index)
    (path / INDEX).write_text(json.dumps(index, indent=2))


FIRST, LAST = "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"
NAME = "model.embed_tokens.weight"  # it is in the first file


def entry(name, value):
    return lambda index: index["weight_map"].update({name: value})


CONTRADICTIONS = {
    "a tensor that is not there": (entry("ghost", FIRST), "puts tensor ghost into model-00001.* none of the shards"),
    "a tensor left out": (lambda index: index["weight_map"].pop(NAME), f"does not name tensor {NAME} of model-00001"),
    "a tensor elsewhere": (entry(NAME, LAST), f"puts tensor {NAME} into model-00003"),
    "a missing shard": (entry(NAME, "model-00004-of-00004.safetensors"), "cannot open model-00004-of-00004"),
    "a path": (entry(NAME, "../in/" + FIRST), r"names the shard \.\./in/.* not a plain file name"),
    "an absolute path": (entry(NAME, "/etc/passwd"), "names the shard /etc/passwd, which is not a plain"),
    "an empty name": (entry(NAME, ""), "not a plain file name"),
    "the parent": (entry(NAME, ".."), "not a plain file name"),
    "a null byte": (entry(NAME, "a\0b"), r"a\\x00b, which is not a plain"),
    "a number": (entry(NAME, 3), "names the shard 3, which is not a plain"),
    "no weight_map": (lambda index: index.pop("weight_map"), "has no weight_map"),
    "an empty weight_map": (lambda index: index["weight_map"].clear(), "has no weight_map"),
    "a list for a weight_map": (lambda index: index.update(weight_map=[1]), "has no weight_map"),
}


@pytest.mark.parametrize(("change", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_an_index_that_contradicts_the_shards(change, message, shards):
    change_index(shards, change)
    with pytest.raises(CheckpointError, match=message) as raised:
        open_checkpoint(shards)
    assert INDEX in str(raised.value) or "model-0000" in str(raised.value)


def test_an_index_that_is_no_json(shards):
    (shards / INDEX).write_text("[1]")
    with pytest.raises(CheckpointError, match=f"{INDEX} has no weight_map"):
        open_checkpoint(shards)
    (shards / INDEX).write_text("{")
    with pytest.raises(CheckpointError, match=f"{INDEX} is not valid JSON"):
        open_checkpoint(shards)


def test_the_same_tensor_in_two_shards(shards):
    write_safetensors(shards / LAST, [NAME, *llama_names(6)[14:]])
    with pytest.raises(CheckpointError, match="same tensor name stands in two shards"):
        open_checkpoint(shards)


def test_a_damaged_shard_is_named(shards):
    (shards / LAST).write_bytes((shards / LAST).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=LAST):
        open_checkpoint(shards)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "in holds no safetensors files"),
        (["x.gguf"], "holds GGUF files: give one of them, such as .*/x.gguf"),
        (["a.safetensors", "b.safetensors"], "has 2 safetensors files but no model.safetensors"),
    ],
)
def test_a_directory_without_a_model(files, message, tmp_path):
    (tmp_path / "in").mkdir()
    for name in files:
        (tmp_path / "in" / name).write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "in")


def test_one_file_of_another_name_is_taken(tmp_path):
    source = huggingface(tmp_path / "in")
    (source / "model.safetensors").rename(source / "weights.safetensors")
    target = prune(source, tmp_path / "out", [0, 5])
    assert {"config.json", "rewriter.json", "weights.safetensors"} == set(everything(target))


# Shards


def test_an_emptied_shard_goes_and_the_others_are_renumbered(tmp_path):
    names = ["model.embed_tokens.weight", *(f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(4))]
    source = huggingface(tmp_path / "in", layers=4, shards=5, names=names, x=1)
    target = prune(source, tmp_path / "out", [0, 3])
    files = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert sorted(file.name for file in target.glob("*.safetensors")) == files
    assert json.loads((target / INDEX).read_text()) == {
        "metadata": {"total_size": 3 * 128},
        "weight_map": {
            "model.embed_tokens.weight": files[0],
            "model.layers.0.mlp.up_proj.weight": files[1],
            "model.layers.1.mlp.up_proj.weight": files[2],
        },
    }
    assert verify(target, source) == ()


def test_the_rest_of_the_index_stays(shards, tmp_path):
    def change(index):
        index["metadata"] |= {"total_parameters": 1000, "note": "stays", "format": [1]}
        index["extra"] = {"a": None}

    change_index(shards, change)
    plan_drops = 3 * 32  # one layer of three tensors
    target = prune(shards, tmp_path / "out", [0, 1, 2, 4, 5])
    new, old = (json.loads((path / INDEX).read_text()) for path in (target, shards))
    old["metadata"] |= {"total_size": 18 * 128, "total_parameters": 1000 - plan_drops}
    assert {key: value for key, value in new.items() if key != "weight_map"} == {
        key: value for key, value in old.items() if key != "weight_map"
    }
    assert list(new) == list(old)
    assert list(new["metadata"]) == list(old["metadata"])


def test_shards_of_other_names_keep_them(tmp_path):
    source = huggingface(tmp_path / "in", layers=6, shards=3)
    renames = {f"model-0000{n}-of-00003.safetensors": f"part{n}.safetensors" for n in (1, 2, 3)}
    for old, new in renames.items():
        (source / old).rename(source / new)
    (source / INDEX).write_text((source / INDEX).read_text().replace("model-0000", "part").replace("-of-00003", ""))
    target = prune(source, tmp_path / "out", [0, 1])
    assert {file.name for file in target.glob("*.safetensors")} == {"part1.safetensors", "part2.safetensors"}
    assert verify(target, source) == ()


# Side files

KEPT = [
    "1_Pooling/config.json", "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin", "3_Other/weights.h5",
    "LICENSE", "NOTICE.md",
    "chat_template.jinja", "code.py", "deep/er/still.txt", "empty.txt", "modules.json", "params.json", "tokenizer.json",
    "value_head.safetensors", ".hidden",
]  # fmt: skip
STALE = [
    "pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "tf_model.h5",
    "flax_model.msgpack", "rust_model.ot", "model.onnx", "model-q4.gguf", "model.pth", "model.ckpt",
    "model_fp8.safetensors", "other.safetensors.index.json",
]  # fmt: skip
STALE_FOLDERS = [".eval_results/", "onnx/", "openvino/", "original/", ".git/", ".cache/", "checkpoint-500/"]


def fill(path, names) -> None:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"" if name == "empty.txt" else name.encode() * 3)


def test_side_files_go_along_and_stale_weights_stay(tmp_path):
    source = huggingface(tmp_path / "in")
    fill(source, [*KEPT, *STALE, *(folder + "file" for folder in STALE_FOLDERS)])
    write_safetensors(source / "value_head.safetensors", ["summary.weight", "v_head.0.bias"[:6]])
    write_safetensors(source / "model_fp8.safetensors", llama_names(2))
    write_safetensors(source / "2_Dense/model.safetensors", ["linear.0.weight"])
    checkpoint = open_checkpoint(source)
    assert sorted(file.name for file in checkpoint.side_files) == sorted(KEPT)
    assert list(checkpoint.left_behind) == sorted([*STALE, *STALE_FOLDERS])
    target = prune(source, tmp_path / "out", [0, 1])
    before, after = everything(source), everything(target)
    assert {name: after.pop(name) for name in KEPT} == {name: before[name] for name in KEPT}
    assert set(after) == {"config.json", "model.safetensors", "rewriter.json"}
    assert verify(target, source) == ()


def test_consolidated_weights_take_their_params_along(tmp_path):
    source = huggingface(tmp_path / "in")
    names = [name.removeprefix("model.") for name in llama_names(6)]
    write_safetensors(source / "consolidated-00001-of-00001.safetensors", names)
    fill(source, ["params.json"])
    target = prune(source, tmp_path / "out", [0])
    assert set(everything(target)) == {"config.json", "model.safetensors", "rewriter.json"}
    assert open_checkpoint(source).left_behind == ("consolidated-00001-of-00001.safetensors", "params.json")


@pytest.mark.parametrize("name", ["openvino_model.bin", "openvino_model.xml"])
def test_openvino_files_at_the_top_are_stale(name, tmp_path):
    source = huggingface(tmp_path / "in")
    fill(source, [name])
    assert open_checkpoint(source).left_behind == (name,)


def test_a_side_file_called_like_a_renumbered_shard(tmp_path):
    names = ["model.embed_tokens.weight", *(f"model.layers.{layer}.w" for layer in range(2))]
    source = huggingface(tmp_path / "in", layers=2, shards=3, names=names)
    write_safetensors(source / "model-00001-of-00002.safetensors", ["other.weight"])
    assert verify(prune(source, tmp_path / "out", [0]), source) == ()


def test_the_single_file_wins_over_an_index(tmp_path):
    source = huggingface(tmp_path / "in", shards=2)
    write_safetensors(source / "model.safetensors", llama_names(6))
    checkpoint = open_checkpoint(source)
    assert [shard.name for shard in checkpoint.shards] == ["model.safetensors"]
    assert checkpoint.left_behind == (*sorted(f"model-0000{n}-of-00002.safetensors" for n in (1, 2)), INDEX)


def test_two_indexes(tmp_path):
    source = huggingface(tmp_path / "in", shards=2)
    shutil.copy(source / INDEX, source / "other.safetensors.index.json")
    assert open_checkpoint(source).left_behind == ("other.safetensors.index.json",)
    (source / INDEX).rename(source / "third.safetensors.index.json")
    with pytest.raises(CheckpointError, match=r"several indexes: other.*, third"):
        open_checkpoint(source)


def test_links_into_a_cache_are_followed(tmp_path):
    real = huggingface(tmp_path / "blobs", shards=3)
    fill(real, ["tokenizer.json", "1_Pooling/config.json"])
    source = tmp_path / "snapshot"
    source.mkdir()
    for number, name in enumerate(sorted(everything(real))):
        blob = (real / name).rename(tmp_path / f"blob{number}")
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).symlink_to(os.path.relpath(blob, (source / name).parent))
    target = prune(source, tmp_path / "out", [0, 2])
    assert not [path for path in target.rglob("*") if path.is_symlink()]
    assert {"tokenizer.json", "1_Pooling/config.json", "config.json", INDEX} <= set(everything(target))
    assert verify(target, source) == ()


def test_a_linked_folder_is_copied(tmp_path):
    source = huggingface(tmp_path / "in")
    fill(tmp_path / "elsewhere", ["a/b.txt"])
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    target = prune(source, tmp_path / "out", [0])
    assert (target / "linked/a/b.txt").read_bytes() == b"a/b.txt" * 3
    assert not (target / "linked").is_symlink()


@pytest.mark.parametrize(("where", "to"), [("loop", "."), ("deep/loop", ".."), ("loop", "..")])
def test_a_loop_of_links(where, to, tmp_path):
    source = huggingface(tmp_path / "in")
    (source / where).parent.mkdir(exist_ok=True)
    (source / where).symlink_to(to)
    with pytest.raises(CheckpointError, match="is a link to one that holds it"):
        open_checkpoint(source)


def test_a_link_to_itself(tmp_path):
    source = huggingface(tmp_path / "in")
    (source / "self").symlink_to("self")
    with pytest.raises(CheckpointError, match="cannot read in"):
        open_checkpoint(source)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "pipe.txt"])
def test_a_fifo_does_not_hang(name, tmp_path):
    source = huggingface(tmp_path / "in")
    (source / name).unlink(missing_ok=True)
    os.mkfifo(source / name)
    with pytest.raises(CheckpointError, match=f"{name} is not a regular file"):
        open_checkpoint(source)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_no_checkpoint(device):
    with pytest.raises(CheckpointError, match="is not a regular file"):
        open_checkpoint(device)


# Records


def test_a_damaged_record(tmp_path):
    source = prune(huggingface(tmp_path / "in"), tmp_path / "out", [0, 1, 2])
    (source / "rewriter.json").write_text('{"source": 1}')
    with pytest.raises(CheckpointError, match=r"provenance record .* is damaged; --no-provenance"):
        prune(source, tmp_path / "again", [0])
    prune(source, tmp_path / "again", [0], PlanOptions(provenance=False))
    assert set(everything(tmp_path / "again")) == {"config.json", "model.safetensors"}


def test_a_record_for_other_layers(tmp_path):
    source = prune(huggingface(tmp_path / "in"), tmp_path / "out", [0, 1, 2])
    write_safetensors(source / "model.safetensors", llama_names(4))
    write_config(source / "config.json", model_type="llama", num_hidden_layers=4)
    with pytest.raises(CheckpointError, match="knows 3 layers in stack main, the tensors have 4"):
        prune(source, tmp_path / "again", [0])


def test_the_record_says_what_happened(tmp_path):
    source = huggingface(tmp_path / "in")
    first = prune(source, tmp_path / "one", [0, 2, 3, 5])
    second = prune(first, tmp_path / "two", [1, 3])
    record = json.loads((second / "rewriter.json").read_text())
    assert list(record) == [
        "schema", "rewriter", "source", "selection", "stack", "layers", "options", "changes", "warnings", "original"
    ]  # fmt: skip
    assert record["source"] == {"name": "one", "header_sha256": open_checkpoint(first).header_sha256}
    assert record["original"] == {
        "name": "in", "header_sha256": open_checkpoint(source).header_sha256, "layers": {"main": [2, 5]}
    }  # fmt: skip
    assert (record["selection"], record["layers"]) == ("--stack main --keep 1,3", {"before": 4, "kept": [1, 3]})
    assert record["changes"] == [
        {"file": "config.json", "key": "num_hidden_layers", "before": 4, "after": 2, "rule": "count"}
    ]
    assert (
        tensors_of(second)["model.layers.1.mlp.down_proj.weight"]
        == (tensors_of(source)["model.layers.5.mlp.down_proj.weight"])
    )
