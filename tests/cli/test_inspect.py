"""`rewriter inspect`: what it prints, and its JSON."""

from __future__ import annotations

import json

import pytest

from tests.support.builders import (
    MODELS,
    huggingface,
)
from tests.support.command_line import ok

LLAMA, GGUF = MODELS / "tiny-llama-12L", MODELS / "tiny-llama-12L-Q4_K_M.gguf"
SUMS = {"tensors", "parameters", "bytes"}


@pytest.mark.parametrize("path", [LLAMA, GGUF], ids=["safetensors", "gguf"])
def test_inspect(path, run):
    out = ok(run("inspect", path))
    assert f"{path.name}: {'huggingface' if path is LLAMA else 'gguf'}, architecture llama" in out
    assert "stack main: 12 layers" in out
    assert "outside the layers: " in out
    rows = [line for line in out.splitlines() if "█" in line]
    assert [int(line.split()[0]) for line in rows] == list(range(12))
    assert ("model-00003-of-00003.safetensors: " in out) == (path is LLAMA)
    assert ("q4_K" in out.replace("Q4", "q4")) == (path is GGUF)


def test_inspect_shows_every_stack_and_what_stays_behind(run, tmp_path):
    names = [f"{side}.block.{n}.layer.0.w" for side, count in (("encoder", 3), ("decoder", 2)) for n in range(count)]
    source = huggingface(tmp_path / "t5", names=["shared.weight", *names], model_type="t5", num_layers=3,
                         num_decoder_layers=2)  # fmt: skip
    (source / "pytorch_model.bin").write_text("")
    out = ok(run("inspect", source))
    assert out.index("stack decoder: 2 layers") < out.index("stack encoder: 3 layers")
    assert "would stay behind: pytorch_model.bin" in out


def test_the_schema_of_inspect(run):
    value = json.loads(ok(run("inspect", LLAMA, "--json")))
    assert set(value) == SUMS | {
        "schema", "name", "format", "architecture", "known", "header_sha256", "dtypes", "stacks", "outside", "shards",
        "side_files", "left_behind", "provenance",
    }  # fmt: skip
    assert (value["schema"], value["known"], value["name"]) == (1, True, "tiny-llama-12L")
    (stack,) = value["stacks"]
    assert set(stack) == SUMS | {"name", "main", "prefix", "count_key", "layers", "prediction_layers", "per_layer"}
    assert (stack["name"], stack["main"], stack["prefix"], stack["layers"]) == ("main", True, "model.layers.", 12)
    assert [set(row) for row in stack["per_layer"]] == [SUMS | {"layer", "dtypes"}] * 12
    assert [set(row) for row in value["shards"]] == [{"name", "bytes", "tensors"}] * 3
    assert [set(row) for row in value["dtypes"]] == [SUMS | {"dtype"}]
    assert set(value["outside"]) == SUMS
    for key in SUMS:
        assert stack[key] == sum(row[key] for row in stack["per_layer"])
        assert value[key] == stack[key] + value["outside"][key]
    assert value["tensors"] == sum(row["tensors"] for row in value["shards"])
    assert value["side_files"] == ["generation_config.json", "tokenizer.json", "tokenizer_config.json"]
