"""The command line: what it prints, its exit codes, its JSON, and that bad input is one line."""

from __future__ import annotations

import json
import os
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from rewriter.errors import printable
from tests.support.builders import (
    MODELS,
    everything,
    gguf_field,
    gguf_record,
    gguf_string,
    huggingface,
    llama_names,
    raw_gguf,
    split_gguf,
    write_config,
    write_gguf,
    write_safetensors,
)
from tests.support.command_line import ok, on_a_terminal

LLAMA, GGUF = MODELS / "tiny-llama-12L", MODELS / "tiny-llama-12L-Q4_K_M.gguf"


# What is printed


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


def test_prune_ends_with_a_summary_and_the_next_command(run, tmp_path):
    target = tmp_path / "a b.gguf"
    out = ok(run("prune", GGUF, target, "--drop", "3,7-8"))
    first, second, third = out.splitlines()
    assert first.endswith("stack main, 12 layers -> 9, dropped 3,7-8")
    assert re.fullmatch(r"parameters 2\.\d+ M -> \d\.\d+ M, 2\.1\d MB -> \d\.\d+ MB, \d+\.\d\d s", second)
    assert third == f"next: rewriter verify '{target}' --source {GGUF}"
    assert ok(run("verify", target, "--source", GGUF)).startswith("ok: ")
    assert ok(run("verify", target)).startswith("ok: ")


def test_the_sizes_of_the_plan_are_exact(run, tmp_path):
    described = json.loads(ok(run("plan", LLAMA, "--keep", "0-3", "--json")))
    ok(run("prune", LLAMA, tmp_path / "tiny-llama-12L-pruned", "--keep", "0-3"))
    sizes = {name: len(data) for name, data in everything(tmp_path / "tiny-llama-12L-pruned").items()}
    assert {file["name"]: file["bytes"] for file in described["files"]} == sizes
    assert described["disk_needed"] == sum(sizes.values())


def test_the_summary_names_the_stack_first(run, tmp_path):
    names = [f"{side}.block.{n}.layer.0.w" for side in ("encoder", "decoder") for n in range(3)]
    source = huggingface(
        tmp_path / "t5", names=names, model_type="t5", num_layers=3, num_decoder_layers=3, num_hidden_layers=3
    )
    assert "stack decoder, 3 layers -> 2" in ok(run("prune", source, tmp_path / "one", "--drop", "0"))
    assert "stack decoder, 3 layers -> 1" in ok(
        run("prune", source, tmp_path / "two", "--stack", "main", "--keep", "0")
    )
    out = ok(run("prune", tmp_path / "one", tmp_path / "three", "--stack", "encoder", "--keep", "1,2"))
    assert "stack encoder, 3 layers -> 2, dropped 0" in out
    record = json.loads((tmp_path / "three/rewriter.json").read_text())
    assert record["selection"] == "--stack encoder --keep 1-2"
    assert record["original"]["layers"] == {"decoder": [1, 2], "encoder": [1, 2]}
    assert ok(run("verify", tmp_path / "three", "--source", source))


def test_a_split_set_is_named_by_its_first_file(run, tmp_path):
    source = split_gguf(tmp_path / "in")
    out = ok(run("prune", source, tmp_path / "x.gguf", "--drop", "1"))
    assert f"next: rewriter verify {tmp_path}/x-00001-of-00003.gguf --source {source}" in out


@pytest.mark.parametrize("record", [True, False])
def test_without_a_record_the_next_command_says_the_rules_again(run, record, tmp_path):
    rules = tmp_path / "my rules.toml"
    rules.write_text(ok(run("list", "architectures", "--toml", "gguf/llama")))
    more = ["--architecture", rules, "--keep-field", "llama.context_length", *([] if record else ["--no-provenance"])]
    out = ok(run("prune", GGUF, tmp_path / "x.gguf", "--drop", "1", *more))
    line = next(line for line in out.splitlines() if line.startswith("next: rewriter "))
    words = shlex.split(line.removeprefix("next: rewriter "))
    assert words[4:] == ([] if record else ["--architecture", str(rules), "--keep-field", "llama.context_length"])
    ok(run(*words))


def test_what_stays_behind_is_in_the_summary(run, tmp_path):
    source = huggingface(tmp_path / "in")
    (source / "model.onnx").write_text("")
    out = ok(run("prune", source, tmp_path / "out", "--drop", "1"))
    assert "left behind (they belong to the unpruned model): model.onnx" in out


