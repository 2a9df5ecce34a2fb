"""`rewriter plan`: what it prints, its JSON, and the plans that it saves."""

from __future__ import annotations

import json

from tests.support.builders import (
    MODELS,
    everything,
    huggingface,
)
from tests.support.command_line import ok

LLAMA, GGUF = MODELS / "tiny-llama-12L", MODELS / "tiny-llama-12L-Q4_K_M.gguf"
SUMS = {"tensors", "parameters", "bytes"}


def test_plan_shows_everything_and_writes_nothing(run, tmp_path):
    source = huggingface(tmp_path / "in", layers=6, first_k_dense_replace=3)
    before = everything(tmp_path)
    out = ok(run("plan", source, "--drop", "1,-1"))
    for line in (
        "in: stack main, 6 layers -> 4", "keep     0,2-4", "drop     1,5", "number   2-4 -> 1-3", "tensors  21 -> 15",
        "bytes    2.69 kB -> 1.92 kB", "config.json: num_hidden_layers: 6 -> 4  (count)",
        "config.json: first_k_dense_replace: 3 -> 2  (leading_count)", "model.safetensors", "bytes of disk needed",
    ):  # fmt: skip
        assert line in out
    assert everything(tmp_path) == before


def test_the_sizes_of_the_plan_are_exact(run, tmp_path):
    described = json.loads(ok(run("plan", LLAMA, "--keep", "0-3", "--json")))
    ok(run("prune", LLAMA, tmp_path / "tiny-llama-12L-pruned", "--keep", "0-3"))
    sizes = {name: len(data) for name, data in everything(tmp_path / "tiny-llama-12L-pruned").items()}
    assert {file["name"]: file["bytes"] for file in described["files"]} == sizes
    assert described["disk_needed"] == sum(sizes.values())


def test_the_schema_of_plan(run):
    value = json.loads(ok(run("plan", LLAMA, "--drop", "1,-1", "--json")))
    assert set(value) == SUMS | {
        "schema", "kind", "rewriter", "source", "stack", "main", "prefix", "layers", "prediction_layers", "options",
        "changes", "card", "moved", "files", "disk_needed", "shareable", "left_behind", "warnings",
    }  # fmt: skip
    assert (value["schema"], value["kind"], value["stack"], value["main"]) == (1, "rewriter-plan", "main", True)
    assert set(value["source"]) == {"name", "format", "architecture", "header_sha256"}
    kept = [0, *range(2, 11)]
    assert value["layers"] == {
        "before": 12, "after": 10, "kept": kept, "dropped": [1, 11], "numbers": [[o, n] for n, o in enumerate(kept)]
    }  # fmt: skip
    assert value["options"] == {
        "generic": False,
        "keep_fields": [],
        "per_layer_fields": [],
        "force": False,
        "drop_mtp": False,
        "architecture": None,
        "max_size": None,
        "single_file": False,
        "provenance": True,
    }
    assert value["changes"] == [
        {"file": "config.json", "key": "num_hidden_layers", "before": 12, "after": 10, "rule": "count"}
    ]
    assert all(set(value[key]) == {"before", "after"} for key in SUMS)
    assert all(set(file) == {"name", "bytes", "shareable", "unchanged"} for file in value["files"])
    assert value["shareable"] == sum(file["shareable"] for file in value["files"]) > 0


def test_a_plan_for_another_count(run, tmp_path):
    plan = tmp_path / "plan.json"
    ok(run("plan", LLAMA, "--drop", "1,4", "-o", plan))
    code, out, err = run("prune", MODELS / "tiny-llama-16L-bytes", tmp_path / "x", "--plan", plan)
    assert (code, out) == (2, "")
    assert "the plan is for 12 layers (tiny-llama-12L), tiny-llama-16L-bytes has 16" in err
    assert not (tmp_path / "x").exists()


def test_more_than_half_is_said(run):
    note = "note: 7 of 12 layers go: more than half; expect the model to need training\n"
    assert note in ok(run("plan", GGUF, "--drop", "2-8"))
    assert "note:" not in ok(run("plan", GGUF, "--drop", "2-7"))
    assert "note:" not in ok(run("plan", GGUF, "--strategy", "first-n", "--count", "3"))


def test_how_files_look_is_said_beside_a_plan(run, tmp_path):
    plan, one, many = (tmp_path / name for name in ("plan.json", "one", "many"))
    ok(run("plan", LLAMA, "--drop", "1,4", "--shard-size", "2MB", "-o", plan))
    ok(run("prune", LLAMA, one, "--plan", plan, "--single-file", "--card", "--base-model", "a/b"))
    assert not (one / "model.safetensors.index.json").exists()
    assert "base_model: a/b" in (one / "README.md").read_text()
    ok(run("prune", LLAMA, many, "--plan", plan, "--shard-size", "1MB", "--no-provenance"))
    assert len(list(many.glob("*.safetensors"))) > 3
    assert "rewriter" not in (many / "config.json").read_text()
    assert not (many / "rewriter.json").exists()


def test_a_plan_never_replaces_a_file(run, tmp_path):
    (tmp_path / "plan.json").write_text("precious")
    code, _, err = run("plan", LLAMA, "--drop", "1", "-o", tmp_path / "plan.json")
    assert (code, (tmp_path / "plan.json").read_text()) == (1, "precious")
    assert "plan.json exists already" in err


def test_a_target_size_is_met_to_the_byte(run, tmp_path):
    ok(run("prune", GGUF, tmp_path / "nine.gguf", "--strategy", "top", "--count", "3"))
    size = (tmp_path / "nine.gguf").stat().st_size
    for target, layers in ((size, 9), (size - 1, 8)):
        out = ok(run("plan", GGUF, "--strategy", "top", "--target-size", str(target)))
        assert f"12 layers -> {layers}" in out
