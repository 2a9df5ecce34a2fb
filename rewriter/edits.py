"""How the metadata follows the layers: every change of it, as values. Pure.

Laws:
- A field follows by a rule from the tables. A list as long as the stack without a rule is an error: it may be one
  entry per layer, and then a file that still loads would compute something else.
- What a loader derives from a layer's number is written out as soon as the kept layers would get something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rewriter import fields
from rewriter.architectures.entry import Pattern
from rewriter.architectures.field_table import (
    DEFAULT_FIELDS,
    NOT_ABOUT_LAYERS,
    OVERRIDDEN_BY,
    ROOT_FIELDS,
)
from rewriter.architectures.stacks import Stack, table_of
from rewriter.checkpoint import GGUF, Checkpoint, FieldEdit, LayerMap, LongArray, Problem
from rewriter.errors import CheckpointError, RequestError, UnsupportedError, shown
from rewriter.selection import Options


def metadata_edits(
    checkpoint: Checkpoint, stacks: tuple[Stack, ...], stack: Stack, layers: LayerMap, options: Options
) -> Iterator[FieldEdit]:
    """Every change of the metadata: counts, then the fields under the stack's scope, then lists of names."""
    file = "" if checkpoint.format == GGUF else "config.json"
    for problem in count_problems(checkpoint, stacks):
        raise CheckpointError(str(problem))
    for key, value in _new_counts(checkpoint, stacks, stack, layers):
        yield FieldEdit(key, checkpoint.metadata.get(key), value, "count", file)
    for key, rule in field_rules(checkpoint, stacks, stack, options).items():
        before = checkpoint.metadata[key]
        after = fields.apply(rule, key, before, layers)
        if after != before:
            yield FieldEdit(key, before, after, rule, file)
    for key, default in _defaults(checkpoint, stack).items():
        rule = DEFAULT_FIELDS[table_of(checkpoint)][key.rpartition(".")[2]]
        after = fields.apply(rule, key, default, layers)
        if after != default:
            yield FieldEdit(key, None, after, rule, file)
    for pattern in stack.entry.patterns:
        for name, after in _pattern_values(checkpoint, stack, layers, pattern).items():
            yield FieldEdit(stack.key(name), checkpoint.metadata.get(stack.key(name)), after, "period", file)


def _defaults(checkpoint: Checkpoint, stack: Stack) -> dict[str, int]:
    """Thresholds that the loader takes from itself where the metadata has neither them nor a list instead."""
    return {
        stack.key(name): default
        for name, default in stack.entry.defaults
        if default < stack.count
        and checkpoint.metadata.get(stack.key(name)) is None
        and not _is_list(checkpoint, stack, OVERRIDDEN_BY.get(name, ""))
    }


def _is_list(checkpoint: Checkpoint, stack: Stack, name: str) -> bool:
    return isinstance(checkpoint.metadata.get(stack.key(name)), list | tuple)


def _new_counts(
    checkpoint: Checkpoint, stacks: tuple[Stack, ...], stack: Stack, layers: LayerMap
) -> Iterator[tuple[str, int]]:
    """The counts to write. One that was left out because it equals another's must not follow that other one."""
    if len(layers.kept) == layers.count or not checkpoint.metadata:
        return
    for other in stacks:
        after = len(layers.kept) if other is stack else other.count
        follows_us = other.count_default == stack.count_key and other.count_default != ""
        if other is stack or (follows_us and checkpoint.metadata.get(other.count_key) is None):
            yield other.count_key, after


def count_problems(checkpoint: Checkpoint, stacks: Iterable[Stack]) -> Iterator[Problem]:
    """Where the metadata counts other layers than the tensors have."""
    for stack in stacks:
        stated = checkpoint.metadata.get(stack.count_key)
        stated = checkpoint.metadata.get(stack.count_default) if stated is None else stated
        if stated is not None and (isinstance(stated, bool) or stated != stack.count):
            yield Problem(stack.count_key, f"{stack.count}, as the tensors have layers", shown(stated))


