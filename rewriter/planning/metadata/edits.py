"""How the metadata follows the layers: every change of it, as values. Pure.

Laws:
- A field follows by a rule from the tables. A list as long as the stack without a rule is an error: it may be one
  entry per layer, and then a file that still loads would compute something else.
- What a loader derives from a layer's number is written out as soon as the kept layers would get something else.
- A count that is left out because it equals another's must not follow that other one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
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
from rewriter.checkpoint import GGUF, FieldEdit, LayerMap, LongArray, Problem
from rewriter.errors import CheckpointError, RequestError, UnsupportedError, did_you_mean, printable
from rewriter.planning.metadata import field_rules
from rewriter.planning.metadata.layer_patterns import active_patterns, is_list, is_stated, pattern_keys, pattern_values
from rewriter.planning.model import Model
from rewriter.planning.options import PlanOptions

_LISTED = {
    "per_layer": "per_layer",
    "special_indexes": "layer_indexes",
}  # the rule of a pattern's list once it is there
_LAYER_LIST = re.compile("layer|block|idx|index(?!$)|indices")  # in the names of lists of layer numbers
Change = tuple[str, object, str]  # whole key, new value, rule


def metadata_edits(model: Model, layers: LayerMap) -> Iterator[FieldEdit]:
    """Every change of the metadata, the counts first. Raises CheckpointError where it contradicts the tensors."""
    for problem in count_problems(model):
        raise CheckpointError(str(problem))
    for other in model.stacks:
        if other is not model.stack:
            _check_rules(model.of(other))
    rules = rules_by_key(model)
    _refuse_unknown(model, rules)
    rules = {key: rule for key, rule in rules.items() if rule != "keep"}
    if not layers.dropped:
        for key, rule in rules.items():
            field_rules.apply(rule, key, model.metadata[key], layers)
        return
    changes = (
        *_new_counts(model, layers),
        *((key, field_rules.apply(rule, key, model.metadata[key], layers), rule) for key, rule in rules.items()),
        *_parallel(model, layers),
        *_defaults(model, layers),
        *_pins(model, layers),
        *_patterns(model, layers),
    )
    changes = (*_echoes(model, changes), *changes)
    for key, (value, rule) in {key: (value, rule) for key, value, rule in changes}.items():
        before = model.metadata.get(key)
        if repr(value) != repr(before):
            yield _edit(model, key, before, value, rule)


def _check_rules(model: Model) -> None:
    """Raise CheckpointError for a value that does not fit the layers there are."""
    for key, rule in rules_by_key(replace(model, options=PlanOptions())).items():
        if rule not in ("layer_names", "names_within") and key not in model.options.keep_fields:
            field_rules.apply(rule, key, model.metadata[key], model.all_layers)


def _echoes(model: Model, changes: tuple[Change, ...]) -> Iterator[Change]:
    """A nested config that stands a second time, at the top or under an older name: what says the same follows."""
    if not model.stack.scope or model.is_gguf:
        return
    others = {other.scope for other in model.stacks}
    again = [f"{model.stack.scope}_dict", *(SECOND_SCOPES if model.is_main else ())]
    for key, value, rule in changes:
        name = key.removeprefix(model.stack.scope + ".")
        for echo in [f"{scope}.{name}".lstrip(".") for scope in again if name != key and scope not in others]:
            if echo in model.metadata and repr(model.metadata[echo]) == repr(model.metadata.get(key)):
                yield echo, value, rule


def _parallel(model: Model, layers: LayerMap) -> Iterator[Change]:
    """Entries that belong to names in another list: they go with them."""
    for key, names_key in PARALLEL.items():
        value, names = model.metadata.get(key), model.metadata.get(names_key)
        if isinstance(value, list | tuple) and isinstance(names, list | tuple):
            if len(value) != len(names):
                raise CheckpointError(f"{key} has {len(value)} entries for the {len(names)} of {names_key}")
            stays = (field_rules.RULES["layer_names"]([name], layers) for name in names)
            yield key, type(value)(entry for entry, left in zip(value, stays, strict=True) if left), "layer_names"


def _patterns(model: Model, layers: LayerMap) -> Iterator[Change]:
    left = {model.key(name) for name in model.options.keep_fields} | set(model.options.keep_fields)
    for pattern in active_patterns(model):
        if model.key(pattern.explicit) not in left:
            yield from pattern_values(model, layers, pattern)


def _edit(model: Model, key: str, before: object, after: object, rule: str) -> FieldEdit:
    file, separator, name = key.partition(":")
    if separator and file.endswith(".json"):
        return FieldEdit(name, before, after, rule, file)
    return FieldEdit(key, before, after, rule, "" if model.checkpoint.format == GGUF else "config.json")


def _new_counts(model: Model, layers: LayerMap) -> Iterator[Change]:
    for other in model.stacks:
        follows_us = other.count_default == model.stack.count_key and other.count_default != ""
        if other is model.stack and not _counted_elsewhere(model):
            count = len(layers.kept) if model.stack.counts_mtp else len(layers.main)
            there = [alias for alias in model.stack.aliases if model.checkpoint.value(alias) is not None]
            if model.checkpoint.value(model.stack.count_key) is not None or not there:
                yield _with_count(model, count)
            yield from ((key, count, "count") for key in (*there, *model.stack.echoes))
        elif other is not model.stack and follows_us and model.checkpoint.value(other.count_key) is None:
            yield other.count_key, other.count, "count"


def _counted_elsewhere(model: Model) -> bool:
    """A lone file without a config is counted by its tensors, some configs by the length of a list."""
    by_list = model.stack.entry.counted_by and is_list(model, model.stack.entry.counted_by)
    return (
        not model.metadata
        or not model.stack.count_key
        or bool(by_list and model.checkpoint.value(model.stack.count_key) is None)
    )


def _with_count(model: Model, count: int) -> Change:
    """The new count under its key; `depths[2]` is one entry of a list."""
    name, _, index = model.stack.count_key.partition("[")
    if not index:
        return name, count, "count"
    if model.checkpoint.value(model.stack.count_key) is None:
        raise UnsupportedError(
            f"the metadata has no {printable(name)}, which the loader counts layers by: write it first"
        )
    place, old = int(index.removesuffix("]")), model.metadata[name]
    values = list(old) if isinstance(old, list | tuple) else []
    return name, [*values[:place], count, *values[place + 1 :]], "count"


def count_problems(model: Model) -> Iterator[Problem]:
    """Where the metadata counts other layers than the tensors have."""
    for stack in model.stacks:
        actual = stack.count + (stack.mtp_layers if stack.counts_mtp else 0)
        stated = {key: model.checkpoint.value(key) for key in (stack.count_key, *stack.aliases)}
        if all(value is None for value in stated.values()):
            stated = {stack.count_default: model.checkpoint.value(stack.count_default)}
        for key, value in stated.items():
            if value is not None and (type(value) is not int or value != actual):
                yield Problem(printable(key), f"{actual}, as the tensors have layers", printable(value))


def rules_by_key(model: Model) -> dict[str, str]:
    """Whole key -> rule for every field that follows the layers of `stack`, "keep" for those known not to.

    Raises RequestError for a `--keep-field` or `--per-layer-field` that is not there.
    """
    asked = {**_asked(model, model.options.keep_fields, "keep")}
    asked |= _asked(model, model.options.per_layer_fields, "per_layer")
    own = {key: key.removeprefix(model.stack.scope + ".") for key in model.metadata if _in_scope(model, key)}
    rules = {key: rule for key, name in own.items() if (rule := _rule(model, name))}
    rules |= {model.key(key): rule for key, rule in model.stack.entry.fields if model.key(key) in model.metadata}
    return {**rules, **module_name_fields(model), **asked}


def _refuse_unknown(model: Model, rules: Mapping[str, str]) -> None:
    """Raise UnsupportedError for what may be about single layers and no rule knows."""
    unruled = unruled_fields(model, rules)
    for name, value in unruled.items():
        said = option_spelling(model, name)
        if _is_keyed(value) and not is_unrelated(name) and not is_unrelated(name.rpartition(".")[2]):
            raise UnsupportedError(
                f"{said} has numbers for keys, of layers perhaps, and no rule says so: --keep-field {said} leaves it"
            )
        if _names_layers(name, value, model.stack) and not is_unrelated(name):
            raise UnsupportedError(
                f"{said} may name layers, {printable(value)}, and no rule says so: --keep-field {said} leaves it"
            )
    unknown = [
        option_spelling(model, name)
        for name, value in unruled.items()
        if not is_unrelated(name) and _as_long(value, model.stack)
    ]
    if unknown:
        raise UnsupportedError(
            f"{unknown[0]} has one entry for each of the {model.stack.count} layers, or as many by chance, and no "
            f"rule says which: --per-layer-field {unknown[0]} cuts it, --keep-field {unknown[0]} leaves it"
            + (f"; so have {', '.join(unknown[1:])}" if unknown[1:] else "")
        )


def unruled_fields(model: Model, rules: Mapping[str, str]) -> dict[str, object]:
    """What may be about the layers of `stack`, by its name there."""
    ruled = {*rules, *(other.key(key) for other in model.stacks for key, _ in other.entry.fields)}
    return {
        key.removeprefix(model.stack.scope + "."): value
        for key, value in model.metadata.items()
        if key not in ruled and (_in_scope(model, key) or _is_near(model, key))
    }


def module_name_fields(model: Model) -> dict[str, str]:
    """Whole key -> rule for the fields that name modules, whatever the stack."""
    found = {key: rule for key, rule in ROOT_FIELDS[table_of(model.checkpoint)].items() if key in model.metadata}
    if not model.is_gguf:
        quantized = (key for key in model.metadata if key.startswith(QUANTIZATION) and ".json:" not in key)
        named = (key for key in quantized if key.rpartition(".")[2] in MODULE_NAMES)
        for key in named:  # an object has settings for each name
            if isinstance(model.metadata[key], list | dict):
                found[key] = "names_within" if isinstance(model.metadata[key], list) else "layer_names"
        files = (key for key in model.metadata if key.startswith(QUANTIZATION_FILES))
        found |= {key: "names_within" for key in files if "." not in key.partition(".json:")[2].replace("\\.", "")}
    return found


def period_fields(model: Model) -> dict[str, int]:
    """Key -> period, for every field that makes a pattern of the layers' numbers and that no list overrides."""
    table = DEFAULT_FIELDS[table_of(model.checkpoint)]
    periods: dict[str, int] = {}
    for name in [name for name, rule in (*table.items(), *model.stack.entry.fields) if rule == "period"]:
        value = model.value(name)
        if type(value) is not int or value < 2 or _rule(model, name) != "period":
            continue
        if not is_list(model, OVERRIDDEN_BY.get(name, "")):
            periods[name] = value
    return periods


