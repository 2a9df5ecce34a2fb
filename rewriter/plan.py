"""The plan: everything that a rewrite will do, as a value. Pure; a dry run prints the value that is executed.

Laws:
- A tensor is kept under its own name, kept under a new number, or dropped with its layer. Nothing else goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rewriter import fields
from rewriter.architectures.entry import Architecture
from rewriter.architectures.field_table import GENERIC_DOUBTS
from rewriter.architectures.stacks import Stack, find, generic, resolve, select, table_of
from rewriter.checkpoint import Checkpoint, FieldEdit, LayerMap, Problem, TensorInfo
from rewriter.edits import count_problems, field_rules, metadata_edits, pattern_list
from rewriter.errors import CheckpointError, RequestError, UnsupportedError, shown
from rewriter.provenance import Provenance, composed, origin_of
from rewriter.selection import Options


@dataclass(frozen=True, slots=True)
class TensorCopy:
    """A tensor that stays, and what it is called in the output."""

    tensor: TensorInfo
    name: str


@dataclass(frozen=True, slots=True)
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
    options: Options

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


def open_stacks(checkpoint: Checkpoint, options: Options) -> tuple[Architecture, tuple[Stack, ...]]:
    """The architecture and its stacks, from the tables or with `generic` from the checkpoint itself."""
    architecture = find(checkpoint)
    if architecture is None and options.generic:
        architecture = generic(checkpoint)
    if architecture is None:
        raise UnsupportedError(_unknown(checkpoint))
    return architecture, resolve(checkpoint, architecture)


def _unknown(checkpoint: Checkpoint) -> str:
    if not checkpoint.architecture:
        return (
            "no config.json says what these tensors are; put it beside the file, or give --generic to go by the "
            "tensor names alone"
        )
    return (
        f"there are no rules for architecture {shown(checkpoint.architecture)!r} (rewriter list architectures shows "
        "those there are); --generic tries it by its tensor names and its layer count"
    )


def make_plan(checkpoint: Checkpoint, keep: Iterable[int], options: Options | None = None) -> Plan:
    """Return the plan that keeps the layers `keep` (numbers from 0) of one stack and drops the others.

    Raises RequestError for layers that are not there, CheckpointError when metadata and tensors disagree,
    UnsupportedError when the kept layers could not all behave as before.
    """
    options = options or Options()
    architecture, stacks = open_stacks(checkpoint, options)
    stack = select(stacks, options.stack)
    layers = _layer_map(stack, keep)
    edits = tuple(metadata_edits(checkpoint, stacks, stack, layers, options))
    _refuse_counts(stacks, stack, layers)
    if find(checkpoint) is None and layers.dropped:
        _refuse_doubts(checkpoint, stack, options)
    warnings = tuple(_warnings(checkpoint, architecture, stack, layers))
    plan = Plan(
        checkpoint, architecture, stacks, stack, layers, tuple(_copies(checkpoint, stack, layers)), edits, warnings,
        None, options,
    )  # fmt: skip
    return replace(plan, provenance=_provenance(plan)) if options.provenance else plan


def _layer_map(stack: Stack, keep: Iterable[int]) -> LayerMap:
    kept = tuple(sorted(set(keep)))
    if not kept:
        raise RequestError("at least one layer must stay")
    if kept[0] < 0 or kept[-1] >= stack.count:
        raise RequestError(f"layers run from 0 to {stack.count - 1} in stack {stack.name}, not {kept[0]} to {kept[-1]}")
    return LayerMap(stack.name, kept, stack.count, (stack.prefix, *stack.entry.prefixes))


def _copies(checkpoint: Checkpoint, stack: Stack, layers: LayerMap) -> Iterator[TensorCopy]:
    numbers = layers.numbers
    orphans = _orphans(checkpoint, stack, layers)
    for tensor in checkpoint.tensors:
        old = stack.layer_of(tensor.name)
        new = numbers.get(old) if old is not None else None
        if old is None:
            yield TensorCopy(tensor, tensor.name)
        elif new is not None or tensor.name in orphans:
            rest = tensor.name[len(f"{stack.prefix}{old}") :]
            yield TensorCopy(tensor, f"{stack.prefix}{new or 0}{rest}")


def _orphans(checkpoint: Checkpoint, stack: Stack, layers: LayerMap) -> frozenset[str]:
    """Tensors of a dropped layer 0 that all layers use: they move to the new layer 0, unless it has its own."""
    names = {tensor.name for tensor in checkpoint.tensors} if stack.entry.first_layer_only else set()
    first = layers.kept[0]
    return frozenset(
        f"{stack.prefix}0.{rest}"
        for rest in stack.entry.first_layer_only
        if first and f"{stack.prefix}{first}.{rest}" not in names
    )


def _refuse_counts(stacks: tuple[Stack, ...], stack: Stack, layers: LayerMap) -> None:
    """Layer counts from which a loader concludes something else than a layer count."""
    new, old = len(layers.kept), layers.count
    for special in stack.entry.exact_counts:
        if new != old and special in (new, old):
            raise UnsupportedError(
                f"the loader computes attention differently for exactly {special} layers, so {old} cannot become {new}"
            )
    for other in stacks:
        if other.name == stack.entry.at_least and new < other.count:
            raise UnsupportedError(
                f"the loader needs at least as many layers in {stack.name} as in {other.name}: keep {other.count} or "
                f"more, or prune --stack {other.name} first"
            )


def _refuse_doubts(checkpoint: Checkpoint, stack: Stack, options: Options) -> None:
    """Without rules nobody knows which layers a window is for, unless the metadata says it."""
    name, list_name = GENERIC_DOUBTS[table_of(checkpoint)]
    key, value = stack.key(name), checkpoint.metadata.get(stack.key(name))
    off = checkpoint.metadata.get(stack.key("use_sliding_window")) is False
    said = checkpoint.metadata.get(stack.key(list_name)) is not None or {name, key} & set(options.keep_fields)
    if value and not off and not said:
        raise UnsupportedError(
            f"{name} is set and no {list_name} says which layers have that window; if all have it, --keep-field {name}"
        )


def _warnings(checkpoint: Checkpoint, architecture: Architecture, stack: Stack, layers: LayerMap) -> Iterator[str]:
    if find(checkpoint) is None and layers.dropped:
        yield (
            f"no rules for architecture {shown(architecture.name)!r}: went by its tensor names and layer count; what "
            "its loader derives from layer numbers would shift, so compare what the result computes"
        )
    moved = layers.kept != tuple(range(len(layers.kept)))
    for key, meaning in architecture.warn_fields:
        if moved and checkpoint.metadata.get(stack.key(key)):
            yield f"{key} is set: {meaning}, so the kept layers compute something slightly different"


def problems(checkpoint: Checkpoint, options: Options) -> tuple[Problem, ...]:
    """What in the metadata contradicts the tensors, all of it. Raises like make_plan where nothing can be said."""
    _, stacks = open_stacks(checkpoint, options)
    found = list(count_problems(checkpoint, stacks))
    for stack in stacks:
        layers = _layer_map(stack, range(stack.count))
        for key, rule in field_rules(checkpoint, stacks, stack, options).items():
            try:
                fields.apply(rule, key, checkpoint.metadata[key], layers)
            except CheckpointError as error:
                found.append(Problem(shown(key, 80), f"a value for {stack.count} layers", str(error)))
    return tuple(dict.fromkeys(found))


def _provenance(plan: Plan) -> Provenance:
    checkpoint = plan.checkpoint
    origin = composed(origin_of(checkpoint), plan.layers)
    return Provenance(
        checkpoint.name, checkpoint.header_sha256, plan.layers, plan.options, plan.edits, plan.warnings, origin
    )


def result(plan: Plan) -> Checkpoint:
    """The checkpoint that the plan makes, as a value: its tensors still lie in the source's files."""
    tensors = tuple(replace(copy.tensor, name=copy.name) for copy in plan.tensors)
    metadata = {**plan.checkpoint.metadata, **{edit.key: edit.after for edit in plan.edits}}
    return replace(plan.checkpoint, tensors=tensors, metadata=metadata)


def effective(checkpoint: Checkpoint, options: Options) -> dict[str, object]:
    """The metadata with every implicit pattern written out: two files that mean the same are then equal."""
    written = dict(checkpoint.metadata)
    for stack in open_stacks(checkpoint, options)[1]:
        for pattern in stack.entry.patterns:
            written[stack.key(pattern.explicit)] = pattern_list(checkpoint, stack, pattern)
    return written
