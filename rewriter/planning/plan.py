"""The plan: everything that a rewrite will do, as a value. Pure; a dry run prints the value that is executed.

Laws:
- A tensor is kept under its own name, kept under a new number, or dropped with its layer. Nothing else goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rewriter.architectures.lookup import Stack, find, generic, resolve, select, table_of
from rewriter.architectures.schema import Architecture
from rewriter.checkpoint import GGUF, Checkpoint, FieldEdit, LayerMap, Problem, TensorInfo
from rewriter.errors import CheckpointError, RequestError, UnsupportedError, printable
from rewriter.planning.constraints.constraint import SEARCHED, Bound, broken, nearest
from rewriter.planning.constraints.custom_rules import own_stacks
from rewriter.planning.constraints.limit_kinds import bound_for
from rewriter.planning.constraints.unknown_architecture import refuse_doubts
from rewriter.planning.layer_ranges import format_layers
from rewriter.planning.metadata import field_rules
from rewriter.planning.metadata.edits import (
    count_problems,
    metadata_edits,
    period_fields,
    rules_by_key,
    with_list_defaults,
)
from rewriter.planning.metadata.layer_patterns import (
    active_patterns,
    common_period,
    not_special,
    pattern_keys,
    pattern_list,
    unsolvable_period,
)
from rewriter.planning.metadata.quantization_config import refuse_unfollowed
from rewriter.planning.model_card import for_card
from rewriter.planning.options import PlanOptions
from rewriter.planning.provenance import Provenance, composed, origin_of
from rewriter.planning.tensor_renaming import TensorCopy, other_lists, tensor_copies

DROPPED, MOVED, FIRST = "{dropped}", "{moved}", "{first}"  # when a warning is said


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """What goes where. `stacks` are those of the source, `stack` the one that `layers` is about."""

    checkpoint: Checkpoint
    architecture: Architecture
    stacks: tuple[Stack, ...]
    stack: Stack
    layers: LayerMap
    tensors: tuple[TensorCopy, ...]
    edits: tuple[FieldEdit, ...]
    warnings: tuple[str, ...]
    provenance: Provenance | None
    options: PlanOptions

    def __repr__(self) -> str:
        return f"<Plan for {self.checkpoint.name!r}: stack {self.layers.stack}, keep {format_layers(self.layers.kept)}>"

    @property
    def parameters(self) -> int:
        """Stored elements that stay."""
        return sum(copy.tensor.parameters for copy in self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of tensor data that stay."""
        return sum(copy.tensor.nbytes for copy in self.tensors)

    @property
    def dropped(self) -> tuple[TensorInfo, ...]:
        """The tensors that go."""
        kept = {copy.tensor.name for copy in self.tensors}
        return tuple(tensor for tensor in self.checkpoint.tensors if tensor.name not in kept)


def open_stacks(checkpoint: Checkpoint, options: PlanOptions) -> tuple[Architecture, tuple[Stack, ...]]:
    """The architecture and its stacks: the user's own, else from the tables, else with `generic` from the checkpoint.

    Raises UnsupportedError where there is none, CheckpointError where tensors and entry contradict each other.
    """
    if checkpoint.companion:
        raise UnsupportedError(
            f"{printable(checkpoint.name)} is no model ({checkpoint.companion}): it has no layers of its own and "
            "follows those of a model, see rewriter apply"
        )
    if options.architecture is not None:
        return own_stacks(checkpoint, options.architecture)
    architecture = find(checkpoint)
    if architecture is None and options.generic:
        architecture = generic(checkpoint)
    if architecture is None:
        raise UnsupportedError(_unknown(checkpoint))
    return architecture, resolve(checkpoint, architecture)


def guessed(checkpoint: Checkpoint, options: PlanOptions) -> bool:
    """Whether nobody has said what this architecture's loader does: `generic` went by names and counts."""
    return options.architecture is None and find(checkpoint) is None


