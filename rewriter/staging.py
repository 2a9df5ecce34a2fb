"""The directory beside a destination that an output is made in: locked, and gone afterwards."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from rewriter.errors import OutputError, shown
from rewriter.formats.files import named

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ATTEMPTS = 2  # at clearing away: a file that NFS still holds under another name goes the second time


@contextmanager
def staged(destination: Path, keep: Callable[[Path], bool]) -> Iterator[Path]:
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
                if os.stat(path).st_ino == os.fstat(lock).st_ino:
                    shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            os.close(lock)


def staging_path(destination: Path) -> Path:
    """Beside the destination. File names end at 255 bytes: a long one is stood for by its hash."""
    raw = os.fsencode(destination.name)
    short = destination.name if len(raw) < 200 else hashlib.sha256(raw).hexdigest()
    return destination.with_name(f".{short}.rewriter-tmp")


def _locked(path: Path) -> int:
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


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock, None if another run has just finished and removed the directory."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise OutputError(f"{named(path)} is in the way: it is not a directory") from None
    ours = False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = os.fstat(descriptor).st_ino == os.stat(path).st_ino
    except BlockingIOError:
        raise OutputError(f"another run is writing {shown(path.name)} at this moment") from None
    except FileNotFoundError:
        pass
    finally:
        if not ours:
            os.close(descriptor)
    return descriptor if ours else None


def emptied(folder: Path) -> None:
    """Remove all that is in `folder`. Raises OSError."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


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


def append(path: Path, data: bytes, wait: bool = True) -> None:
    """Write `data` at the end of a small file, which is made if need be, and `wait` until the disk has it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        if wait:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def uninterrupted() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Hold signals back, but for the time spent in what is given: there are few good moments to stop.

    Masks would not do: another thread, such as that of a progress bar, may take a signal, and its handler always runs
    in the main thread.
    """
    handlers = _handlers()
    waiting: list[int] = []

    def hold() -> None:
        for number in handlers:
            signal.signal(number, lambda number, frame: waiting.append(number))

    def release() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        while waiting:
            signal.raise_signal(waiting.pop())

    @contextmanager
    def let_in() -> Iterator[None]:
        try:
            release()
            yield
        finally:
            hold()

    try:
        hold()
        yield let_in
    finally:
        release()


_Handler = Callable[..., object] | int


def _handlers() -> dict[int, _Handler]:
    """Who handles the signals now, as far as that can be changed: only in the main thread, and ignored ones stay so."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = ((number, signal.getsignal(number)) for number in _SIGNALS)
    return {number: handler for number, handler in found if handler is not None and handler != signal.SIG_IGN}
