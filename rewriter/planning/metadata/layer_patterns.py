"""What a loader makes of a layer's number, and how it is written out once a drop breaks that. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from math import lcm

from rewriter.architectures.schema import Pattern
from rewriter.checkpoint import LayerMap
from rewriter.errors import CheckpointError, printable
from rewriter.planning.model import Model


def is_list(model: Model, name: str) -> bool:
    """Whether the metadata has a list that is not empty under `name`; loaders take an empty one for none."""
    value = model.value(name)
    return isinstance(value, list | tuple) and len(value) > 0


def pattern_keys(pattern: Pattern) -> tuple[str, ...]:
    """The keys that a loader makes the pattern of."""
    return (*pattern.period_keys, pattern.offset_key, pattern.until_key)


def is_stated(model: Model, pattern: Pattern) -> bool:
    """Whether the list of `pattern` is there; an empty one of layer numbers says something."""
    value = model.value(pattern.explicit) if pattern.explicit else None
    return isinstance(value, list | tuple) and (len(value) > 0 or pattern.form == "special_indexes")


def layer_values(model: Model, key: str) -> tuple[object, ...]:
    """One entry for each layer: the list under `key`, or what a loader takes for it; empty where there is neither."""
    for pattern in active_patterns(model):
        if key == (pattern.explicit or pattern.period_keys[0]) and pattern.form in ("per_layer", "cycle"):
            return pattern_list(model, pattern)
    value = model.value(key)
    return tuple(value) if isinstance(value, list | tuple | str) else ()


def active_patterns(model: Model) -> tuple[Pattern, ...]:
    """The patterns of the stack that the loader applies to this checkpoint."""
    return tuple(pattern for pattern in model.stack.entry.patterns if _is_active(model, pattern))


def _is_active(model: Model, pattern: Pattern) -> bool:
    found = ((model.value(key), least) for key, least in pattern.when)
    instead = pattern.unless and model.value(pattern.unless) is not None
    key = model.key(pattern.off) if pattern.off else ""
    if key in model.metadata and model.metadata[key] is None:
        return False
    return not instead and all(isinstance(value, int) and value >= least for value, least in found)


def pattern_list(model: Model, pattern: Pattern, count: int | None = None) -> tuple[object, ...]:
    """What each of `count` layers (all of the stack) is, by the metadata or by the loader's own pattern."""
    count = model.stack.count if count is None else count
    if pattern.none_left and all(model.value(name) == value for name, value in pattern.none_left):
        return (pattern.special,) * count
    value = model.value(pattern.explicit) if pattern.explicit else None
    listed = tuple(value) if isinstance(value, list | tuple) else ()
    if listed and pattern.form == "per_layer":
        return listed
    if listed and pattern.form == "cycle":
        return tuple(listed[layer % len(listed)] for layer in range(count))
    if pattern.form == "special_indexes" and is_stated(model, pattern):
        return tuple(pattern.special if layer in listed else pattern.other for layer in range(count))
    implied = _implied(pattern, _period(model, pattern), _offset(model, pattern), count)
    implied = (pattern.special,) * min(pattern.lead, count) + implied[pattern.lead :]
    if pattern.form == "other_indexes":
        return tuple(pattern.other if layer in listed else kind for layer, kind in enumerate(implied))
    end = _end(model, pattern, count)
    return (*implied[:end], *(pattern.special for _ in implied[end:]))


def _implied(pattern: Pattern, period: int, offset: int, count: int) -> tuple[object, ...]:
    """By number alone. A period of 0 means that no layer is special."""
    rest = range(count - len(pattern.head))
    kinds = (pattern.special if period and layer % period == offset % period else pattern.other for layer in rest)
    return (*pattern.head, *kinds)[:count]


def _end(model: Model, pattern: Pattern, count: int) -> int:
    """The layer from which on all are special."""
    if not pattern.until_key:
        return count
    value = model.value(pattern.until_key)
    return max(0, value) if isinstance(value, int) else pattern.until


def _period(model: Model, pattern: Pattern) -> int:
    stated = (model.value(key) for key in pattern.period_keys)
    period = next((value for value in stated if value is not None), pattern.default)
    if isinstance(period, bool) or not isinstance(period, int) or period < 0:
        key = pattern.period_keys[0] if pattern.period_keys else pattern.explicit
        raise CheckpointError(f"{printable(model.key(key))}: {printable(period)} is not a period")
    return period


def _offset(model: Model, pattern: Pattern) -> int:
    """The place in the period that is special: the first, the last, or what the metadata says."""
    if not pattern.offset_key:
        return 0 if pattern.first else pattern.offset
    value = model.value(pattern.offset_key)
    return value if isinstance(value, int) else max(0, pattern.offset)


def pattern_values(model: Model, layers: LayerMap, pattern: Pattern) -> Iterator[tuple[str, object, str]]:
    """What to write so that every kept layer stays what it was: (whole key, value, rule).

    Nothing while the loader's own pattern gives it.
    """
    before = pattern_list(model, pattern)
    if len(before) not in (layers.count, layers.count + layers.mtp_layers):
        raise CheckpointError(f"{printable(pattern.explicit)} has {len(before)} entries for {layers.count} layers")
    before += _beyond(model, pattern)[len(before) - layers.count :]
    wanted = tuple(before[old] for old in layers.kept if old < len(before))
    if pattern.none_left and all(kind == pattern.special for kind in wanted):
        there = (pair for pair in pattern.none_left if model.value(pair[0]) is not None)
        yield from ((model.key(name), value, "pattern") for name, value in there)
    elif not pattern.explicit:
        yield from _solved(model, pattern, wanted)
    elif _must_be_written(model, layers, pattern, wanted):
        yield from _written(model, layers, pattern, wanted)


