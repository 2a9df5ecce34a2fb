"""What a loader makes of a layer's number, and how it is written out once a drop breaks that. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from math import lcm

from rewriter.architectures.entry import Pattern
from rewriter.architectures.stacks import Stack
from rewriter.checkpoint import Checkpoint, LayerMap
from rewriter.errors import CheckpointError, shown


def is_list(checkpoint: Checkpoint, stack: Stack, name: str) -> bool:
    """Whether the metadata has a list that is not empty under `name`; loaders take an empty one for none."""
    value = checkpoint.value(stack.key(name))
    return isinstance(value, list | tuple) and len(value) > 0


def pattern_list(
    checkpoint: Checkpoint, stack: Stack, pattern: Pattern, count: int | None = None
) -> tuple[object, ...]:
    """What each of `count` layers (all of the stack) is, by the metadata or by the loader's own pattern."""
    count = stack.count if count is None else count
    if pattern.none_left and all(checkpoint.value(stack.key(name)) == value for name, value in pattern.none_left):
        return (pattern.special,) * count
    value = checkpoint.value(stack.key(pattern.explicit)) if pattern.explicit else None
    listed = tuple(value) if isinstance(value, list | tuple) else ()
    if listed and pattern.form == "per_layer":
        return listed
    if listed and pattern.form == "cycle":
        return tuple(listed[layer % len(listed)] for layer in range(count))
    if listed and pattern.form == "special_indexes":
        return tuple(pattern.special if layer in listed else pattern.other for layer in range(count))
    implied = _implied(pattern, _period(checkpoint, stack, pattern), _offset(checkpoint, stack, pattern), count)
    if pattern.form == "other_indexes":
        return tuple(pattern.other if layer in listed else kind for layer, kind in enumerate(implied))
    return implied


def _implied(pattern: Pattern, period: int, offset: int, count: int) -> tuple[object, ...]:
    """By number alone. A period of 0 means that no layer is special."""
    return tuple(
        pattern.special if period and layer % period == offset % period else pattern.other for layer in range(count)
    )


def _period(checkpoint: Checkpoint, stack: Stack, pattern: Pattern) -> int:
    stated = (checkpoint.value(stack.key(key)) for key in pattern.period_keys)
    period = next((value for value in stated if value is not None), pattern.default)
    if isinstance(period, bool) or not isinstance(period, int) or period < 0:
        key = pattern.period_keys[0] if pattern.period_keys else pattern.explicit
        raise CheckpointError(f"{shown(stack.key(key))}: {shown(period)} is not a period")
    return period


def _offset(checkpoint: Checkpoint, stack: Stack, pattern: Pattern) -> int:
    """The place in the period that is special: the first, the last, or what the metadata says."""
    if not pattern.offset_key:
        return 0 if pattern.first else -1
    value = checkpoint.value(stack.key(pattern.offset_key))
    return value if isinstance(value, int) else 0


def pattern_values(
    checkpoint: Checkpoint, stack: Stack, layers: LayerMap, pattern: Pattern
) -> Iterator[tuple[str, object, str]]:
    """What to write so that every kept layer stays what it was: (whole key, value, rule).

    Nothing while the loader's own pattern gives it.
    """
    before = pattern_list(checkpoint, stack, pattern)
    if len(before) not in (layers.count, layers.count + layers.predictions):
        raise CheckpointError(f"{shown(pattern.explicit)} has {len(before)} entries for {layers.count} layers")
    wanted = tuple(before[old] for old in layers.kept if old < len(before))
    if pattern.none_left and all(kind == pattern.special for kind in wanted):
        there = (pair for pair in pattern.none_left if checkpoint.value(stack.key(pair[0])) is not None)
        yield from ((stack.key(name), value, "pattern") for name, value in there)
    elif not pattern.explicit:
        yield from _solved(checkpoint, stack, pattern, wanted)
    elif _must_be_written(checkpoint, stack, pattern, wanted):
        yield from _written(checkpoint, stack, layers, pattern, wanted)


