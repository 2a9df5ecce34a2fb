"""The search for allowed selections: what it finds holds every constraint, and for few layers it is the nearest."""

from itertools import chain, combinations

import pytest

from rewriter.planning.constraints.constraint import Constraint, first_violated
from rewriter.planning.constraints.search import cheapest_allowed, nearest_allowed

COUNT = 9
CONSTRAINTS = {
    "period": Constraint("", period=3),
    "must stay": Constraint("", stay=frozenset((2, 7))),
    "first": Constraint("", not_first=frozenset((1, 2))),
    "source": Constraint("", requires={5: 3, 6: 3}),
    "one of": Constraint("", one_of=frozenset((0, 4))),
    "period of some": Constraint("", period=2, among=(0, 2, 3, 5)),
}


def without(*dropped: int, count: int = COUNT) -> tuple[int, ...]:
    return tuple(layer for layer in range(count) if layer not in dropped)


def allowed(constraint: Constraint) -> list[tuple[int, ...]]:
    selections = chain.from_iterable(combinations(range(COUNT), size) for size in range(1, COUNT))
    return [kept for kept in selections if first_violated((constraint,), kept, COUNT) is None]


@pytest.mark.parametrize("constraint", CONSTRAINTS.values(), ids=CONSTRAINTS)
@pytest.mark.parametrize("dropped", [(2,), (3,), (0, 4), (0, 1, 2, 8)])
def test_the_nearest_of_few_layers(constraint, dropped):
    wanted = without(*dropped)
    found = nearest_allowed((constraint,), wanted, COUNT)
    possible = allowed(constraint)
    assert set(found) <= set(possible)
    assert len(set(found[0]) ^ set(wanted)) == min(len(set(kept) ^ set(wanted)) for kept in possible)


@pytest.mark.parametrize("constraint", CONSTRAINTS.values(), ids=CONSTRAINTS)
def test_the_cheapest_of_few_layers(constraint):
    costs = [5.0, 1.0, 2.0, 8.0, 3.0, 9.0, 4.0, 1.0, 7.0]
    kept = next(cheapest_allowed((constraint,), costs, 3, 4))
    possible = [each for each in allowed(constraint) if len(each) == COUNT - 3]
    assert kept in possible
    assert sum(costs[layer] for layer in kept) == max(sum(costs[layer] for layer in each) for each in possible)


def test_the_example_of_a_period():
    found = nearest_allowed((Constraint("", period=3),), without(4, count=12), 12)
    assert found == [without(11, count=12), without(4, 5, 6, count=12), without(3, 4, 5, count=12)]


def test_layers_that_may_not_be_last_are_dropped_even_if_others_cost_less():
    """Before the state said so, the cheapest partial selections crowded out those that may end."""
    constraint = Constraint("", not_last=frozenset((5, 6)))
    found = list(cheapest_allowed((constraint,), [0.0] * 6 + [1.0], 2, 8))
    assert found[0] == (0, 1, 2, 3, 4)