def _unknown(checkpoint: Checkpoint) -> str:
    if not checkpoint.architecture and checkpoint.format == GGUF:
        return "no general.architecture says what these tensors are; --generic goes by the tensor names alone"
    if not checkpoint.architecture:
        return (
            "no config.json says what these tensors are; put it beside the file, or give --generic to go by the "
            "tensor names alone"
        )
    return (
        f"there are no rules for architecture {printable(checkpoint.architecture)!r} (rewriter list "
        f"architectures shows "
        "those there are); --generic tries it by its tensor names and its layer count, --architecture takes rules"
    )


def make_plan(checkpoint: Checkpoint, keep: Iterable[int], options: PlanOptions | None = None) -> Plan:
    """Return the plan that keeps the layers `keep` (numbers from 0) of one stack and drops the others.

    Raises RequestError for layers that are not there, CheckpointError when metadata and tensors disagree,
    UnsupportedError when the kept layers could not all behave as before.
    """
    options = options or PlanOptions()
    if options.architecture is None:
        return _planned(checkpoint, keep, options)
    try:
        return _planned(checkpoint, keep, options)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the entry {printable(options.architecture.name)} has a wrong value: {printable(error)}"
        ) from None


def _planned(checkpoint: Checkpoint, keep: Iterable[int], options: PlanOptions) -> Plan:
    architecture, stacks = open_stacks(checkpoint, options)
    stack = select(stacks, options.stack)
    options = _canonical(checkpoint, stack, options)
    known = with_list_defaults(checkpoint, stack)
    layers, overruled = allowed_layers(known, stacks, stack, keep, options)
    options = for_card(checkpoint, layers, options)
    edits = tuple(_as_stated(checkpoint, edit) for edit in metadata_edits(known, stacks, stack, layers, options))
    warnings = (*overruled, *_warnings(known, architecture, stacks, stack, layers, options))
    if warnings and options.strict:
        raise UnsupportedError(f"{warnings[0]}; --strict refuses that")
    tensors = tuple(tensor_copies(known, stack, layers))
    plan = Plan(checkpoint, architecture, stacks, stack, layers, tensors, edits, warnings, None, options)
    return replace(plan, provenance=_provenance(plan)) if options.provenance else plan


def _as_stated(checkpoint: Checkpoint, edit: FieldEdit) -> FieldEdit:
    """A list that only the loader had in mind was not there before."""
    return edit if _whole_key(edit) in checkpoint.metadata else replace(edit, before=None)


def _canonical(checkpoint: Checkpoint, stack: Stack, options: PlanOptions) -> PlanOptions:
    """`options` written one way only: equal plans must give equal bytes."""
    lists = (
        tuple(sorted({name if name in checkpoint.metadata else stack.key(name) for name in names}))
        for names in (options.keep_fields, options.per_layer_fields)
    )
    keep_fields, per_layer_fields = lists
    return replace(options, stack=stack.name, keep_fields=keep_fields, per_layer_fields=per_layer_fields)


def allowed_layers(
    checkpoint: Checkpoint, stacks: tuple[Stack, ...], stack: Stack, keep: Iterable[int], options: PlanOptions
) -> tuple[LayerMap, tuple[str, ...]]:
    """The layers to keep, and what was overruled. Raises UnsupportedError, naming selections that would work."""
    layers = _layer_map(stack, keep, options)
    if layers.dropped and table_of(checkpoint) != GGUF:
        refuse_unfollowed(checkpoint, stack, layers, options)
    if guessed(checkpoint, options) and layers.dropped:
        refuse_doubts(checkpoint, stacks, stack, layers, options)
    bounds = stack_bounds(checkpoint, stacks, stack, layers)
    soft = tuple(bound.why for bound in bounds if bound.soft and broken((bound,), layers.main, stack.count))
    bounds = tuple(bound for bound in bounds if not bound.soft)
    bound = broken(bounds, layers.main, stack.count)
    if bound is None:
        return layers, soft
    sure = Bound("", period=common_period(checkpoint, stack))
    search = not bound.never and stack.count <= SEARCHED
    others = nearest((*bounds, sure), layers.main, stack.count) if search else []
    if options.align and others:
        return _layer_map(stack, (*others[0], *layers.kept[len(layers.main) :]), options), ()
    if options.force:
        return layers, (f"{bound.why}: written all the same (--force)", *soft)
    raise UnsupportedError(f"{bound.why}; {_alternatives(others, stack.count)}")