def _asked(model: Model, names: tuple[str, ...], rule: str) -> dict[str, str]:
    keys = {}
    for name in names:
        key = name if name in model.metadata else model.key(name)
        if key not in model.metadata:
            raise RequestError(
                f"there is no field {printable(name)!r} in the metadata{did_you_mean(name, model.metadata)}"
            )
        keys[key] = rule
    return keys


def option_spelling(model: Model, name: str) -> str:
    """What --keep-field has to be given for the field `name` of the stack, safe to print."""
    return printable(model.key(name) if name in model.metadata and model.key(name) in model.metadata else name, 200)


def _in_scope(model: Model, key: str) -> bool:
    """Whether a key is in the scope of the stack, and in no longer one of another stack."""
    scope = model.stack.scope
    nested = (other.scope for other in model.stacks if len(other.scope) > len(scope))
    inside = not scope or key.startswith(scope + ".")
    return inside and ".json:" not in key and not any(key.startswith(each + ".") for each in nested)


def _is_near(model: Model, key: str) -> bool:
    """In no scope: at the top of a config.json, or in a GGUF under a word of nobody's. What a nested config has too is
    that one's.
    """
    if model.is_gguf:
        return not key.startswith(NOT_ABOUT_THE_MODEL)
    return "." not in key and not any(stack.key(key) in model.metadata for stack in model.stacks if stack.scope)


