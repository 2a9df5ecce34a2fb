"""Which layers are dropped: by number, count, ratio and target size."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewriter.errors import RequestError
from rewriter.planning.layer_ranges import format_layers
from rewriter.planning.options import LayerSelection, PlanOptions
from rewriter.planning.selection.choose import choose

quick = settings(derandomize=True, deadline=None, max_examples=100)


def sizes(kept):
    """1000 bytes outside the layers, 100 in each."""
    return 1000 + 100 * len(kept)


def chosen(layers=12, size_of=sizes, /, **asked):
    return choose(LayerSelection(**asked), layers, size_of)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({"drop": "3,7-9,-1"}, (0, 1, 2, 4, 5, 6, 10)),
        ({"keep": "0-3,-1"}, (0, 1, 2, 3, 11)),
        ({"keep": "0-11"}, tuple(range(12))),
        ({"drop": "1-11"}, (0,)),
        ({"strategy": "top", "count": 4}, tuple(range(8))),
        ({"strategy": "top", "count": 11}, (0,)),
        ({"strategy": "bottom", "count": 4}, tuple(range(4, 12))),
        ({"strategy": "deepest-but-last", "count": 4}, (0, 1, 2, 3, 4, 5, 6, 11)),
        ({"strategy": "first-n", "count": 4}, (0, 1, 2, 3)),
        ({"strategy": "first-n", "count": 12}, tuple(range(12))),
        ({"strategy": "first-n", "ratio": 0.25}, tuple(range(9))),
        ({"strategy": "top", "count": 2, "protect_last": 3}, (0, 1, 2, 3, 4, 5, 6, 9, 10, 11)),
        ({"strategy": "bottom", "count": 2, "protect_first": 3}, (0, 1, 2, 5, 6, 7, 8, 9, 10, 11)),
        ({"strategy": "middle", "count": 2, "protect_first": 4, "protect_last": 4}, (0, 1, 2, 3, 4, 7, 8, 9, 10, 11)),
    ],
)
def test_choose(asked, kept):
    assert chosen(**asked) == kept


@pytest.mark.parametrize(
    ("ratio", "count", "dropped"),
    [(0.25, 12, 3), (0.01, 12, 1), (0.5, 12, 6), (0.9, 12, 11), (0.29, 12, 3), (1 / 3, 32, 11), (0.125, 12, 2)],
)  # fmt: skip
def test_a_ratio_drops_at_least_one(ratio, count, dropped):
    """max(1, round(r * L))"""
    assert len(chosen(count, strategy="top", ratio=ratio)) == count - dropped


@pytest.mark.parametrize(
    ("target", "dropped"),
    [("2200", 0), ("5GB", 0), ("2199", 1), ("2100", 1), ("2099", 2), ("1.5kB", 7), ("1100", 11)],
)
def test_a_target_size_drops_the_fewest_layers_that_fit(target, dropped):
    assert chosen(strategy="top", target_size=target) == tuple(range(12 - dropped))


@pytest.mark.parametrize(
    ("asked", "smallest"),
    [
        ({"target_size": "1099"}, 1100),
        ({"target_size": "1999", "protect_first": 9, "protect_last": 1}, 2000),
        ({"target_size": "1999", "protect_first": 10, "protect_last": 10}, 2200),
    ],
)
def test_a_target_size_that_nothing_fits_names_the_smallest(asked, smallest):
    with pytest.raises(
        RequestError,
        match=f"no selection fits .* bytes: the smallest output has {smallest}( while the first .* lets more go)?$",
    ):
        chosen(strategy="top", **asked)


def test_a_target_size_beyond_what_a_strategy_can_drop():
    with pytest.raises(RequestError, match=r"the smallest output has 1600$"):
        chosen(strategy="even-alternate", target_size="1599")


def test_a_target_size_asks_for_the_exact_size_of_each_selection():
    """Layer N weighs N bytes: 4 and deeper make 56 + 4."""
    assert chosen(12, sum, strategy="bottom", target_size="60") == tuple(range(4, 12))
    assert chosen(12, sum, strategy="bottom", target_size="59") == tuple(range(5, 12))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "which layers"),
        ({"protect_first": 2}, "which layers"),
        ({"strategy": "top"}, "how much"),
        ({"strategy": "top", "protect_last": 1}, "how much"),
        ({"drop": "1", "keep": "2"}, "--drop and --keep cannot be combined"),
        ({"drop": "1", "strategy": "top", "count": 1}, "--drop and --strategy cannot be combined"),
        ({"keep": "1", "strategy": "top", "count": 1}, "cannot be combined"),
        ({"strategy": "top", "count": 1, "ratio": 0.5}, "--count and --ratio cannot be combined"),
        ({"strategy": "top", "count": 1, "target_size": "1GB"}, "--count and --target-size cannot be combined"),
        ({"strategy": "top", "ratio": 0.5, "target_size": "1GB"}, "cannot be combined"),
        ({"drop": "1", "count": 1}, "an amount needs --strategy"),
        ({"keep": "1", "ratio": 0.5}, "an amount needs --strategy"),
        ({"drop": "1", "target_size": "1GB"}, "an amount needs --strategy"),
        ({"drop": "1", "protect_first": 1}, "go with an amount"),
        ({"keep": "1", "protect_last": 1}, "go with an amount"),
        ({"drop": ""}, "is not a layer"),
        ({"keep": ""}, "is not a layer"),
        ({"drop": "0-11"}, "would leave no layer: at most 11 of the 12 can go"),
        ({"drop": "0-5,6-11"}, "would leave no layer"),
        ({"drop": "12"}, "out of range"),
        ({"strategy": "top", "count": 12}, "would leave no layer"),
        ({"strategy": "top", "count": 13}, "cannot drop 13 layers: 12 of the 12 may go"),
        ({"strategy": "top", "count": 0}, "--count must be at least 1, not 0"),
        ({"strategy": "top", "count": -1}, "--count must be at least 1, not -1"),
        ({"strategy": "first-n", "count": 0}, "--count must be at least 1, not 0"),
        ({"strategy": "first-n", "count": 13}, "cannot keep the first 13 layers: there are 12"),
        ({"strategy": "top", "count": 5, "protect_first": 4, "protect_last": 4}, "cannot drop 5 layers: 4 of the 12"),
        ({"strategy": "top", "count": 1, "protect_first": 9, "protect_last": 9}, "cannot drop 1 layers: 0 of the 12"),
        ({"strategy": "even-alternate", "count": 7}, "at most 6"),
        ({"strategy": "nonsense", "count": 1}, "no strategy is called 'nonsense'; there are top, bottom"),
        ({"strategy": "", "count": 1}, "no strategy is called ''"),
        ({"strategy": "Top", "count": 1}, "no strategy is called 'Top'"),
        ({"strategy": "top", "ratio": 0.0}, "write a number between 0 and 1"),
        ({"strategy": "top", "ratio": 1.0}, "write a number between 0 and 1"),
        ({"strategy": "top", "ratio": -0.5}, "write a number between 0 and 1"),
        ({"strategy": "top", "ratio": 25.0}, "write a number between 0 and 1"),
        ({"strategy": "top", "ratio": float("nan")}, "write a number between 0 and 1"),
        ({"strategy": "top", "ratio": float("inf")}, "write a number between 0 and 1"),
        ({"strategy": "top", "ratio": 0.99}, "would leave no layer"),
        ({"strategy": "top", "target_size": "huge"}, "'huge' is not a size"),
    ],
)
def test_usage_errors(asked, message):
    with pytest.raises(RequestError) as caught:
        chosen(**asked)
    assert message in str(caught.value)


def test_the_only_layer_cannot_go():
    with pytest.raises(RequestError, match="would leave no layer"):
        chosen(1, drop="0")


@quick
@given(st.integers(1, 40), st.data())
def test_drop_and_keep_are_complements(count, data):
    some = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    text = format_layers(tuple(sorted(some)))
    assert chosen(count, keep=text) == tuple(sorted(some))
    if len(some) < count:
        assert chosen(count, drop=text) == tuple(sorted(set(range(count)) - some))


@quick
@given(st.integers(2, 30), st.integers(0, 5000))
def test_a_target_size_is_the_least_drop_that_fits(count, target):
    try:
        kept = chosen(count, strategy="middle", target_size=str(target))
    except RequestError:
        assert target < sizes((0,))
        return
    assert sizes(kept) <= target
    assert len(kept) == count or sizes((*kept, 0)) > target


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (PlanOptions(), ""),
        (PlanOptions(stack="encoder", provenance=False), ""),
        (PlanOptions(generic=True), " --generic"),
        (
            PlanOptions(generic=True, keep_fields=("a", "b"), per_layer_fields=("c",)),
            " --generic --keep-field a --keep-field b --per-layer-field c",
        ),
    ],
)
def test_options_are_stated_again(options, words):
    assert options.arguments == words.split()
