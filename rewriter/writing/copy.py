"""Moves byte ranges from file to file inside the kernel, and writes literals. Knows no formats.

Laws:
- The kernel may copy less than it was asked to, and nothing once the source has ended: both are looked at.
- Where source and target agree modulo the block size, a range is copied as a ragged head, whole blocks and a ragged
  tail: whole blocks are what a filesystem can share (XFS, btrfs) instead of copying.
- Holes of a sparse source stay holes.
- A file that is taken over whole is cloned in one call where the filesystem can, or linked where that was asked for.
- Writing to the disk is begun while the rest is copied, and waited for at the end.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path

from rewriter.errors import CheckpointError
from rewriter.layout.output import BLOCK, CopyRange, Literal, OutputFile, RangeDigest, StridedRange, WriteOptions
from rewriter.system import calls
from rewriter.system.files import open_for_reading, printable_name, read_at
from rewriter.system.signals import STOP

ProgressCallback = Callable[[int], None]
Finished = Callable[[OutputFile], None]
CopyMethod = Callable[[int, int, int, int], int]  # source, target, offset in the source, bytes -> bytes copied

_STEP = 8 << 20  # bytes in one call: the disk begins with them while the next are copied
_PORTION = 64 << 10  # bytes that the kernel moves as one: it needs a quarter less time where they fill whole portions
_AT_ONCE = 1 << 20  # bytes in one read of what the kernel cannot copy
_LARGE = 8 << 20  # bytes from which a file is worth a thread
_THREADS = 4
# what the kernel answers where this pair of files, or this filesystem, cannot do it that way
# (macOS sends files to sockets only)
_TRY_ANOTHER = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ENOTSUP, errno.ENOTSOCK}
)


def write_files(
    files: Collection[OutputFile],
    folder: Path,
    progress: ProgressCallback,
    finished: Finished,
    write_options: WriteOptions,
) -> None:
    """Write `files` into `folder`, the largest first, several large ones at the same time.

    `finished(file)` is called after each, by any thread. Raises OSError, CheckpointError for a source that has become
    too short, StoppedError.
    """
    ordered = sorted(files, key=lambda file: -file.nbytes)
    threads = min(_THREADS, sum(file.nbytes >= _LARGE for file in files))

    def write(file: OutputFile, check: Callable[[], None]) -> None:
        def advance(nbytes: int) -> None:
            check()
            progress(nbytes)

        write_file(file, str(folder / file.name), advance, write_options)
        finished(file)

    if threads < 2:
        for file in ordered:
            write(file, STOP.check)
        return
    from rewriter.system.threads import ThreadPool  # here: it is slow to import, and small outputs need none

    with ThreadPool(threads) as pool:
        pool.map(lambda file: write(file, pool.check), ordered)


def write_file(file: OutputFile, path: str, progress: ProgressCallback, write_options: WriteOptions) -> None:
    """Write `file` to the new file `path`, and wait until the disk has it if `write_options.sync` is true.

    Raises OSError, or CheckpointError if a source has become too short.
    """
    if file.unchanged and write_options.hardlink and _linked(file, path, write_options.sync):
        progress(file.nbytes)
        return
    target = os.open(path, calls.CREATING, 0o666)
    try:
        if file.unchanged and write_options.share and _cloned(file, target):
            progress(file.nbytes)
        else:
            _fill(file, target, progress, write_options)
        if write_options.sync:
            calls.fsync(target)
    finally:
        os.close(target)


def _fill(file: OutputFile, target: int, progress: ProgressCallback, write_options: WriteOptions) -> None:
    with ExitStack() as sources:
        descriptors: dict[str, int] = {}
        for piece in file.pieces:
            if isinstance(piece, RangeDigest):
                raise TypeError(piece)  # hashing.filled has put a literal in its place
            if isinstance(piece, Literal):
                _write(target, piece.data)
                progress(piece.nbytes)
                continue
            if piece.path not in descriptors:
                descriptors[piece.path] = sources.enter_context(open_for_reading(piece.path))[0]
            if isinstance(piece, StridedRange):
                _copy_rows(descriptors[piece.path], target, piece, progress)
            else:
                _copy(descriptors[piece.path], target, piece, progress, write_options)
    os.ftruncate(target, file.nbytes)  # it may end in a hole


def unchanged_source(file: OutputFile) -> str:
    """The path of the file that an unchanged one is the whole of, its links followed."""
    (piece,) = file.pieces
    if not isinstance(piece, CopyRange):
        raise TypeError(piece)
    return os.path.realpath(piece.path)


def _linked(file: OutputFile, path: str, sync: bool) -> bool:
    """Give the source the second name `path`; False where it cannot have one: it is copied then."""
    try:
        os.link(unchanged_source(file), path)
    except OSError:
        return False
    if sync:
        with open_for_reading(path) as (descriptor, _):
            calls.fsync(descriptor)
    return True


def _cloned(file: OutputFile, target: int) -> bool:
    """Share all blocks of the source; False where that cannot be done."""
    try:
        with open_for_reading(unchanged_source(file)) as (source, _):
            calls.clone(source, target)
    except OSError:
        return False
    return True


def can_link(file: OutputFile, folder: Path) -> bool:
    """Whether a file in `folder` can be a second name of what `file` is the whole of: links end at a filesystem's."""
    return file.unchanged and os.stat(unchanged_source(file)).st_dev == os.stat(folder).st_dev