def field_rules(checkpoint: Checkpoint, stacks: tuple[Stack, ...], stack: Stack, options: Options) -> dict[str, str]:
    """Whole key -> rule for every field that follows the layers of `stack`.

    Raises UnsupportedError for a list as long as the stack that no rule knows, RequestError for a
    `--keep-field` or `--per-layer-field` that is not there.
    """
    asked = {**_asked(checkpoint, stack, options.keep_fields, "keep")}
    asked |= _asked(checkpoint, stack, options.per_layer_fields, "per_layer")
    elsewhere = tuple(other.scope for other in stacks if len(other.scope) > len(stack.scope))
    own = {key: key.removeprefix(stack.scope + ".") for key in checkpoint.metadata if _in_scope(key, stack, elsewhere)}
    rules = {key: rule for key, name in own.items() if (rule := _rule(checkpoint, stack, name))}
    rules |= asked
    for key, name in own.items():
        if key not in rules and _as_long(checkpoint.metadata[key], stack) and not _is_apart(name):
            raise UnsupportedError(
                f"{shown(name)} has one entry for each of the {stack.count} layers, or as many by chance, and no "
                f"rule says which: --per-layer-field {shown(name)} cuts it, --keep-field {shown(name)} leaves it"
            )
    root = {key: rule for key, rule in ROOT_FIELDS[table_of(checkpoint)].items() if key in checkpoint.metadata}
    return {**{key: rule for key, rule in rules.items() if rule != "keep"}, **root}


def _asked(checkpoint: Checkpoint, stack: Stack, names: tuple[str, ...], rule: str) -> dict[str, str]:
    keys = {}
    for name in names:
        key = name if name in checkpoint.metadata else stack.key(name)
        if key not in checkpoint.metadata:
            raise RequestError(f"there is no field {shown(name)!r} in the metadata")
        keys[key] = rule
    return keys


def _in_scope(key: str, stack: Stack, elsewhere: tuple[str, ...]) -> bool:
    inside = not stack.scope or key.startswith(stack.scope + ".")
    return inside and not any(key.startswith(scope + ".") for scope in elsewhere)


def _rule(checkpoint: Checkpoint, stack: Stack, name: str) -> str:
    """The rule for one field, "" if there is none. A pattern's own keys only count once they are lists."""
    patterned = {word for pattern in stack.entry.patterns for word in (pattern.explicit, *pattern.period_keys)}
    if name in patterned:
        return "per_layer" if _is_list(checkpoint, stack, name) else "keep"
    rule = dict(stack.entry.fields).get(name) or DEFAULT_FIELDS[table_of(checkpoint)].get(name, "")
    overridden = rule == "period" and _is_list(checkpoint, stack, OVERRIDDEN_BY.get(name, ""))
    return "keep" if overridden else rule


def _as_long(value: object, stack: Stack) -> bool:
    if isinstance(value, LongArray):
        return value.length == stack.count
    return isinstance(value, list | tuple) and len(value) == stack.count


def _is_apart(name: str) -> bool:
    return name.partition(".")[0] in NOT_ABOUT_LAYERS


def _pattern_values(checkpoint: Checkpoint, stack: Stack, layers: LayerMap, pattern: Pattern) -> dict[str, object]:
    """What to write so that every kept layer stays what it was: nothing while the loader's own pattern gives it."""
    before = pattern_list(checkpoint, stack, pattern)
    wanted = [before[old] for old in layers.kept]
    if pattern.none_left and all(value == pattern.special for value in wanted):
        there = {
            name: value for name, value in pattern.none_left if checkpoint.metadata.get(stack.key(name)) is not None
        }
        return {name: value for name, value in there.items() if checkpoint.metadata[stack.key(name)] != value}
    if _is_list(checkpoint, stack, pattern.explicit):
        return {}
    period = _period(checkpoint, stack, pattern)
    implied = [pattern.value(new, period) for new in range(len(layers.kept))]
    return {pattern.explicit: wanted} if wanted != implied else {}


def pattern_list(checkpoint: Checkpoint, stack: Stack, pattern: Pattern) -> tuple[object, ...]:
    """What every layer is: by the list in the metadata, or by the period that the loader goes by."""
    value = checkpoint.metadata.get(stack.key(pattern.explicit))
    if isinstance(value, list | tuple):
        return tuple(value)
    period = _period(checkpoint, stack, pattern)
    return tuple(pattern.value(layer, period) for layer in range(stack.count))


def _period(checkpoint: Checkpoint, stack: Stack, pattern: Pattern) -> int:
    stated = (checkpoint.metadata.get(stack.key(key)) for key in pattern.period_keys)
    period = next((value for value in stated if value is not None), pattern.default)
    if isinstance(period, bool) or not isinstance(period, int) or period < 0:
        raise CheckpointError(f"{shown(stack.key(pattern.period_keys[0]))}: {shown(period)} is not a period")
    return period
