"""Saved plans: applied to the file they were made for, to a sibling, and to what does not fit."""

import json
from dataclasses import replace

import pytest

from rewriter.errors import CheckpointError, RequestError, UnsupportedError
from rewriter.layout.output import Output
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import make_plan
from rewriter.planning.saved_plan import load_plan, replan
from rewriter.report.json_values import describe_plan
from tests.support.checkpoints import SHA256, ggml, hf, llama, llama_gguf, numbered, t5, t5_gguf


def described(checkpoint, keep, options=None):
    return describe_plan(make_plan(checkpoint, keep, options), Output((), False, ()))


OPTIONS = {
    "generic": False, "keep_fields": [], "per_layer_fields": [],
    "force": False, "drop_mtp": False, "architecture": None,
}  # fmt: skip


@pytest.fixture
def save(tmp_path):
    """Save a plan as `plan -o` does, with some of its values replaced."""

    def save(checkpoint, keep, options=None, /, **others):
        path = tmp_path / "plan.json"
        path.write_text(json.dumps({**described(checkpoint, keep, options), **others}))
        return path

    return save


CASES = [
    (llama(6, layer_types=list("abcdef")), [0, 3, 5], PlanOptions()),
    (llama(6, what=[1] * 6, odd=[2] * 6), [1], PlanOptions(keep_fields=("what",), per_layer_fields=("odd",))),
    (llama_gguf(6, feed_forward_length=(1, 2, 3, 4, 5, 6)), [0, 3, 5], PlanOptions(provenance=False)),
    (hf("x", numbered("a.", 3), {"n_layer": 3}), [0, 2], PlanOptions(generic=True)),
    (t5(4, 5), [0, 2], PlanOptions(stack="encoder")),
    (t5(4, 5), [0, 2], PlanOptions()),
]


@pytest.mark.parametrize(("checkpoint", "keep", "options"), CASES)
def test_on_the_same_file_it_runs_as_saved(save, checkpoint, keep, options):
    again, same = replan(load_plan(save(checkpoint, keep, options)), checkpoint)
    made = make_plan(checkpoint, keep, options)
    assert same
    assert (again.layers, again.tensors, again.edits, again.warnings) == (
        made.layers, made.tensors, made.edits, made.warnings,
    )  # fmt: skip
    assert (again.provenance and again.provenance.to_json()) == (made.provenance and made.provenance.to_json())


def test_what_is_loaded(save):
    options = PlanOptions(keep_fields=("what",), provenance=False)
    saved = load_plan(save(llama(6, what=[1] * 6), [0, 3], options))
    assert (saved.source_name, saved.source_sha256) == ("model", SHA256)
    assert (saved.stack, saved.main, saved.before, saved.kept) == ("main", True, 6, (0, 3))
    assert saved.options == options
    assert [change["key"] for change in saved.changes] == ["num_hidden_layers"]


def other(checkpoint, **changed):
    return replace(checkpoint, header_sha256="6" * 64, **changed)


def test_a_sibling_is_planned_again_by_layer_numbers(save):
    """The same model in another quantisation has other fields, and its own values follow."""
    saved = load_plan(save(llama_gguf(6), [0, 3, 5]))
    sibling = other(llama_gguf(6, feed_forward_length=(1, 2, 3, 4, 5, 6)))
    plan, same = replan(saved, sibling)
    assert not same
    assert plan.checkpoint is sibling
    assert plan.layers.kept == (0, 3, 5)
    assert {edit.key: edit.after for edit in plan.edits}["llama.feed_forward_length"] == (1, 4, 6)
    assert plan.provenance.source_sha256 == "6" * 64


@pytest.mark.parametrize(
    ("one", "another", "options", "stack"),
    [
        (llama(6), llama_gguf(6), PlanOptions(), "main"),
        (llama_gguf(6), llama(6), PlanOptions(), "main"),
        (t5(4, 5), t5_gguf(4, 5), PlanOptions(), "decoder"),
        (t5_gguf(4, 5), t5(4, 5), PlanOptions(stack="encoder"), "encoder"),
        (
            hf("gemma3", numbered("language_model.model.layers.", 6), {"text_config": {"num_hidden_layers": 6}}),
            ggml("gemma3", numbered("blk.", 6), {"block_count": 6}),
            PlanOptions(),
            "main",
        ),
        (
            ggml("gemma3", numbered("blk.", 6), {"block_count": 6}),
            hf("gemma3", numbered("language_model.model.layers.", 6), {"text_config": {"num_hidden_layers": 6}}),
            PlanOptions(stack="main"),
            "text",
        ),
    ],
)
def test_the_other_format_has_the_main_stack_under_its_own_name(save, one, another, options, stack):
    keep = [0, 2, 3] if options.stack != "encoder" else range(4)
    plan, same = replan(load_plan(save(one, keep, options)), other(another))
    assert not same
    assert plan.layers.stack == stack
    assert plan.layers.kept == tuple(keep)


