"""What scores suggest: the layers of the lowest scores that the architecture lets go together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewriter.architectures.lookup import Stack, entries
from rewriter.checkpoint import Checkpoint
from rewriter.errors import RequestError, UnsupportedError
from rewriter.planning.constraints.constraint import Constraint, first_violated
from rewriter.planning.constraints.search import cheapest_allowed
from rewriter.planning.open_model import open_model
from rewriter.planning.options import LayerSelection, PlanOptions, default_protection
from rewriter.planning.plan import make_plan
from rewriter.planning.selection.choose import choose
from rewriter.scoring.score import LayerScore, Scores
from rewriter.scoring.suggest import by_scores
from tests.support.checkpoints import ggml, llama, numbered
from tests.support.named_fixtures import checkpoint_from, named_fixtures

quick = settings(derandomize=True, deadline=None, max_examples=100)


def scores(values: list[float], stack: str = "main") -> Scores:
    return Scores("a-metric", stack, tuple(LayerScore(layer, value, 0) for layer, value in enumerate(values)))


def limited() -> Iterator[tuple[Checkpoint, Stack]]:
    """Every stack of the names fixtures that something limits."""
    for entry in entries():
        for file in named_fixtures(entry):
            checkpoint = checkpoint_from(entry, file)
            stacks = open_model(checkpoint).stacks
            yield from ((checkpoint, stack) for stack in stacks if stack.count > 3 and has_limits(stack))


def has_limits(stack: Stack) -> bool:
    return bool(stack.entry.limits or stack.entry.patterns)


LIMITED = list(limited())


def works(checkpoint: Checkpoint, stack: Stack, dropped: tuple[int, ...], strict: bool) -> bool:
    kept = [layer for layer in range(stack.count) if layer not in dropped]
    try:
        make_plan(checkpoint, kept, PlanOptions(stack=stack.name, strict=strict))
    except UnsupportedError:
        return False
    return True


def test_there_are_many_stacks_with_limits():
    assert len(LIMITED) > 60


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
@pytest.mark.parametrize(
    ("checkpoint", "stack"),
    LIMITED,
    ids=[f"{each[0].format}-{each[0].architecture}-{each[1].name}" for each in LIMITED],
)
def test_the_cheapest_of_all_that_works_is_suggested(checkpoint: Checkpoint, stack: Stack, strict: bool):
    """Every subset is tried: nothing that works is cheaper, and what is suggested works."""
    options, layers, chance = PlanOptions(stack=stack.name, strict=strict), range(stack.count), Random(0)
    for count in (1, 2) if stack.count > 8 else (1, 2, 3):
        allowed = [each for each in combinations(layers, count) if works(checkpoint, stack, each, strict)]
        for _ in range(4):
            costs = [chance.random() for _ in layers]
            strategy = by_scores(open_model(checkpoint, options), scores(costs, stack.name))
            if not allowed:
                with pytest.raises(UnsupportedError):
                    strategy(tuple(layers), count)
                continue
            found = strategy(tuple(layers), count)
            assert found in allowed
            assert sum(costs[layer] for layer in found) == pytest.approx(
                min(sum(costs[layer] for layer in each) for each in allowed)
            )


BOUNDS = [
    Constraint("", stay=frozenset((0, 4))),
    Constraint("", period=2),
    Constraint("", period=3),
    Constraint("", not_first=frozenset((1, 2))),
    Constraint("", not_last=frozenset((5, 6))),
    Constraint("", requires={4: 2, 5: 2}),
    Constraint("", one_of=frozenset((1, 3))),
    Constraint("", one_of=frozenset((0, 6))),
    Constraint("", at_least=4),
    Constraint("", period=2, among=(0, 2, 3, 5)),
    Constraint("", at_least=2, among=(1, 3, 5)),
    Constraint("", counts=frozenset((5,))),
]


@quick
@given(
    st.lists(st.sampled_from(BOUNDS), max_size=3, unique_by=id), st.lists(st.floats(0, 1), min_size=7, max_size=7),
    st.integers(1, 6),
)  # fmt: skip
def test_cheapest_is_the_cheapest_of_all_subsets(bounds, costs, count):
    every = [kept for kept in combinations(range(7), 7 - count) if first_violated(bounds, kept, 7) is None]
    found = list(cheapest_allowed(tuple(bounds), costs, count, 8))
    assert all(kept in every for kept in found)
    if not every:
        assert not found
        return
    total = [sum(costs[layer] for layer in range(7) if layer not in kept) for kept in (found[0], *every)]
    assert total[0] == pytest.approx(min(total[1:]))


@quick
@given(st.integers(3, 40), st.data())
def test_protected_layers_stay(count: int, data: st.DataObject):
    costs = data.draw(st.lists(st.floats(-1, 1), min_size=count, max_size=count))
    checkpoint = llama(count)
    first, last = default_protection(count)
    assert (first, last) == (-(-count // 8), 2)
    free = count - first - last
    if free < 1:
        return
    amount = data.draw(st.integers(1, free))
    strategy = by_scores(open_model(checkpoint, PlanOptions()), scores(costs))
    kept = choose(LayerSelection(count=amount), count, lambda _: 0, strategy=strategy)
    dropped = sorted(set(range(count)) - set(kept))
    lowest = sorted(range(first, count - last), key=lambda layer: (costs[layer], layer))[:amount]
    assert dropped == sorted(lowest)
    everything = choose(LayerSelection(count=1, protect_first=0, protect_last=0), count, lambda _: 0, strategy=strategy)
    assert set(range(count)) - set(everything) == {min(range(count), key=lambda layer: (costs[layer], layer))}


@quick
@given(st.integers(4, 20), st.data())
def test_a_block_is_the_cheapest_of_all_blocks(count: int, data: st.DataObject):
    costs = data.draw(st.lists(st.floats(-1, 1), min_size=count, max_size=count))
    size = data.draw(st.integers(1, count - 1))
    found = by_scores(open_model(llama(count), PlanOptions()), scores(costs), contiguous=True)(
        tuple(range(count)), size
    )
    assert found == tuple(range(found[0], found[0] + size))
    sums = [sum(costs[first : first + size]) for first in range(count - size + 1)]
    assert sum(costs[layer] for layer in found) == pytest.approx(min(sums))


def test_a_block_with_a_limit_is_one_that_works():
    checkpoint = ggml("gemma3", numbered("blk.", 12), {"block_count": 12, "attention.sliding_window_pattern": 6})
    stack = open_model(checkpoint).stack
    options = PlanOptions(strict=True)
    for size in range(1, 11):
        every = [tuple(range(first, first + size)) for first in range(12 - size + 1)]
        allowed = [block for block in every if works(checkpoint, stack, block, True)]
        strategy = by_scores(
            open_model(checkpoint, options), scores([float(layer) for layer in range(12)]), contiguous=True
        )
        if allowed:
            assert strategy(tuple(range(12)), size) == allowed[0]
        else:
            with pytest.raises(UnsupportedError, match="can be dropped together"):
                strategy(tuple(range(12)), size)


def test_a_ratio_takes_the_nearest_number_that_works():
    """Blocks of a Swin shift their windows in turn: they go in pairs, but the last."""
    checkpoint, stack = next(each for each in LIMITED if each[0].architecture == "swin")
    assert not any(works(checkpoint, stack, (layer,), False) for layer in range(stack.count - 1))
    costs = [float(layer) for layer in range(stack.count)]
    strategy = by_scores(open_model(checkpoint, PlanOptions(stack=stack.name)), scores(costs, stack.name))
    free = {"protect_first": 0, "protect_last": 1}
    kept = choose(LayerSelection(ratio=1 / stack.count, **free), stack.count, lambda _: 0, strategy=strategy)
    assert len(kept) == stack.count - 2
    with pytest.raises(UnsupportedError, match="no 1 of the layers that may go can be dropped together"):
        choose(LayerSelection(count=1, **free), stack.count, lambda _: 0, strategy=strategy)


def test_a_size_is_met_by_the_fewest_layers():
    strategy = by_scores(open_model(llama(12), PlanOptions()), scores([float(-layer) for layer in range(12)]))
    kept = choose(LayerSelection(target_size="9"), 12, len, strategy=strategy)
    assert sorted(set(range(12)) - set(kept)) == [7, 8, 9]
    with pytest.raises(RequestError, match="no selection fits"):
        choose(LayerSelection(target_size="2"), 12, len, strategy=strategy)


def test_nothing_may_go():
    strategy = by_scores(open_model(llama(3), PlanOptions()), scores([1.0, 2.0, 3.0]))
    for selection in (LayerSelection(count=1), LayerSelection(ratio=0.3)):
        with pytest.raises(RequestError, match=r"0 of the 3 may go; --protect-first 0 --protect-last 0"):
            choose(selection, 3, lambda _: 0, strategy=strategy)
