"""The record of a run, and how records of several runs compose."""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewriter.checkpoint import LayerMap
from rewriter.errors import CheckpointError
from rewriter.planning.options import LayerSelection, PlanOptions
from rewriter.planning.plan import make_plan, planned_checkpoint
from rewriter.planning.provenance import Origin, composed, origin_of, recorded
from rewriter.planning.selection.choose import choose
from rewriter.version import VERSION
from tests.support.checkpoints import SHA256, hf, llama, numbered, t5


def after(checkpoint, keep, options=None, sha="a" * 64, name="smaller"):
    """The checkpoint that a run leaves, record and all."""
    plan = make_plan(checkpoint, keep, options)
    record = json.loads(json.dumps(plan.provenance.to_json()))
    return replace(planned_checkpoint(plan), provenance=record, header_sha256=sha, name=name)


def test_the_whole_record():
    config = {"layer_types": list("abcdef"), "what": [1] * 6, "odd": [2] * 6}
    options = PlanOptions(keep_fields=("what",), per_layer_fields=("odd",))
    plan = make_plan(llama(6, **config), [0, 1, 3], options)
    assert plan.provenance.to_json() == {
        "schema": 1,
        "rewriter": VERSION,
        "source": {"name": "model", "header_sha256": SHA256},
        "selection": "--stack main --keep 0-1,3 --keep-field what --per-layer-field odd",
        "stack": "main",
        "layers": {"before": 6, "kept": [0, 1, 3]},
        "options": {
            "generic": False, "keep_fields": ["what"], "per_layer_fields": ["odd"],
            "force": False, "drop_mtp": False, "architecture": None,
            "max_size": None, "single_file": False,
        },
        "changes": [
            {"file": "config.json", "key": "num_hidden_layers", "before": 6, "after": 3, "rule": "count"},
            {
                "file": "config.json", "key": "layer_types", "before": list("abcdef"), "after": ["a", "b", "d"],
                "rule": "per_layer",
            },
            {"file": "config.json", "key": "odd", "before": [2] * 6, "after": [2, 2, 2], "rule": "per_layer"},
        ],
        "warnings": [],
        "original": {"name": "model", "header_sha256": SHA256, "layers": {"main": [0, 1, 3]}},
    }  # fmt: skip


def test_warnings_are_recorded():
    checkpoint = hf("gpt2", numbered("h.", 3), {"n_layer": 3, "scale_attn_by_inverse_layer_idx": True})
    plan = make_plan(checkpoint, [1, 2])
    assert plan.provenance.to_json()["warnings"] == list(plan.warnings) != []


@pytest.mark.parametrize(
    "asked",
    [
        {"drop": "2,4,5"}, {"drop": "5,4,2"}, {"drop": "-1,2,-2"}, {"drop": "4-5,2,4"}, {"keep": "0,1,3"},
        {"keep": "3,0-1"}, {"keep": "-3,0,1,1"},
    ],
)  # fmt: skip
def test_however_it_is_said_the_record_is_the_same(asked):
    checkpoint = llama(6)
    keep = choose(LayerSelection(**asked), 6, len)
    assert json.dumps(make_plan(checkpoint, keep).provenance.to_json()) == json.dumps(
        make_plan(checkpoint, [3, 1, 0]).provenance.to_json()
    )


@pytest.mark.parametrize(
    ("checkpoint", "keep", "options", "selection"),
    [
        (llama(6), [0, 1, 2, 5], PlanOptions(), "--stack main --keep 0-2,5"),
        (llama(6), range(6), PlanOptions(), "--stack main --keep 0-5"),
        (t5(4, 5), [0, 2], PlanOptions(), "--stack decoder --keep 0,2"),
        (t5(4, 5), [0, 2], PlanOptions(stack="main"), "--stack decoder --keep 0,2"),
        (t5(4, 5), [4], PlanOptions(stack="encoder"), "--stack encoder --keep 4"),
        (hf("x", numbered("a.", 3), {"n_layer": 3}), [0], PlanOptions(generic=True), "--stack main --keep 0 --generic"),
    ],
)
def test_the_selection_names_the_stack_and_the_layers(checkpoint, keep, options, selection):
    assert make_plan(checkpoint, keep, options).provenance.selection == selection


def test_no_clock_and_no_way_to_the_file():
    checkpoint = replace(llama(6), path="/some/where/model", name="model")
    text = json.dumps(make_plan(checkpoint, [0]).provenance.to_json())
    assert "/" not in text
    assert not re.search(r"20\d\d-|\d\d:\d\d", text)
    elsewhere = replace(checkpoint, path="/else/where/model")
    assert text == json.dumps(make_plan(elsewhere, [0]).provenance.to_json())


def test_without_a_record():
    assert make_plan(llama(), [0], PlanOptions(provenance=False)).provenance is None
    assert recorded(llama()) is None
    assert origin_of(llama()) == Origin("model", SHA256, {})


