"""Finds out which layers of a source an output holds: from its record, or by comparing bytes."""

from __future__ import annotations

from dataclasses import dataclass

from rewriter.architectures.lookup import Stack
from rewriter.checkpoint import Checkpoint, TensorInfo
from rewriter.errors import CheckpointError, printable
from rewriter.layout.output import CopyRange, Piece, StridedRange
from rewriter.planning.open_model import open_model
from rewriter.planning.options import PlanOptions
from rewriter.planning.provenance import recorded
from rewriter.system.files import open_for_reading, printable_name, read_at
from rewriter.writing.copy import iter_rows

_BLOCK = 1 << 20
_SAMPLE = 1 << 16  # bytes of each tensor that are enough to tell one trained layer from another


@dataclass(frozen=True, slots=True)
class Place:
    """Byte `offset` of the file at `path`."""

    path: str
    offset: int


def first_difference(one: Place, other: Place, nbytes: int) -> int | None:
    """How many of `nbytes` bytes agree before the first that differs; None if all do."""
    with open_for_reading(one.path) as (here, _), open_for_reading(other.path) as (there, _):
        for at in range(0, nbytes, _BLOCK):
            step = min(_BLOCK, nbytes - at)
            left = read_at(here, one.offset + at, step, printable_name(one.path))
            right = read_at(there, other.offset + at, step, printable_name(other.path))
            if left != right:
                return at + next(index for index in range(step) if left[index] != right[index])
    return None


def first_difference_in(one: Place, piece: Piece) -> int | None:
    """As first_difference, but with the bytes that `piece` of an output is made of."""
    if isinstance(piece, CopyRange):
        return first_difference(one, Place(piece.path, piece.offset), piece.nbytes)
    if not isinstance(piece, StridedRange):
        return None
    at = 0
    with open_for_reading(one.path) as (here, _), open_for_reading(piece.path) as (there, _):
        for data in iter_rows(there, piece):
            if read_at(here, one.offset + at, len(data), printable_name(one.path)) != data:
                return at
            at += len(data)
    return None


def find_layers(checkpoint: Checkpoint, source: Checkpoint, options: PlanOptions) -> dict[str, tuple[int, ...]]:
    """Stack -> the numbers in `source` of the layers that `checkpoint` has, for every stack that was pruned.

    Raises CheckpointError when `checkpoint` was not made from `source`.
    """
    record = recorded(checkpoint)
    if record is not None and record.source_sha256 == source.header_sha256:
        return {record.layers.stack: record.layers.kept}
    if record is not None and record.origin.header_sha256 == source.header_sha256:
        return dict(record.origin.layers)
    theirs = {stack.name: stack for stack in open_model(source, options).stacks}
    ours = open_model(checkpoint, options).stacks
    pairs = ((stack, theirs[stack.name]) for stack in ours if stack.name in theirs)
    return {mine.name: _matched(checkpoint, mine, source, other) for mine, other in pairs if mine.count != other.count}


Layer = dict[str, TensorInfo]


def _layers(checkpoint: Checkpoint, stack: Stack) -> list[Layer]:
    """The tensors of every layer, by what follows the layer's number in their names."""
    layers: list[Layer] = [{} for _ in range(stack.count)]
    for tensor in checkpoint.tensors:
        number = stack.layer_of(tensor.name)
        if number is not None:
            layers[number][stack.after(tensor.name, number)] = tensor
    return layers


def _matched(checkpoint: Checkpoint, stack: Stack, source: Checkpoint, other: Stack) -> tuple[int, ...]:
    """Match every layer with the first one of the source, after the last match, that has the same bytes."""
    kept: list[int] = []
    originals = _layers(source, other)
    for number, layer in enumerate(_layers(checkpoint, stack)):
        later = range(kept[-1] + 1 if kept else 0, other.count)
        match = next((old for old in later if _alike(checkpoint, layer, source, originals[old])), None)
        if match is None:
            raise CheckpointError(
                f"layer {printable(stack.prefix)}{number} matches no later layer of {printable(source.name)}: is "
                f"that what it "
                "was made from?"
            )
        kept.append(match)
    return tuple(kept)


def _alike(checkpoint: Checkpoint, layer: Layer, source: Checkpoint, original: Layer) -> bool:
    """Whether all tensors that both have begin alike; a tensor that only layer 0 has may have moved here."""
    common = layer.keys() & original.keys()
    if not common or original.keys() - common:
        return False
    return all(
        layer[rest].shape == original[rest].shape
        and first_difference(
            _place(checkpoint, layer[rest]), _place(source, original[rest]), min(layer[rest].nbytes, _SAMPLE)
        )
        is None
        for rest in sorted(common)
    )


def _place(checkpoint: Checkpoint, tensor: TensorInfo) -> Place:
    return Place(checkpoint.shards[tensor.shard].path, tensor.offset)
