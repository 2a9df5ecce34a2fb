"""`rewriter prune`: its summary, and saved plans that it carries out."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from tests.support.builders import (
    MODELS,
    everything,
    huggingface,
    split_gguf,
)
from tests.support.command_line import ok

LLAMA, GGUF = MODELS / "tiny-llama-12L", MODELS / "tiny-llama-12L-Q4_K_M.gguf"


def test_prune_ends_with_a_summary_and_the_next_command(run, tmp_path):
    target = tmp_path / "a b.gguf"
    out = ok(run("prune", GGUF, target, "--drop", "3,7-8"))
    first, second, third = out.splitlines()
    assert first.endswith("stack main, 12 layers -> 9, dropped 3,7-8")
    assert re.fullmatch(r"parameters 2\.\d+ M -> \d\.\d+ M, 2\.1\d MB -> \d\.\d+ MB, \d+\.\d\d s", second)
    assert third == f"next: rewriter verify '{target}' --source {GGUF}"
    assert ok(run("verify", target, "--source", GGUF)).startswith("ok: ")
    assert ok(run("verify", target)).startswith("ok: ")


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
