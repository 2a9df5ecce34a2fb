"""Field rules: how one metadata value follows the kept layers.

Every rule is a pure function `rule(value, layers) -> value`. It raises CheckpointError when the value
contradicts the layer count and UnsupportedError when no value can say what the kept layers need.
`apply` looks a rule up by the name that the tables use. A missing or null value has no layers to follow.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence

from rewriter.checkpoint import LayerMap
from rewriter.errors import CheckpointError, UnsupportedError, shown

Rule = Callable[[object, LayerMap], object]


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise CheckpointError(f"expected a number, found {shown(value)}")
    return value


def _sequence(value: object) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise CheckpointError(f"expected a list, found {shown(value)}")
    return value


def count(value: object, layers: LayerMap) -> object:
    """The number of layers itself."""
    if _number(value) != layers.count:
        raise CheckpointError(f"says {shown(value)} layers, the tensors have {layers.count}")
    return len(layers.kept)


def per_layer(value: object, layers: LayerMap) -> object:
    """One entry (or one character) for each layer: the kept entries stay."""
    items = value if isinstance(value, str) else _sequence(value)
    if len(items) != layers.count:
        raise CheckpointError(f"has {len(items)} entries for {layers.count} layers")
    picked = [items[old] for old in layers.kept]
    return "".join(map(str, picked)) if isinstance(value, str) else type(value)(picked)  # type: ignore[call-arg]


def scalar_or_per_layer(value: object, layers: LayerMap) -> object:
    """One value for all layers, or a list with one for each."""
    return per_layer(value, layers) if isinstance(value, list | tuple) else value


def layer_indexes(value: object, layers: LayerMap) -> object:
    """A list of layer numbers: dropped ones go, the others are renumbered."""
    indexes = [_number(item) for item in _sequence(value)]
    for index in indexes:
        if not 0 <= index < layers.count:
            raise CheckpointError(f"names layer {index} of {layers.count}")
    numbers = layers.numbers
    return type(value)(numbers[index] for index in indexes if index in numbers)  # type: ignore[call-arg]


def leading_count(value: object, layers: LayerMap) -> object:
    """The first `value` layers differ from the rest: count those of them that stay."""
    return bisect_left(layers.kept, _number(value))


def trailing_count(value: object, layers: LayerMap) -> object:
    """The last `value` layers differ from the rest: count those of them that stay."""
    return len(layers.kept) - bisect_left(layers.kept, layers.count - _number(value))


def period(value: object, layers: LayerMap) -> object:
    """Every `value`-th layer differs: holds only while each kept layer keeps its place in the period.

    Some loaders read a list of one entry per layer under the same key.
    """
    if isinstance(value, list | tuple):
        return per_layer(value, layers)
    step = _number(value)
    if step > 1:
        for new, old in enumerate(layers.kept):
            if (old - new) % step:
                raise UnsupportedError(
                    f"every {step} layers form a pattern, and layer {old} would become layer {new} at another "
                    f"place in it; drop whole runs of {step}, such as {layers.count - step}-{layers.count - 1}"
                )
    return value


def keep(value: object, layers: LayerMap) -> object:
    """Not about layers, whatever its length."""
    return value


def layer_names(value: object, layers: LayerMap) -> object:
    """Module names such as `model.layers.3.mlp`: dropped ones go, the number in the others follows.

    A regular expression (`re:...`) names no layer that could be counted; it is left alone.
    """
    pattern = _layer_pattern(layers.prefixes)
    if isinstance(value, dict):
        renamed = ((_renamed(name, pattern, layers), item) for name, item in value.items())
        return {name: item for name, item in renamed if name is not None}
    names = (_renamed(item, pattern, layers) for item in _sequence(value))
    return type(value)(name for name in names if name is not None)  # type: ignore[call-arg]


def _layer_pattern(prefixes: tuple[str, ...]) -> re.Pattern[str]:
    """Match a layer under any of `prefixes`, or under their ends: lists often leave `model.` out."""
    ends = {prefix[start:] for prefix in prefixes for start in _starts(prefix)}
    return re.compile(f"({'|'.join(map(re.escape, sorted(ends)))})([0-9]+)(?=[.]|$)", re.ASCII)


def _starts(prefix: str) -> list[int]:
    return [0, *(at + 1 for at, character in enumerate(prefix[:-1]) if character == ".")]


def _renamed(name: object, pattern: re.Pattern[str], layers: LayerMap) -> object:
    match = pattern.match(name) if isinstance(name, str) else None
    if match is None or int(match[2]) >= layers.count:
        return name
    new = layers.numbers.get(int(match[2]))
    return None if new is None else f"{match[1]}{new}{match.string[match.end() :]}"


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        count, per_layer, scalar_or_per_layer, layer_indexes, leading_count, trailing_count, period, keep,
        layer_names,
    )
}  # fmt: skip


def apply(rule: str, key: str, value: object, layers: LayerMap) -> object:
    """Return what `value` becomes under the rule called `rule`; errors name `key`."""
    if value is None:
        return None
    try:
        return RULES[rule](value, layers)
    except (CheckpointError, UnsupportedError) as error:
        raise type(error)(f"{shown(key)}: {error}") from None
