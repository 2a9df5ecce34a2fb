"""Which selections of layers are allowed: plain sets of numbers, what breaks them, and what comes nearest. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

Layers = tuple[int, ...]
_TRIED = 8  # layers of a group of which one must stay


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
        or any((_place(bound, layer) - new) % bound.period for new, layer in enumerate(_among(bound, kept)))
        or kept[0] in bound.not_first
        or kept[-1] in bound.not_last
        or not bound.counts.isdisjoint((len(kept), count))
        or (bound.one_of and bound.one_of.isdisjoint(there))
        or len({bisect_left(kept, state) for state in bound.apart}) < len(bound.apart)
        or any(source not in there for layer, source in bound.requires.items() if layer in there)
    )


def _among(bound: Bound, kept: Layers) -> Layers:
    """Those of `kept` that the bound counts."""
    return kept if bound.among is None else tuple(layer for layer in kept if layer in bound.among)


def _place(bound: Bound, layer: int) -> int:
    """The number of a layer that the bound counts, among those."""
    return layer if bound.among is None else bound.among.index(layer)


def nearest(bounds: tuple[Bound, ...], kept: Layers, count: int, most: int = 3) -> list[Layers]:
    """Up to `most` selections that break no bound, drop something, and differ from `kept` in the fewest layers.

    Of every group of which one must stay, each that could is tried.
    """
    groups = [bound.one_of for bound in bounds if bound.one_of and bound.one_of.isdisjoint(kept)]
    tries = [bounds]
    for group in groups:
        tries = [(*each, Bound("", stay=frozenset((one,)))) for each in tries for one in sorted(group)[-_TRIED:]]
    found = {each: None for bounds_tried in tries for each in _nearest(bounds_tried, kept, count, most)}
    wanted = set(kept)
    return sorted(found, key=lambda each: (len(wanted ^ set(each)), abs(len(each) - len(kept)), each))[:most]


def _nearest(bounds: tuple[Bound, ...], kept: Layers, count: int, most: int) -> list[Layers]:
    """As nearest, without groups. Among equally near ones those come first that drop as many layers as asked for."""
    wanted = set(kept)
    gain = [(0.0, 1.0) if layer not in wanted else (1.0, 0.0) for layer in range(count)]
    ends = _walked(bounds, gain, 2 * most, count)
    found = [(cost, abs(len(chosen) - len(kept)), chosen) for cost, chosen in ends]
    found = [each for each in found if len(each[2]) < count and broken(bounds, each[2], count) is None]
    return [chosen for _, _, chosen in sorted(found)[:most]]


def cheapest(bounds: tuple[Bound, ...], costs: Sequence[float], dropped: int, most: int) -> list[Layers]:
    """Up to `most` selections that drop `dropped` layers of the least cost together and break no bound.

    `costs[layer]` is what dropping the layer costs. The cheapest comes first.
    """
    count = len(costs)
    free = [layer for layer in range(count) if not any(layer in bound.stay for bound in bounds)]
    lowest = set(sorted(free, key=lambda layer: (costs[layer], layer))[:dropped])
    best = tuple(layer for layer in range(count) if layer not in lowest)
    first = [best] if len(lowest) == dropped and best and broken(bounds, best, count) is None else []
    groups = [bound.one_of for bound in bounds if bound.one_of]
    tries = [bounds]
    for group in groups:
        tries = [(*each, Bound("", stay=frozenset((one,)))) for each in tries for one in sorted(group)[-_TRIED:]]
    steps = [(cost, 0.0) for cost in costs]
    ends = [way for each in tries for way in _walked(each, steps, most, dropped) if len(way[1]) == count - dropped]
    found = [chosen for _, chosen in sorted(ends) if broken(bounds, chosen, count) is None]
    return list(dict.fromkeys((*first, *found)))[:most]


def _walked(
    bounds: tuple[Bound, ...], steps: Sequence[tuple[float, float]], ways: int, most_dropped: int
) -> list[tuple[float, Layers]]:
    """Ways to go over all layers, each dropped at the first cost of its step or kept at the second.

    Remembers, for every number of layers kept so far and what else decides what may follow, the best few ways to get
    there.
    """
    known: dict[Layers, list[tuple[float, Layers]]] = {(): [(0.0, ())]}
    for layer, (drop, keep) in enumerate(steps):
        following: dict[Layers, list[tuple[float, Layers]]] = {}
        for cost, chosen in chain.from_iterable(known.values()):
            if layer - len(chosen) < most_dropped and not any(layer in bound.stay for bound in bounds):
                following.setdefault(_state(bounds, chosen), []).append((cost + drop, chosen))
            if _may_stay(bounds, layer, chosen):
                more = (*chosen, layer)
                following.setdefault(_state(bounds, more), []).append((cost + keep, more))
        known = {state: sorted(best)[:ways] for state, best in following.items()}
    return [way for way in chain.from_iterable(known.values()) if way[1]]


def _state(bounds: tuple[Bound, ...], chosen: Layers) -> Layers:
    """What the layers kept so far allow to follow."""
    counted = (len(_among(bound, chosen)) for bound in bounds if bound.among is not None)
    return (len(chosen), *counted)


def _may_stay(bounds: tuple[Bound, ...], layer: int, chosen: Layers) -> bool:
    return not any(
        _shifts(bound, layer, chosen)
        or (not chosen and layer in bound.not_first)
        or (layer in bound.requires and bound.requires[layer] not in chosen)
        for bound in bounds
    )


def _shifts(bound: Bound, layer: int, chosen: Layers) -> bool:
    """Whether `layer`, kept after `chosen`, would not keep its place in the period."""
    if bound.period == 1 or (bound.among is not None and layer not in bound.among):
        return False
    return (_place(bound, layer) - len(_among(bound, chosen))) % bound.period != 0
