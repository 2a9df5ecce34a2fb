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
class Bound:
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


def broken(bounds: Iterable[Bound], kept: Layers, count: int) -> Bound | None:
    """The first of `bounds` that keeping only `kept` of `count` layers breaks."""
    if len(kept) == count:
        return None
    return next((bound for bound in bounds if _breaks(bound, kept, count)), None)


def _breaks(bound: Bound, kept: Layers, count: int) -> bool:
    there = set(kept)
    return (
        bound.never
        or len(_among(bound, kept)) < bound.at_least
        or not bound.stay <= there
        or (bound.period > 1 and _moves(bound, kept))
        or kept[0] in bound.not_first
        or kept[-1] in bound.not_last
        or not bound.counts.isdisjoint((len(kept), count))
        or (bound.one_of and bound.one_of.isdisjoint(there))
        or len({bisect_left(kept, state) for state in bound.apart}) < len(bound.apart)
        or any(source not in there for layer, source in bound.requires.items() if layer in there)
    )


def _among(bound: Bound, kept: Layers) -> Layers:
    """Those of `kept` that the bound counts."""
    if bound.among is None:
        return kept
    among = set(bound.among)
    return tuple(layer for layer in kept if layer in among)


def _moves(bound: Bound, kept: Layers) -> bool:
    """Whether a layer does not keep its place in the period."""
    places = None if bound.among is None else {layer: place for place, layer in enumerate(bound.among)}
    counted = enumerate(_among(bound, kept))
    return any(((places[layer] if places else layer) - new) % bound.period for new, layer in counted)


def nearest(bounds: tuple[Bound, ...], kept: Layers, count: int, most: int = 3) -> list[Layers]:
    """Up to `most` selections that break no bound, drop something, and differ from `kept` in the fewest layers.

    Of every group of which one must stay, each that could is tried.
    """
    groups = [bound.one_of for bound in bounds if bound.one_of and bound.one_of.isdisjoint(kept)]
    tries = _each_choice(bounds, groups)
    found = {each: None for bounds_tried in tries for each in _nearest(bounds_tried, kept, count, most)}
    wanted = set(kept)
    return sorted(found, key=lambda each: (len(wanted ^ set(each)), abs(len(each) - len(kept)), each))[:most]


def _each_choice(bounds: tuple[Bound, ...], groups: list[frozenset[int]]) -> list[tuple[Bound, ...]]:
    """The bounds with one layer of every group held, for each that could be."""
    tries = [bounds]
    for group in groups:
        tries = [(*each, Bound("", stay=frozenset((one,)))) for each in tries for one in sorted(group)[-_TRIED:]]
    return tries


def _nearest(bounds: tuple[Bound, ...], kept: Layers, count: int, most: int) -> list[Layers]:
    """As nearest, without groups. Among equally near ones those come first that drop as many layers as asked for."""
    wanted = set(kept)
    gain = [(0.0, 1.0) if layer not in wanted else (1.0, 0.0) for layer in range(count)]
    ends = _walked(bounds, gain, 2 * most, count, _WAYS)
    found = [(cost, abs(len(chosen) - len(kept)), chosen) for cost, chosen in ends]
    found = [each for each in found if len(each[2]) < count and broken(bounds, each[2], count) is None]
    return [chosen for _, _, chosen in sorted(found)[:most]]


def cheapest(bounds: tuple[Bound, ...], costs: Sequence[float], dropped: int, most: int) -> Iterator[Layers]:
    """Up to `most` selections that drop `dropped` layers of the least cost together and break no bound.

    `costs[layer]` is what dropping the layer costs. The cheapest comes first; the others are only searched for when
    they are asked for.
    """
    count = len(costs)
    free = [layer for layer in range(count) if not any(layer in bound.stay for bound in bounds)]
    lowest = set(sorted(free, key=lambda layer: (costs[layer], layer))[:dropped])
    best = tuple(layer for layer in range(count) if layer not in lowest)
    first = [best] if len(lowest) == dropped and best and broken(bounds, best, count) is None else []
    yield from first
    groups = [bound.one_of for bound in bounds if bound.one_of]
    tries = _each_choice(bounds, groups)
    steps = [(cost, 0.0) for cost in costs]
    walks = (_walked(each, steps, most, dropped, _WAYS * dropped) for each in tries)
    ends = [way for ways in walks for way in ways if len(way[1]) == count - dropped]
    found = [chosen for _, chosen in sorted(ends) if broken(bounds, chosen, count) is None]
    yield from list(dict.fromkeys((*first, *found)))[len(first) : most]


Ways = dict[Layers, list[tuple[float, Layers]]]  # how many are kept, of all and for each bound -> (cost, kept layers)


def _walked(
    bounds: tuple[Bound, ...], steps: Sequence[tuple[float, float]], most: int, most_dropped: int, states: int
) -> list[tuple[float, Layers]]:
    """Ways to go over all layers, each dropped at the first cost of its step or kept at the second.

    Remembers, for every number of layers kept so far and what else decides what may follow, the `most` best ways to
    get there, for the `states` best of those.
    """
    places = [{layer: place for place, layer in enumerate(bound.among or ())} for bound in bounds]
    ways: Ways = {(0,) * (1 + len(bounds)): [(0.0, ())]}
    for layer, (drop, keep) in enumerate(steps):
        may_go = not any(layer in bound.stay for bound in bounds)
        following: Ways = {}
        for state, found in ways.items():
            if may_go and layer - state[0] < most_dropped:
                following.setdefault(state, []).extend((cost + drop, chosen) for cost, chosen in found)
            if _may_stay(bounds, places, layer, state):
                more = (state[0] + 1, *(n + (layer in each) for n, each in zip(state[1:], places, strict=True)))
                following.setdefault(more, []).extend(
                    (cost + keep, (*chosen, layer))
                    for cost, chosen in found
                    if not any(layer in bound.requires and bound.requires[layer] not in chosen for bound in bounds)
                )
        best = sorted((min(found)[0], state) for state, found in following.items() if found)[:states]
        ways = {state: sorted(following[state])[:most] for _, state in best}
    return [way for way in chain.from_iterable(ways.values()) if way[1]]


def _may_stay(bounds: tuple[Bound, ...], places: list[dict[int, int]], layer: int, state: Layers) -> bool:
    """Whether `layer` may follow where so many layers are kept."""
    return not any(
        _shifts(bound, place, layer, (state[0], state[at])) or (not state[0] and layer in bound.not_first)
        for at, (bound, place) in enumerate(zip(bounds, places, strict=True), 1)
    )


def _shifts(bound: Bound, places: dict[int, int], layer: int, kept: tuple[int, int]) -> bool:
    """Whether `layer` would not keep its place in the period where so many layers, and of those counted, are kept."""
    if bound.period == 1 or (bound.among is not None and layer not in places):
        return False
    before = layer - kept[0] if bound.among is None else places[layer] - kept[1]
    return before % bound.period != 0