def _beyond(model: Model, pattern: Pattern) -> tuple[object, ...]:
    """What the MTP layers are, where the list has entries for them."""
    if not pattern.beyond or is_list(model, pattern.explicit):
        return ()
    if pattern.beyond == "special":
        return (pattern.special,) * model.stack.mtp_layers
    return pattern_list(model, pattern, model.stack.count + model.stack.mtp_layers)[model.stack.count :]


def ordinary_layers(model: Model, pattern: Pattern) -> frozenset[int]:
    """The layers that are not special: with `never_all` one of them must stay."""
    kinds = pattern_list(model, pattern, model.stack.count)[: model.stack.count]
    return frozenset(layer for layer, kind in enumerate(kinds) if kind != pattern.special)


def _must_be_written(model: Model, layers: LayerMap, pattern: Pattern, wanted: tuple[object, ...]) -> bool:
    """A list that is there follows by its own rule, unless it works together with the period."""
    if pattern.form in ("per_layer", "special_indexes") and is_stated(model, pattern):
        return False
    listed = pattern.form == "other_indexes" and is_list(model, pattern.explicit)
    return pattern.fixed or listed or wanted != _after(model, layers, pattern)


def _after(model: Model, layers: LayerMap, pattern: Pattern) -> tuple[object, ...]:
    """What the loader would make of the kept layers if nothing were written."""
    main, left = len(layers.main), len(layers.kept)
    if pattern.beyond == "special":
        return pattern_list(model, pattern, main) + (pattern.special,) * (left - main)
    return pattern_list(model, pattern, left if pattern.beyond else main)


def _written(
    model: Model, layers: LayerMap, pattern: Pattern, wanted: tuple[object, ...]
) -> Iterator[tuple[str, object, str]]:
    key = model.key(pattern.explicit)
    if pattern.form in ("per_layer", "cycle"):
        yield key, list(wanted), "pattern"
        return
    kind = pattern.special if pattern.form == "special_indexes" else pattern.other
    if pattern.form == "other_indexes" and _remapped_is_enough(model, layers, pattern, wanted):
        yield key, _remapped(model, layers, pattern), "layer_indexes"
        return
    yield key, [layer for layer, each in enumerate(wanted) if each == kind], "pattern"
    yield from ((model.key(name), value, "pattern") for name, value in pattern.resets)


def _remapped(model: Model, layers: LayerMap, pattern: Pattern) -> list[int]:
    listed = model.value(pattern.explicit)
    numbers, items = layers.numbers, listed if isinstance(listed, list | tuple) else ()
    if not all(type(layer) is int for layer in items):
        raise CheckpointError(f"{printable(pattern.explicit)}: expected layer numbers, found {printable(listed)}")
    return [numbers[layer] for layer in items if layer in numbers]


def _remapped_is_enough(model: Model, layers: LayerMap, pattern: Pattern, wanted: tuple[object, ...]) -> bool:
    """Whether the period still gives the rest once the listed layers are renumbered."""
    period, offset = _period(model, pattern), _offset(model, pattern)
    listed = _remapped(model, layers, pattern)
    implied = _implied(pattern, period, offset, len(wanted))
    return wanted == tuple(pattern.other if layer in listed else kind for layer, kind in enumerate(implied))


def _solved(model: Model, pattern: Pattern, wanted: tuple[object, ...]) -> Iterator[tuple[str, object, str]]:
    """Another period and offset that give the same; without an offset of its own only the period can change."""
    found = solve_period(model, pattern, wanted)
    if found is None:
        return  # a constraint has refused this, or was overruled
    yield model.key(pattern.period_keys[0]), found[0], "pattern"
    if pattern.offset_key:
        yield model.key(pattern.offset_key), found[1], "pattern"


def solve_period(model: Model, pattern: Pattern, wanted: tuple[object, ...]) -> tuple[int, int] | None:
    """The period and offset, nearest to the old ones, that make the layers `wanted`; None if there are none."""
    old = _period(model, pattern)
    offset = _offset(model, pattern)
    periods = sorted(range(1, len(wanted) + 2), key=lambda period: abs(period - old))
    for period in periods:
        offsets = range(period) if pattern.offset_key else (offset,)
        for place in sorted(offsets, key=lambda place: abs(place - offset)):
            if _implied(pattern, period, place, len(wanted)) == wanted:
                return period, place
    return None


def unsolvable_period(model: Model, layers: LayerMap) -> int:
    """The period of all patterns together if one has no other period and offset that give the same, else 1."""
    alone = [pattern for pattern in active_patterns(model) if not pattern.explicit]
    lists = (pattern_list(model, pattern) for pattern in alone)
    wanted = [tuple(before[old] for old in layers.main) for before in lists]
    if all(solve_period(model, pattern, kinds) for pattern, kinds in zip(alone, wanted, strict=True)):
        return 1
    return common_period(model)


def implicit_patterns(model: Model) -> list[tuple[tuple[object, ...], Pattern, int | None]]:
    """The patterns without a list: what each layer is, the pattern, and the offset where no key can change it."""
    return [
        (
            pattern_list(model, pattern),
            pattern,
            None if pattern.offset_key else _offset(model, pattern),
        )
        for pattern in active_patterns(model)
        if not pattern.explicit
    ]


def common_period(model: Model) -> int:
    """What all patterns without a list repeat after together: drops that respect it are always possible."""
    alone = (pattern for pattern in active_patterns(model) if not pattern.explicit)
    return max(1, lcm(*(_period(model, pattern) for pattern in alone)))
