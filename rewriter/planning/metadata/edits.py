"""How the metadata follows the layers: every change of it, as values. Pure.

Laws:
- A field follows by a rule from the tables. A list as long as the stack without a rule is an error: it may be one
  entry per layer, and then a file that still loads would compute something else.
- What a loader derives from a layer's number is written out as soon as the kept layers would get something else.
- A count that is left out because it equals another's must not follow that other one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from math import sqrt
from struct import pack, unpack

from rewriter.architectures.lookup import Stack, table_of
from rewriter.architectures.metadata_fields import (  # fmt: skip
    DEFAULT_FIELDS,
    MODULE_NAMES,
    NOT_ABOUT_LAYERS,
    NOT_ABOUT_THE_MODEL,
    OVERRIDDEN_BY,
    PARALLEL,
    QUANTIZATION,
    QUANTIZATION_FILES,
    ROOT_FIELDS,
    SECOND_SCOPES,
)
from rewriter.checkpoint import GGUF, Checkpoint, FieldEdit, LayerMap, LongArray, Problem
from rewriter.errors import CheckpointError, RequestError, UnsupportedError, did_you_mean, printable
from rewriter.planning.metadata import field_rules
from rewriter.planning.metadata.layer_patterns import active_patterns, is_list, is_stated, pattern_keys, pattern_values
from rewriter.planning.options import PlanOptions

_LISTED = {
    "per_layer": "per_layer",
    "special_indexes": "layer_indexes",
}  # the rule of a pattern's list once it is there
_LAYER_LIST = re.compile("layer|block|idx|index(?!$)|indices")  # in the names of lists of layer numbers
Change = tuple[str, object, str]  # whole key, new value, rule


def metadata_edits(
    checkpoint: Checkpoint, stacks: tuple[Stack, ...], stack: Stack, layers: LayerMap, options: PlanOptions
) -> Iterator[FieldEdit]:
    """Every change of the metadata, the counts first. Raises CheckpointError where it contradicts the tensors."""
    for problem in count_problems(checkpoint, stacks):
        raise CheckpointError(str(problem))
    for other in stacks:
        if other is not stack:
            _check_rules(checkpoint, stacks, other, options)
    rules = rules_by_key(checkpoint, stacks, stack, options)
    _refuse_unknown(checkpoint, stacks, stack, rules)
    rules = {key: rule for key, rule in rules.items() if rule != "keep"}
    if not layers.dropped:
        for key, rule in rules.items():
            field_rules.apply(rule, key, checkpoint.metadata[key], layers)
        return
    changes = (
        *_new_counts(checkpoint, stacks, stack, layers),
        *((key, field_rules.apply(rule, key, checkpoint.metadata[key], layers), rule) for key, rule in rules.items()),
        *_parallel(checkpoint, layers),
        *_defaults(checkpoint, stack, layers),
        *_pins(checkpoint, stack, layers),
        *_patterns(checkpoint, stack, layers, options),
    )
    changes = (*_echoes(checkpoint, stacks, stack, changes), *changes)
    for key, (value, rule) in {key: (value, rule) for key, value, rule in changes}.items():
        before = checkpoint.metadata.get(key)
        if repr(value) != repr(before):
            yield _edit(checkpoint, key, before, value, rule)


def _check_rules(checkpoint: Checkpoint, stacks: tuple[Stack, ...], stack: Stack, options: PlanOptions) -> None:
    """Raise CheckpointError for a value that does not fit the layers there are."""
    layers = LayerMap(stack.name, tuple(range(stack.count + stack.mtp_layers)), stack.count, (), stack.mtp_layers)
    for key, rule in rules_by_key(checkpoint, stacks, stack, PlanOptions()).items():
        if rule not in ("layer_names", "names_within") and key not in options.keep_fields:
            field_rules.apply(rule, key, checkpoint.metadata[key], layers)


def _echoes(
    checkpoint: Checkpoint, stacks: tuple[Stack, ...], stack: Stack, changes: tuple[Change, ...]
) -> Iterator[Change]:
    """A nested config that stands a second time, at the top or under an older name: what says the same follows."""
    if not stack.scope or table_of(checkpoint) == GGUF:
        return
    others = {other.scope for other in stacks}
    again = [f"{stack.scope}_dict", *(SECOND_SCOPES if stack is stacks[0] else ())]
    for key, value, rule in changes:
        name = key.removeprefix(stack.scope + ".")
        for echo in [f"{scope}.{name}".lstrip(".") for scope in again if name != key and scope not in others]:
            if echo in checkpoint.metadata and repr(checkpoint.metadata[echo]) == repr(checkpoint.metadata.get(key)):
                yield echo, value, rule


def _parallel(checkpoint: Checkpoint, layers: LayerMap) -> Iterator[Change]:
    """Entries that belong to names in another list: they go with them."""
    for key, names_key in PARALLEL.items():
        value, names = checkpoint.metadata.get(key), checkpoint.metadata.get(names_key)
        if isinstance(value, list | tuple) and isinstance(names, list | tuple):
            if len(value) != len(names):
                raise CheckpointError(f"{key} has {len(value)} entries for the {len(names)} of {names_key}")
            stays = (field_rules.RULES["layer_names"]([name], layers) for name in names)
            yield key, type(value)(entry for entry, left in zip(value, stays, strict=True) if left), "layer_names"


def _patterns(checkpoint: Checkpoint, stack: Stack, layers: LayerMap, options: PlanOptions) -> Iterator[Change]:
    left = {stack.key(name) for name in options.keep_fields} | set(options.keep_fields)
    for pattern in active_patterns(checkpoint, stack):
        if stack.key(pattern.explicit) not in left:
            yield from pattern_values(checkpoint, stack, layers, pattern)


def _edit(checkpoint: Checkpoint, key: str, before: object, after: object, rule: str) -> FieldEdit:
    file, separator, name = key.partition(":")
    if separator and file.endswith(".json"):
        return FieldEdit(name, before, after, rule, file)
    return FieldEdit(key, before, after, rule, "" if checkpoint.format == GGUF else "config.json")


def _new_counts(checkpoint: Checkpoint, stacks: tuple[Stack, ...], stack: Stack, layers: LayerMap) -> Iterator[Change]:
    for other in stacks:
        follows_us = other.count_default == stack.count_key and other.count_default != ""
        if other is stack and not _counted_elsewhere(checkpoint, stack):
            count = len(layers.kept) if stack.counts_mtp else len(layers.main)
            there = [alias for alias in stack.aliases if checkpoint.value(alias) is not None]
            if checkpoint.value(stack.count_key) is not None or not there:
                yield _with_count(checkpoint, stack, count)
            yield from ((key, count, "count") for key in (*there, *stack.echoes))
        elif other is not stack and follows_us and checkpoint.value(other.count_key) is None:
            yield other.count_key, other.count, "count"


def _counted_elsewhere(checkpoint: Checkpoint, stack: Stack) -> bool:
    """A lone file without a config is counted by its tensors, some configs by the length of a list."""
    by_list = stack.entry.counted_by and is_list(checkpoint, stack, stack.entry.counted_by)
    return not checkpoint.metadata or not stack.count_key or bool(by_list and checkpoint.value(stack.count_key) is None)


def _with_count(checkpoint: Checkpoint, stack: Stack, count: int) -> Change:
    """The new count under its key; `depths[2]` is one entry of a list."""
    name, _, index = stack.count_key.partition("[")
    if not index:
        return name, count, "count"
    if checkpoint.value(stack.count_key) is None:
        raise UnsupportedError(
            f"the metadata has no {printable(name)}, which the loader counts layers by: write it first"
        )
    place, old = int(index.removesuffix("]")), checkpoint.metadata[name]
    values = list(old) if isinstance(old, list | tuple) else []
    return name, [*values[:place], count, *values[place + 1 :]], "count"


def count_problems(checkpoint: Checkpoint, stacks: Iterable[Stack]) -> Iterator[Problem]:
    """Where the metadata counts other layers than the tensors have."""
    for stack in stacks:
        actual = stack.count + (stack.mtp_layers if stack.counts_mtp else 0)
        stated = {key: checkpoint.value(key) for key in (stack.count_key, *stack.aliases)}
        if all(value is None for value in stated.values()):
            stated = {stack.count_default: checkpoint.value(stack.count_default)}
        for key, value in stated.items():
            if value is not None and (type(value) is not int or value != actual):
                yield Problem(printable(key), f"{actual}, as the tensors have layers", printable(value))


def rules_by_key(
    checkpoint: Checkpoint, stacks: tuple[Stack, ...], stack: Stack, options: PlanOptions
) -> dict[str, str]:
    """Whole key -> rule for every field that follows the layers of `stack`, "keep" for those known not to.

    Raises RequestError for a `--keep-field` or `--per-layer-field` that is not there.
    """
    asked = {**_asked(checkpoint, stack, options.keep_fields, "keep")}
    asked |= _asked(checkpoint, stack, options.per_layer_fields, "per_layer")
    elsewhere = tuple(other.scope for other in stacks if len(other.scope) > len(stack.scope))
    own = {key: key.removeprefix(stack.scope + ".") for key in checkpoint.metadata if _in_scope(key, stack, elsewhere)}
    rules = {key: rule for key, name in own.items() if (rule := _rule(checkpoint, stack, name))}
    rules |= {stack.key(key): rule for key, rule in stack.entry.fields if stack.key(key) in checkpoint.metadata}
    return {**rules, **module_lists(checkpoint), **asked}


def _refuse_unknown(checkpoint: Checkpoint, stacks: tuple[Stack, ...], stack: Stack, rules: Mapping[str, str]) -> None:
    """Raise UnsupportedError for what may be about single layers and no rule knows."""
    unruled = without_rules(checkpoint, stacks, stack, rules)
    for name, value in unruled.items():
        said = asked_as(checkpoint, stack, name)
        if _is_keyed(value) and not is_apart(name) and not is_apart(name.rpartition(".")[2]):
            raise UnsupportedError(
                f"{said} has numbers for keys, of layers perhaps, and no rule says so: --keep-field {said} leaves it"
            )
        if _names_layers(name, value, stack) and not is_apart(name):
            raise UnsupportedError(
                f"{said} may name layers, {printable(value)}, and no rule says so: --keep-field {said} leaves it"
            )
    unknown = [
        asked_as(checkpoint, stack, name)
        for name, value in unruled.items()
        if not is_apart(name) and _as_long(value, stack)
    ]
    if unknown:
        raise UnsupportedError(
            f"{unknown[0]} has one entry for each of the {stack.count} layers, or as many by chance, and no "
            f"rule says which: --per-layer-field {unknown[0]} cuts it, --keep-field {unknown[0]} leaves it"
            + (f"; so have {', '.join(unknown[1:])}" if unknown[1:] else "")
        )


def without_rules(
    checkpoint: Checkpoint, stacks: tuple[Stack, ...], stack: Stack, rules: Mapping[str, str]
) -> dict[str, object]:
    """What may be about the layers of `stack`, by its name there."""
    elsewhere = tuple(other.scope for other in stacks if len(other.scope) > len(stack.scope))
    ruled = {*rules, *(other.key(key) for other in stacks for key, _ in other.entry.fields)}
    return {
        key.removeprefix(stack.scope + "."): value
        for key, value in checkpoint.metadata.items()
        if key not in ruled and (_in_scope(key, stack, elsewhere) or _is_near(checkpoint, stacks, key))
    }


def module_lists(checkpoint: Checkpoint) -> dict[str, str]:
    """Whole key -> rule for the fields that name modules, whatever the stack."""
    table = table_of(checkpoint)
    found = {key: rule for key, rule in ROOT_FIELDS[table].items() if key in checkpoint.metadata}
    if table != GGUF:
        quantised = (key for key in checkpoint.metadata if key.startswith(QUANTIZATION) and ".json:" not in key)
        named = (key for key in quantised if key.rpartition(".")[2] in MODULE_NAMES)
        for key in named:  # an object has settings for each name
            if isinstance(checkpoint.metadata[key], list | dict):
                found[key] = "names_within" if isinstance(checkpoint.metadata[key], list) else "layer_names"
        files = (key for key in checkpoint.metadata if key.startswith(QUANTIZATION_FILES))
        found |= {key: "names_within" for key in files if "." not in key.partition(".json:")[2].replace("\\.", "")}
    return found


def period_fields(checkpoint: Checkpoint, stack: Stack) -> dict[str, int]:
    """Key -> period, for every field that makes a pattern of the layers' numbers and that no list overrides."""
    table = DEFAULT_FIELDS[table_of(checkpoint)]
    periods: dict[str, int] = {}
    for name in [name for name, rule in (*table.items(), *stack.entry.fields) if rule == "period"]:
        value = checkpoint.value(stack.key(name))
        if type(value) is not int or value < 2 or _rule(checkpoint, stack, name) != "period":
            continue
        if not is_list(checkpoint, stack, OVERRIDDEN_BY.get(name, "")):
            periods[name] = value
    return periods


