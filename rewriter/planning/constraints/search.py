"""Searches for selections of layers that violate no constraint: the nearest to one, or the cheapest. Pure.

Both are a beam search over the layers from first to last, which is not exhaustive: among partial selections it follows
only the best few hundred. It may miss the nearest or the cheapest selection, and even the only one. A selection that it
returns always holds every constraint.

Example: every third of 12 layers has full attention (`period=3`). For a drop of layer 4, `nearest_allowed` finds the
drops of layer 11, of layers 4 to 6 and of layers 3 to 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from rewriter.planning.constraints.constraint import Constraint, Layers, first_violated

_MEMBERS_TRIED = 8  # the last layers of a group of which one must stay
_BEAM_WIDTH = 320  # states that are followed up after each layer
MOST_SEARCHED = 256  # layers; among more the search would take long
# (how many layers are kept, how many of those that each constraint counts, whether the last may not stay last)
# -> (cost, kept layers) of the best
Beam = dict[Layers, list[tuple[float, Layers]]]


def nearest_allowed(constraints: tuple[Constraint, ...], kept: Layers, count: int, most: int = 3) -> list[Layers]:
    """Up to `most` selections that violate no constraint, drop something, and differ from `kept` in few layers.

    The nearest that the search meets come first. Of every group of which one must stay, the last members are tried.
    """
    groups = [
        constraint.one_of for constraint in constraints if constraint.one_of and constraint.one_of.isdisjoint(kept)
    ]
    tries = _each_choice(constraints, groups)
    found = {each: None for tried in tries for each in _nearest_without_groups(tried, kept, count, most)}
    wanted = set(kept)
    return sorted(found, key=lambda each: (len(wanted ^ set(each)), abs(len(each) - len(kept)), each))[:most]


def _each_choice(constraints: tuple[Constraint, ...], groups: list[frozenset[int]]) -> list[tuple[Constraint, ...]]:
    """The constraints with one member of every group that must stay, for each of its last members."""
    tries = [constraints]
    for group in groups:
        tries = [
            (*each, Constraint("", stay=frozenset((one,)))) for each in tries for one in sorted(group)[-_MEMBERS_TRIED:]
        ]
    return tries


def _nearest_without_groups(constraints: tuple[Constraint, ...], kept: Layers, count: int, most: int) -> list[Layers]:
    """As nearest_allowed, without groups. Of equally near ones those with as many layers as asked for come first."""
    wanted = set(kept)
    gain = [(0.0, 1.0) if layer not in wanted else (1.0, 0.0) for layer in range(count)]
    ends = _beam_search(constraints, gain, 2 * most, count, _BEAM_WIDTH)
    found = [(cost, abs(len(chosen) - len(kept)), chosen) for cost, chosen in ends]
    found = [each for each in found if len(each[2]) < count and first_violated(constraints, each[2], count) is None]
    return [chosen for _, _, chosen in sorted(found)[:most]]


def cheapest_allowed(
    constraints: tuple[Constraint, ...], costs: Sequence[float], dropped: int, most: int
) -> Iterator[Layers]:
    """Up to `most` selections that drop `dropped` layers of low cost together and violate no constraint.

    `costs[layer]` is the cost of dropping the layer. The `dropped` layers of the lowest costs come first, if they may
    go: that selection is the cheapest. Otherwise the cheapest that the search meets come first; it starts only when
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
    searches = (_beam_search(each, steps, most, dropped, _BEAM_WIDTH * dropped) for each in tries)
    ends = [end for ends in searches for end in ends if len(end[1]) == count - dropped]
    found = [chosen for _, chosen in sorted(ends) if first_violated(constraints, chosen, count) is None]
    yield from list(dict.fromkeys((*first, *found)))[len(first) : most]


def _beam_search(
    constraints: tuple[Constraint, ...], steps: Sequence[tuple[float, float]], most: int, most_dropped: int, width: int
) -> list[tuple[float, Layers]]:
    """Selections with their costs; each layer is dropped at the first cost of its step or kept at the second.

    A state is all that decides which layers may follow: the numbers of layers kept so far, of all and of those that
    each constraint counts, and whether the last of them may not stay the last. After each layer the `width` cheapest
    states go on, with the `most` cheapest partial selections of each: the search is not exhaustive.
    """
    places = [{layer: place for place, layer in enumerate(constraint.among or ())} for constraint in constraints]
    not_last = frozenset(chain.from_iterable(constraint.not_last for constraint in constraints))
    beam: Beam = {(0,) * (2 + len(constraints)): [(0.0, ())]}
    for layer, (drop_cost, keep_cost) in enumerate(steps):
        can_drop = not any(layer in constraint.stay for constraint in constraints)
        sources = {constraint.requires[layer] for constraint in constraints if layer in constraint.requires}
        extended: Beam = {}
        for state, partial in beam.items():
            if can_drop and layer - state[0] < most_dropped:
                extended.setdefault(state, []).extend((cost + drop_cost, kept) for cost, kept in partial)
            if _can_keep(constraints, places, layer, state):
                counted = (n + (layer in place) for n, place in zip(state[1:-1], places, strict=True))
                extended.setdefault((state[0] + 1, *counted, layer in not_last), []).extend(
                    (cost + keep_cost, (*kept, layer)) for cost, kept in partial if sources.issubset(kept)
                )
        best = sorted((min(partial)[0], state) for state, partial in extended.items() if partial)[:width]
        beam = {state: sorted(extended[state])[:most] for _, state in best}
    return [found for found in chain.from_iterable(beam.values()) if found[1]]


def _can_keep(constraints: tuple[Constraint, ...], places: list[dict[int, int]], layer: int, state: Layers) -> bool:
    """Whether `layer` can be kept after the layers that `state` counts."""
    return not any(
        _breaks_period(constraint, place, layer, (state[0], state[at]))
        or (not state[0] and layer in constraint.not_first)
        for at, (constraint, place) in enumerate(zip(constraints, places, strict=True), 1)
    )


def _breaks_period(constraint: Constraint, places: dict[int, int], layer: int, kept: tuple[int, int]) -> bool:
    """Whether `layer` would change its place in the period after `kept` layers: (of all, of those it counts)."""
    if constraint.period == 1 or (constraint.among is not None and layer not in places):
        return False
    before = layer - kept[0] if constraint.among is None else places[layer] - kept[1]
    return before % constraint.period != 0