def _alternatives(others: list[tuple[int, ...]], count: int) -> str:
    if not others and count > SEARCHED:
        return f"among {count} layers no other drop was looked for"
    if not others:
        return "no drop avoids that"
    return f"this would work: {' or '.join(f'--keep {format_layers(kept)}' for kept in others)}"


def _layer_map(stack: Stack, keep: Iterable[int], options: PlanOptions | None = None) -> LayerMap:
    kept = tuple(sorted(set(keep)))
    if not all(type(number) is int for number in kept):
        raise RequestError(f"layers are numbers, not {printable(kept)}; parse_layers reads text such as 3,7-9")
    total = stack.count + stack.mtp_layers
    if kept and (kept[0] < 0 or kept[-1] >= total):
        raise RequestError(f"layers run from 0 to {total - 1} in stack {stack.name}, not {kept[0]} to {kept[-1]}")
    if not kept or kept[0] >= stack.count:
        raise RequestError("at least one layer must stay")
    if options and options.drop_mtp:
        kept = tuple(layer for layer in kept if layer < stack.count)
    elif kept[-1] < stack.count:
        kept = (*kept, *range(stack.count, total))  # MTP layers stay unless somebody says otherwise
    prefixes = (stack.prefix, *stack.entry.prefixes)
    return LayerMap(stack.name, kept, stack.count, prefixes, stack.mtp_layers)


def stack_bounds(
    checkpoint: Checkpoint, stacks: tuple[Stack, ...], stack: Stack, layers: LayerMap
) -> tuple[Bound, ...]:
    """Everything that limits which layers of `stack` may go."""
    bounds = [bound_for(limit, checkpoint, stack, stacks) for limit in stack.entry.limits]
    for key, rule in period_fields(checkpoint, stack).items():
        bounds.append(Bound(f"{key} makes every {rule} layers a pattern that no list can replace", period=rule))
    bounds += [
        Bound(pattern.never_all, one_of=others)
        for pattern in active_patterns(checkpoint, stack)
        if pattern.never_all and (others := not_special(checkpoint, stack, pattern))
    ]
    step = unsolvable_period(checkpoint, stack, layers)
    if step > 1:
        bounds.append(Bound(f"the loader knows only periods, of {step} together, and no others fit", period=step))
    return tuple(bounds)


def selection_bounds(
    checkpoint: Checkpoint, stacks: tuple[Stack, ...], stack: Stack, options: PlanOptions
) -> tuple[Bound, ...]:
    """What limits every selection of layers of `stack`, whichever it is."""
    known = with_list_defaults(checkpoint, stack)
    bounds = stack_bounds(known, stacks, stack, _layer_map(stack, range(stack.count)))
    return tuple(bound for bound in bounds if options.strict or not bound.soft)


def _warnings(
    checkpoint: Checkpoint,
    architecture: Architecture,
    stacks: tuple[Stack, ...],
    stack: Stack,
    layers: LayerMap,
    options: PlanOptions,
) -> Iterator[str]:
    moved = layers.main != tuple(range(len(layers.main)))
    is_so = {DROPPED: bool(layers.dropped), MOVED: moved, FIRST: layers.main[0] > 0}
    for case, text in possible_warnings(checkpoint, architecture, stacks, stack, options):
        if is_so[case]:
            yield text.replace(FIRST, str(layers.main[0]))


