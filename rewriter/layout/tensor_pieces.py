"""Where a tensor's bytes come from, as pieces of an output."""

from __future__ import annotations

from collections.abc import Iterator

from rewriter.checkpoint import TensorInfo
from rewriter.layout.output import CopyRange, Piece, StridedRange


def tensor_pieces(tensor: TensorInfo, path: str) -> Iterator[Piece]:
    """The tensor's bytes in the file at `path`: all of them, or the parts that its cut leaves."""
    cut = tensor.cut
    if cut is None:
        yield CopyRange(path, tensor.offset, tensor.nbytes)
    elif cut.rows == 1:
        yield from (CopyRange(path, tensor.offset + start, length) for start, length in cut.slices)
    else:
        yield StridedRange(path, tensor.offset, cut.stride, cut.rows, cut.slices)
