"""The directory beside a destination that an output is made in: locked, empty, and gone afterwards."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rewriter.errors import OutputError, shown
from rewriter.formats.files import named

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def staged(destination: Path) -> Iterator[Path]:
    """Give the locked staging directory of `destination`, which may hold what a killed run left.

    It is removed afterwards, unless it has become the output, or another run's, by then.
    """
    path = staging_path(destination)
    lock = _locked(path)
    try:
        yield path
    finally:
        with suppress(OSError):
            if os.stat(path).st_ino == os.fstat(lock).st_ino:
                shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def staging_path(destination: Path) -> Path:
    """Beside the destination. File names end at 255 bytes: a long one is stood for by its hash."""
    raw = os.fsencode(destination.name)
    short = destination.name if len(raw) < 200 else hashlib.sha256(raw).hexdigest()
    return destination.with_name(f".{short}.rewriter-tmp")


def _locked(path: Path) -> int:
    """Make `path`, or take it over, and lock it. Raises OutputError while another run holds it."""
    while True:
        with suppress(FileExistsError):
            path.mkdir()
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another run has just finished and removed it
        except OSError:
            raise OutputError(f"{named(path)} is in the way: it is not a directory") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_ino == os.stat(path).st_ino:
                return lock
        except BlockingIOError:
            os.close(lock)
            raise OutputError(f"another run is writing {shown(path.name)} at this moment") from None
        except FileNotFoundError:
            pass
        os.close(lock)


def sync(folder: Path) -> None:
    """Wait until the disk knows the names in `folder`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some filesystems cannot sync a directory
            raise
    finally:
        os.close(descriptor)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold signals back: between the first rename and the last there is no good moment to stop."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