@pytest.mark.parametrize("kind", ["strategies", "architectures"])
def test_list(kind, run):
    out = ok(run("list", kind))
    words = {
        "strategies": [
            "top",
            "bottom",
            "even-alternate",
            "odd-alternate",
            "symmetric",
            "deepest-but-last",
            "middle",
            "first-n",
        ],
        "architectures": [
            "llama",
            "mistral",
            "qwen2",
            "qwen3",
            "gemma3",
            "phi3",
            "gpt2",
            "bert",
            "vit",
            "t5",
            "mixtral",
        ],
    }
    assert all(re.search(rf"(^|\s){word}\s", out) for word in words[kind])


def test_version_and_help(run):
    assert re.fullmatch(r"rewriter \d+\.\d+\.\d+\n", ok(run("--version")))
    assert "Exit codes" in ok(run("--help"))
    for command in ("inspect", "plan", "prune", "verify"):
        assert "Example" in ok(run(command, "--help"))


# JSON for programs

SUMS = {"tensors", "parameters", "bytes"}


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


# Saved plans


def test_a_saved_plan_is_executed(run, tmp_path):
    plan = tmp_path / "plan.json"
    ok(run("plan", LLAMA, "--drop", "1,4", "-o", plan))
    assert json.loads(plan.read_text()) == json.loads(ok(run("plan", LLAMA, "--drop", "1,4", "--json")))
    ok(run("prune", LLAMA, tmp_path / "planned", "--plan", plan))
    ok(run("prune", LLAMA, tmp_path / "direct", "--drop", "1,4"))
    assert everything(tmp_path / "planned") == everything(tmp_path / "direct")


def test_a_plan_for_a_sibling_is_made_again(run, tmp_path):
    plan = tmp_path / "plan.json"
    ok(run("plan", LLAMA, "--drop", "1,4", "-o", plan))
    code, _, err = run("prune", GGUF, tmp_path / "planned.gguf", "--plan", plan)
    assert (code, err) == (
        0, "the plan was made for tiny-llama-12L; planned again for this file from the layers it keeps\n"
    )  # fmt: skip
    ok(run("prune", GGUF, tmp_path / "direct.gguf", "--drop", "1,4"))
    assert (tmp_path / "planned.gguf").read_bytes() == (tmp_path / "direct.gguf").read_bytes()


def test_a_plan_for_another_count(run, tmp_path):
    plan = tmp_path / "plan.json"
    ok(run("plan", LLAMA, "--drop", "1,4", "-o", plan))
    code, out, err = run("prune", MODELS / "tiny-llama-16L-bytes", tmp_path / "x", "--plan", plan)
    assert (code, out) == (2, "")
    assert "the plan is for 12 layers (tiny-llama-12L), tiny-llama-16L-bytes has 16" in err
    assert not (tmp_path / "x").exists()


def test_what_does_not_fit_because_of_protected_layers(run):
    _, _, err = run("plan", GGUF, "--target-size", "1MB", "--strategy", "magnitude-l2")
    assert "while the first 2 and the last 2 are protected; --protect-first 0 --protect-last 0 lets more go" in err
    bare = ("--protect-first", "0", "--protect-last", "0")
    assert "drop" in ok(run("plan", GGUF, "--target-size", "1MB", "--strategy", "magnitude-l2", *bare))
    assert "protected" not in run("plan", GGUF, "--target-size", "1kB", "--strategy", "top")[2]


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


@pytest.mark.parametrize(
    "more",
    [("--drop", "1"), ("--keep", "1"), ("--strategy", "top", "--count", "1"), ("--stack", "main2"), ("--generic",),
     ("--protect-first", "1"), ("--force",), ("--keep-field", "x"), ("--sparsity", "0.5")],
)  # fmt: skip
def test_a_plan_cannot_be_combined(more, run, tmp_path):
    plan = tmp_path / "plan.json"
    ok(run("plan", LLAMA, "--drop", "1,4", "-o", plan))
    code, _, err = run("prune", LLAMA, tmp_path / "x", "--plan", plan, *more)
    assert code == 2
    assert re.search(f"--plan says which layers stay .*: {more[0]}[ ,].*cannot be combined", err)
    assert not (tmp_path / "x").exists()


