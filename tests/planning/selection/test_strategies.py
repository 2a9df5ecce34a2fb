"""Positional strategies, exactly as published."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewriter.errors import RequestError
from rewriter.planning.selection.strategies import COUNTS_KEPT, STRATEGIES, find_strategy

TWELVE = tuple(range(12))
quick = settings(derandomize=True, deadline=None, max_examples=100)

# Sajjad et al. 2020, figure 2: a model of 12 layers, K = 4, layers counted from 1.
PUBLISHED = {
    "top": {9, 10, 11, 12},
    "bottom": {1, 2, 3, 4},
    "even-alternate": {12, 10, 8, 6},
    "odd-alternate": {11, 9, 7, 5},
    "symmetric": {5, 6, 7, 8},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_sajjad_et_al_published(name):
    assert {number + 1 for number in find_strategy(name)(TWELVE, 4)} == PUBLISHED[name]


@pytest.mark.parametrize(("layers", "count"), [(12, 4), (32, 9), (24, 1), (5, 4)])
def test_gromov_et_al_drop_the_deepest_but_the_last(layers, count):
    """L-n-1 .. L-2 counted from 0."""
    found = find_strategy("deepest-but-last")(tuple(range(layers)), count)
    assert found == tuple(range(layers - count - 1, layers - 1))


@pytest.mark.parametrize(
    ("name", "layers", "count", "dropped"),
    [
        ("top", 12, 2, (10, 11)),
        ("top", 12, 6, (6, 7, 8, 9, 10, 11)),
        ("bottom", 12, 6, (0, 1, 2, 3, 4, 5)),
        ("even-alternate", 12, 6, (1, 3, 5, 7, 9, 11)),
        ("even-alternate", 13, 2, (9, 11)),
        ("odd-alternate", 12, 6, (0, 2, 4, 6, 8, 10)),
        ("odd-alternate", 13, 2, (10, 12)),
        ("symmetric", 12, 2, (5, 6)),
        ("symmetric", 12, 6, (3, 4, 5, 6, 7, 8)),
        ("symmetric", 12, 3, (5, 6, 7)),  # one more stays at the bottom
        ("symmetric", 7, 2, (3, 4)),
        ("middle", 12, 4, (4, 5, 6, 7)),
        ("middle", 12, 3, (4, 5, 6)),
        ("middle", 7, 2, (2, 3)),
        ("middle", 7, 1, (3,)),
        ("first-n", 12, 8, (4, 5, 6, 7, 8, 9, 10, 11)),
        ("first-n", 12, 0, ()),
    ],
)
def test_positions(name, layers, count, dropped):
    assert find_strategy(name)(tuple(range(layers)), count) == dropped


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("top", (8, 9)),
        ("bottom", (3, 4)),
        ("even-alternate", (7, 9)),
        ("odd-alternate", (6, 8)),
        ("symmetric", (6, 7)),
        ("middle", (5, 6)),
        ("deepest-but-last", (7, 8)),
    ],
)
def test_protected_layers_are_no_candidates(name, dropped):
    assert find_strategy(name)((3, 4, 5, 6, 7, 8, 9), 2) == dropped


@pytest.mark.parametrize(
    ("name", "layers", "most"),
    [("even-alternate", 12, 6), ("odd-alternate", 12, 6), ("odd-alternate", 13, 7), ("even-alternate", 13, 6),
     ("deepest-but-last", 12, 11), ("even-alternate", 1, 0), ("deepest-but-last", 1, 0)],
)  # fmt: skip
def test_more_than_a_strategy_can_drop(name, layers, most):
    candidates = tuple(range(layers))
    assert len(find_strategy(name)(candidates, most)) == most
    with pytest.raises(RequestError, match=f"{name} can drop at most {most} layers here, not {most + 1}"):
        find_strategy(name)(candidates, most + 1)


@pytest.mark.parametrize("name", STRATEGIES)
def test_nothing_to_drop(name):
    assert find_strategy(name)(TWELVE, 0) == ()


def test_every_strategy_of_the_papers_is_there_and_says_what_it_does():
    assert set(STRATEGIES) == {*PUBLISHED, "deepest-but-last", "middle", "first-n"}
    assert all(strategy.__doc__.startswith(("Drop", "Keep")) for strategy in STRATEGIES.values())
    assert {"first-n"} == COUNTS_KEPT


def test_an_unknown_strategy_names_the_others():
    with pytest.raises(RequestError) as caught:
        find_strategy("shortgpt\n" + "x" * 100)
    message = str(caught.value)
    assert "no strategy is called 'shortgpt\\n" in message
    assert "deepest-but-last" in message
    assert "x" * 41 not in message


candidates = st.sets(st.integers(0, 40)).map(lambda numbers: tuple(sorted(numbers)))


@quick
@given(st.sampled_from(sorted(STRATEGIES)), candidates, st.integers(0, 41))
def test_as_many_as_asked_for_from_the_candidates_in_order(name, numbers, count):
    if count > len(numbers):
        return
    try:
        dropped = find_strategy(name)(numbers, count)
    except RequestError:
        assert "alternate" in name or name == "deepest-but-last"
        return
    assert len(dropped) == count
    assert set(dropped) <= set(numbers)
    assert dropped == tuple(sorted(set(dropped)))


@quick
@given(st.sampled_from(["top", "bottom", "even-alternate", "odd-alternate"]), candidates, st.integers(1, 40))
def test_one_more_adds_one(name, numbers, count):
    """These strategies rank the layers: dropping more never brings one back."""
    try:
        more = find_strategy(name)(numbers, min(count, len(numbers)))
    except RequestError:
        return
    less = find_strategy(name)(numbers, max(len(more) - 1, 0))
    assert set(less) <= set(more)
