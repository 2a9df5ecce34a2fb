"""What belongs to a model follows its layers: adapters, control vectors, importance matrices. Pure.

Laws:
- A tensor under a layer goes with it or follows its number; all others stay. A layer that the model does not have
  shows that the two do not belong together.
- llama.cpp adds `direction.N` of a control vector to what layer N puts out (llama_adapter_cvec). Layer 0 cannot have
  one, and one for the number after the last is never read: some tools write it, counting from 1.
- llama.cpp takes an adapter for the architecture that it names alone (llama_adapter_lora_init), a control vector for
  any. An importance matrix names tensors and no architecture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from rewriter.architectures.lookup import NOWHERE, Stack, entries, numbered_lists, table_of
from rewriter.architectures.schema import Architecture, SharedTensors, StackedTensor, StackRule
from rewriter.checkpoint import ADAPTER, CONTROL_VECTOR, GGUF, LORA, Checkpoint, FieldEdit, LayerMap, LongArray
from rewriter.errors import CheckpointError, RequestError, UnsupportedError, printable
from rewriter.planning.companions import peft_adapter
from rewriter.planning.companions.peft_fields import PREFIX_TYPES
from rewriter.planning.metadata import field_rules
from rewriter.planning.model import Model
from rewriter.planning.open_model import open_model
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import Plan, plan_model
from rewriter.planning.provenance import Provenance, composed, origin_of
from rewriter.planning.saved_plan import PROJECTOR, SavedPlan, plan_of_companion, replan
from rewriter.planning.tensor_renaming import TensorCopy, tensor_copies
from rewriter.system.untrusted import TooLongError, time_limit

_SECONDS = 4
_BASE = "base_model_name_or_path"
_DIRECTION = "direction."
_APART = ("general.", "imatrix.", "adapter.", "tokenizer.", "controlvector.", "split.", "rewriter.")
_MAIN = frozenset({"main", "text"})  # what the tables call the stack of a language model


@dataclass(frozen=True, slots=True)
class _Followed:
    """Where a companion's layers are: its stack, and the layers as it counts them."""

    stack: Stack
    layers: LayerMap

    @property
    def concerned(self) -> bool:
        """Whether it has anything in the pruned stack."""
        return self.stack.prefix != NOWHERE or self.stack.entry.stacked != ()


def plan_companion(saved: SavedPlan, checkpoint: Checkpoint, options: PlanOptions, base: str | None = None) -> Plan:
    """The plan that lets `checkpoint` follow the layers that `saved` keeps of its model.

    It may be what belongs to the model, another file of the same model (of another quantisation, converted), or an
    mmproj file. Of `options` count force, strict, keep_fields and provenance; `base` is what an adapter shall call its
    model. What the layers do not concern stays as it is, without a record. Raises UnsupportedError for what cannot
    follow, CheckpointError or RequestError for what does not belong to the model.
    """
    if base is not None and not (checkpoint.companion == ADAPTER and checkpoint.documents):
        raise RequestError(
            f"--base is about the directory of a PEFT adapter: {printable(checkpoint.name)} names no model"
        )
    if checkpoint.companion:
        return _followed(saved, checkpoint, options, base)
    if checkpoint.architecture == PROJECTOR and saved.source_kind[1] != PROJECTOR and saved.main:
        model = open_model(checkpoint, PlanOptions(provenance=False))
        return plan_model(model, range(model.stack.count))
    asked = replace(
        saved.options,
        force=saved.options.force or options.force,
        strict=options.strict,
        keep_fields=options.keep_fields or saved.options.keep_fields,
        provenance=options.provenance,
    )
    return replan(replace(saved, options=asked, changes=None), checkpoint)[0]


def source_layer_numbers(checkpoint: Checkpoint) -> tuple[Stack, tuple[int, ...]] | None:
    """Where the layers of a companion that was pruned are, and the numbers that they had; None without a record."""
    saved = plan_of_companion(checkpoint)
    if saved is None:
        return None
    place = _place(saved, checkpoint, LayerMap(saved.stack, saved.kept, saved.before, (), saved.mtp_layers))
    return place.stack, saved.kept