def test_a_plan_never_replaces_a_file(run, tmp_path):
    (tmp_path / "plan.json").write_text("precious")
    code, _, err = run("plan", LLAMA, "--drop", "1", "-o", tmp_path / "plan.json")
    assert (code, (tmp_path / "plan.json").read_text()) == (1, "precious")
    assert "plan.json exists already" in err


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"kind": "rewriter-plan", "schema": "2"}', "\xff"])
def test_a_file_that_is_no_plan(content, run, tmp_path):
    (tmp_path / "plan.json").write_bytes(content.encode("latin-1"))
    code, out, err = run("prune", LLAMA, tmp_path / "x", "--plan", tmp_path / "plan.json")
    assert (code, out) == (1, "")
    assert err.startswith("rewriter: plan.json is not ")
    assert err.count("\n") == 1


def test_a_plan_with_other_changes_is_refused(run, tmp_path):
    plan = tmp_path / "plan.json"
    ok(run("plan", LLAMA, "--drop", "1,4", "-o", plan))
    plan.write_text(plan.read_text().replace('"after": 10,\n      "rule"', '"after": 11,\n      "rule"'))
    code, _, err = run("prune", LLAMA, tmp_path / "x", "--plan", plan)
    assert (code, "it was edited, or another version saved it" in err) == (2, True)


# Exit codes and bad input

USAGE = {
    "nothing": [],
    "two ways": ["--drop", "1", "--keep", "2"],
    "all": ["--drop", "0-11"],
    "out of range": ["--drop", "12"],
    "far out of range": ["--drop", "0-99999999999999"],
    "far below": ["--drop", "-13"],
    "backwards": ["--drop", "5-3"],
    "empty": ["--drop", ""],
    "empty item": ["--drop", "1,,2"],
    "garbage": ["--keep", "1;2"],
    "underscore": ["--drop", "1_0"],
    "plus": ["--drop", "+1"],
    "space": ["--drop", "1 2"],
    "leading zero": ["--drop", "01"],
    "arabic": ["--drop", "١"],
    "unknown strategy": ["--strategy", "best", "--count", "1"],
    "no amount": ["--strategy", "top"],
    "two amounts": ["--strategy", "top", "--count", "1", "--ratio", "0.5"],
    "ratio 1": ["--strategy", "top", "--ratio", "1"],
    "ratio nan": ["--strategy", "top", "--ratio", "nan"],
    "count 0": ["--strategy", "top", "--count", "0"],
    "count 12": ["--strategy", "top", "--count", "12"],
    "protected": ["--strategy", "top", "--count", "9", "--protect-first", "4"],
    "size": ["--strategy", "top", "--target-size", "4 potatoes"],
    "tiny size": ["--strategy", "top", "--target-size", "1kB"],
    "stack": ["--stack", "vision", "--drop", "1"],
    "field": ["--drop", "1", "--keep-field", "nothing.like.it"],
}


@pytest.mark.parametrize("arguments", USAGE.values(), ids=USAGE)
def test_usage_errors(arguments, run, tmp_path):
    code, out, err = run("prune", GGUF, tmp_path / "x.gguf", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("rewriter: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--count", "x"], ["--nothing"], ["--drop"], ["--protect-last", "-1"]])
