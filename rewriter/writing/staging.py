"""The directory beside a destination that an output is made in: locked, and gone afterwards."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rewriter.errors import OutputError, printable
from rewriter.system import calls
from rewriter.system.files import printable_name

_ATTEMPTS = 2  # at clearing away: a file that NFS still holds under another name goes the second time


@contextmanager
def staging_directory(destination: Path, keep: Callable[[Path], bool]) -> Iterator[Path]:
    """Give the locked staging directory of `destination`, which may hold what a killed run left.

    It is removed afterwards, unless `keep(path)` says that it stays or it is another run's by then.
    """
    path = staging_path(destination)
    lock = _locked(path)
    try:
        yield path
    finally:
        for _ in range(0 if keep(path) else _ATTEMPTS):
            with suppress(OSError):
                if lock.is_at(path):
                    shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            lock.close()


def staging_path(destination: Path) -> Path:
    """Beside the destination. File names end at 255 bytes: a long one is stood for by its hash."""
    raw = os.fsencode(destination.name)
    short = destination.name if len(raw) < 200 else hashlib.sha256(raw).hexdigest()
    return destination.with_name(f".{short}.rewriter-tmp")


def _locked(path: Path) -> calls.DirectoryHandle:
    """Make `path`, or take it over, and lock it. Raises OutputError while another run holds it."""
    while True:
        made = False
        try:
            with suppress(FileExistsError):
                path.mkdir()
                made = True
            lock = _lock(path)
        except OSError:
            if made:
                with suppress(OSError):
                    path.rmdir()
            raise
        if lock is not None:
            return lock


def _lock(path: Path) -> calls.DirectoryHandle | None:
    """The locked directory, None if another run has just finished and removed it."""
    try:
        folder = calls.DirectoryHandle(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise OutputError(f"{printable_name(path)} is in the way: it is not a directory") from None
    ours = False
    try:
        if not folder.is_ours():
            raise OutputError(
                f"{printable_name(path)} is in the way: it belongs to somebody else, who could change the output"
            )
        folder.lock()
        ours = folder.is_at(path)
    except BlockingIOError:
        raise OutputError(f"another run is writing {printable(path.name)} at this moment") from None
    except FileNotFoundError:
        pass
    finally:
        if not ours:
            folder.close()
    return folder if ours else None


def clear_directory(folder: Path) -> None:
    """Remove all that is in `folder`. Raises OSError."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            remove_tree(entry.path)
        else:
            os.unlink(entry.path)


def remove_tree(folder: str | Path) -> None:
    """Remove `folder` and all that is in it. Raises OSError.

    Python (3.11 at least) closes a directory that could not be closed once more: that this fails is not the reason.
    """
    try:
        shutil.rmtree(folder)
    except OSError as error:
        reason = error.__context__
        raise reason if error.errno == errno.EBADF and isinstance(reason, OSError) else error from None


def sync(folder: Path) -> None:
    """Wait until the disk knows the names in `folder`."""
    opened = calls.DirectoryHandle(folder)
    try:
        opened.sync()
    finally:
        opened.close()


def append(path: Path, data: bytes, wait: bool = True) -> None:
    """Write `data` at the end of a small file, which is made if need be, and `wait` until the disk has it."""
    descriptor = os.open(path, calls.APPENDING, 0o666)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        if wait:
            calls.fsync(descriptor)
    finally:
        os.close(descriptor)
