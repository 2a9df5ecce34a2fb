"""Which layers may go at all: what a loader ties to a layer's number and no metadata can say otherwise.

A LayerLimit of the tables becomes a Constraint: plain sets of numbers for one model. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rewriter.architectures.schema import LayerLimit
from rewriter.errors import CheckpointError, printable
from rewriter.planning.constraints.constraint import Constraint, Layers
from rewriter.planning.metadata.layer_patterns import layer_values
from rewriter.planning.model import Model


def constraint_for(limit: LayerLimit, model: Model) -> Constraint:
    """The constraint that `limit` means for this model. Raises CheckpointError for a value that its kind cannot use."""
    try:
        return replace(KINDS[limit.kind](limit, model), soft=limit.soft)
    except (TypeError, ValueError, IndexError):  # rules that a user wrote
        value = "no value" if limit.value is None else f"the value {printable(limit.value)}"
        raise CheckpointError(f"a limit of the kind {limit.kind} can do nothing with {value}") from None


def _value(model: Model, value: object) -> object:
    """A number as it is, or what the metadata has under a key, or what the loader takes where it has nothing."""
    if not isinstance(value, str):
        return value
    found = model.metadata.get(model.key(value))
    return dict(model.stack.entry.defaults).get(value) if found is None else found


def _number(model: Model, value: object) -> int:
    found = _value(model, value)
    if found is None:
        return 0
    if isinstance(found, bool) or not isinstance(found, int):
        raise CheckpointError(f"{printable(model.key(str(value)))}: expected a number, found {printable(found)}")
    return found


def _entries(model: Model, key: object) -> list[object]:
    """The list under `key`, or what the loader takes where there is none."""
    return list(layer_values(model, str(key)))


def aligned(limit: LayerLimit, model: Model) -> Constraint:
    """Every `value`-th layer is special by its number: each kept layer must keep its place in the period."""
    return Constraint(limit.why, period=max(1, _number(model, limit.value)))


def must_keep(limit: LayerLimit, model: Model) -> Constraint:
    """The layers of `value` may not go."""
    layers = limit.value if isinstance(limit.value, tuple) else (limit.value,)
    return Constraint(limit.why, stay=frozenset(int(str(layer)) % model.stack.count for layer in layers))


def must_keep_first(limit: LayerLimit, model: Model) -> Constraint:
    """The first `value` layers may not go."""
    return Constraint(limit.why, stay=frozenset(range(min(_number(model, limit.value), model.stack.count))))


def must_keep_if_set(limit: LayerLimit, model: Model) -> Constraint:
    """Layers may not go where a key is set: `value` is (key, layer, ...)."""
    key, *layers = limit.value if isinstance(limit.value, tuple) else (limit.value,)
    active = bool(_value(model, key))
    return Constraint(limit.why, stay=frozenset(int(str(layer)) for layer in layers) if active else frozenset())


def must_keep_per_entry(limit: LayerLimit, model: Model) -> Constraint:
    """As many of the first layers as a list has entries may not go."""
    entries = len(_entries(model, limit.value))
    return Constraint(limit.why, stay=frozenset(range(min(entries, model.stack.count))))


def distinct_states(limit: LayerLimit, model: Model) -> Constraint:
    """The hidden states of a list, k being the output of the first k layers, stay different ones."""
    states = {state for state in _entries(model, limit.value) if isinstance(state, int)}
    return Constraint(limit.why, apart=tuple(sorted(state % (model.stack.count + 1) for state in states)))


def keep_one_before(limit: LayerLimit, model: Model) -> Constraint:
    """Of the layers before a hidden state one must stay."""
    state = _value(model, limit.value)
    before = range(state) if isinstance(state, int) and 0 < state <= model.stack.count else ()
    return Constraint(limit.why, one_of=frozenset(before))


def must_keep_listed(limit: LayerLimit, model: Model) -> Constraint:
    """The layers that an index list names may not go."""
    listed = (index for index in _entries(model, limit.value) if isinstance(index, int))
    return Constraint(limit.why, stay=frozenset(listed))


def must_keep_marked(limit: LayerLimit, model: Model) -> Constraint:
    """Layers whose entry in a per-layer list is 0 or more may not go; that of layer 0 is not read."""
    entries = enumerate(_entries(model, limit.value))
    return Constraint(
        limit.why, stay=frozenset(i for i, entry in entries if i and isinstance(entry, int) and entry >= 0)
    )


def special_counts(limit: LayerLimit, model: Model) -> Constraint:
    """A loader concludes something from exactly these numbers of layers."""
    values = limit.value if isinstance(limit.value, tuple) else (limit.value,)
    return Constraint(limit.why, counts=frozenset(int(str(value)) for value in values))


def special_counts_if_set(limit: LayerLimit, model: Model) -> Constraint:
    """As special_counts, but only where a key is set: `value` is (key, number, ...)."""
    key, *numbers = limit.value if isinstance(limit.value, tuple) else (limit.value,)
    active = bool(_value(model, key))
    return Constraint(limit.why, counts=frozenset(int(str(number)) for number in numbers) if active else frozenset())


def special_counts_if_unset(limit: LayerLimit, model: Model) -> Constraint:
    """As special_counts, but only where a key is absent or false: `value` is (key, number, ...)."""
    key, *numbers = limit.value if isinstance(limit.value, tuple) else (limit.value,)
    value = _value(model, key)
    active = value is None or value is False
    return Constraint(limit.why, counts=frozenset(int(str(number)) for number in numbers) if active else frozenset())


def aligned_if_set(limit: LayerLimit, model: Model) -> Constraint:
    """As aligned, but only where a key is set: `value` is (key, period)."""
    key, period = limit.value if isinstance(limit.value, tuple) else (limit.value, 1)
    return Constraint(limit.why, period=int(str(period)) if _value(model, key) else 1)


def suffix_only(limit: LayerLimit, model: Model) -> Constraint:
    """Each kept layer must keep its very number, where the key `value` is set: only the last ones can go."""
    return Constraint(limit.why, period=model.stack.count if _value(model, limit.value) else 1)


def keep_all_if_above(limit: LayerLimit, model: Model) -> Constraint:
    """No layer can go where a key has more than a number: `value` is (key, number)."""
    key, most = limit.value if isinstance(limit.value, tuple) else (limit.value, 0)
    return Constraint(limit.why, never=_number(model, key) > int(str(most)))


def keep_all_if_listed(limit: LayerLimit, model: Model) -> Constraint:
    """No layer can go where a list holds a name: `value` is (key, name)."""
    key, name = limit.value if isinstance(limit.value, tuple) else (limit.value, "")
    listed = _value(model, key)
    return Constraint(limit.why, never=isinstance(listed, list | tuple) and name in listed)


def keep_all_if_unset(limit: LayerLimit, model: Model) -> Constraint:
    """No layer can go where none of the keys `value` is set."""
    keys = limit.value if isinstance(limit.value, tuple) else (limit.value,)
    return Constraint(limit.why, never=not any(model.value(str(key)) for key in keys))


def keep_all(limit: LayerLimit, model: Model) -> Constraint:
    """No layer can go."""
    return Constraint(limit.why, never=True)


def not_first(limit: LayerLimit, model: Model) -> Constraint:
    """Layers with the given entry in a per-layer list may not become the first: `value` is (key, entry)."""
    return Constraint(limit.why, not_first=_having(limit, model))


def not_last(limit: LayerLimit, model: Model) -> Constraint:
    """Layers with the given entry in a per-layer list may not become the last: `value` is (key, entry)."""
    return Constraint(limit.why, not_last=_having(limit, model))


def must_keep_named(limit: LayerLimit, model: Model) -> Constraint:
    """Layers for which a list of tensors has an entry may not go: `value` is its name up to the number."""
    prefix = str(limit.value)
    labels = (tensor.name[len(prefix) :].partition(".")[0] for tensor in model.checkpoint.tensors)
    named = zip(model.checkpoint.tensors, labels, strict=True)
    return Constraint(
        limit.why,
        stay=frozenset(int(label) for tensor, label in named if tensor.name.startswith(prefix) and label.isdigit()),
    )


def must_keep_before_tail(limit: LayerLimit, model: Model) -> Constraint:
    """The last layers use what the ones right before them have: `value` is (key of how many, how many before)."""
    key, before = limit.value if isinstance(limit.value, tuple) else (limit.value, 1)
    tail = _number(model, key)
    start = model.stack.count - tail
    return Constraint(
        limit.why, stay=frozenset(range(max(0, start - int(str(before))), start)) if tail else frozenset()
    )


def keep_one_with(limit: LayerLimit, model: Model) -> Constraint:
    """Of the layers with the given entries in per-layer lists one must stay: `value` is (key, entry, ...)."""
    value = limit.value if isinstance(limit.value, tuple) else (limit.value, True)
    pairs = zip(value[::2], value[1::2], strict=True)
    lists = [(found, entry) for key, entry in pairs if (found := _entries(model, key))]
    layers = range(model.stack.count) if lists else ()
    having = (layer for layer in layers if all(found[layer : layer + 1] == [entry] for found, entry in lists))
    return Constraint(limit.why, one_of=frozenset(having))


def keep_one_without(limit: LayerLimit, model: Model) -> Constraint:
    """Of the layers with another entry in a per-layer list one must stay: `value` is (key, entry)."""
    key, entry = limit.value if isinstance(limit.value, tuple) else (limit.value, 0)
    found = _entries(model, key)[: model.stack.count]
    return Constraint(limit.why, one_of=frozenset(layer for layer, each in enumerate(found) if each != entry))


def _having(limit: LayerLimit, model: Model) -> frozenset[int]:
    key, wanted = limit.value if isinstance(limit.value, tuple) else (limit.value, None)
    return frozenset(_listed(model, key, wanted))


def _listed(model: Model, key: object, wanted: object) -> Layers:
    """The layers with the given entry in a per-layer list."""
    return tuple(layer for layer, entry in enumerate(_entries(model, key)) if entry == wanted)


def with_tail_kv_source(limit: LayerLimit, model: Model) -> Constraint:
    """The last layers reuse keys and values of the last layer of their type before them, which may only go with all
    of them: `value` is (key of how many, key of the types).
    """
    how_many, types_key = limit.value if isinstance(limit.value, tuple) else (limit.value, "")
    types = _entries(model, types_key)
    start = max(0, len(types) - _number(model, how_many))
    last = {repr(kind): layer for layer, kind in enumerate(types[:start])}
    tail = ((layer, last.get(repr(types[layer]))) for layer in range(start, len(types)))
    return Constraint(limit.why, requires={layer: source for layer, source in tail if source is not None})


def keep_at_least(limit: LayerLimit, model: Model) -> Constraint:
    """So many layers with the given entry in a per-layer list must be left: `value` is (key, entry, how many)."""
    key, entry, least = limit.value if isinstance(limit.value, tuple) else (limit.value, None, 0)
    return Constraint(limit.why, among=_listed(model, key, entry), at_least=int(str(least)))


def keep_one_of(limit: LayerLimit, model: Model) -> Constraint:
    """Of certain layers one must be left: `value` is (keys, entries, number of the first layer). The first key that is
    there counts: a per-layer list in which they have one of the entries, or a list of their numbers.
    """
    keys, wanted, first = limit.value if isinstance(limit.value, tuple) else ((limit.value,), (), 0)
    found = next((list_ for key in keys if (list_ := _entries(model, key))), [])
    if all(type(entry) is int for entry in found):
        return Constraint(limit.why, one_of=frozenset(int(str(entry)) - int(str(first)) for entry in found))
    return Constraint(limit.why, one_of=frozenset(layer for layer, entry in enumerate(found) if entry in wanted))


def round_robin(limit: LayerLimit, model: Model) -> Constraint:
    """Layers with the given entry in a per-layer list share a number of things in turn: `value` is (key, entry, key
    of the number). Each must keep its turn.
    """
    key, entry, turns = limit.value if isinstance(limit.value, tuple) else (limit.value, None, 1)
    number = max(1, _number(model, turns))
    return Constraint(limit.why, among=_listed(model, key, entry), period=number, at_least=0)


def with_source_layer(limit: LayerLimit, model: Model) -> Constraint:
    """A layer whose entry is `shared` reuses what the one before it that is not has: `value` is (key, shared)."""
    key, shared = limit.value if isinstance(limit.value, tuple) else (limit.value, "shared")
    requires, source = {}, None
    for layer, entry in enumerate(_entries(model, key)):
        if entry != shared:
            source = layer
        elif source is not None:
            requires[layer] = source
    return Constraint(limit.why, requires=requires)


def no_shorter_than(limit: LayerLimit, model: Model) -> Constraint:
    """No fewer layers may be left than another stack has: `value` is its name."""
    return Constraint(
        limit.why, at_least=max((each.count for each in model.stacks if each.name == limit.value), default=1)
    )


KINDS: dict[str, Callable[[LayerLimit, Model], Constraint]] = {
    kind.__name__: kind
    for kind in (
        aligned, aligned_if_set, suffix_only, round_robin,
        must_keep, must_keep_if_set, must_keep_first, must_keep_per_entry, must_keep_listed, must_keep_marked,
        must_keep_named, must_keep_before_tail,
        keep_one_with, keep_one_without, keep_one_of, keep_one_before, keep_at_least, no_shorter_than,
        keep_all, keep_all_if_unset, keep_all_if_listed, keep_all_if_above,
        special_counts, special_counts_if_set, special_counts_if_unset,
        not_first, not_last, distinct_states, with_source_layer, with_tail_kv_source,
    )
}  # fmt: skip