def test_usage_errors_that_typer_finds(arguments, run, tmp_path):
    code, out, err = run("prune", GGUF, tmp_path / "x.gguf", *arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_negative_numbers_need_no_tricks(run):
    for arguments in (["--drop", "-1"], ["--drop=-1"], ["--drop", "-1,-2"], ["--drop", "-1,0"]):
        out = ok(run("plan", GGUF, *arguments))
        assert f"12 layers -> {11 if ',' not in arguments[-1] else 10}" in out


def bad_inputs(folder: Path) -> dict[str, Path]:
    """Sources that are refused, by what is wrong with them."""
    text = folder / "text.gguf"
    text.write_text("This is no checkpoint.\n")
    empty = folder / "empty"
    empty.write_bytes(b"")
    cut = folder / "cut.gguf"
    cut.write_bytes(GGUF.read_bytes()[:100_000])
    unknown = write_gguf(folder / "unknown.gguf", arch="novel")
    uncut = write_gguf(folder / "uncut.gguf", fields={"attention.head_count_kv": [1, 2, 3]})
    mystery = write_gguf(folder / "mystery.gguf", fields={"mystery": [1, 2, 3, 4, 5, 6]})
    (folder / "no model").mkdir()
    nan = raw_gguf(folder / "nan.gguf", [gguf_field("general.architecture", 8, gguf_string("novel"))],
                   [gguf_record("blk.0.w", [8], 0, 0)], bytes(32))  # fmt: skip
    return {path.name: path for path in (text, empty, cut, unknown, uncut, mystery, folder / "no model", nan)} | {
        "missing": folder / "missing", "device": Path("/dev/zero"), "null": Path("/dev/null")
    }  # fmt: skip


BAD = {
    "text.gguf": "neither a GGUF nor a safetensors file",
    "empty": "neither a GGUF nor a safetensors file",
    "cut.gguf": "it is cut off",
    "unknown.gguf": "--generic tries it",
    "uncut.gguf": "has 3 entries for 6 layers",
    "mystery.gguf": "mystery cuts it, --keep-field ",
    "no model": "holds no safetensors files",
    "nan.gguf": "--generic tries it",
    "missing": "cannot open missing: no such file",
    "device": "zero is not a regular file",
    "null": "null is not a regular file",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, run, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    path = bad_inputs(tmp_path / "in")[name]
    before = everything(tmp_path / "in")
    for command in (["prune", path, tmp_path / "out" / "x", "--drop", "0"], ["plan", path, "--drop", "0"]):
        code, out, err = run(*command)
        assert (code, out) == (1, "")
        assert err.startswith("rewriter: ")
        assert BAD[name] in err
        assert err.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []
    assert everything(tmp_path / "in") == before


def test_the_offered_way_out_works(run, tmp_path):
    source = bad_inputs(tmp_path)["mystery.gguf"]
    ok(run("prune", source, tmp_path / "cut.x", "--drop", "0", "--per-layer-field", "llama.mystery"))
    ok(run("prune", source, tmp_path / "kept.x", "--drop", "0", "--keep-field", "mystery"))
    unknown = tmp_path / "unknown.gguf"
    ok(run("prune", unknown, tmp_path / "generic.x", "--drop", "0", "--generic"))
    for name in ("cut.x", "kept.x", "generic.x"):
        ok(run("verify", tmp_path / name))
    assert b"--keep-field llama.mystery" in (tmp_path / "kept.x").read_bytes()


def test_verify_prints_one_line_for_each_problem(run, tmp_path):
    target = tmp_path / "x.gguf"
    ok(run("prune", GGUF, target, "--drop", "3"))
    raw = bytearray(target.read_bytes())
    raw[-1] ^= 1
    raw[-300_000] ^= 1
    target.write_bytes(raw)
    assert ok(run("verify", target))
    code, out, err = run("verify", target, "--source", GGUF)
    assert (code, err) == (1, "")
    assert len(out.splitlines()) == 2
    for line in out.splitlines():
        assert re.fullmatch(r"tensor .*: expected the source's \d+ bytes, found another byte at \d+", line)


HOSTILE_NAMES = ["[red]x[/red]", "\x1b[31mred\x1b[0m", "a\nb", "\u202egpj.exe", "long" * 30, "tab\there", ":smile:"]


def test_names_are_shown_safely(run, tmp_path):
    names = [f"{name}.layers.{number}.w" for name in HOSTILE_NAMES for number in range(2)]
    source = huggingface(tmp_path / "in", names=names, model_type="\x1b[31m[bold]" + "x" * 60)
    for arguments in (
        ["inspect", source],
        ["plan", source, "--drop", "0"],
        ["plan", source, "--drop", "0", "--generic"],
    ):
        _, out, err = run(*arguments)
        for character in (out + err).replace("\n", ""):
            assert character.isprintable(), (arguments, ascii(character))
        assert "x" * 41 not in out + err
        assert "longlong" * 6 not in out + err
    out = run("inspect", source)[1]
    assert "[red]x[/red]" in out
    assert ":smile:" in out
    assert r"\x1b[31m" in out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x" * 40, "x" * 40),
        ("x" * 41, "x" * 39 + "…"),
        ("a\x1b[31m\n\u202e\udcff", r"a\x1b[31m\n\u202e\udcff"),
        ("ünï ½ \U0001f600", "ünï ½ \U0001f600"),
        (None, "None"),
    ],
)
def test_shown(text, expected):
    assert printable(text) == expected


@pytest.mark.parametrize("arguments", [[], ["--verify"]])
def test_verify_compares_the_bytes(arguments, run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "rewriter.writing.write.check_plan", lambda checkpoint, plan, with_bytes: asked.append(with_bytes)
    )
    ok(run("prune", GGUF, tmp_path / "x.gguf", "--drop", "1", *arguments))
    assert asked == [bool(arguments)]


