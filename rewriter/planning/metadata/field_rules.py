"""Field rules: how one metadata value follows the kept layers.

Every rule is a pure function `rule(value, layers) -> value`. It raises CheckpointError when the value
contradicts the layer count and UnsupportedError when no value can say what the kept layers need.
`apply` looks a rule up by the name that the tables use. A null value or an empty list has no layers to follow.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from math import nextafter, sqrt

from rewriter.checkpoint import LayerMap
from rewriter.errors import CheckpointError, UnsupportedError, printable

_GONE = object()  # stands for a name whose layer goes

Rule = Callable[[object, LayerMap], object]


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise CheckpointError(f"expected a number, found {printable(value)}")
    return value


def _sequence(value: object) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise CheckpointError(f"expected a list, found {printable(value)}")
    return value


def count(value: object, layers: LayerMap) -> object:
    """The number of layers itself."""
    if _number(value) != layers.count:
        raise CheckpointError(f"says {printable(value)} layers, the tensors have {layers.count}")
    return len(layers.main)


def per_layer(value: object, layers: LayerMap) -> object:
    """One entry (or one character) for each layer: the kept entries stay."""
    items = value if isinstance(value, str) else _sequence(value)
    if len(items) not in (layers.count, layers.count + layers.mtp_layers):
        raise CheckpointError(f"has {len(items)} entries for {layers.count} layers")
    picked = [items[old] for old in layers.kept if old < len(items)]
    return "".join(map(str, picked)) if isinstance(value, str) else type(value)(picked)  # type: ignore[call-arg]


def scalar_or_per_layer(value: object, layers: LayerMap) -> object:
    """One value for all layers, or a list with one for each."""
    return per_layer(value, layers) if isinstance(value, list | tuple) else value


def per_layer_and_more(value: object, layers: LayerMap) -> object:
    """One entry for each layer and then others, which stay."""
    items = _sequence(value)
    if len(items) < layers.count:
        raise CheckpointError(f"has {len(items)} entries for {layers.count} layers")
    total = layers.count + layers.mtp_layers
    picked = [items[old] for old in layers.kept if old < len(items)]
    return type(value)([*picked, *items[total:]])  # type: ignore[call-arg]


def layer_indexes(value: object, layers: LayerMap) -> object:
    """A list of layer numbers: dropped ones go, the others are renumbered."""
    indexes = [_number(item) for item in _sequence(value)]
    for index in indexes:
        if not 0 <= index < layers.count + layers.mtp_layers:
            raise CheckpointError(f"names layer {index} of {layers.count}")
    numbers = layers.numbers
    return type(value)(numbers[index] for index in indexes if index in numbers)  # type: ignore[call-arg]


def leading_count(value: object, layers: LayerMap) -> object:
    """The first `value` layers differ from the rest: count those of them that stay."""
    return bisect_left(layers.main, _number(value))


def trailing_count(value: object, layers: LayerMap) -> object:
    """The last `value` layers differ from the rest: count those of them that stay."""
    return len(layers.main) - bisect_left(layers.main, layers.count - _number(value))


def period(value: object, layers: LayerMap) -> object:
    """Every `value`-th layer differs, and no list can say which: kept layers must keep their places, as with `aligned`.

    Some loaders read a list of one entry per layer under the same key.
    """
    return per_layer(value, layers) if isinstance(value, list | tuple) else _number(value)


def prediction_count(value: object, layers: LayerMap) -> object:
    """How many MTP layers there are. Checkpoints that were saved again have the number without the tensors."""
    return len(layers.kept) - len(layers.main) if layers.mtp_layers else _number(value)


def last_index(value: object, layers: LayerMap) -> object:
    """The last layer of a range, inclusive: the last kept one up to it. -1 means the last of all."""
    index = _number(value)
    if 0 <= index < layers.main[0]:
        return -2  # no layer is in the range
    return index if index < 0 else bisect_left(layers.main, index + 1) - 1


def one_based_indexes(value: object, layers: LayerMap) -> object:
    """A list of layer numbers that count from 1."""
    moved = layer_indexes([_number(item) - 1 for item in _sequence(value)], layers)
    return type(value)(_number(item) + 1 for item in _sequence(moved))  # type: ignore[call-arg]


def hidden_state(value: object, layers: LayerMap) -> object:
    """Which hidden state is taken, or a list of them: k is the output of the first k layers, -1 that of all."""
    if isinstance(value, list | tuple):
        return type(value)(hidden_state(item, layers) for item in value)
    index = _number(value)
    states, left = layers.count + 1, len(layers.main) + 1
    if not -states <= index < states:
        raise CheckpointError(f"takes hidden state {index} of {states}")
    new = bisect_left(layers.main, index % states)
    return new if index >= 0 else new - left


def apart_states(value: object, layers: LayerMap) -> object:
    """Hidden states that are taken side by side: as hidden_state, but no two may become the same."""
    states = list(_sequence(hidden_state(list(_sequence(value)), layers)))
    if len(set(map(str, states))) != len(set(map(str, _sequence(value)))):
        raise UnsupportedError(
            f"takes the hidden states {printable(list(_sequence(value)))}: two would become the same"
        )
    return type(value)(states)  # type: ignore[call-arg]


def stage_indexes(value: object, layers: LayerMap) -> object:
    """Hidden states that a backbone gives out: as hidden_state, each once."""
    return type(value)(dict.fromkeys(_sequence(hidden_state(list(_sequence(value)), layers))))  # type: ignore[call-arg]


def stage_names(value: object, layers: LayerMap) -> object:
    """Names of hidden states, `stem` and `stage1` to `stageL`: those that are left, or those that are given out."""
    names = ["stem", *(f"stage{number + 1}" for number in range(layers.count))]
    items = list(_sequence(value))
    if items == names:
        return names[: len(layers.main) + 1]
    if not set(map(repr, items)) <= set(map(repr, names)):
        raise CheckpointError(f"names stages that {layers.count} layers do not have")
    places = stage_indexes([names.index(str(item)) for item in items], layers)
    return [names[_number(place)] for place in _sequence(places)]


def run_length(value: object, layers: LayerMap) -> object:
    """Types with repetitions, [[["global", "local"], 12]]: written out for the kept layers, repeated once."""
    expanded: list[object] = []
    for item in _sequence(value):
        kinds, times = _sequence(item)
        if _number(times) * len(_sequence(kinds)) > layers.count:
            raise CheckpointError(f"repeats more types than there are layers: {layers.count}")
        expanded += list(_sequence(kinds)) * _number(times)
    return [[per_layer(expanded, layers), 1]] if layers.dropped else value


def root_of_count(value: object, layers: LayerMap) -> object:
    """A number that the loader divides by the root of the count: the quotient stays, to the last bit if it can."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"expected a number, found {printable(value)}")
    quotient, root = value / sqrt(layers.count), sqrt(len(layers.main))
    near = quotient * root
    tries = (near, nextafter(near, 0.0), nextafter(near, 2 * near))
    return next((each for each in tries if each / root == quotient), near) if layers.dropped else value


