"""Patterns that a loader has built in: periods and windows that follow the kept layers, or are written out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewriter.errors import CheckpointError, UnsupportedError
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import effective_metadata, make_plan, planned_checkpoint
from tests.support.checkpoints import (
    changes,
    gemma3_gguf,
    gemma3_text,
    ggml,
    hf,
    llama,
    numbered,
    without,
)

BARE = PlanOptions(provenance=False)

S, F = "sliding_attention", "full_attention"


@pytest.mark.parametrize("period", [{}, {"sliding_window_pattern": 6}, {"_sliding_window_pattern": 2}])
def test_an_irregular_drop_writes_the_list(period):
    plan = make_plan(gemma3_text(**period), without(0, 1, count=12))
    assert changes(plan) == {"num_hidden_layers": 10, "layer_types": [S, S, S, F, S, S, S, S, S, F]}


@pytest.mark.parametrize("period", [{}, {"sliding_window_pattern": 6}, {"_sliding_window_pattern": 2}])
@pytest.mark.parametrize("kept", [range(6), range(6, 12), range(11), range(5)])
def test_a_drop_that_keeps_the_period_leaves_it(period, kept):
    assert changes(make_plan(gemma3_text(**period), kept)) == {"num_hidden_layers": len(kept)}


def test_another_period_than_the_default():
    plan = make_plan(gemma3_text(6, sliding_window_pattern=2), [0, 1, 3, 5])
    assert changes(plan)["layer_types"] == [S, F, F, F]


def test_an_explicit_list_is_cut_and_the_period_beside_it_is_left():
    checkpoint = gemma3_text(6, sliding_window_pattern=2, layer_types=[F, S, S, F, S, S])
    assert changes(make_plan(checkpoint, [0, 3, 4])) == {"num_hidden_layers": 3, "layer_types": [F, F, S]}


@pytest.mark.parametrize("types", [[S] * 5, [S] * 7])
def test_an_explicit_list_of_another_length(types):
    with pytest.raises(CheckpointError, match=f"layer_types: has {len(types)} entries for 6 layers"):
        make_plan(gemma3_text(6, layer_types=types), [0])


@pytest.mark.parametrize("period", [True, "6", -1, 2.5])
def test_what_is_no_period(period):
    with pytest.raises(CheckpointError, match=r"sliding_window_pattern: .* is not a period"):
        make_plan(gemma3_text(6, sliding_window_pattern=period), [0])


@pytest.mark.parametrize("pattern", [None, 6])
def test_an_irregular_drop_writes_the_gguf_array(pattern):
    """True: the block looks through a window."""
    plan = make_plan(gemma3_gguf(12, pattern), without(0, 1, count=12))
    windows = [True, True, True, False, True, True, True, True, True, False]
    assert changes(plan) == {"gemma3.block_count": 10, "gemma3.attention.sliding_window_pattern": windows}
    assert all(type(value) is bool for value in changes(plan)["gemma3.attention.sliding_window_pattern"])


@pytest.mark.parametrize("pattern", [None, 6])
def test_a_regular_drop_leaves_the_gguf_period(pattern):
    assert changes(make_plan(gemma3_gguf(12, pattern), range(6, 12))) == {"gemma3.block_count": 6}


def test_a_gguf_array_is_cut():
    plan = make_plan(gemma3_gguf(4, (True, False, True, False)), [1, 2])
    assert changes(plan)["gemma3.attention.sliding_window_pattern"] == (False, True)


@pytest.mark.parametrize("window", [{"attention.sliding_window": 512}, {}])
@pytest.mark.parametrize("pattern", [{}, {"attention.sliding_window_pattern": (True, True, True, True, True, False)}])
def test_no_window_is_left_when_no_block_has_one(window, pattern):
    """llama.cpp aborts when the window has a width and no block looks through it."""
    plan = make_plan(ggml("gemma3", numbered("blk.", 6), {"block_count": 6, **window, **pattern}), [5])
    assert changes(plan).get("gemma3.attention.sliding_window") == (0 if window else None)
    assert changes(plan).get("gemma3.attention.sliding_window_pattern", (False,)) == (False,)


def test_a_pattern_written_out_equals_the_period_it_came_from():
    implicit, explicit = gemma3_text(6), gemma3_text(6, layer_types=[S, S, S, S, S, F])
    assert effective_metadata(implicit, BARE) == effective_metadata(explicit, BARE)
    assert effective_metadata(gemma3_text(6, layer_types=[S] * 6), BARE) != effective_metadata(implicit, BARE)


@given(st.sets(st.integers(0, 23), min_size=1), st.sampled_from([None, 1, 2, 5, 6]))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_every_kept_layer_keeps_its_kind_of_attention(kept, period):
    checkpoint = gemma3_text(24, sliding_window_pattern=period)
    before = effective_metadata(checkpoint, BARE)["layer_types"]
    after = effective_metadata(planned_checkpoint(make_plan(checkpoint, kept, BARE)), BARE)["layer_types"]
    assert after == tuple(before[number] for number in sorted(kept))


def test_a_period_that_cannot_be_written_out_is_refused():
    with pytest.raises(
        UnsupportedError, match=r"full_attention_interval .* would work: --keep 0-4 or --keep 0,4-5 or --keep 3-5"
    ):
        make_plan(llama(full_attention_interval=3), without(1))
    assert changes(make_plan(llama(full_attention_interval=3), [0, 1, 2])) == {"num_hidden_layers": 3}


def test_a_period_that_a_list_overrides_is_left():
    plan = make_plan(llama(full_attention_interval=3, layer_types=list("abcdef")), without(1))
    assert changes(plan) == {"num_hidden_layers": 5, "layer_types": list("acdef")}


@pytest.mark.parametrize(
    ("config", "after"),
    [
        ({}, {"max_window_layers": 27}),  # Qwen2Config takes 28 where there is none
        ({"max_window_layers": None}, {"max_window_layers": 27}),
        ({"max_window_layers": 30}, {"max_window_layers": 29}),
        ({"max_window_layers": 1}, {}),
        ({"layer_types": [S] * 32}, {"layer_types": [S] * 31}),
    ],
)
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_windows_from_a_layer_on(architecture, config, after):
    checkpoint = hf(architecture, numbered("model.layers.", 32), {"num_hidden_layers": 32, **config})
    assert changes(make_plan(checkpoint, without(20, count=32))) == {"num_hidden_layers": 31, **after}


def test_windows_from_a_layer_on_that_is_not_there():
    checkpoint = hf("qwen2", numbered("model.layers.", 24), {"num_hidden_layers": 24})
    assert changes(make_plan(checkpoint, without(20, count=24))) == {"num_hidden_layers": 23}
