"""Moves byte ranges from file to file inside the kernel, and writes literals."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from rewriter.errors import CheckpointError
from rewriter.formats.files import named, opened, read_at
from rewriter.output import CopyRange, Literal, OutputFile, StridedRange

Progress = Callable[[int], None]

_STEP = 64 << 20  # bytes in one call: often enough for a progress bar, rare enough to cost nothing
_BLOCK = 1 << 20  # bytes in one read of the plain loop
# what the kernel answers where this pair of files, or this filesystem, cannot do it that way
_TRY_ANOTHER = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF})


def write_file(file: OutputFile, path: str, progress: Progress, sync: bool = True) -> None:
    """Write `file` to the new file `path` and, with `sync`, wait until the disk has it.

    Raises OSError, or CheckpointError if a source has become too short.
    """
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with ExitStack() as sources:
            descriptors: dict[str, int] = {}
            for piece in file.pieces:
                if isinstance(piece, Literal):
                    _write(target, piece.data)
                    progress(piece.nbytes)
                    continue
                if piece.path not in descriptors:
                    descriptors[piece.path] = sources.enter_context(opened(piece.path))[0]
                copy = _copy_rows if isinstance(piece, StridedRange) else _copy
                copy(descriptors[piece.path], target, piece, progress)  # type: ignore[arg-type]
        if sync:
            os.fsync(target)
    finally:
        os.close(target)


def _write(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def _copy(source: int, target: int, piece: CopyRange, progress: Progress) -> None:
    at, end = piece.offset, piece.offset + piece.nbytes
    ways = [_by_range, _by_sendfile, _by_hand]
    while at < end:
        try:
            done = ways[0](source, target, at, min(_STEP, end - at))
        except OSError as error:
            if error.errno not in _TRY_ANOTHER or len(ways) == 1:
                raise
            ways.pop(0)
            continue
        if not done:
            raise CheckpointError(f"{named(piece.path)} ended at byte {at} while it was copied: it has changed")
        at += done
        progress(done)


def _copy_rows(source: int, target: int, piece: StridedRange, progress: Progress) -> None:
    for data in rows_of(source, piece):
        _write(target, data)
        progress(len(data))


def rows_of(source: int, piece: StridedRange) -> Iterator[bytes]:
    """The bytes of `piece`, some rows at a time: its parts are too small for a system call each."""
    at_once = max(1, _BLOCK // piece.stride)
    for first in range(0, piece.rows, at_once):
        rows = min(at_once, piece.rows - first)
        block = memoryview(read_at(source, piece.offset + first * piece.stride, rows * piece.stride, named(piece.path)))
        starts = range(0, rows * piece.stride, piece.stride)
        yield b"".join(block[row + start : row + start + length] for row in starts for start, length in piece.takes)


def _by_range(source: int, target: int, offset: int, nbytes: int) -> int:
    return os.copy_file_range(source, target, nbytes, offset_src=offset)


def _by_sendfile(source: int, target: int, offset: int, nbytes: int) -> int:
    return os.sendfile(target, source, offset, nbytes)


def _by_hand(source: int, target: int, offset: int, nbytes: int) -> int:
    data = os.pread(source, min(nbytes, _BLOCK), offset)
    _write(target, data)
    return len(data)
