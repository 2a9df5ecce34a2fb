"""How the adapter_config.json of a PEFT adapter follows the layers. Pure.

Laws (peft 0.21, tuners_utils.check_target_module_exists, utils/other.py):
- A module is adapted if its whole name, or its end after a dot, is in the list `target_modules`, or the expression
  `target_modules` matches all of it. `layers_to_transform` narrows the ends of a list to layer numbers: the first
  number in the name, or the one after `layers_pattern`. `exclude_modules` and `modules_to_save` take out again.
- The first key of `rank_pattern` and its like that matches a name, or its end after a dot, holds. Keys are expressions.
- So each field is first changed where it names layers; then every module must get what it had. Where one does not,
  the modules are written out by their whole names. Where that cannot be, the field is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rewriter.architectures.lookup import MOST_LAYERS, Stack
from rewriter.checkpoint import Checkpoint, FieldEdit, LayerMap
from rewriter.errors import CheckpointError, UnsupportedError, printable
from rewriter.planning.companions.peft_fields import (  # fmt: skip
    BY_MODULE,
    INDEPENDENT,
    LISTS,
    LITERAL,
    OTHERS,
    PARTS,
    PATTERNS,
    PREFIX_TYPES,
    PROMPT_TYPES,
    REFUSED,
    RULED,
    SELECTION,
    SHARED,
)
from rewriter.planning.metadata import field_rules

FILE = "adapter_config.json"
WRAPPER = "base_model.model."  # what PEFT puts before a module's name
PROMPTS = "prompt_embeddings"  # their tensor: keys and values of all layers side by side

_FORMS: dict[str, tuple[type, ...]] = {
    "layers_to_transform": (int, list),
    "modules_to_save": (list,),
    **dict.fromkeys(("target_modules", "exclude_modules", "layers_pattern", "feedforward_modules"), (str, list)),
    **dict.fromkeys(PATTERNS, (dict,)),
}

_LONGEST = 100_000  # characters of an expression: what it is compiled to is a hundred times as long

Config = dict[str, Any]
Names = tuple[tuple[str, str], ...]  # what a module is called, and will be


@dataclass(frozen=True, slots=True)
class _Adapter:
    """An adapter's config and the modules of the layers that stay: `there` are those that it has tensors for, `all`
    those that any layer has one for, in each of them.
    """

    config: Config
    layers: LayerMap
    there: Names
    all: Names


def config_of(checkpoint: Checkpoint) -> Config:
    """The adapter_config.json, {} where there is none."""
    found = ((key.removeprefix(f"{FILE}:"), value) for key, value in checkpoint.metadata.items() if f"{FILE}:" in key)
    return {key: value for key, value in found if "." not in key.replace("\\.", "")}


def replicated(config: Config, layers: LayerMap) -> LayerMap:
    """The layers as the adapter counts them: `layer_replication` builds its model from ranges of the base's."""
    ranges = config.get("layer_replication")
    if not ranges:
        return layers
    numbers = _replicas(ranges, layers.count)
    kept = set(layers.kept)
    places = tuple(place for place, number in enumerate(numbers) if number in kept)
    return LayerMap(layers.stack, places, len(numbers), layers.prefixes)


def _replicas(ranges: object, count: int) -> list[int]:
    """The base's layers in the order of the adapter's; [first, last) each."""
    try:
        pairs = [(first, last) for first, last in ranges]  # type: ignore[attr-defined]
        fine = all(type(first) is type(last) is int and 0 <= first < last <= count for first, last in pairs)
    except (TypeError, ValueError):
        fine = False
    if not fine or len(pairs) > count * count:
        raise CheckpointError(f"layer_replication: {printable(ranges)} are no ranges of {count} layers")
    if sum(last - first for first, last in pairs) > MOST_LAYERS:
        raise CheckpointError(f"layer_replication: {printable(ranges)} are more than {MOST_LAYERS} layers")
    return [number for first, last in pairs for number in range(first, last)]


