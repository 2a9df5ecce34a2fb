"""What a page must know to judge every choice of layers by itself: the limits of a stack, its weights, its warnings.

choosing.js is the other half. Law: where `doubt` is empty, it allows, refuses and warns as `make_plan` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields as members
from dataclasses import replace
from typing import Any

from rewriter.architectures.lookup import Stack
from rewriter.architectures.schema import Architecture, Pattern
from rewriter.checkpoint import Checkpoint, LayerMap
from rewriter.errors import CheckpointError, RewriterError, UnsupportedError
from rewriter.planning.constraints.constraint import SEARCHED, Bound, broken, nearest
from rewriter.planning.metadata import field_rules
from rewriter.planning.metadata.edits import rules_by_key, with_list_defaults
from rewriter.planning.metadata.layer_patterns import common_period, unlisted
from rewriter.planning.metadata.quantization_config import has_expressions
from rewriter.planning.options import PlanOptions, default_protection
from rewriter.planning.plan import Plan, guessed, make_plan, possible_warnings, selection_bounds
from rewriter.report.size_model import Fate, weights

_PAGE = 4096  # bytes by which the padding in a file may differ
_HEADER = 24  # bytes by which what a header says of a tensor may differ: digits of its name and place
_RECORD = 64  # bytes that a layer may take in the record of the run, and in lists with an entry for each


def choices(
    checkpoint: Checkpoint,
    architecture: Architecture,
    stacks: tuple[Stack, ...],
    stack: Stack,
    options: PlanOptions,
    size_of: Callable[[Plan], int],
) -> dict[str, Any]:
    """Everything that decides about the layers of `stack`, which `options` name, as JSON values.

    `size_of` gives the bytes of all files of a plan's output. Raises CheckpointError for a damaged file.
    """
    known = with_list_defaults(checkpoint, stack)
    bounds = selection_bounds(checkpoint, stacks, stack, replace(options, strict=True))
    late = tuple(_by_fields(known, stacks, stack, options))
    plans, refusals = _tried(checkpoint, stack, (*bounds, *late), options)
    return {
        "layers": stack.count,
        "predictions": stack.mtp_layers,
        "refused": refusals[0] if refusals and len(plans) < 2 else "",
        "doubt": _doubt(checkpoint, options) or (refusals[0] if refusals else ""),
        "bounds": [_stated(bound, Bound("")) for bound in bounds],
        "late": [_stated(bound, Bound("")) for bound in late],
        "patterns": [_pattern(*each) for each in unlisted(known, stack)],
        "period": common_period(known, stack),
        "searched": SEARCHED,
        "warnings": list(possible_warnings(known, architecture, stacks, stack, options)),
        "protected": default_protection(stack.count),
        "weights": [
            {**_stated(fate, Fate()), "weighs": [weight.tensors, weight.parameters, weight.nbytes]}
            for fate, weight in weights(known, stack).items()
        ],
        "rest": _rest(checkpoint, stack, plans, size_of),
    }


def _stated(value: Bound | Fate, default: Bound | Fate) -> dict[str, Any]:
    """The members that differ from the default."""
    found = {member.name: getattr(value, member.name) for member in members(value)}
    return {
        name: sorted(item) if isinstance(item, frozenset) else item
        for name, item in found.items()
        if item != getattr(default, name)
    }


def _by_fields(
    checkpoint: Checkpoint, stacks: tuple[Stack, ...], stack: Stack, options: PlanOptions
) -> Iterator[Bound]:
    """What the rules of fields refuse: a layer that a field names alone, hidden states that would fall together."""
    every = range(stack.count + stack.mtp_layers)
    for key, rule in _rules(checkpoint, stacks, stack, options).items():
        value = checkpoint.metadata[key]
        for layer in range(stack.count) if rule in ("names_within", "layer_names") else ():
            why = _refused(stack, key, rule, value, tuple(each for each in every if each != layer))
            yield from (Bound(each, stay=frozenset((layer,))) for each in why)
        listed = value if rule == "apart_states" and isinstance(value, list | tuple) else ()
        for sign in (False, True):
            states = {state % (stack.count + 1) for state in listed if type(state) is int and (state < 0) == sign}
            tries = (_refused(stack, key, rule, value, (layer,)) for layer in (0, stack.count - 1))
            yield from (Bound(each, apart=tuple(sorted(states))) for why in tries for each in why if states)


def _refused(stack: Stack, key: str, rule: str, value: object, kept: tuple[int, ...]) -> list[str]:
    """Why the rule refuses that only `kept` stay, if it does."""
    try:
        field_rules.apply(
            rule, key, value, LayerMap(stack.name, kept, stack.count, (stack.prefix, *stack.entry.prefixes))
        )
    except UnsupportedError as error:
        return [str(error)]
    except CheckpointError:
        return []  # the first plan says so
    return []


def _rules(checkpoint: Checkpoint, stacks: tuple[Stack, ...], stack: Stack, options: PlanOptions) -> dict[str, str]:
    """Key -> rule; nothing where an option is about a field that is not there: the first plan says so."""
    try:
        return rules_by_key(checkpoint, stacks, stack, options)
    except RewriterError:
        return {}


def _tried(
    checkpoint: Checkpoint, stack: Stack, bounds: tuple[Bound, ...], options: PlanOptions
) -> tuple[list[Plan], list[str]]:
    """The plan that drops nothing, some that drop little and much; and what was refused that no bound forbids."""
    plans: list[Plan] = []
    refusals: list[str] = []
    for kept in (tuple(range(stack.count)), *_tries(checkpoint, stack, bounds)):
        try:
            plans.append(make_plan(checkpoint, kept, options))
        except RewriterError as error:
            refusals.append(str(error))
            if not plans:
                break
    return plans, refusals


def _tries(checkpoint: Checkpoint, stack: Stack, bounds: tuple[Bound, ...]) -> list[tuple[int, ...]]:
    """Selections that no bound forbids: without one layer, and with as few as can be."""
    count = stack.count
    hard = (*(bound for bound in bounds if not bound.soft), Bound("", period=common_period(checkpoint, stack)))
    wishes = [tuple(layer for layer in range(count) if layer != gone) for gone in (count - 1, count // 2)] + [(0,)]
    if count > SEARCHED:
        return [kept for kept in wishes if broken(hard, kept, count) is None]
    return list(dict.fromkeys(kept for wish in wishes for kept in nearest(hard, wish, count, 1))) if count > 1 else []


def _doubt(checkpoint: Checkpoint, options: PlanOptions) -> str:
    """What only a plan can tell."""
    if guessed(checkpoint, options):
        return "nobody has described this architecture"
    if has_expressions(checkpoint, options):
        return "expressions in the quantisation settings may come to mean other layers"
    return ""


def _pattern(kinds: tuple[object, ...], pattern: Pattern, offset: int | None) -> dict[str, Any]:
    """A pattern that the loader knows by period and offset alone: 1 are the special layers, 0 the others."""
    numbers = {repr(pattern.special): 1, repr(pattern.other): 0}
    for kind in (*pattern.head, *kinds):
        numbers.setdefault(repr(kind), len(numbers))
    head, each = ([numbers[repr(kind)] for kind in listed] for listed in (pattern.head, kinds))
    return {"kinds": each, "head": head, "offset": offset}


def _rest(
    checkpoint: Checkpoint, stack: Stack, plans: list[Plan], size_of: Callable[[Plan], int]
) -> dict[str, int] | None:
    """What the files hold besides tensors, with all tensors and with the fewest, and how far off that may be."""
    if not plans:
        return None
    fewest = min(plans, key=lambda plan: len(plan.tensors))
    return {
        "most": len(plans[0].tensors),
        "with_most": size_of(plans[0]) - plans[0].nbytes,
        "fewest": len(fewest.tensors),
        "with_fewest": size_of(fewest) - fewest.nbytes,
        "slack": _PAGE * (1 + len(checkpoint.shards)) + _HEADER * len(checkpoint.tensors) + _RECORD * stack.count,
    }
