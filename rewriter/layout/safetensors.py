"""The bytes of one safetensors file: its header, then ranges of the source. Pure."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

from rewriter.checkpoint import TensorInfo
from rewriter.formats.safetensors import DTYPE_BITS, METADATA
from rewriter.layout.output import BLOCK, Literal, Piece, best_alignment, coalesce
from rewriter.layout.tensor_pieces import tensor_pieces


def pieces(
    copies: Sequence[tuple[TensorInfo, str]], path_of: Callable[[int], str], metadata: dict[str, object] | None
) -> tuple[Piece, ...]:
    """The pieces of a file with the tensors of `copies` under their new names, in the order of their data.

    `path_of` gives the file that a tensor's shard number stands for.
    """
    order = _ordered(copies)
    offsets, at = {}, 0
    for tensor, name in order:
        offsets[name] = (at, at + tensor.nbytes)
        at += tensor.nbytes
    header: dict[str, Any] = {} if metadata is None else {METADATA: dict(metadata)}
    header |= {name: _entry(tensor, offsets[name]) for tensor, name in copies}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    ranges = coalesce(piece for tensor, _ in order for piece in tensor_pieces(tensor, path_of(tensor.shard)))
    text += b" " * _padding(len(text), best_alignment(ranges))
    return coalesce([Literal(struct.pack("<Q", len(text)) + text), *ranges])


def _ordered(copies: Sequence[tuple[TensorInfo, str]]) -> list[tuple[TensorInfo, str]]:
    """In the order of the source's files, so that neighbours stay one range; the widest numbers first where a tensor
    would else start in the middle of one: readers view the bytes as numbers, in place.
    """
    order = sorted(copies, key=lambda copy: (copy[0].shard, copy[0].offset, copy[0].nbytes))
    at = 0
    for tensor, _ in order:
        if at % _width(tensor) and not tensor.offset % _width(tensor):
            return sorted(order, key=lambda copy: -_width(copy[0]))
        at += tensor.nbytes
    return order


def _width(tensor: TensorInfo) -> int:
    """Bytes of one number, at least 1."""
    return max(1, DTYPE_BITS[tensor.dtype] // 8)


def head_bytes(metadata: dict[str, object] | None) -> int:
    """At most so many bytes are in a file besides its tensors, their entries and what pads it to whole blocks."""
    return 32 + len(json.dumps({METADATA: metadata}))


def room_for(tensor: TensorInfo, name: str) -> int:
    """At most so many bytes are in a file for this tensor: its data and its entry."""
    entry = json.dumps({name: _entry(tensor, (10**18, 10**18))}, ensure_ascii=False)
    return tensor.nbytes + len(entry.encode())


def _padding(length: int, start: int | None) -> int:
    """Spaces after a header of `length` bytes: to a multiple of 8, and on to where the data should start."""
    padding = -length % 8
    return padding if start is None or start % 8 else padding + (start - 8 - length - padding) % BLOCK


def _entry(tensor: TensorInfo, offsets: tuple[int, int]) -> dict[str, Any]:
    entry = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": list(offsets)}
    return {**entry, **(tensor.extra or {})}