def _asked(checkpoint: Checkpoint, stack: Stack, names: tuple[str, ...], rule: str) -> dict[str, str]:
    keys = {}
    for name in names:
        key = name if name in checkpoint.metadata else stack.key(name)
        if key not in checkpoint.metadata:
            raise RequestError(
                f"there is no field {printable(name)!r} in the metadata{did_you_mean(name, checkpoint.metadata)}"
            )
        keys[key] = rule
    return keys


def asked_as(checkpoint: Checkpoint, stack: Stack, name: str) -> str:
    """What --keep-field has to be given for the field `name` of the stack, safe to print."""
    return printable(
        stack.key(name) if name in checkpoint.metadata and stack.key(name) in checkpoint.metadata else name, 200
    )


def _in_scope(key: str, stack: Stack, elsewhere: tuple[str, ...]) -> bool:
    inside = not stack.scope or key.startswith(stack.scope + ".")
    return inside and ".json:" not in key and not any(key.startswith(scope + ".") for scope in elsewhere)


def _is_near(checkpoint: Checkpoint, stacks: tuple[Stack, ...], key: str) -> bool:
    """In no scope: at the top of a config.json, or in a GGUF under a word of nobody's. What a nested config has too is
    that one's.
    """
    if table_of(checkpoint) == GGUF:
        return not key.startswith(NOT_ABOUT_THE_MODEL)
    return "." not in key and not any(stack.key(key) in checkpoint.metadata for stack in stacks if stack.scope)