def test_arguments_are_shown_safely(run, tmp_path):
    long = "\x1b[31m" + "y" * 200
    for arguments in (
        ["plan", GGUF, "--drop", long], ["plan", GGUF, "--stack", long, "--drop", "1"], ["plan", tmp_path / long],
        ["plan", GGUF, "--strategy", long, "--count", "1"], ["prune", GGUF, tmp_path / long / "x", "--drop", "1"],
        ["verify", tmp_path / long], ["plan", GGUF, "--strategy", "top", "--target-size", long],
        ["plan", GGUF, "--drop", "1", "-o", tmp_path / long / "x"], ["plan", GGUF, "--drop", "1" * 200],
    ):  # fmt: skip
        code, out, err = run(*arguments)
        assert code in (1, 2)
        assert (out + err).count("\n") == 1
        assert "\x1b" not in out + err
        assert "y" * 41 not in out + err
        assert "1" * 60 not in err


@pytest.mark.parametrize("name", ["x\x1b[31m.gguf", "new\nline.gguf", os.fsdecode(b"\xff\xfe.gguf")])
def test_odd_destinations_are_shown_safely(name, run, tmp_path):
    code, out, err = run("prune", GGUF, tmp_path / name, "--drop", "1")
    assert (code, err) == (0, "")
    assert (tmp_path / name).exists()
    assert "\x1b" not in out
    assert len(out.splitlines()) == 3


def test_metadata_values_are_shown_safely(run, tmp_path):
    source = huggingface(tmp_path / "in", layer_types=["\x1b[31m[red]" + "z" * 200] * 6)
    out = ok(run("plan", source, "--drop", "0"))
    assert "\x1b" not in out
    assert "z" * 61 not in out


# Real processes


def rewriter(*arguments, **how) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rewriter", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **how)


def test_the_module_runs(tmp_path):
    done = rewriter("prune", GGUF, tmp_path / "x.gguf", "--drop", "1")
    assert (done.returncode, done.stderr) == (0, "")
    failed = rewriter("prune", GGUF, tmp_path / "x.gguf", "--drop", "1")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == "rewriter: x.gguf exists already; --overwrite replaces it\n"


def test_a_terminal_that_knows_only_ascii(tmp_path):
    done = rewriter("inspect", GGUF, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def environment(request):
    """What is printed may be held back until the end, or not."""
    return {**os.environ, "PYTHONUNBUFFERED": request.param}


def test_a_full_or_closed_stdout(environment):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "rewriter", "inspect", str(GGUF), "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (1, "rewriter: no space left on device\n")


def test_a_reader_that_goes_away(environment):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "rewriter", "inspect", str(GGUF), "--json"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_progress_bar_on_a_terminal(tmp_path):
    code, seen = on_a_terminal("prune", MODELS / "tiny-llama-12L-F16.gguf", tmp_path / "x.gguf", "--drop", "1")
    assert code == 0
    assert "━" in seen
    assert re.search(r"5\.\d/5\.\d MB", seen)
    assert "next: rewriter verify" in seen


def test_errors_are_one_line_on_a_terminal_too(tmp_path):
    code, seen = on_a_terminal("plan", tmp_path / "x", "--drop", "1")
    assert (code, seen) == (1, "rewriter: cannot open x: no such file or directory\r\n")


def test_a_lone_file_from_end_to_end(run, tmp_path):
    write_config(tmp_path / "config.json", model_type="llama", num_hidden_layers=6)
    source = write_safetensors(tmp_path / "model.safetensors", llama_names(6))
    ok(run("prune", source, tmp_path / "out.safetensors", "--strategy", "first-n", "--count", "2", "--verify"))
    assert json.loads((tmp_path / "out.config.json").read_text())["num_hidden_layers"] == 2
    ok(run("verify", tmp_path / "out.safetensors", "--source", source))
    assert struct.unpack("<Q", (tmp_path / "out.safetensors").read_bytes()[:8])[0] % 8 == 0


def test_a_target_size_is_met_to_the_byte(run, tmp_path):
    ok(run("prune", GGUF, tmp_path / "nine.gguf", "--strategy", "top", "--count", "3"))
    size = (tmp_path / "nine.gguf").stat().st_size
    for target, layers in ((size, 9), (size - 1, 8)):
        out = ok(run("plan", GGUF, "--strategy", "top", "--target-size", str(target)))
        assert f"12 layers -> {layers}" in out