def _followed(saved: SavedPlan, checkpoint: Checkpoint, options: PlanOptions, base: str | None) -> Plan:
    options = PlanOptions(
        stack=saved.stack, force=options.force, strict=options.strict, keep_fields=options.keep_fields,
        provenance=options.provenance, architecture=saved.options.architecture,
    )  # fmt: skip
    model = LayerMap(saved.stack, saved.kept, saved.before, (), saved.mtp_layers)
    _check_model(saved, checkpoint, options)
    place = _place(saved, checkpoint, model)
    architecture = Architecture(name=checkpoint.companion, format=table_of(checkpoint), stacks=(place.stack.entry,))
    companion = Model(checkpoint, architecture, (place.stack,), place.stack, options, {})
    tensors, lost = _tensors(companion, place)
    model = replace(model, prefixes=place.layers.prefixes)
    edits = _within_time(partial(_edits, saved, checkpoint, place, model, tensors, options, base))
    warnings = (*lost, *_warnings(saved, checkpoint, place, edits))
    if warnings and options.strict:
        raise UnsupportedError(f"{warnings[0]}; --strict refuses that")
    plan = Plan(companion, place.layers, tensors, edits, warnings)
    touched = edits or any(copy.name != copy.tensor.name or copy.tensor.cut for copy in tensors) or plan.dropped
    return replace(plan, provenance=_provenance(saved, plan, model)) if options.provenance and touched else plan


def _within_time(edits: Callable[[], Iterable[FieldEdit]]) -> tuple[FieldEdit, ...]:
    """Expressions in a config are anyone's: some take longer than the world will last."""
    try:
        with time_limit(_SECONDS):
            return tuple(edits())
    except TooLongError:
        raise CheckpointError(f"{peft_adapter.FILE}: to find what its expressions mean takes too long") from None


def _provenance(saved: SavedPlan, plan: Plan, model: LayerMap) -> Provenance:
    checkpoint = plan.checkpoint
    return Provenance(
        checkpoint.name, checkpoint.header_sha256, model, plan.options, plan.edits, plan.warnings,
        composed(origin_of(checkpoint), model), saved.to_json(),
    )  # fmt: skip


def _check_model(saved: SavedPlan, checkpoint: Checkpoint, options: PlanOptions) -> None:
    """Raise for a plan that contradicts itself, and for an adapter of another architecture."""
    total = saved.before + saved.mtp_layers
    if (
        list(saved.kept) != sorted(set(saved.kept))
        or not saved.kept
        or not 0 <= saved.kept[0] <= saved.kept[-1] < total
    ):
        raise CheckpointError(f"the plan keeps layers that {saved.before} do not have")
    table, name = saved.source_kind
    other = checkpoint.companion == LORA and table == GGUF and name != checkpoint.architecture
    if other and not options.force:
        raise UnsupportedError(
            f"{printable(checkpoint.name)} is for the architecture {printable(checkpoint.architecture)}, the plan for "
            f"{printable(name)}; --force goes by the tensor names"
        )


# ---- where its layers are


def _place(saved: SavedPlan, checkpoint: Checkpoint, model: LayerMap) -> _Followed:
    stacked: tuple[StackedTensor, ...] = ()
    config = peft_adapter.config_of(checkpoint)
    if config.get("peft_type") in PREFIX_TYPES and saved.main:
        stacked = (StackedTensor(name=f"/{peft_adapter.PROMPTS}", axis=1),)
    prefix = _prefix(saved, checkpoint) or NOWHERE
    layers = peft_adapter.replicated(config, replace(model, prefixes=(prefix,)))
    entry = StackRule(
        name=saved.stack,
        prefixes=(prefix,),
        count_key="",
        shared=tuple(_shared(saved, checkpoint, prefix)),
        stacked=stacked,
    )
    stack = Stack(entry, prefix, layers.count, mtp_layers=layers.mtp_layers)
    _check_numbers(saved, checkpoint, stack)
    return _Followed(stack, layers)


def _prefix(saved: SavedPlan, checkpoint: Checkpoint) -> str:
    """What stands before the number of a layer of the pruned stack in the names here, "" if nothing is in it.

    Raises UnsupportedError where numbered lists are there and none is known, or one could be of two stacks.
    """
    if checkpoint.companion == CONTROL_VECTOR:
        return _direction_prefix(saved)
    spellings = tuple(dict.fromkeys(_spellings(saved, checkpoint)))
    names = tuple(tensor.name for tensor in checkpoint.tensors)
    lists = dict.fromkeys((*numbered_lists(checkpoint), *_inner_lists(names, (text for text, _ in spellings))))
    whose = {prefix: _whose(prefix, spellings) for prefix in lists}
    if saved.source_kind[0] != table_of(checkpoint):  # the tables of all architectures: some have other names for it
        whose = {prefix: {True} if True in found else found for prefix, found in whose.items()}
    ours = [prefix for prefix, found in whose.items() if found == {True}]
    doubtful = [prefix for prefix, found in whose.items() if len(found) > 1 or (not found and not ours)]
    if len(ours) > 1:
        raise CheckpointError(f"layers stand under several names: {', '.join(map(printable, ours[:4]))}")
    if doubtful:
        raise UnsupportedError(
            f"{printable(checkpoint.name)}: nothing says whether {printable(doubtful[0], 80)}N are the layers of stack "
            f"{saved.stack} of {printable(saved.source_name)}"
        )
    return ours[0] if ours else ""