def refuse_type(checkpoint: Checkpoint, stack: Stack, layers: LayerMap) -> None:
    """Raise UnsupportedError for a type of adapter whose parts cannot follow single layers."""
    config = config_of(checkpoint)
    kind = config.get("peft_type", "LORA" if not config else None)
    if kind in SHARED:
        _refuse_uneven(checkpoint, stack, layers, str(kind))
    elif kind not in BY_MODULE and kind not in PROMPT_TYPES:
        why = OTHERS.get(str(kind), "no rule says how it follows")
        raise UnsupportedError(f"an adapter of the type {printable(kind)} cannot follow: {why}")
    if kind in PREFIX_TYPES and config.get("num_transformer_submodules", 1) != 1:
        raise UnsupportedError("a prefix for an encoder and a decoder cannot follow the layers of one of them")


def _refuse_uneven(checkpoint: Checkpoint, stack: Stack, layers: LayerMap, kind: str) -> None:
    """What is shared is as large as the largest module: it must not go."""
    shapes: tuple[set[object], set[object]] = set(), set()
    for tensor in checkpoint.tensors:
        layer = stack.layer_of(tensor.name)
        if layer is not None:
            shapes[layer in layers.numbers].add((stack.after(tensor.name, layer), tensor.shape))
    if not shapes[0] <= shapes[1]:
        raise UnsupportedError(
            f"the layers of this {kind} adapter differ, and all share a projection as large as the largest: none can go"
        )


def config_edits(
    checkpoint: Checkpoint, stack: Stack, layers: LayerMap, base: LayerMap, keep: Iterable[str]
) -> Iterator[FieldEdit]:
    """Every change of adapter_config.json. `layers` are the adapter's, `base` those of the model (they differ where it
    replicates layers). Fields of `keep` stay. Raises UnsupportedError where a module would get what another had.
    """
    old = config_of(checkpoint)
    adapter = _Adapter(
        {key: value for key, value in old.items() if key not in set(keep)}, layers, *_modules(checkpoint, stack, layers)
    )
    _refuse_unknown(adapter.config)
    _check_forms(adapter.config)
    new = {**_numbers(adapter, base), **_lists(adapter), **_patterns(adapter), **_literals(adapter)}
    new |= _selection(adapter, new)
    for key, value in new.items():
        if repr(value) != repr(old.get(key)):
            yield FieldEdit(key.replace(".", "\\."), old.get(key), value, "adapter", FILE)


def _refuse_unknown(config: Config) -> None:
    for key, value in config.items():
        quiet = value is None or isinstance(value, bool) or value in ({}, [], "")
        if (key not in RULED and key not in INDEPENDENT and not quiet) or (key in REFUSED and not quiet):
            raise UnsupportedError(
                f"{FILE}: no rule says whether {printable(key)} is about layers; --keep-field {printable(key)} "
                f"leaves it"
            )


def _check_forms(config: Config) -> None:
    """Raise CheckpointError for a field that is not of the form that peft gives it."""
    for key, kinds in _FORMS.items():
        value = config.get(key)
        members = value if isinstance(value, list) else ()
        kind = int if key == "layers_to_transform" else str
        fine = value is None or (type(value) in kinds and all(type(member) is kind for member in members))
        if not fine:
            raise CheckpointError(f"{FILE}: {key} cannot be {printable(value)}")


def module_of(name: str) -> str:
    """The module that a tensor of an adapter belongs to, under the name that it has in the model."""
    parts = name.removeprefix(WRAPPER).split(".")
    own = next((at for at, part in enumerate(parts) if part.startswith(PARTS)), len(parts) - 1)
    return ".".join(parts[:own])


def _modules(checkpoint: Checkpoint, stack: Stack, layers: LayerMap) -> tuple[Names, Names]:
    """The modules that are there, and those that any layer has in each of the kept ones; with those outside."""
    outside: dict[str, None] = {}
    inside: dict[tuple[int, str], None] = {}
    for tensor in checkpoint.tensors:
        layer, module = stack.layer_of(tensor.name), module_of(tensor.name)
        if layer is None:
            outside[module] = None
        else:
            inside[layer, module[len(f"{stack.prefix.removeprefix(WRAPPER)}{layer}") :]] = None
    prefix, numbers = stack.prefix.removeprefix(WRAPPER), layers.numbers
    rests = dict.fromkeys(rest for _, rest in inside)
    both = tuple((f"{prefix}{old}{rest}", f"{prefix}{new}{rest}") for old, new in numbers.items() for rest in rests)
    there = {f"{prefix}{layer}{rest}" for layer, rest in inside}
    same = tuple((name, name) for name in outside)
    return (*same, *(pair for pair in both if pair[0] in there)), (*same, *both)