def _rule(checkpoint: Checkpoint, stack: Stack, name: str) -> str:
    """The rule for one field, "" if there is none. What a pattern reads is the pattern's to change."""
    if any(name in pattern_keys(pattern) for pattern in stack.entry.patterns):
        return "per_layer" if is_list(checkpoint, stack, name) else "keep"
    for pattern in stack.entry.patterns:
        if name == pattern.explicit:
            return _LISTED.get(pattern.form, "keep") if is_stated(checkpoint, stack, pattern) else "keep"
    return dict(stack.entry.fields).get(name) or DEFAULT_FIELDS[table_of(checkpoint)].get(name, "")


def _as_long(value: object, stack: Stack) -> bool:
    """As many entries as layers, with or without the MTP layers."""
    lengths = (stack.count, stack.count + stack.mtp_layers)
    if isinstance(value, LongArray):
        return value.length in lengths
    return isinstance(value, list | tuple) and len(value) in lengths


def _names_layers(name: str, value: object, stack: Stack) -> bool:
    """Whether a list holds layer numbers, as far as its name and its entries tell."""
    if not isinstance(value, list | tuple) or not value or not _LAYER_LIST.search(name):
        return False
    numbers = [entry for entry in value if type(entry) is int and 0 <= entry < stack.count + stack.mtp_layers]
    return numbers == list(value) and all(low < high for low, high in pairwise(numbers))