def _must_be_written(checkpoint: Checkpoint, stack: Stack, pattern: Pattern, wanted: tuple[object, ...]) -> bool:
    """A list that is there follows by its own rule, unless it works together with the period."""
    if is_list(checkpoint, stack, pattern.explicit) and pattern.form in ("per_layer", "special_indexes"):
        return False
    listed = pattern.form == "other_indexes" and is_list(checkpoint, stack, pattern.explicit)
    return listed or wanted != _after(checkpoint, stack, pattern, wanted)


def _after(checkpoint: Checkpoint, stack: Stack, pattern: Pattern, wanted: tuple[object, ...]) -> tuple[object, ...]:
    """What the loader would make of the kept layers if nothing were written."""
    return pattern_list(checkpoint, stack, pattern, len(wanted))


def _written(
    checkpoint: Checkpoint, stack: Stack, layers: LayerMap, pattern: Pattern, wanted: tuple[object, ...]
) -> Iterator[tuple[str, object, str]]:
    key = stack.key(pattern.explicit)
    if pattern.form in ("per_layer", "cycle"):
        yield key, list(wanted), "pattern"
        return
    kind = pattern.special if pattern.form == "special_indexes" else pattern.other
    if pattern.form == "other_indexes" and _remapped_is_enough(checkpoint, stack, layers, pattern, wanted):
        yield key, _remapped(checkpoint, stack, layers, pattern), "layer_indexes"
        return
    yield key, [layer for layer, each in enumerate(wanted) if each == kind], "pattern"
    yield from ((stack.key(name), value, "pattern") for name, value in pattern.resets)


def _remapped(checkpoint: Checkpoint, stack: Stack, layers: LayerMap, pattern: Pattern) -> list[int]:
    listed = checkpoint.value(stack.key(pattern.explicit))
    numbers = layers.numbers
    return [numbers[layer] for layer in listed if layer in numbers] if isinstance(listed, list | tuple) else []


def _remapped_is_enough(
    checkpoint: Checkpoint, stack: Stack, layers: LayerMap, pattern: Pattern, wanted: tuple[object, ...]
) -> bool:
    """Whether the period still gives the rest once the listed layers are renumbered."""
    period, offset = _period(checkpoint, stack, pattern), _offset(checkpoint, stack, pattern)
    listed = _remapped(checkpoint, stack, layers, pattern)
    implied = _implied(pattern, period, offset, len(wanted))
    return wanted == tuple(pattern.other if layer in listed else kind for layer, kind in enumerate(implied))


def _solved(
    checkpoint: Checkpoint, stack: Stack, pattern: Pattern, wanted: tuple[object, ...]
) -> Iterator[tuple[str, object, str]]:
    """Another period and offset that give the same; without an offset of its own only the period can change."""
    found = solution(checkpoint, stack, pattern, wanted)
    if found is None:
        return  # a bound has refused this, or was overruled
    yield stack.key(pattern.period_keys[0]), found[0], "pattern"
    if pattern.offset_key:
        yield stack.key(pattern.offset_key), found[1], "pattern"


def solution(
    checkpoint: Checkpoint, stack: Stack, pattern: Pattern, wanted: tuple[object, ...]
) -> tuple[int, int] | None:
    """The period and offset, nearest to the old ones, that make the layers `wanted`; None if there are none."""
    old = _period(checkpoint, stack, pattern)
    offset = _offset(checkpoint, stack, pattern)
    periods = sorted(range(1, len(wanted) + 2), key=lambda period: abs(period - old))
    for period in periods:
        offsets = range(period) if pattern.offset_key else (offset,)
        for place in sorted(offsets, key=lambda place: abs(place - offset)):
            if _implied(pattern, period, place, len(wanted)) == wanted:
                return period, place
    return None


def unsolvable_period(checkpoint: Checkpoint, stack: Stack, layers: LayerMap) -> int:
    """The period that the kept layers must respect because no other period and offset give the same; 1 if none."""
    periods = [1]
    for pattern in stack.entry.patterns:
        if not pattern.explicit:
            before = pattern_list(checkpoint, stack, pattern)
            wanted = tuple(before[old] for old in layers.main)
            if solution(checkpoint, stack, pattern, wanted) is None:
                periods.append(_period(checkpoint, stack, pattern))
    return lcm(*periods)