def keyed(value: object, layers: LayerMap) -> object:
    """An object whose keys are layer numbers, as strings that may be padded with zeros."""
    if not isinstance(value, dict) or not all(key.isascii() and key.isdigit() for key in value):
        raise CheckpointError("expected an object with layer numbers as keys")
    for key in value:
        if int(key) >= layers.count:
            raise CheckpointError(f"names layer {printable(key)} of {layers.count}")
    numbers = layers.numbers
    kept = ((key, item) for key, item in value.items() if int(key) in numbers)
    return {str(numbers[int(key)]).zfill(len(key)): item for key, item in kept}


def layer_pairs(value: object, layers: LayerMap) -> object:
    """Pairs of a layer number and something in it, such as whisper's alignment heads."""
    numbers = layers.numbers
    pairs = [list(_sequence(pair)) for pair in _sequence(value)]
    return [[numbers[_number(pair[0])], *pair[1:]] for pair in pairs if pair and _number(pair[0]) in numbers]


def keep(value: object, layers: LayerMap) -> object:
    """Not about layers, whatever its length."""
    return value


def layer_names(value: object, layers: LayerMap) -> object:
    """Module names such as `model.layers.3.mlp`: dropped ones go, the number in the others follows.

    A regular expression (`re:...`) stays as it is: see rewriter.planning.metadata.quantization_config.
    """
    pattern = layer_pattern(layers.prefixes)
    if isinstance(value, dict):
        renamed = ((_renamed(name, pattern, layers), item) for name, item in value.items())
        return {name: item for name, item in renamed if name is not _GONE}
    names = (_renamed(item, pattern, layers) for item in _sequence(value))
    return type(value)(name for name in names if name is not _GONE)  # type: ignore[call-arg]


def names_within(value: object, layers: LayerMap) -> object:
    """Module names anywhere inside a value: keys and entries of dropped layers go, the others follow."""
    if isinstance(value, dict | list | tuple):
        kept = layer_names(value, layers)
        if isinstance(kept, dict):
            return {name: names_within(item, layers) for name, item in kept.items()}
        return [item if isinstance(item, str) else names_within(item, layers) for item in _sequence(kept)]
    renamed = _renamed(value, layer_pattern(layers.prefixes), layers)
    if renamed is _GONE:
        raise UnsupportedError(f"names a layer that goes: {printable(value)}")
    return renamed


def layer_pattern(prefixes: tuple[str, ...]) -> re.Pattern[str]:
    """Match a layer under any of `prefixes`, or under their ends: lists often leave `model.` out."""
    ends = {prefix[start:] for prefix in prefixes for start in _starts(prefix)}
    return re.compile(f"({'|'.join(map(re.escape, sorted(ends)))})([0-9]+)(?=[.*]|$)", re.ASCII)


def _starts(prefix: str) -> list[int]:
    return [0, *(at + 1 for at, character in enumerate(prefix[:-1]) if character == ".")]


def _renamed(name: object, pattern: re.Pattern[str], layers: LayerMap) -> object:
    match = pattern.match(name) if isinstance(name, str) else None
    total = layers.count + layers.mtp_layers
    if match is None or int(match[2]) >= total:
        return name
    rest = match.string[match.end() :]
    if rest.startswith("*"):  # `layers.61*` is layer 61, `layers.1*` may be ten others too
        if int(match[2]) * 10 < total:
            return name
        rest = "." + rest
    new = layers.numbers.get(int(match[2]))
    return _GONE if new is None else f"{match[1]}{new}{rest}"


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        count, root_of_count, per_layer, per_layer_and_more, scalar_or_per_layer, apart_states, layer_indexes,
        one_based_indexes, leading_count, trailing_count,
        last_index, prediction_count, period, hidden_state, stage_indexes, stage_names, run_length, keyed,
        layer_pairs, layer_names, names_within, keep,
    )
}  # fmt: skip


def apply(rule: str, key: str, value: object, layers: LayerMap) -> object:
    """Return what `value` becomes under the rule called `rule`; errors name `key`."""
    if value is None or value in ([], ()):
        return value
    try:
        return RULES[rule](value, layers)
    except (CheckpointError, UnsupportedError) as error:
        raise type(error)(f"{printable(key)}: {error}") from None
    except (ValueError, IndexError, TypeError):
        raise CheckpointError(f"{printable(key)}: {printable(value)} has not the form of {rule}") from None