def test_a_record_reads_as_it_was_written():
    options = PlanOptions(generic=True, keep_fields=("what",), per_layer_fields=("odd",))
    checkpoint = llama(6, what=[1] * 6, odd=[2] * 6)
    made = make_plan(checkpoint, [0, 1, 3], options).provenance
    record = recorded(after(checkpoint, [0, 1, 3], options))
    assert record.source_name == "model"
    assert record.source_sha256 == SHA256
    assert record.options == options
    assert record.origin == made.origin
    assert (record.layers.stack, record.layers.kept, record.layers.count) == ("main", (0, 1, 3), 6)
    assert record.selection == made.selection


def test_every_layer_still_knows_its_number_in_the_original():
    once = after(llama(12), [0, 2, 4, 6, 8, 10, 11])
    twice = after(once, [1, 2, 5], sha="b" * 64, name="smallest")
    record = make_plan(twice, [2]).provenance.to_json()
    assert record["source"] == {"name": "smallest", "header_sha256": "b" * 64}
    assert record["layers"] == {"before": 3, "kept": [2]}
    assert record["original"] == {"name": "model", "header_sha256": SHA256, "layers": {"main": [10]}}


def test_two_stacks_compose_side_by_side():
    once = after(t5(4, 5), [1, 3], PlanOptions(stack="decoder"))
    twice = after(once, [0, 2, 4], PlanOptions(stack="encoder"))
    thrice = after(twice, [1], PlanOptions(stack="decoder"))
    assert thrice.provenance["original"]["layers"] == {"decoder": [3], "encoder": [0, 2, 4]}
    assert thrice.provenance["original"]["header_sha256"] == SHA256


@given(st.data())
@settings(derandomize=True, deadline=None, max_examples=50)
def test_composing_is_applying_one_after_the_other(data):
    origin, layers = Origin("m", "s", {}), tuple(range(10))
    while layers and data.draw(st.booleans()):
        kept = tuple(sorted(data.draw(st.sets(st.integers(0, len(layers) - 1), min_size=1))))
        origin = composed(origin, LayerMap("main", kept, len(layers)))
        layers = tuple(layers[number] for number in kept)
        assert origin.layers["main"] == layers


def damaged():
    """Records that a good one becomes when one thing in it is wrong."""
    good = after(llama(), [0, 1]).provenance
    for path in (
        ["source"], ["source", "name"], ["source", "header_sha256"], ["stack"], ["layers"], ["layers", "kept"],
        ["layers", "before"], ["original"], ["original", "name"], ["original", "header_sha256"], ["original", "layers"],
        ["options"], ["options", "generic"], ["options", "keep_fields"], ["options", "per_layer_fields"],
    ):  # fmt: skip
        record = json.loads(json.dumps(good))
        holder = record
        for key in path[:-1]:
            holder = holder[key]
        del holder[path[-1]]
        yield pytest.param(record, id="-".join(path))
    for path, value in (
        (("layers", "kept"), "01"), (("layers", "kept"), [0, "1"]), (("layers", "kept"), [True, False]),
        (("layers", "kept"), [0.0, 1]), (("original", "layers"), []), (("original", "layers"), {"main": 2}),
        (("original", "layers"), {"main": ["0", "1"]}), (("original", "name"), None), (("source", "name"), ["x"]),
        (("source", "header_sha256"), 1), (("options", "keep_fields"), [1]), (("options", "keep_fields"), None),
    ):  # fmt: skip
        record = json.loads(json.dumps(good))
        record[path[0]][path[1]] = value
        yield pytest.param(record, id=f"{path[1]}={value}")


@pytest.mark.parametrize(
    "record", [*damaged(), "text", 7, True, [], ["source"], {}, {"source": None}, {"source": "x", "original": "y"}]
)
def test_a_damaged_record_is_refused_with_the_way_out(record):
    checkpoint = replace(llama(), provenance=record)
    with pytest.raises(CheckpointError, match=r"provenance record .* is damaged; --no-provenance goes on without it"):
        make_plan(checkpoint, [0])
    assert make_plan(checkpoint, [0], PlanOptions(provenance=False)).layers.kept == (0,)


def test_a_record_of_other_layers_than_there_are():
    """Somebody else pruned the file after us, and kept the record."""
    stale = replace(llama(4), provenance=after(llama(6), [0, 1, 2]).provenance)
    with pytest.raises(CheckpointError, match="knows 3 layers in stack main, the tensors have 4; --no-provenance"):
        make_plan(stale, [0])
    assert make_plan(stale, [0], PlanOptions(provenance=False)).provenance is None


def test_a_record_of_another_stack_does_not_matter():
    once = after(t5(4, 5), [0], PlanOptions(stack="encoder"))
    assert make_plan(once, [0, 3]).provenance.origin.layers == {"encoder": (0,), "decoder": (0, 3)}
