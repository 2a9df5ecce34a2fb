"""Which tensors stay, and under which name: a small number of named rules over the names. Pure.

Laws:
- A tensor of a layer goes with it or follows its number; all others keep their names.
- Lists beside a stack that are numbered like it follow it too, and so do lists numbered by a position in a list.
- What is stored once for several layers stays as long as one of them does, under the first that is left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from rewriter.architectures.lookup import Stack, first_list, table_of
from rewriter.architectures.schema import SharedTensors, StackedTensor
from rewriter.checkpoint import GGUF, Checkpoint, LayerMap, TensorInfo, TensorSlice
from rewriter.errors import CheckpointError, UnsupportedError, printable
from rewriter.planning.layer_ranges import runs
from rewriter.planning.metadata.layer_patterns import layer_values
from rewriter.planning.model import Model


@dataclass(frozen=True, slots=True)
class TensorCopy:
    """A tensor that stays, and what it is called in the output."""

    tensor: TensorInfo
    name: str


@dataclass(frozen=True, slots=True)
class _Names:
    """How names change: old beginnings with a number -> the number it becomes, None if it goes."""

    stack: Stack
    numbers: dict[int, int]
    moved: dict[str, str]  # what is stored once, by its whole old name
    lists: dict[str, dict[int, int | None]]  # lists beside the stack
    positions: tuple[tuple[re.Pattern[str], dict[int, int]], ...]  # numbers inside a name that are positions


def tensor_copies(model: Model, layers: LayerMap) -> Iterator[TensorCopy]:
    """The tensors that stay, in the order of the files. Raises UnsupportedError for one that cannot be cut."""
    if not layers.dropped:
        yield from (TensorCopy(tensor, tensor.name) for tensor in model.checkpoint.tensors)
        return
    names = _Names(
        model.stack, layers.numbers, _moved(model, layers), sibling_lists(model, layers),
        tuple(_positions(model, layers)),
    )  # fmt: skip
    stacked = stacked_tensors(model.stack)
    for tensor in model.checkpoint.tensors:
        name = _new_name(names, tensor.name)
        if name is not None:
            each = stacked.get(tensor.name)
            yield TensorCopy(tensor if each is None else _cut(model.checkpoint, tensor, each, layers), name)


def stacked_tensors(stack: Stack) -> dict[str, StackedTensor]:
    """The tensors that hold something for every layer side by side, by the names that they may have."""
    return {name: each for each in stack.entry.stacked for name in (each.name, stack.beside(each.name))}


def unknown_lists(model: Model) -> Iterator[str]:
    """Other lists with as many entries as the stack, which no rule knows: another copy of its layers perhaps."""
    if model.stack.count < 2:
        return
    known = {*(other.prefix for other in model.stacks), *sibling_lists(model, model.all_layers)}
    known |= {first_list(other.prefix) for other in model.stacks}  # stages, of which each is a stack
    positions = [pattern for pattern, _ in position_numbered_lists(model)]
    numbers = {str(layer) for layer in range(model.stack.count)}
    for prefix, labels in model.lists.items():
        unknown = prefix not in known and not any(pattern.search(f"{prefix}0") for pattern in positions)
        if unknown and numbers == set(labels):
            yield f"{printable(prefix, 80)}N has as many entries as the stack, and no rule says why: they all stay"


def linear_widths(model: Model) -> list[tuple[int, int]]:
    """What goes into and comes out of each layer, if all are nothing but a weight matrix [out, in] and a bias, and
    each takes what the one before it gives; else nothing.
    """
    widths: dict[int, tuple[int, int]] = {}
    for tensor in model.checkpoint.tensors:
        layer = model.stack.layer_of(tensor.name)
        if layer is None:
            continue
        rest = model.stack.after(tensor.name, layer)[1:]
        shape = tensor.shape if not model.is_gguf else tensor.shape[::-1]
        if rest == "weight" and len(shape) == 2:
            widths[layer] = (shape[1], shape[0])
        elif rest != "bias":
            return []
    chain = [widths[layer] for layer in sorted(widths)]
    fits = all(before[1] == after[0] for before, after in pairwise(chain))
    return chain if fits and len(chain) == model.stack.count else []


def _new_name(names: _Names, name: str) -> str | None:
    """What the tensor called `name` is called in the output, None if it goes."""
    if name in names.moved:
        return _repositioned(names, names.moved[name])
    stack = names.stack
    layer = stack.layer_of(name)
    if layer is not None:
        new = names.numbers.get(layer)
        if new is None:
            return None
        rest = stack.after(name, layer)
        if new == 0 and layer and rest[1:] in stack.entry.absent_in_first:
            return None
        name = f"{stack.prefix}{new}{rest}"
    else:
        for prefix, numbers in names.lists.items():
            if name.startswith(prefix):
                return _in_list(name, prefix, numbers)
    return _repositioned(names, name)


def _in_list(name: str, prefix: str, numbers: dict[int, int | None]) -> str | None:
    label, _, rest = name[len(prefix) :].partition(".")
    new = numbers[int(label)]
    return None if new is None else f"{prefix}{new}.{rest}" if rest else f"{prefix}{new}"


def _repositioned(names: _Names, name: str) -> str | None:
    for pattern, numbers in names.positions:
        if match := pattern.search(name):
            new = numbers.get(int(match[2]))
            return None if new is None else f"{name[: match.start(2)]}{new}{name[match.end(2) :]}"
    return name


def sibling_lists(model: Model, layers: LayerMap) -> dict[str, dict[int, int | None]]:
    """Prefix -> old number -> new number, for every list beside the stack that is there.

    The entries of a list may stand under two names, where one of two tied tensors was saved.
    """
    found: dict[str, dict[int, int | None]] = {
        prefix: _some(prefix, _labels(model.checkpoint, prefix), layers) for prefix in model.stack.entry.named_after
    }
    for tied in _tied(model.stack):
        labels = {label for prefix in tied for label in _labels(model.checkpoint, prefix)}
        if labels and labels != {"0"}:  # a single entry is stored once for all layers
            found.update(dict.fromkeys(tied, _list_numbers(tied[0], labels, layers)))
    return found


def _tied(stack: Stack) -> list[list[str]]:
    """The lists beside the stack, those of the same last name together: `bbox_embed.`, `model.decoder.bbox_embed.`."""
    groups: dict[str, list[str]] = {}
    for name in stack.entry.beside:
        groups.setdefault(name.strip("/.").rpartition(".")[2], []).append(stack.beside(name))
    return list(groups.values())


def _labels(checkpoint: Checkpoint, prefix: str) -> set[str]:
    names = (tensor.name for tensor in checkpoint.tensors if tensor.name.startswith(prefix))
    return {name[len(prefix) :].partition(".")[0] for name in names}


def _some(prefix: str, labels: set[str], layers: LayerMap) -> dict[int, int | None]:
    """Entries for some of the layers, under their numbers."""
    if not all(label.isdigit() and str(int(label)) == label and int(label) < layers.count for label in labels):
        raise CheckpointError(f"{printable(prefix)}N has entries that are no layers of {layers.count}")
    return {int(label): layers.numbers.get(int(label)) for label in labels}


def _list_numbers(prefix: str, labels: set[str], layers: LayerMap) -> dict[int, int | None]:
    """As many entries as layers, or one more: that of what comes before the layers, which stays last."""
    expected = {str(number) for number in range(len(labels))}
    if labels != expected or len(labels) not in (layers.count, layers.count + 1):
        raise CheckpointError(f"{printable(prefix)}N has {len(labels)} entries beside {layers.count} layers")
    numbers: dict[int, int | None] = {number: layers.numbers.get(number) for number in range(layers.count)}
    return {**numbers, layers.count: len(layers.main)}


def _positions(model: Model, layers: LayerMap) -> Iterator[tuple[re.Pattern[str], dict[int, int]]]:
    """Lists numbered by the position of a layer among those that a field names."""
    kept = set(layers.kept)
    for pattern, listed in position_numbered_lists(model):
        left = (position for position, layer in enumerate(listed) if layer in kept)
        yield pattern, {old: new for new, old in enumerate(left)}


def position_numbered_lists(model: Model) -> Iterator[tuple[re.Pattern[str], list[object]]]:
    """What matches a name with a position in it (group 2), and the layers that the positions stand for."""
    for name, key, kind in model.stack.entry.by_position:
        found = layer_values(model, key)
        listed: list[object] = [number for number, entry in enumerate(found) if entry == kind] if kind else list(found)
        yield re.compile(f"((?:^|[.]){re.escape(name)})([0-9]+)(?=[.]|$)", re.ASCII), listed


def _moved(model: Model, layers: LayerMap) -> dict[str, str]:
    """Old name -> new name of what is stored once under a layer that goes."""
    names = {tensor.name for tensor in model.checkpoint.tensors} if model.stack.entry.shared else set()
    moved: dict[str, str] = {}
    for shared in model.stack.entry.shared:
        for users in sharing_layers(model, shared, layers):
            left = [layer for layer in users if layer in layers.numbers]
            if users and left and users[0] not in layers.numbers:
                moved.update(_moves(names, model.stack, shared, (users[0], left[0]), layers))
    return moved


def sharing_layers(model: Model, shared: SharedTensors, layers: LayerMap) -> Iterator[list[int]]:
    """The layers that use what is shared, the first of which stores it; several such lists where they take turns."""
    if not shared.key:
        yield list(range(layers.count))
        return
    kinds = layer_values(model, shared.key)
    users = [layer for layer, kind in enumerate(kinds) if kind == shared.kind]
    stated = model.value(shared.turns_key) if shared.turns_key else 1
    turns = stated if type(stated) is int and stated > 0 else 1
    yield from (users[turn::turns] for turn in range(min(turns, len(users))))


def _moves(
    names: Iterable[str], stack: Stack, shared: SharedTensors, holders: tuple[int, int], layers: LayerMap
) -> Iterator[tuple[str, str]]:
    """From the old holder to the new one, unless that has its own."""
    old, new = (f"{stack.prefix}{holder}." for holder in holders)
    target = f"{stack.prefix}{layers.numbers[holders[1]]}."
    for name in names:
        rest = name.removeprefix(old)
        if rest != name and rest.startswith(shared.names) and new + rest not in names:
            yield name, target + rest


def _cut(checkpoint: Checkpoint, tensor: TensorInfo, stacked: StackedTensor, layers: LayerMap) -> TensorInfo:
    """`tensor` without the parts of the dropped layers. Only whole quantisation blocks can be parted."""
    fastest_last = table_of(checkpoint) != GGUF
    shape = tensor.shape if fastest_last else tensor.shape[::-1]
    size = shape[stacked.axis] if stacked.axis < len(shape) else 0
    part, odd = divmod(size - stacked.lead, layers.count)
    if odd or size <= stacked.lead or tensor.cut is not None:
        raise CheckpointError(f"tensor {printable(tensor.name)} does not hold {layers.count} layers side by side")
    if stacked.axis == len(shape) - 1 and (part % tensor.block or stacked.lead % tensor.block):
        raise UnsupportedError(
            f"tensor {printable(tensor.name)} holds {part} weights for each layer, and {tensor.dtype} stores "
            f"{tensor.block} together: they cannot be parted"
        )
    rows = prod(shape[: stacked.axis])
    stride = tensor.nbytes // rows
    spans = [(0, stacked.lead)] if stacked.lead else []
    spans += [(stacked.lead + low * part, (high - low + 1) * part) for low, high in runs(layers.main)]
    takes = tuple((start * stride // size, length * stride // size) for start, length in spans)
    new_shape = (*shape[: stacked.axis], sum(length for _, length in spans), *shape[stacked.axis + 1 :])
    return tensor._replace(
        shape=new_shape if fastest_last else new_shape[::-1],
        nbytes=rows * sum(length for _, length in takes),
        cut=TensorSlice(stride, rows, takes),
    )
