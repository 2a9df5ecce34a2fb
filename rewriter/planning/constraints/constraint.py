"""Which selections of layers are allowed: plain sets of numbers, what breaks them, and what comes nearest. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

Layers = tuple[int, ...]
_TRIED = 8  # layers of a group of which one must stay
_WAYS = 320  # numbers of layers kept so far, the best, that are followed up
SEARCHED = 256  # layers; among more the search would take long


@dataclass(frozen=True, slots=True)
class Constraint:
    """What must hold for the kept layers of a stack.

    `stay`: layers that may not go. `period`: every kept layer keeps its number modulo this. `not_first` and
    `not_last`: layers that may not come to stand there. `counts`: numbers of layers that must neither be left nor
    reached. `at_least`: how many must be left. `requires`: a layer that stays only with the other one. `one_of`: layers
    of which one must stay. `never`: no drop at all. What breaks a `soft` one is written all the same, with a warning.
    With `among`, `period` and `at_least` are about those layers and their places among each other.
    """

    why: str
    stay: frozenset[int] = frozenset()
    period: int = 1
    not_first: frozenset[int] = frozenset()
    not_last: frozenset[int] = frozenset()
    counts: frozenset[int] = frozenset()
    at_least: int = 1
    among: Layers | None = None
    requires: Mapping[int, int] = field(default_factory=dict)
    one_of: frozenset[int] = frozenset()
    apart: tuple[int, ...] = ()  # hidden states that must not fall together
    never: bool = False
    soft: bool = False


def first_violated(constraints: Iterable[Constraint], kept: Layers, count: int) -> Constraint | None:
    """The first of `constraints` that keeping only `kept` of `count` layers breaks."""
    if len(kept) == count:
        return None
    return next((constraint for constraint in constraints if _violates(constraint, kept, count)), None)


def _violates(constraint: Constraint, kept: Layers, count: int) -> bool:
    there = set(kept)
    return (
        constraint.never
        or len(_among(constraint, kept)) < constraint.at_least
        or not constraint.stay <= there
        or (constraint.period > 1 and _moves(constraint, kept))
        or kept[0] in constraint.not_first
        or kept[-1] in constraint.not_last
        or not constraint.counts.isdisjoint((len(kept), count))
        or (constraint.one_of and constraint.one_of.isdisjoint(there))
        or len({bisect_left(kept, state) for state in constraint.apart}) < len(constraint.apart)
        or any(source not in there for layer, source in constraint.requires.items() if layer in there)
    )


def _among(constraint: Constraint, kept: Layers) -> Layers:
    """Those of `kept` that the constraint counts."""
    if constraint.among is None:
        return kept
    among = set(constraint.among)
    return tuple(layer for layer in kept if layer in among)


def _moves(constraint: Constraint, kept: Layers) -> bool:
    """Whether a layer does not keep its place in the period."""
    places = None if constraint.among is None else {layer: place for place, layer in enumerate(constraint.among)}
    counted = enumerate(_among(constraint, kept))
    return any(((places[layer] if places else layer) - new) % constraint.period for new, layer in counted)


def nearest_allowed(constraints: tuple[Constraint, ...], kept: Layers, count: int, most: int = 3) -> list[Layers]:
    """Up to `most` selections that break no constraint, drop something, and differ from `kept` in the fewest layers.

    Of every group of which one must stay, each that could is tried.
    """
    groups = [
        constraint.one_of for constraint in constraints if constraint.one_of and constraint.one_of.isdisjoint(kept)
    ]
    tries = _each_choice(constraints, groups)
    found = {each: None for tried in tries for each in _nearest_without_groups(tried, kept, count, most)}
    wanted = set(kept)
    return sorted(found, key=lambda each: (len(wanted ^ set(each)), abs(len(each) - len(kept)), each))[:most]


def _each_choice(constraints: tuple[Constraint, ...], groups: list[frozenset[int]]) -> list[tuple[Constraint, ...]]:
    """The constraints with one layer of every group held, for each that could be."""
    tries = [constraints]
    for group in groups:
        tries = [(*each, Constraint("", stay=frozenset((one,)))) for each in tries for one in sorted(group)[-_TRIED:]]
    return tries


def _nearest_without_groups(constraints: tuple[Constraint, ...], kept: Layers, count: int, most: int) -> list[Layers]:
    """As nearest, without groups. Among equally near ones those come first that drop as many layers as asked for."""
    wanted = set(kept)
    gain = [(0.0, 1.0) if layer not in wanted else (1.0, 0.0) for layer in range(count)]
    ends = _beam_search(constraints, gain, 2 * most, count, _WAYS)
    found = [(cost, abs(len(chosen) - len(kept)), chosen) for cost, chosen in ends]
    found = [each for each in found if len(each[2]) < count and first_violated(constraints, each[2], count) is None]
    return [chosen for _, _, chosen in sorted(found)[:most]]


def cheapest_allowed(
    constraints: tuple[Constraint, ...], costs: Sequence[float], dropped: int, most: int
) -> Iterator[Layers]:
    """Up to `most` selections that drop `dropped` layers of the least cost together and break no constraint.

    `costs[layer]` is what dropping the layer costs. The cheapest comes first; the others are only searched for when
    they are asked for.
    """
    count = len(costs)
    free = [layer for layer in range(count) if not any(layer in constraint.stay for constraint in constraints)]
    lowest = set(sorted(free, key=lambda layer: (costs[layer], layer))[:dropped])
    best = tuple(layer for layer in range(count) if layer not in lowest)
    first = [best] if len(lowest) == dropped and best and first_violated(constraints, best, count) is None else []
    yield from first
    groups = [constraint.one_of for constraint in constraints if constraint.one_of]
    tries = _each_choice(constraints, groups)
    steps = [(cost, 0.0) for cost in costs]
    walks = (_beam_search(each, steps, most, dropped, _WAYS * dropped) for each in tries)
    ends = [way for ways in walks for way in ways if len(way[1]) == count - dropped]
    found = [chosen for _, chosen in sorted(ends) if first_violated(constraints, chosen, count) is None]
    yield from list(dict.fromkeys((*first, *found)))[len(first) : most]


# how many layers are kept, of all and for each constraint -> (cost, kept layers)
Ways = dict[Layers, list[tuple[float, Layers]]]


def _beam_search(
    constraints: tuple[Constraint, ...], steps: Sequence[tuple[float, float]], most: int, most_dropped: int, states: int
) -> list[tuple[float, Layers]]:
    """Ways to go over all layers, each dropped at the first cost of its step or kept at the second.

    Remembers, for every number of layers kept so far and what else decides what may follow, the `most` best ways to
    get there, for the `states` best of those.
    """
    places = [{layer: place for place, layer in enumerate(constraint.among or ())} for constraint in constraints]
    ways: Ways = {(0,) * (1 + len(constraints)): [(0.0, ())]}
    for layer, (drop, keep) in enumerate(steps):
        may_go = not any(layer in constraint.stay for constraint in constraints)
        following: Ways = {}
        for state, found in ways.items():
            if may_go and layer - state[0] < most_dropped:
                following.setdefault(state, []).extend((cost + drop, chosen) for cost, chosen in found)
            if _can_keep(constraints, places, layer, state):
                more = (state[0] + 1, *(n + (layer in each) for n, each in zip(state[1:], places, strict=True)))
                following.setdefault(more, []).extend(
                    (cost + keep, (*chosen, layer))
                    for cost, chosen in found
                    if not any(
                        layer in constraint.requires and constraint.requires[layer] not in chosen
                        for constraint in constraints
                    )
                )
        best = sorted((min(found)[0], state) for state, found in following.items() if found)[:states]
        ways = {state: sorted(following[state])[:most] for _, state in best}
    return [way for way in chain.from_iterable(ways.values()) if way[1]]


def _can_keep(constraints: tuple[Constraint, ...], places: list[dict[int, int]], layer: int, state: Layers) -> bool:
    """Whether `layer` may follow where so many layers are kept."""
    return not any(
        _breaks_period(constraint, place, layer, (state[0], state[at]))
        or (not state[0] and layer in constraint.not_first)
        for at, (constraint, place) in enumerate(zip(constraints, places, strict=True), 1)
    )


def _breaks_period(constraint: Constraint, places: dict[int, int], layer: int, kept: tuple[int, int]) -> bool:
    """Whether `layer` would not keep its place in the period where so many layers, and of those counted, are kept."""
    if constraint.period == 1 or (constraint.among is not None and layer not in places):
        return False
    before = layer - kept[0] if constraint.among is None else places[layer] - kept[1]
    return before % constraint.period != 0