def _direction_prefix(saved: SavedPlan) -> str:
    if saved.stack in ("encoder", "decoder"):
        raise UnsupportedError(
            "llama.cpp adds a control vector to encoder and decoder alike: it cannot follow one of them"
        )
    return _DIRECTION if saved.main else ""


def _spellings(saved: SavedPlan, checkpoint: Checkpoint) -> Iterator[tuple[str, bool]]:
    """Ways to write what stands before the numbers of stacks, and whether it is the pruned one."""
    table, own = table_of(checkpoint), saved.options.architecture
    same = saved.source_kind[0] == table
    named = saved.source_kind[1] if same else checkpoint.architecture
    among = (own,) if own is not None and same else [entry for entry in entries() if entry.format == table]
    if same and saved.prefix:
        yield saved.prefix, True
    for entry in among:
        if entry is own or named in ("", entry.name):
            for stack in entry.stacks:
                ours = stack.name == saved.stack or (not same and {stack.name, saved.stack} <= _MAIN)
                yield from ((prefix, ours) for prefix in stack.prefixes)


def _inner_lists(names: Iterable[str], spellings: Iterable[str]) -> Iterator[str]:
    """Prefixes with a number of their own inside them, as `stages.2.blocks.`, where they are."""
    inner = [text for text in dict.fromkeys(spellings) if re.search(r"\.[0-9]+\.", text)]
    for name in names if inner else ():
        yield from (name[: at + len(text)] for text in inner if (at := f".{name}".find(f".{text}")) >= 0)


def _whose(prefix: str, spellings: Iterable[tuple[str, bool]]) -> set[bool]:
    """{True} for a list that is the pruned stack, {False} for another stack, both or nothing where that is open."""
    bare = prefix.removeprefix(peft_adapter.WRAPPER)
    best, found = 0, set[bool]()
    for text, ours in spellings:
        length = len(text) if f".{bare}".endswith(f".{text}") else len(bare) if f".{text}".endswith(f".{bare}") else 0
        if length > best:
            best, found = length, set()
        if length and length == best:
            found.add(ours)
    return found


def _shared(saved: SavedPlan, checkpoint: Checkpoint, prefix: str) -> Iterator[SharedTensors]:
    """What the first layer stores for all: an adapter of it moves along. Who else uses it, only the model may say."""
    entry = saved.options.architecture or next((e for e in entries() if (e.format, e.name) == saved.source_kind), None)
    stacks = entry.stacks if entry is not None and entry.format == table_of(checkpoint) else ()
    for shared in (shared for stack in stacks if stack.name == saved.stack for shared in stack.shared):
        names = tuple(name.removesuffix("weight") for name in shared.names)
        for tensor in checkpoint.tensors if shared.key else ():
            rest = tensor.name.removeprefix(prefix).partition(".")[2]
            if tensor.name.startswith(prefix) and rest.startswith(names):
                raise UnsupportedError(
                    f"tensor {printable(tensor.name, 80)} is for weights that several layers share: it cannot "
                    f"follow one"
                )
        if not shared.key:
            yield SharedTensors(names=names)


def _check_numbers(saved: SavedPlan, checkpoint: Checkpoint, stack: Stack) -> None:
    """Raise CheckpointError for a tensor of a layer that the model does not have."""
    total = stack.count + stack.mtp_layers
    beyond = total + (checkpoint.companion == CONTROL_VECTOR)  # counted from 1, and never read
    for tensor in checkpoint.tensors:
        layer = stack.layer_of(tensor.name)
        odd = layer is None and tensor.name.startswith(stack.prefix)
        if odd or (layer is not None and layer >= beyond) or (not stack.prefix and layer is None):
            raise CheckpointError(
                f"tensor {printable(tensor.name, 80)} is of no layer of {total}: {printable(checkpoint.name)} "
                f"does not belong "
                f"to {printable(saved.source_name)}"
            )


# ---- its tensors


def _tensors(companion: Model, place: _Followed) -> tuple[tuple[TensorCopy, ...], tuple[str, ...]]:
    """The tensors that stay, and what is lost although its layer stays."""
    checkpoint = companion.checkpoint
    if checkpoint.companion == ADAPTER:
        peft_adapter.refuse_type(checkpoint, place.stack, place.layers)
    copies = tuple(tensor_copies(companion, place.layers))
    lost: list[str] = []
    if checkpoint.companion == CONTROL_VECTOR and place.layers.dropped:
        copies, lost = _directions(checkpoint, copies, place, companion.options)
    if not copies:
        raise UnsupportedError(
            f"{printable(checkpoint.name)} has tensors for dropped layers alone: nothing would be left of it"
        )
    return copies, tuple(lost)