def possible_warnings(
    checkpoint: Checkpoint, architecture: Architecture, stacks: tuple[Stack, ...], stack: Stack, options: PlanOptions
) -> Iterator[tuple[str, str]]:
    """When, and what is then said: DROPPED once a layer goes, MOVED once one gets another number, FIRST once another
    one becomes the first; its number belongs where the text says FIRST.
    """
    if guessed(checkpoint, options):
        text = (
            f"no rules for architecture {printable(architecture.name)!r}: went by its tensor names and layer "
            f"count; what "
            "its loader derives from layer numbers would shift, so compare what the result computes"
        )
        yield DROPPED, text
    for key, meaning in architecture.warnings:
        if not key or checkpoint.value(stack.key(key)):
            yield MOVED, f"{f'{key} is set: ' if key else ''}{meaning}"
    if stack.entry.absent_in_first:
        lost = ", ".join(stack.entry.absent_in_first)
        yield FIRST, f"layer {FIRST} becomes the first, which has no {lost}: what it computes changes a little"
    for text in other_lists(checkpoint, stacks, stack, _layer_map(stack, range(stack.count))):
        yield DROPPED, text


def problems(checkpoint: Checkpoint, options: PlanOptions) -> tuple[Problem, ...]:
    """What in the metadata contradicts the tensors, all of it. Raises like make_plan where nothing can be said."""
    if checkpoint.companion:
        return ()
    _, stacks = open_stacks(checkpoint, options)
    found = list(count_problems(checkpoint, stacks))
    for stack in stacks:
        layers = _layer_map(stack, range(stack.count))
        for key, rule in rules_by_key(checkpoint, stacks, stack, options).items():
            try:
                field_rules.apply(rule, key, checkpoint.metadata[key], layers)
            except CheckpointError as error:
                found.append(Problem(printable(key, 80), f"a value for {stack.count} layers", str(error)))
    return tuple(dict.fromkeys(found))


def _provenance(plan: Plan) -> Provenance:
    checkpoint = plan.checkpoint
    origin = composed(origin_of(checkpoint), plan.layers)
    return Provenance(
        checkpoint.name, checkpoint.header_sha256, plan.layers, plan.options, plan.edits, plan.warnings, origin
    )


def result(plan: Plan) -> Checkpoint:
    """The checkpoint that the plan makes, as a value: its tensors still lie in the source's files."""
    tensors = tuple(
        copy.tensor if copy.name == copy.tensor.name else copy.tensor._replace(name=copy.name) for copy in plan.tensors
    )
    metadata = dict(plan.checkpoint.metadata)
    for edit in plan.edits:
        key = _whole_key(edit)
        if isinstance(edit.before, dict):  # its members have other keys now
            metadata = {name: value for name, value in metadata.items() if not name.startswith(key + ".")}
        metadata.update(_members(key, edit.after))
    return replace(plan.checkpoint, tensors=tensors, metadata=metadata)


def _members(key: str, value: object) -> Iterator[tuple[str, object]]:
    """A value and all that is inside it, by their whole keys, in which a name's own dots have a backslash."""
    yield key, value
    if isinstance(value, dict):
        for name, member in value.items():
            yield from _members(key + "." + name.replace(".", "\\."), member)


def _whole_key(edit: FieldEdit) -> str:
    return edit.key if edit.file in ("", "config.json") else f"{edit.file}:{edit.key}"


def effective(checkpoint: Checkpoint, options: PlanOptions) -> dict[str, object]:
    """The metadata with what each layer is in the place of how that is said: equal for two files that mean the same."""
    written = dict(checkpoint.metadata)
    for stack in () if checkpoint.companion else open_stacks(checkpoint, options)[1]:
        for pattern in active_patterns(checkpoint, stack):
            means = (*pattern_keys(pattern), *(name for name, _ in pattern.resets))
            for name in means:
                written.pop(stack.key(name), None)
            written[stack.key(pattern.explicit or pattern.period_keys[0])] = pattern_list(checkpoint, stack, pattern)
    return written
