"""The plan: everything that a rewrite will do, as a value. Pure; a dry run prints the value that is executed.

Laws:
- A tensor is kept under its own name, kept under a new number, or dropped with its layer. Nothing else goes.
- A field follows the layers by a rule from the tables. A list as long as the stack without a rule is an error:
  it may be one entry per layer, and then a file that still loads would compute something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rewriter import fields
from rewriter.architectures.entry import Architecture, Pattern
from rewriter.architectures.field_table import DEFAULT_FIELDS, NOT_ABOUT_LAYERS, OVERRIDDEN_BY, ROOT_FIELDS
from rewriter.architectures.stacks import Stack, find, generic, resolve, select, table_of
from rewriter.checkpoint import GGUF, Checkpoint, FieldEdit, LayerMap, LongArray, Problem, TensorInfo
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
    edits = tuple(_edits(checkpoint, stacks, stack, layers, options))
    _refuse_counts(stacks, stack, layers)
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


def _edits(
    checkpoint: Checkpoint, stacks: tuple[Stack, ...], stack: Stack, layers: LayerMap, options: Options
) -> Iterator[FieldEdit]:
    """Every change of the metadata: counts, then the fields under the stack's scope, then lists of names."""
    file = "" if checkpoint.format == GGUF else "config.json"
    for problem in _count_problems(checkpoint, stacks):
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
        key, after = stack.key(pattern.explicit), _written_out(checkpoint, stack, layers, pattern)
        if after is not None:
            yield FieldEdit(key, checkpoint.metadata.get(key), after, "period", file)


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


def _count_problems(checkpoint: Checkpoint, stacks: Iterable[Stack]) -> Iterator[Problem]:
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
    rules = {key: rule for key, name in own.items() if (rule := _rule(checkpoint, stack, key, name))}
    rules |= asked
    for key, name in own.items():
        if key not in rules and _as_long(checkpoint.metadata[key], stack) and not _is_apart(name):
            raise UnsupportedError(
                f"{shown(key, 80)} has one entry for each of the {stack.count} layers, or as many by chance, and no "
                f"rule says which: --per-layer-field {shown(key, 80)} cuts it, --keep-field {shown(key, 80)} leaves it"
            )
    root = {key: rule for key, rule in ROOT_FIELDS[table_of(checkpoint)].items() if key in checkpoint.metadata}
    return {**{key: rule for key, rule in rules.items() if rule != "keep"}, **root}


def _asked(checkpoint: Checkpoint, stack: Stack, names: tuple[str, ...], rule: str) -> dict[str, str]:
    keys = {}
    for name in names:
        key = name if name in checkpoint.metadata else stack.key(name)
        if key not in checkpoint.metadata:
            raise RequestError(f"there is no field {shown(name, 80)!r} in the metadata")
        keys[key] = rule
    return keys


def _in_scope(key: str, stack: Stack, elsewhere: tuple[str, ...]) -> bool:
    inside = not stack.scope or key.startswith(stack.scope + ".")
    return inside and not any(key.startswith(scope + ".") for scope in elsewhere)


def _rule(checkpoint: Checkpoint, stack: Stack, key: str, name: str) -> str:
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


def _written_out(checkpoint: Checkpoint, stack: Stack, layers: LayerMap, pattern: Pattern) -> list[object] | None:
    """The explicit list that the kept layers need, or None where the loader's own pattern still gives it."""
    if _is_list(checkpoint, stack, pattern.explicit):
        return None
    period = _period(checkpoint, stack, pattern)
    wanted = [pattern.value(old, period) for old in layers.kept]
    implied = [pattern.value(new, period) for new in range(len(layers.kept))]
    return wanted if wanted != implied else None


def _period(checkpoint: Checkpoint, stack: Stack, pattern: Pattern) -> int:
    stated = (checkpoint.metadata.get(stack.key(key)) for key in pattern.period_keys)
    period = next((value for value in stated if value is not None), pattern.default)
    if isinstance(period, bool) or not isinstance(period, int) or period < 0:
        raise CheckpointError(f"{shown(stack.key(pattern.period_keys[0]), 80)}: {shown(period)} is not a period")
    return period


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


def _warnings(checkpoint: Checkpoint, architecture: Architecture, stack: Stack, layers: LayerMap) -> Iterator[str]:
    moved = layers.kept != tuple(range(len(layers.kept)))
    for key, meaning in architecture.warn_fields:
        if moved and checkpoint.metadata.get(stack.key(key)):
            yield f"{key} is set: {meaning}, so the kept layers compute something slightly different"


def problems(checkpoint: Checkpoint, options: Options) -> tuple[Problem, ...]:
    """What in the metadata contradicts the tensors, all of it. Raises like make_plan where nothing can be said."""
    _, stacks = open_stacks(checkpoint, options)
    found = list(_count_problems(checkpoint, stacks))
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
            key = stack.key(pattern.explicit)
            if not isinstance(written.get(key), list | tuple):
                period = _period(checkpoint, stack, pattern)
                written[key] = tuple(pattern.value(layer, period) for layer in range(stack.count))
            written[key] = tuple(written[key])  # type: ignore[arg-type]
    return written