def supports_reflink(source: str, folder: Path) -> bool:
    """Whether a file in `folder` can share blocks with `source`: tried with one that has no name and goes at once."""
    try:
        with open_for_reading(source) as (descriptor, _):
            target = calls.open_unnamed(folder)
            try:
                calls.clone(descriptor, target)
            finally:
                os.close(target)
    except OSError:
        return False
    return True


def _write(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def _copy(source: int, target: int, piece: CopyRange, progress: ProgressCallback, write_options: WriteOptions) -> None:
    at, end = piece.offset, piece.offset + piece.nbytes
    together = (at - os.lseek(target, 0, os.SEEK_CUR)) % BLOCK == 0
    ways = _copy_methods(write_options)
    while at < end:
        data, hole = _data_after(source, at, end)
        if data > at:
            os.lseek(target, data - at, os.SEEK_CUR)
            progress(data - at)
            at = data
            continue
        step = _step(at, hole, os.lseek(target, 0, os.SEEK_CUR)) if together else min(_STEP, hole - at)
        done = _copy_some(ways, source, target, at, step)
        if not done:
            raise CheckpointError(
                f"{printable_name(piece.path)} ended at byte {at} while it was copied: it has changed"
            )
        if write_options.sync:
            _start_writing(target, done)
        at += done
        progress(done)


def _copy_methods(write_options: WriteOptions) -> list[CopyMethod]:
    """How to copy, as far as the system has it, the best first."""
    ways = [_by_range] if write_options.share and hasattr(os, "copy_file_range") else []
    ways += [_by_sendfile] if hasattr(os, "sendfile") else []
    return [*ways, _read_write]


def _copy_some(ways: list[CopyMethod], source: int, target: int, at: int, nbytes: int) -> int:
    """How many bytes the first of `ways` that works here has copied; those that do not are taken off the list."""
    while True:
        try:
            return ways[0](source, target, at, nbytes)
        except OSError as error:
            if error.errno not in _TRY_ANOTHER or len(ways) == 1:
                raise
            ways.pop(0)


def _start_writing(target: int, nbytes: int) -> None:
    """Let the disk begin with the last `nbytes` bytes, without waiting for it. Only an offer: fsync comes anyway."""
    if nbytes >= _AT_ONCE:
        calls.start_writeback(target, os.lseek(target, 0, os.SEEK_CUR) - nbytes, nbytes)


def _step(at: int, end: int, place: int) -> int:
    """How many bytes to copy next, to `place` in the target: up to the next block, then whole blocks, then the rest."""
    if at % BLOCK:
        return min(BLOCK - at % BLOCK, end - at)
    step = _PORTION - place % _PORTION if place % _PORTION else _STEP
    return min(step, (end - at) // BLOCK * BLOCK or end - at)


def _data_after(source: int, at: int, end: int) -> tuple[int, int]:
    """Where the next bytes of the source that are in no hole start and end, at most at `end`."""
    if not hasattr(os, "SEEK_DATA"):
        return at, end
    try:
        data = os.lseek(source, at, os.SEEK_DATA)
        return min(data, end), min(os.lseek(source, data, os.SEEK_HOLE), end)
    except OSError as error:
        size = os.fstat(source).st_size
        if error.errno == errno.ENXIO and at < size:
            return min(end, size), end  # the file ends in a hole
        return at, end  # the system does not know of holes, or the source has become shorter: the copy will tell


def _copy_rows(source: int, target: int, piece: StridedRange, progress: ProgressCallback) -> None:
    for data in iter_rows(source, piece):
        _write(target, data)
        progress(len(data))


def iter_rows(source: int, piece: StridedRange) -> Iterator[bytes]:
    """The bytes of `piece`, some rows at a time: its parts are too small for a system call each."""
    at_once = max(1, _AT_ONCE // piece.stride)
    for first in range(0, piece.rows, at_once):
        rows = min(at_once, piece.rows - first)
        block = memoryview(
            read_at(source, piece.offset + first * piece.stride, rows * piece.stride, printable_name(piece.path))
        )
        starts = range(0, rows * piece.stride, piece.stride)
        yield b"".join(block[row + start : row + start + length] for row in starts for start, length in piece.slices)


def _by_range(source: int, target: int, offset: int, nbytes: int) -> int:
    return os.copy_file_range(source, target, nbytes, offset_src=offset)


def _by_sendfile(source: int, target: int, offset: int, nbytes: int) -> int:
    return os.sendfile(target, source, offset, nbytes)


def _read_write(source: int, target: int, offset: int, nbytes: int) -> int:
    data = calls.read_part(source, min(nbytes, _AT_ONCE), offset)
    _write(target, data)
    return len(data)
