"""Which layers may go at all: what a loader ties to a layer's number and no metadata can say otherwise.

A Limit of the tables becomes a Bound: plain sets of numbers for one checkpoint. `broken` says which bound a
selection breaks; `nearest` finds the selections closest to it that break none. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from rewriter.architectures.entry import Limit
from rewriter.architectures.stacks import Stack
from rewriter.checkpoint import Checkpoint
from rewriter.errors import CheckpointError, shown

Layers = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """What must hold for the kept layers of a stack.

    `stay`: layers that may not go. `period`: every kept layer keeps its number modulo this. `not_first` and
    `not_last`: layers that may not come to stand there. `counts`: numbers of layers that must neither be left nor
    reached. `requires`: a layer that stays only with the other one. `never`: no drop at all.
    """

    why: str
    stay: frozenset[int] = frozenset()
    period: int = 1
    not_first: frozenset[int] = frozenset()
    not_last: frozenset[int] = frozenset()
    counts: frozenset[int] = frozenset()
    at_least: int = 1
    requires: Mapping[int, int] = field(default_factory=dict)
    never: bool = False


def broken(bounds: Iterable[Bound], kept: Layers, count: int) -> Bound | None:
    """The first of `bounds` that keeping only `kept` of `count` layers breaks."""
    if len(kept) == count:
        return None
    return next((bound for bound in bounds if _breaks(bound, kept, count)), None)


def _breaks(bound: Bound, kept: Layers, count: int) -> bool:
    there = set(kept)
    return (
        bound.never
        or len(kept) < bound.at_least
        or not bound.stay <= there
        or any((old - new) % bound.period for new, old in enumerate(kept))
        or kept[0] in bound.not_first
        or kept[-1] in bound.not_last
        or not bound.counts.isdisjoint((len(kept), count))
        or any(source not in there for layer, source in bound.requires.items() if layer in there)
    )


def nearest(bounds: tuple[Bound, ...], kept: Layers, count: int, most: int = 3) -> list[Layers]:
    """Up to `most` selections that break no bound, drop something, and differ from `kept` in the fewest layers.

    Walks over the layers and remembers, for every number of layers kept so far, the best few ways to get there.
    Among equally near ones those come first that drop as many layers as asked for.
    """
    wanted = set(kept)
    ways: dict[int, list[tuple[int, Layers]]] = {0: [(0, ())]}
    for layer in range(count):
        following: dict[int, list[tuple[int, Layers]]] = {}
        for new, best in ways.items():
            for cost, chosen in best:
                if not any(layer in bound.stay for bound in bounds):
                    following.setdefault(new, []).append((cost + (layer in wanted), chosen))
                if _may_stay(bounds, layer, new, chosen):
                    following.setdefault(new + 1, []).append((cost + (layer not in wanted), (*chosen, layer)))
        ways = {new: sorted(best)[: 2 * most] for new, best in following.items()}
    found = [(cost, abs(new - len(kept)), chosen) for new, best in ways.items() for cost, chosen in best if chosen]
    found = [each for each in found if len(each[2]) < count and broken(bounds, each[2], count) is None]
    return [chosen for _, _, chosen in sorted(found)[:most]]


def _may_stay(bounds: tuple[Bound, ...], layer: int, new: int, chosen: Layers) -> bool:
    return not any(
        (layer - new) % bound.period
        or (new == 0 and layer in bound.not_first)
        or (layer in bound.requires and bound.requires[layer] not in chosen)
        for bound in bounds
    )


def bound_for(limit: Limit, checkpoint: Checkpoint, stack: Stack, stacks: Iterable[Stack]) -> Bound:
    """The bound that `limit` means for this checkpoint."""
    if limit.kind == "as_long_as":
        return Bound(limit.why, at_least=max((each.count for each in stacks if each.name == limit.value), default=1))
    return KINDS[limit.kind](limit, checkpoint, stack)


def _value(checkpoint: Checkpoint, stack: Stack, value: object) -> object:
    """A number as it is, or what the metadata has under a key."""
    return checkpoint.metadata.get(stack.key(value)) if isinstance(value, str) else value


def _number(checkpoint: Checkpoint, stack: Stack, value: object) -> int:
    found = _value(checkpoint, stack, value)
    if found is None:
        return 0
    if isinstance(found, bool) or not isinstance(found, int):
        raise CheckpointError(f"{shown(stack.key(str(value)))}: expected a number, found {shown(found)}")
    return found


def _entries(checkpoint: Checkpoint, stack: Stack, key: object) -> list[object]:
    """The list under `key`, empty where there is none."""
    found = _value(checkpoint, stack, key)
    return list(found) if isinstance(found, list | tuple) else []


def aligned(limit: Limit, checkpoint: Checkpoint, stack: Stack) -> Bound:
    """Every `value`-th layer is special by its number: each kept layer must keep its place in the period."""
    return Bound(limit.why, period=max(1, _number(checkpoint, stack, limit.value)))


def stay(limit: Limit, checkpoint: Checkpoint, stack: Stack) -> Bound:
    """The layers of `value` may not go."""
    layers = limit.value if isinstance(limit.value, tuple) else (limit.value,)
    return Bound(limit.why, stay=frozenset(int(str(layer)) % stack.count for layer in layers))


def stay_below(limit: Limit, checkpoint: Checkpoint, stack: Stack) -> Bound:
    """The first `value` layers may not go."""
    return Bound(limit.why, stay=frozenset(range(min(_number(checkpoint, stack, limit.value), stack.count))))


def stay_listed(limit: Limit, checkpoint: Checkpoint, stack: Stack) -> Bound:
    """The layers that an index list names may not go."""
    listed = (index for index in _entries(checkpoint, stack, limit.value) if isinstance(index, int))
    return Bound(limit.why, stay=frozenset(listed))


def stay_marked(limit: Limit, checkpoint: Checkpoint, stack: Stack) -> Bound:
    """Layers whose entry in a per-layer list is 0 or more may not go; that of layer 0 is not read."""
    entries = enumerate(_entries(checkpoint, stack, limit.value))
    return Bound(limit.why, stay=frozenset(i for i, entry in entries if i and isinstance(entry, int) and entry >= 0))


def counts(limit: Limit, checkpoint: Checkpoint, stack: Stack) -> Bound:
    """A loader concludes something from exactly these numbers of layers."""
    values = limit.value if isinstance(limit.value, tuple) else (limit.value,)
    return Bound(limit.why, counts=frozenset(int(str(value)) for value in values))


def counts_with(limit: Limit, checkpoint: Checkpoint, stack: Stack) -> Bound:
    """As counts, but only where a key is set: `value` is (key, number, ...)."""
    key, *numbers = limit.value if isinstance(limit.value, tuple) else (limit.value,)
    active = bool(_value(checkpoint, stack, key))
    return Bound(limit.why, counts=frozenset(int(str(number)) for number in numbers) if active else frozenset())


def never_with(limit: Limit, checkpoint: Checkpoint, stack: Stack) -> Bound:
    """No layer can go where a key has more than a number: `value` is (key, number)."""
    key, most = limit.value if isinstance(limit.value, tuple) else (limit.value, 0)
    return Bound(limit.why, never=_number(checkpoint, stack, key) > int(str(most)))


def never(limit: Limit, checkpoint: Checkpoint, stack: Stack) -> Bound:
    """No layer can go."""
    return Bound(limit.why, never=True)


def not_first(limit: Limit, checkpoint: Checkpoint, stack: Stack) -> Bound:
    """Layers with the given entry in a per-layer list may not become the first: `value` is (key, entry)."""
    return Bound(limit.why, not_first=_having(limit, checkpoint, stack))


def not_last(limit: Limit, checkpoint: Checkpoint, stack: Stack) -> Bound:
    """Layers with the given entry in a per-layer list may not become the last: `value` is (key, entry)."""
    return Bound(limit.why, not_last=_having(limit, checkpoint, stack))


def _having(limit: Limit, checkpoint: Checkpoint, stack: Stack) -> frozenset[int]:
    key, wanted = limit.value if isinstance(limit.value, tuple) else (limit.value, None)
    entries = enumerate(_entries(checkpoint, stack, key))
    return frozenset(layer for layer, entry in entries if entry == wanted)


def shared_tail(limit: Limit, checkpoint: Checkpoint, stack: Stack) -> Bound:
    """The last layers reuse keys and values of the last layer of their type before them: `value` is
    (key of how many, key of the types). Those sources may not go.
    """
    how_many, types_key = limit.value if isinstance(limit.value, tuple) else (limit.value, "")
    types = _entries(checkpoint, stack, types_key)
    start = stack.count - _number(checkpoint, stack, how_many)
    if start >= stack.count or not types:
        return Bound(limit.why)
    used = set(map(repr, types[start:]))
    last = {repr(kind): layer for layer, kind in enumerate(types[:start])}
    return Bound(limit.why, stay=frozenset(layer for kind, layer in last.items() if kind in used))


def with_source(limit: Limit, checkpoint: Checkpoint, stack: Stack) -> Bound:
    """A layer whose entry is `shared` reuses what the one before it that is not has: `value` is (key, shared)."""
    key, shared = limit.value if isinstance(limit.value, tuple) else (limit.value, "shared")
    requires, source = {}, None
    for layer, entry in enumerate(_entries(checkpoint, stack, key)):
        if entry != shared:
            source = layer
        elif source is not None:
            requires[layer] = source
    return Bound(limit.why, requires=requires)


KINDS: dict[str, Callable[[Limit, Checkpoint, Stack], Bound]] = {
    kind.__name__: kind
    for kind in (
        aligned, stay, stay_below, stay_listed, stay_marked, counts, counts_with, never, never_with, not_first,
        not_last, shared_tail, with_source,
    )
}  # fmt: skip
