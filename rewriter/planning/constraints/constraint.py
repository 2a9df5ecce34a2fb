"""Constraints on which layers of a stack a selection keeps, and the first one that a selection violates. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Layers = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Constraint:
    """What must hold for the kept layers of a stack.

    `stay`: layers that may not go. `period`: every kept layer keeps its number modulo this. `not_first` and
    `not_last`: layers that may not come to stand there. `counts`: numbers of layers that must neither be left nor
    reached. `at_least`: how many must be left. `requires`: a layer that stays only with the other one. `one_of`: layers
    of which one must stay. `never`: no drop at all. A selection that violates a `soft` one is written all
    the same, with a warning. With `among`, `period` and `at_least` are about those layers and their places among each
    other.
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
    """The first of `constraints` that keeping only `kept` of `count` layers violates."""
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
