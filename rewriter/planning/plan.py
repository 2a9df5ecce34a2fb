"""The plan: everything that a rewrite will do, as a value. Pure; a dry run prints the value that is executed.

Laws:
- A tensor is kept under its own name, kept under a new number, or dropped with its layer. Nothing else goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rewriter.architectures.lookup import Stack
from rewriter.checkpoint import Checkpoint, FieldEdit, LayerMap, Problem, TensorInfo
from rewriter.errors import CheckpointError, UnsupportedError, printable
from rewriter.planning.constraints.allowed_layers import allowed_layers
from rewriter.planning.layer_ranges import format_layers
from rewriter.planning.metadata import field_rules
from rewriter.planning.metadata.edits import count_problems, metadata_edits, rules_by_key, with_implied_lists
from rewriter.planning.metadata.layer_patterns import active_patterns, pattern_keys, pattern_list
from rewriter.planning.model import Model
from rewriter.planning.model_card import card_options
from rewriter.planning.open_model import entry_errors, open_model
from rewriter.planning.options import PlanOptions
from rewriter.planning.provenance import Provenance, composed, origin_of
from rewriter.planning.tensor_renaming import TensorCopy, tensor_copies, unknown_lists

DROPPED, MOVED, FIRST = "{dropped}", "{moved}", "{first}"  # when a warning is said


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """Which layers, tensors and metadata the output has. `layers` are those of the stack of `model`."""

    model: Model
    layers: LayerMap
    tensors: tuple[TensorCopy, ...]
    edits: tuple[FieldEdit, ...]
    warnings: tuple[str, ...]
    provenance: Provenance | None = None

    def __repr__(self) -> str:
        return f"<Plan for {self.checkpoint.name!r}: stack {self.layers.stack}, keep {format_layers(self.layers.kept)}>"

    @property
    def checkpoint(self) -> Checkpoint:
        """The source."""
        return self.model.checkpoint

    @property
    def stack(self) -> Stack:
        """The stack that `layers` belong to."""
        return self.model.stack

    @property
    def options(self) -> PlanOptions:
        """The options that it was made with, each written one way only."""
        return self.model.options

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


def make_plan(checkpoint: Checkpoint, keep: Iterable[int], options: PlanOptions | None = None) -> Plan:
    """Return the plan that keeps the layers `keep` (numbers from 0) of one stack and drops the others.

    Raises RequestError for layers that are not there, CheckpointError when metadata and tensors disagree,
    UnsupportedError when the kept layers could not all behave as before.
    """
    return plan_model(open_model(checkpoint, options), keep)


def plan_model(model: Model, keep: Iterable[int]) -> Plan:
    """As make_plan, for a model that is open already."""
    with entry_errors(model.options):
        model = _canonical(model)
        known = with_implied_lists(model)
        layers, overruled = allowed_layers(known, model.keep(keep))
        model = replace(model, options=card_options(model.checkpoint, layers, model.options))
        edits = tuple(_as_stated(model.checkpoint, edit) for edit in metadata_edits(known, layers))
        warnings = (*overruled, *_warnings(known, layers))
        if warnings and model.options.strict:
            raise UnsupportedError(f"{warnings[0]}; --strict refuses that")
        plan = Plan(model, layers, tuple(tensor_copies(known, layers)), edits, warnings)
        return replace(plan, provenance=_provenance(plan)) if model.options.provenance else plan


def _as_stated(checkpoint: Checkpoint, edit: FieldEdit) -> FieldEdit:
    """A list that only the loader had in mind was not there before."""
    return edit if _whole_key(edit) in checkpoint.metadata else replace(edit, before=None)


def _canonical(model: Model) -> Model:
    """`model` with its options written one way only: equal plans must give equal bytes."""
    keep_fields, per_layer_fields = (
        tuple(sorted({name if name in model.checkpoint.metadata else model.key(name) for name in names}))
        for names in (model.options.keep_fields, model.options.per_layer_fields)
    )
    return model.with_options(stack=model.stack.name, keep_fields=keep_fields, per_layer_fields=per_layer_fields)


def _warnings(model: Model, layers: LayerMap) -> Iterator[str]:
    moved = layers.main != tuple(range(len(layers.main)))
    is_so = {DROPPED: bool(layers.dropped), MOVED: moved, FIRST: layers.main[0] > 0}
    for case, text in warnings_by_case(model):
        if is_so[case]:
            yield text.replace(FIRST, str(layers.main[0]))


def warnings_by_case(model: Model) -> Iterator[tuple[str, str]]:
    """When, and what is then said: DROPPED once a layer goes, MOVED once one gets another number, FIRST once another
    one becomes the first; its number belongs where the text says FIRST.
    """
    entry = model.stack.entry
    if model.unknown:
        text = (
            f"no rules for architecture {printable(model.architecture.name)!r}: went by its tensor names and layer "
            "count; what its loader derives from layer numbers would shift, so compare what the result computes"
        )
        yield DROPPED, text
    for key, meaning in model.architecture.warnings:
        if not key or model.value(key):
            yield MOVED, f"{f'{key} is set: ' if key else ''}{meaning}"
    if entry.absent_in_first:
        lost = ", ".join(entry.absent_in_first)
        yield FIRST, f"layer {FIRST} becomes the first, which has no {lost}: what it computes changes a little"
    for text in unknown_lists(model):
        yield DROPPED, text


def find_problems(checkpoint: Checkpoint, options: PlanOptions) -> tuple[Problem, ...]:
    """What in the metadata contradicts the tensors, all of it. Raises like make_plan where nothing can be said."""
    if checkpoint.companion:
        return ()
    model = open_model(checkpoint, options)
    found = list(count_problems(model))
    for each in map(model.of, model.stacks):
        for key, rule in rules_by_key(each).items():
            try:
                field_rules.apply(rule, key, checkpoint.metadata[key], each.all_layers)
            except CheckpointError as error:
                found.append(Problem(printable(key, 80), f"a value for {each.stack.count} layers", str(error)))
    return tuple(dict.fromkeys(found))


def _provenance(plan: Plan) -> Provenance:
    checkpoint = plan.checkpoint
    origin = composed(origin_of(checkpoint), plan.layers)
    return Provenance(
        checkpoint.name, checkpoint.header_sha256, plan.layers, plan.options, plan.edits, plan.warnings, origin
    )


def planned_checkpoint(plan: Plan) -> Checkpoint:
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


def effective_metadata(checkpoint: Checkpoint, options: PlanOptions) -> dict[str, object]:
    """The metadata with what each layer is in the place of how that is said: equal for two files that mean the same."""
    written = dict(checkpoint.metadata)
    if checkpoint.companion:
        return written
    model = open_model(checkpoint, options)
    for each in map(model.of, model.stacks):
        for pattern in active_patterns(each):
            for name in (*pattern_keys(pattern), *(name for name, _ in pattern.resets)):
                written.pop(each.key(name), None)
            written[each.key(pattern.explicit or pattern.period_keys[0])] = pattern_list(each, pattern)
    return written