def _is_keyed(value: object) -> bool:
    return isinstance(value, dict) and len(value) > 0 and all(key.isascii() and key.isdigit() for key in value)


def is_apart(name: str) -> bool:
    """Whether a field stands in an object that is about something else than layers."""
    return name.partition(".")[0] in NOT_ABOUT_LAYERS


def with_list_defaults(checkpoint: Checkpoint, stack: Stack) -> Checkpoint:
    """`checkpoint` with the lists that its loader has in mind where the metadata leaves them out.

    Numbers beyond the stack name no layer, unless a list is numbered by their positions.
    """
    numbered = {key for _, key, _ in stack.entry.by_position}
    added = {}
    for name, default in stack.entry.defaults:
        if isinstance(default, tuple) and checkpoint.value(stack.key(name)) is None:
            whole = name in numbered or name.startswith("/")
            added[stack.key(name)] = [layer for layer in default if whole or layer < stack.count]
    return replace(checkpoint, metadata={**checkpoint.metadata, **added}) if added else checkpoint


def _defaults(checkpoint: Checkpoint, stack: Stack, layers: LayerMap) -> Iterator[Change]:
    """Thresholds that the loader takes from itself where the metadata has neither them nor a list instead."""
    for name, default in stack.entry.defaults:
        key = stack.key(name)
        if not isinstance(default, int | float) or default >= stack.count:
            continue
        rule = dict(stack.entry.fields).get(name) or DEFAULT_FIELDS[table_of(checkpoint)][name]
        overridden = is_list(checkpoint, stack, OVERRIDDEN_BY.get(name, ""))
        if checkpoint.value(key) is None and not overridden:
            after = field_rules.apply(rule, key, default, layers)
            if after != default:
                yield key, after, rule


def _single(value: float) -> float:
    """The number as a file of single precision has it."""
    return float(unpack("<f", pack("<f", value))[0])


# What a loader computes from the number of layers where its key is absent.
FORMULAS: dict[str, Callable[[int], object]] = {
    "1.4/sqrt(count)": lambda count: _single(1.4 / sqrt(count)),
    "0": lambda count: 0,
    "0.95 for 10 of more": lambda count: [0.95] * (count > 10) * 10 + [0.0] * (count - (count > 10) * 10),
    "global, local x 12": lambda count: [[["global", "local"], 12]],
}


def _pins(checkpoint: Checkpoint, stack: Stack, layers: LayerMap) -> Iterator[Change]:
    """What the loader would compute from the new count: what it computed from the old one, by the field's own rule."""
    for name, formula in stack.entry.pins:
        if checkpoint.value(stack.key(name)) is None:
            value, rule = FORMULAS[formula](stack.count), _rule(checkpoint, stack, name)
            yield stack.key(name), field_rules.apply(rule, name, value, layers) if rule else value, "pin"
