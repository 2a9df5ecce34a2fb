"""What nobody can tell of an architecture without rules: where a drop might change what is kept, it is refused. Pure.

Names and counts show which tensors are layers, not what a loader makes of their numbers. Each doubt names its way out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rewriter.architectures.lookup import Stack, table_of
from rewriter.architectures.metadata_fields import GENERIC_DOUBTS
from rewriter.checkpoint import Checkpoint, LayerMap
from rewriter.errors import UnsupportedError, printable
from rewriter.planning.metadata.edits import is_unrelated, option_spelling, rules_by_key, unruled_fields
from rewriter.planning.model import Model
from rewriter.planning.tensor_renaming import linear_widths

# in the names of numbers of layers
_OF_LAYERS = re.compile(
    r"layer|block|depth|every|period|interval|freq|pattern|types|first|last|start|skip|reuse|dense|idx|indice|_at$"
)
_NUMBERS = re.compile(r"[0-9]{1,6}([-,;:/ ]+[0-9]{1,6})*")
_LETTERS = re.compile(r"[A-Z0-9*|_-]+")
# What a field that follows by a rule says of layer `at` of `count`.
_SAID: dict[str, Callable[[Any, int, int], object]] = {
    "per_layer": lambda value, at, count: value[at],
    "scalar_or_per_layer": lambda value, at, count: value[at] if isinstance(value, list | tuple) else None,
    "per_layer_and_more": lambda value, at, count: value[at],
    "layer_indexes": lambda value, at, count: at in value,
    "one_based_indexes": lambda value, at, count: at + 1 in value,
    "leading_count": lambda value, at, count: at < value,
    "trailing_count": lambda value, at, count: at >= count - value,
    "period": lambda value, at, count: value[at] if isinstance(value, list | tuple) else at % max(1, value),
    "last_index": lambda value, at, count: at <= value,
}


def check_unknown_architecture(model: Model, layers: LayerMap) -> None:
    """Raise UnsupportedError for a drop that may be wrong for all that the checkpoint says."""
    _refuse_windows(model)
    rules = rules_by_key(model)
    widths = linear_widths(model)
    _refuse_broken_chain(model.stack, layers, widths)
    _refuse_shifted_kinds(model, layers, rules, bool(widths))
    _refuse_numbers(model, rules)


def _refuse_windows(model: Model) -> None:
    """Which layers a window is for, unless the metadata says it."""
    name, list_name = GENERIC_DOUBTS[table_of(model.checkpoint)]
    key, value = model.key(name), model.metadata.get(model.key(name))
    off = model.metadata.get(model.key("use_sliding_window")) is False
    said = model.metadata.get(model.key(list_name)) is not None or {name, key} & set(model.options.keep_fields)
    if value and not off and not said:
        raise UnsupportedError(
            f"{name} is set and no {list_name} says which layers have that window; if all have it, --keep-field {name}"
        )


def _refuse_broken_chain(stack: Stack, layers: LayerMap, widths: list[tuple[int, int]]) -> None:
    """Bare linear layers (a multilayer perceptron) feed each other: what follows a drop must take what comes in."""
    if not widths:
        return
    inside = [first for first, _ in widths] + [widths[-1][1]]  # what goes into each layer, and what comes out at last
    for new, old in enumerate((*layers.kept, stack.count)):
        before = layers.kept[new - 1] + 1 if new else 0
        if inside[old] != inside[before]:
            raise UnsupportedError(
                f"{printable(stack.prefix)}N are linear layers one after the other: without {before} to {old - 1} "
                f"a width of {inside[before]} would meet one of {inside[old]}"
            )


def _refuse_shifted_kinds(model: Model, layers: LayerMap, rules: dict[str, str], chained: bool) -> None:
    """Layers that hold different tensors differ by a rule: without a field that says which, it is the number."""
    if "stage_names" in model.metadata:
        raise UnsupportedError(
            "this is a backbone (stage_names): without rules its stages cannot follow; --architecture takes rules"
        )
    shapes: list[dict[str, tuple[int, ...]]] = [{} for _ in range(layers.count)]
    for tensor in model.checkpoint.tensors:
        layer = model.stack.layer_of(tensor.name)
        if layer is not None and layer < layers.count:
            shapes[layer][model.stack.after(tensor.name, layer)] = tensor.shape
    said = [_said_of(model.checkpoint, rules, layer, layers.count) for layer in range(layers.count)]
    shaped = bool(model.metadata) and not chained  # whoever reads bare weights takes their shapes from them
    for what, all_of in (("other tensors", dict.keys), ("tensors of other shapes", dict.items))[: 1 + shaped]:
        kinds = [frozenset(all_of(held)) for held in shapes]
        changed = next((new for new, old in enumerate(layers.main) if kinds[old] != kinds[new]), None)
        if changed is not None and len(set(zip(said, kinds, strict=True))) > len(set(said)):
            raise UnsupportedError(
                f"layer {layers.main[changed]} would become layer {changed}, which holds {what}, and no field of the "
                "metadata says which layers hold what; --architecture takes rules that do"
            )


def _said_of(checkpoint: Checkpoint, rules: dict[str, str], layer: int, count: int) -> str:
    """All that the metadata says of one layer: those of which it says the same must be of the same kind."""
    said = ((key, _SAID.get(rule), checkpoint.metadata.get(key)) for key, rule in rules.items())
    with suppress(TypeError, IndexError):  # what does not fit is refused where the rule is applied
        return repr([(key, says(value, layer, count)) for key, says, value in said if says and value is not None])
    return ""


def _refuse_numbers(model: Model, rules: dict[str, str]) -> None:
    """What may say which layers differ: how many come first, every how many, which numbers, a letter for each."""
    counts = {model.stack.count_key, *model.stack.aliases, *model.stack.echoes}
    found = [
        (option_spelling(model, name), value)
        for name, value in unruled_fields(model, rules).items()
        if _is_letters(value, model.stack.count) or (_OF_LAYERS.search(name) and _may_number(value, model.stack.count))
        if not (model.key(name) in counts or is_unrelated(name) or _has_type_of_its_own(model, name))
    ]
    if found:
        (name, value), *more = found
        raise UnsupportedError(
            f"{name} is {printable(value)}: that may say which of the {model.stack.count} layers differ, and no rule "
            f"says how it "
            f"follows: --keep-field {name} leaves it, --architecture takes a rule"
            + (f"; so may {', '.join(name for name, _ in more)}" if more else "")
        )


def _may_number(value: object, count: int) -> bool:
    """Whether a value can hold layer numbers, from either end, or words for layers that are repeated over them."""
    if isinstance(value, list | tuple):
        words = len(value) > 0 and all(isinstance(entry, str) for entry in value)
        return words or (len(value) > 0 and all(_may_number(entry, count) or entry == 0 for entry in value))
    if isinstance(value, str):
        numbers = [int(number) for number in re.findall(r"[0-9]+", value)] if _NUMBERS.fullmatch(value) else []
        return bool(numbers) and max(numbers) <= count
    return isinstance(value, int) and not isinstance(value, bool) and 0 < abs(value) <= count


def _is_letters(value: object, count: int) -> bool:
    """Whether a text has a letter for each layer, as in LLLG."""
    return isinstance(value, str) and len(value) == count > 1 and _LETTERS.fullmatch(value) is not None


def _has_type_of_its_own(model: Model, name: str) -> bool:
    """Whether a field belongs to a nested config that is a model of its own."""
    nested, dot, _ = model.key(name).rpartition(".")
    return bool(dot) and nested != model.stack.scope and f"{nested}.model_type" in model.metadata
