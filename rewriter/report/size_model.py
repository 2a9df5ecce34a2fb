"""What every choice of layers weighs, as sums that a page or a table can add up without a plan. Pure.

Law: the parts that a choice keeps weigh what the tensors of its plan do, to the byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rewriter.architectures.lookup import Stack, table_of
from rewriter.architectures.schema import StackedTensor
from rewriter.checkpoint import GGUF, Checkpoint, LayerMap, TensorInfo
from rewriter.planning.tensor_renaming import lists_beside, position_lists, stacked_tensors, users_of

Layers = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fate:
    """What decides whether a tensor stays.

    needs: layers that must all stay. users: layers of which one must, the first of which stores the tensor; of those
    in `own` each has one of its own, so that it takes over no other. later: it goes where the layer it needs becomes
    the first one.
    """

    needs: Layers = ()
    users: Layers = ()
    own: Layers = ()
    later: bool = False


@dataclass(frozen=True, slots=True)
class Weight:
    """Some tensors, or a share of them: how many, their stored elements, their bytes."""

    tensors: int = 0
    parameters: int = 0
    nbytes: int = 0

    def __add__(self, other: Weight) -> Weight:
        return Weight(self.tensors + other.tensors, self.parameters + other.parameters, self.nbytes + other.nbytes)


def weights(checkpoint: Checkpoint, stack: Stack) -> dict[Fate, Weight]:
    """All tensors of the checkpoint, by what decides about them when layers of `stack` are dropped.

    Raises CheckpointError where a list beside the stack contradicts it.
    """
    places = _places(checkpoint, stack)
    found: dict[Fate, Weight] = {}
    for tensor in checkpoint.tensors:
        for fate, weight in _shares(places, tensor):
            found[fate] = found.get(fate, Weight()) + weight
    return found


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the tensors of a stack stand: lists beside it, lists by position, what is stored once or side by side."""

    checkpoint: Checkpoint
    stack: Stack
    lists: dict[str, dict[int, int | None]]
    positions: tuple[tuple[re.Pattern[str], list[object]], ...]
    shared: tuple[tuple[tuple[str, ...], list[int]], ...]
    stacked: dict[str, StackedTensor]
    names: frozenset[str]


def _places(checkpoint: Checkpoint, stack: Stack) -> _Places:
    every = LayerMap(stack.name, tuple(range(stack.count + stack.mtp_layers)), stack.count)
    shared = ((each.names, users) for each in stack.entry.shared for users in users_of(checkpoint, stack, each, every))
    return _Places(
        checkpoint, stack, lists_beside(checkpoint, stack, every), tuple(position_lists(checkpoint, stack)),
        tuple(shared), stacked_tensors(stack), frozenset(tensor.name for tensor in checkpoint.tensors),
    )  # fmt: skip


def _shares(places: _Places, tensor: TensorInfo) -> Iterator[tuple[Fate, Weight]]:
    """The tensor as one, or its shares of each layer where it holds something for all of them."""
    stacked, count = places.stacked.get(tensor.name), places.stack.count
    if stacked is None:
        yield _fate(places, tensor.name), Weight(1, tensor.parameters, tensor.nbytes)
        return
    shape = tensor.shape if table_of(places.checkpoint) != GGUF else tensor.shape[::-1]
    size = shape[stacked.axis] if stacked.axis < len(shape) else 1
    part = (size - stacked.lead) // count
    yield Fate(), Weight(1, *(amount * (size - part * count) // size for amount in (tensor.parameters, tensor.nbytes)))
    share = Weight(0, tensor.parameters * part // size, tensor.nbytes * part // size)
    yield from ((Fate(needs=(layer,)), share) for layer in range(count))


def _fate(places: _Places, name: str) -> Fate:
    stack = places.stack
    layer = stack.layer_of(name)
    if layer is None:
        return Fate(_listed(places, name))
    rest = stack.after(name, layer)[1:]
    for names, users in places.shared:
        if users[:1] == [layer] and rest.startswith(names):
            own = tuple(user for user in users[1:] if f"{stack.prefix}{user}.{rest}" in places.names)
            return Fate(_position(places, name), tuple(users), own)
    later = layer > 0 and rest in stack.entry.absent_in_first
    return Fate((layer, *_position(places, name)), later=later)


def _listed(places: _Places, name: str) -> Layers:
    """The layer that an entry of a list beside the stack belongs to, if it belongs to one."""
    for prefix in places.lists:
        if name.startswith(prefix):
            number = int(name[len(prefix) :].partition(".")[0])
            return (number,) if number < places.stack.count else ()
    return _position(places, name)


def _position(places: _Places, name: str) -> Layers:
    """The layer that a position in the name stands for. One that stands for none goes with the first drop."""
    every = range(places.stack.count + places.stack.mtp_layers)
    for pattern, listed in places.positions:
        if match := pattern.search(name):
            at = int(match[2])
            layer = listed[at] if at < len(listed) else None
            return (layer,) if isinstance(layer, int) and layer in every else tuple(every)
    return ()