def _rule(model: Model, name: str) -> str:
    """The rule for one field, "" if there is none. What a pattern reads is the pattern's to change."""
    if any(name in pattern_keys(pattern) for pattern in model.stack.entry.patterns):
        return "per_layer" if is_list(model, name) else "keep"
    for pattern in model.stack.entry.patterns:
        if name == pattern.explicit:
            return _LISTED.get(pattern.form, "keep") if is_stated(model, pattern) else "keep"
    return dict(model.stack.entry.fields).get(name) or DEFAULT_FIELDS[table_of(model.checkpoint)].get(name, "")


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


def is_unrelated(name: str) -> bool:
    """Whether a field stands in an object that is about something else than layers."""
    return name.partition(".")[0] in NOT_ABOUT_LAYERS


def with_implied_lists(model: Model) -> Model:
    """`model` with the lists that its loader has in mind where the metadata leaves them out.

    Numbers beyond the stack name no layer, unless a list is numbered by their positions.
    """
    numbered = {key for _, key, _ in model.stack.entry.by_position}
    added = {}
    for name, default in model.stack.entry.defaults:
        if isinstance(default, tuple) and model.value(name) is None:
            whole = name in numbered or name.startswith("/")
            added[model.key(name)] = [layer for layer in default if whole or layer < model.stack.count]
    checkpoint = replace(model.checkpoint, metadata={**model.metadata, **added})
    return replace(model, checkpoint=checkpoint) if added else model


def _defaults(model: Model, layers: LayerMap) -> Iterator[Change]:
    """Thresholds that the loader takes from itself where the metadata has neither them nor a list instead."""
    for name, default in model.stack.entry.defaults:
        key = model.key(name)
        if not isinstance(default, int | float) or default >= model.stack.count:
            continue
        rule = dict(model.stack.entry.fields).get(name) or DEFAULT_FIELDS[table_of(model.checkpoint)][name]
        overridden = is_list(model, OVERRIDDEN_BY.get(name, ""))
        if model.checkpoint.value(key) is None and not overridden:
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


def _pins(model: Model, layers: LayerMap) -> Iterator[Change]:
    """What the loader would compute from the new count: what it computed from the old one, by the field's own rule."""
    for name, formula in model.stack.entry.pins:
        if model.value(name) is None:
            value, rule = FORMULAS[formula](model.stack.count), _rule(model, name)
            yield model.key(name), field_rules.apply(rule, name, value, layers) if rule else value, "pin"