# ---- numbers


def _numbers(adapter: _Adapter, base: LayerMap) -> Config:
    config = adapter.config
    new: Config = {}
    if config.get("layer_replication"):
        left = [base.numbers[n] for n in _replicas(config["layer_replication"], base.count) if n in base.numbers]
        new["layer_replication"] = [list(each) for each in _ranges(left)]
    if config.get("adapter_layers") is not None:
        new["adapter_layers"] = field_rules.apply("trailing_count", "adapter_layers", config["adapter_layers"], base)
    if config.get("num_layers") is not None:
        strict = config.get("peft_type") in PREFIX_TYPES  # the others do not read it
        if strict or config["num_layers"] == base.count:
            new["num_layers"] = field_rules.apply("count", "num_layers", config["num_layers"], base)
    return new


def _ranges(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Numbers in any order as ranges [first, last) of ascending ones."""
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield numbers[start], numbers[at - 1] + 1
            start = at


# ---- which modules are adapted


def _selection(adapter: _Adapter, new: Config) -> Config:
    """The fields that select modules: each changed by itself, or all as a list of whole names."""
    config = adapter.config
    if config.get("peft_type") == "ADAPTION_PROMPT" or not any(config.get(key) is not None for key in SELECTION):
        return {}
    found = {key: config[key] for key in SELECTION if key in config}
    for key in ("target_modules", "exclude_modules"):
        if isinstance(found.get(key), list):
            found[key] = _renamed(found[key], adapter.layers)
    if found.get("layers_to_transform") not in (None, []):
        found["layers_to_transform"] = _indexes(found["layers_to_transform"], adapter.layers)
    saved = new.get("modules_to_save", config.get("modules_to_save"))
    after = {**config, **found, "modules_to_save": saved}
    if found.get("layers_to_transform", 0) != [] and _alike(adapter.all, config, after, _is_target):
        return found
    return _written_out(adapter, saved)


def _written_out(adapter: _Adapter, saved: object) -> Config:
    """The adapted modules by their whole names."""
    config = adapter.config
    listed = [new for old, new in adapter.there if _is_target(config, old)]
    found: Config = {**{key: None for key in SELECTION if key in config}, "target_modules": listed}
    if not listed or not _alike(adapter.all, config, {**config, **found, "modules_to_save": saved}, _is_target):
        named = next(key for key in SELECTION if config.get(key) is not None)
        raise UnsupportedError(f"{FILE}: no {named} selects the modules of the kept layers alone")
    return found


def _indexes(value: object, layers: LayerMap) -> object:
    """Layer numbers, or one; [] where none is left."""
    listed = field_rules.apply(
        "layer_indexes", "layers_to_transform", [value] if isinstance(value, int) else value, layers
    )
    left = sorted(listed) if isinstance(listed, list) else []
    return left[0] if isinstance(value, int) and left else left


def _alike(names: Names, old: Any, new: Any, meaning: Callable[[Any, str], bool]) -> bool:
    """Whether every module gets under its new name what it had under the old one."""
    return all(meaning(old, before) == meaning(new, after) for before, after in names)


def _is_target(config: Config, name: str) -> bool:
    """As peft decides whether a module is adapted."""
    excluded, targets = config.get("exclude_modules"), config.get("target_modules")
    if excluded and _is_named(excluded, name):
        return False
    if any(_matches(rf"(^|.*\.){module}($|\..*)", name) for module in config.get("modules_to_save") or ()):
        return False
    if targets is None or targets == "all-linear":
        return True
    if isinstance(targets, str) or name in targets:
        return _is_named(targets, name)
    return _is_named(targets, name) and _in_layers(config, name)


def _is_named(value: object, name: str) -> bool:
    """By an expression for all of the name, or a list of names and their ends."""
    if isinstance(value, str):
        return _matches(value, name, whole=True) is not None
    return not set(_ends(name)).isdisjoint(value if isinstance(value, list) else ())


def _ends(name: str) -> Iterator[str]:
    yield name
    while "." in name:
        name = name.partition(".")[2]
        yield name


def _in_layers(config: Config, name: str) -> bool:
    indexes, patterns = config.get("layers_to_transform"), config.get("layers_pattern") or []
    if indexes is None or indexes == []:
        return True
    patterns = [patterns] if isinstance(patterns, str) else patterns
    tries = [rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\." for pattern in patterns] or [r".*?\.[^.]*\.(?P<idx>\d+)\."]
    match = next((match for each in tries if (match := _matches(each, name))), None)
    return match is not None and int(match["idx"]) in ([indexes] if isinstance(indexes, int) else indexes)


def _matches(expression: object, name: str, whole: bool = False) -> re.Match[str] | None:
    if len(str(expression)) > _LONGEST:
        raise CheckpointError(f"{FILE}: {printable(expression)} is too long for a regular expression")
    try:
        compiled = re.compile(str(expression))
        return compiled.fullmatch(name) if whole else compiled.match(name)
    except (re.error, RecursionError, OverflowError):
        raise CheckpointError(f"{FILE}: {printable(expression)} is no regular expression") from None


# ---- what single modules have of their own


def _patterns(adapter: _Adapter) -> Config:
    """Settings by module: names follow, and expressions stay where they still mean the same modules."""
    new = {}
    for key in PATTERNS:
        value = adapter.config.get(key)
        if not value:
            continue
        new[key] = field_rules.apply("layer_names", key, value, adapter.layers)
        if not _same_settings(adapter.all, value, new[key]):
            new[key] = {
                after: found for before, after in adapter.there if (found := _Settings(value)[before]) is not None
            }
            if not _same_settings(adapter.there, value, new[key]):
                raise UnsupportedError(f"{FILE}: no {key} says the same for the kept layers alone")
    return new


def _same_settings(names: Names, old: Mapping[str, object], new: object) -> bool:
    before, after = _Settings(old), _Settings(new if isinstance(new, dict) else {})
    return all(before[name] == after[other] for name, other in names)


class _Settings:
    """Looks up what a module has: the value of the first key that is its name or end, or matches that."""

    def __init__(self, value: Mapping[str, object]) -> None:
        self.value = value
        self.plain = {key: place for place, key in enumerate(value) if re.fullmatch(r"[\w.]+", key)}
        self.others = [(place, key) for place, key in enumerate(value) if key not in self.plain]

    def __getitem__(self, name: str) -> object:
        found = [(self.plain[end], end) for end in _ends(name) if end in self.plain]
        found += [(place, key) for place, key in self.others if _matches(rf"(.*\.)?({key})$", name)]
        return self.value[min(found)[1]] if found else None


def _lists(adapter: _Adapter) -> Config:
    """Lists of the ends of names, or an expression for whole names."""
    new: Config = {}
    for key in LISTS:
        value = adapter.config.get(key)
        if not value:
            continue
        new[key] = _renamed(value, adapter.layers) if isinstance(value, list) else value

        if not _alike(adapter.all, value, new[key], _is_listed):
            new[key] = [after for before, after in adapter.there if _is_listed(value, before)]
            if key == "modules_to_save" or not _alike(adapter.all, value, new[key], _is_listed):
                raise UnsupportedError(f"{FILE}: no {key} names the modules of the kept layers alone")
    return new


def _is_listed(value: object, name: str) -> bool:
    """By an expression for all of the name, or a list of its ends, with or without a dot before them."""
    if isinstance(value, str):
        return _matches(value, name, whole=True) is not None
    return isinstance(value, list) and name.endswith(tuple(map(str, value)))


def _literals(adapter: _Adapter) -> Config:
    """Names of parameters: those with a layer's number follow."""
    new = {}
    for key in LITERAL:
        value = adapter.config.get(key)
        if not isinstance(value, list | dict) or not value or not all(isinstance(each, str) for each in value):
            continue
        new[key] = field_rules.apply("layer_names", key, value, adapter.layers)
        stays = [each for each in value if each in new[key]]  # type: ignore[operator]
        odd = next((each for each in stays if re.match(r"\d+\.", each)), None)
        if odd is not None:
            raise UnsupportedError(f"{FILE}: {key} names {printable(odd)}: of which layers, its number does not say")
    return new


def _renamed(value: list[Any], layers: LayerMap) -> list[Any]:
    found = field_rules.apply("layer_names", "names", value, layers)
    return found if isinstance(found, list) else []