def _directions(
    checkpoint: Checkpoint, copies: tuple[TensorCopy, ...], place: _Followed, options: PlanOptions
) -> tuple[tuple[TensorCopy, ...], list[str]]:
    """Layer 0 can have no direction: that of a layer that becomes the first cannot follow."""
    first, beyond = f"{_DIRECTION}0", f"{_DIRECTION}{place.layers.count + place.layers.mtp_layers}"
    lost = [copy.tensor.name for copy in copies if copy.name == first != copy.tensor.name]
    if lost and not options.force:
        raise UnsupportedError(
            f"{lost[0]} is for what becomes layer 0, to which llama.cpp adds none: keep layer 0, or leave it out with "
            "--force"
        )
    unread = [tensor.name for tensor in checkpoint.tensors if tensor.name == beyond]
    said = [f"{name} is left out: llama.cpp adds none there" for name in (*lost, *unread)]
    return tuple(copy for copy in copies if copy.tensor.name not in lost), said


# ---- its metadata


def _edits(
    saved: SavedPlan,
    checkpoint: Checkpoint,
    place: _Followed,
    model: LayerMap,
    tensors: tuple[TensorCopy, ...],
    options: PlanOptions,
    base: str | None,
) -> Iterator[FieldEdit]:
    if checkpoint.companion == ADAPTER:
        if place.concerned or saved.main:
            yield from peft_adapter.config_edits(checkpoint, place.stack, place.layers, model, options.keep_fields)
        yield from _new_base(checkpoint, base)
    elif place.concerned and model.dropped:
        yield from _header_edits(checkpoint, model, options)
        if checkpoint.companion == CONTROL_VECTOR:
            yield from _direction_count(checkpoint, place, tensors)


def _new_base(checkpoint: Checkpoint, base: str | None) -> Iterator[FieldEdit]:
    before = checkpoint.metadata.get(f"{peft_adapter.FILE}:{_BASE}")
    if base is not None and base != before and checkpoint.documents:
        yield FieldEdit(_BASE, before, base, "base", peft_adapter.FILE)


def _header_edits(checkpoint: Checkpoint, model: LayerMap, options: PlanOptions) -> Iterator[FieldEdit]:
    """Counts of the model's layers that stand here; a list as long as them is refused."""
    for key, value in checkpoint.metadata.items():
        if key.startswith(_APART) or key in options.keep_fields:
            continue
        if key.endswith(".block_count"):
            total = replace(model, count=model.count + model.mtp_layers, mtp_layers=0)
            yield FieldEdit(key, value, field_rules.apply("count", key, value, total), "count")
        length = value.length if isinstance(value, LongArray) else len(value) if isinstance(value, tuple) else 0
        if length in (model.count, model.count + model.mtp_layers):
            raise UnsupportedError(
                f"{printable(key, 80)} may have one entry for each layer, and no rule says so: --keep-field "
                f"{printable(key, 80)} leaves it"
            )


def _direction_count(checkpoint: Checkpoint, place: _Followed, tensors: tuple[TensorCopy, ...]) -> Iterator[FieldEdit]:
    """Tools write how many directions there are, or how many layers, or one less; nothing reads it."""
    key = "controlvector.layer_count"
    value = checkpoint.metadata.get(key)
    count, after = place.layers.count, len(place.layers.main)
    known = {count - 1: after - 1, count: after, len(checkpoint.tensors): len(tensors)}
    if isinstance(value, int) and value in known and known[value] != value:
        yield FieldEdit(key, value, known[value], "count")


def _warnings(
    saved: SavedPlan,
    checkpoint: Checkpoint,
    place: _Followed,
    edits: tuple[FieldEdit, ...],
) -> Iterator[str]:
    hint = checkpoint.metadata.get("controlvector.model_hint")
    if hint is not None and hint != saved.source_kind[1]:
        yield f"it was made for a {printable(hint)}, the plan is for {printable(saved.source_kind[1])}"
    named = checkpoint.metadata.get(f"{peft_adapter.FILE}:{_BASE}")
    if named and place.concerned and not any(edit.key == _BASE for edit in edits):
        yield (
            f"{peft_adapter.FILE} names the unpruned model {printable(named)}: "
            "load it on the pruned one (apply --base NAME)"
        )
