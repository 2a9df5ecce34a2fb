"""Which selections of layers are allowed: plain sets of numbers, what breaks them, and what comes nearest. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
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
    """As nearest, without groups.

    Walks over the layers and remembers, for every number of layers kept so far and what else decides what may follow,
    the best few ways to get there.
    Among equally near ones those come first that drop as many layers as asked for.
    """
    wanted = set(kept)
    ways: dict[Layers, list[tuple[int, Layers]]] = {(): [(0, ())]}
    for layer in range(count):
        following: dict[Layers, list[tuple[int, Layers]]] = {}
        for cost, chosen in chain.from_iterable(ways.values()):
            if not any(layer in bound.stay for bound in bounds):
                following.setdefault(_state(bounds, chosen), []).append((cost + (layer in wanted), chosen))
            if _may_stay(bounds, layer, chosen):
                more = (*chosen, layer)
                following.setdefault(_state(bounds, more), []).append((cost + (layer not in wanted), more))
        ways = {state: sorted(best)[: 2 * most] for state, best in following.items()}
    ends = (way for way in chain.from_iterable(ways.values()) if way[1])
    found = [(cost, abs(len(chosen) - len(kept)), chosen) for cost, chosen in ends]
    found = [each for each in found if len(each[2]) < count and broken(bounds, each[2], count) is None]
    return [chosen for _, _, chosen in sorted(found)[:most]]


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