def test_a_plan_for_another_architecture(save):
    with pytest.raises(RequestError, match="the plan is for a t5, this is a llama"):
        replan(load_plan(save(t5(4, 5), [0, 2], PlanOptions(stack="encoder"))), other(llama(5)))


@pytest.mark.parametrize(("count", "keep"), [(5, [0, 1]), (12, [0, 1]), (7, [0, 5])])
def test_a_model_of_another_depth_is_refused(save, count, keep):
    saved = load_plan(save(llama(6), keep))
    with pytest.raises(RequestError, match=rf"the plan is for 6 layers \(model\), smaller has {count} in stack main"):
        replan(saved, other(llama(count), name="smaller"))


def test_a_model_without_the_kept_layers_is_refused(save):
    with pytest.raises(RequestError):
        replan(load_plan(save(llama(6), [0, 5])), other(llama(4)))


def test_the_rules_of_the_other_file_hold(save):
    saved = load_plan(save(llama(6), [0, 5]))
    with pytest.raises(UnsupportedError, match="--per-layer-field odd"):
        replan(saved, other(llama(6, odd=[1] * 6)))


@pytest.mark.parametrize(
    "tampered",
    [
        {"changes": []},
        {"changes": [{"file": "config.json", "key": "num_hidden_layers", "before": 6, "after": 4, "rule": "count"}]},
        {"changes": [{"file": "config.json", "key": "num_hidden_layers", "before": 6, "after": 2, "rule": "keep"}]},
        {"layers": {"before": 6, "kept": [0, 1, 2]}},
        {
            "options": {
                "generic": False,
                "keep_fields": ["layer_types"],
                "per_layer_fields": [],
                "force": False,
                "drop_mtp": False,
                "architecture": None,
                "provenance": True,
            }
        },
    ],
)
def test_a_plan_that_says_other_changes_than_its_file_gets(save, tampered):
    checkpoint = llama(6, layer_types=list("abcdef"))
    with pytest.raises(RequestError, match="it was edited, or another version saved it"):
        replan(load_plan(save(checkpoint, [0, 2], **tampered)), checkpoint)


@pytest.mark.parametrize(
    ("tampered", "message"),
    [
        ({"layers": {"before": 9, "kept": [0, 2]}}, "the plan is for 9 layers"),
        ({"layers": {"before": 6, "kept": [0, 6]}}, "layers run from 0 to 5"),
        ({"stack": "../x"}, "no stack '../x' here"),
    ],
)
def test_a_plan_that_does_not_fit_its_file(save, tampered, message):
    with pytest.raises(RequestError, match=message):
        replan(load_plan(save(llama(6), [0, 2], **tampered)), llama(6))


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "7", '"text"', "[]", "{}", '{"kind": "rewriter-plan"}', "not json",
        '{"a": 1, "a": 2}', "[" * 100_000,
        '{"schema": 1, "kind": "rewriter-plan", "source": [], "layers": {}}', "\ufeff{}",
    ],
)  # fmt: skip
def test_what_is_no_plan(tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"plan\.json is not (a plan that|valid JSON)"):
        load_plan(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "something"}, {"schema": "2"}, {"schema": None}, {"source": None}, {"source": {"name": "x"}},
        {"layers": None}, {"layers": {"before": 6}}, {"layers": {"before": "6", "kept": [0]}},
        {"layers": {"before": True, "kept": [0]}}, {"layers": {"before": 6, "kept": 3}},
        {"layers": {"before": 6, "kept": "012"}}, {"layers": {"before": 6, "kept": ["0"]}},
        {"layers": {"before": 6, "kept": [0.0]}}, {"layers": {"before": 6, "kept": [True]}},
        {"layers": {"before": 6, "kept": None}}, {"options": None}, {"options": {}}, {"options": []},
        {"options": {**OPTIONS, "keep_fields": [1]}},
        {"changes": None}, {"changes": 7},
    ],
)  # fmt: skip
def test_a_damaged_plan(save, changed):
    with pytest.raises(CheckpointError, match=r"plan\.json is not a plan that `rewriter plan -o` saved"):
        load_plan(save(llama(6), [0, 2], **changed))


def test_a_plan_of_another_version(save):
    with pytest.raises(CheckpointError, match=r"plan\.json is a plan of another version: schema 2, not 1"):
        load_plan(save(llama(6), [0, 2], schema=2))


@pytest.mark.parametrize("missing", ["kind", "schema", "source", "stack", "main", "layers", "options", "changes"])
def test_a_plan_that_lacks_something(tmp_path, missing):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({key: value for key, value in described(llama(), [0]).items() if key != missing}))
    with pytest.raises(CheckpointError, match="is not a plan"):
        load_plan(path)


def test_a_plan_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_plan(tmp_path / "none.json")
    with pytest.raises(CheckpointError, match="is not a regular file"):
        load_plan(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"GGUF\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="is not UTF-8"):
        load_plan(tmp_path / "binary.json")
