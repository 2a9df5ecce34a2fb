"""What not every system has, and the plain way where it is missing. Nothing else asks which system this is.

Linux has all of it. macOS has no copies inside the kernel that we use, and says `fsync` to its disk in another way.
Windows opens no directory: none can be locked or synced there (experimental).
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_START_WRITING = 2  # linux/fs.h: SYNC_FILE_RANGE_WRITE
_SECTOR = 512  # bytes that st_blocks counts in, everywhere (POSIX: sys/stat.h)


def open_flags(*names: str) -> int:
    """The flags for os.open of these names, as far as the system has them. Bytes stay bytes (O_BINARY)."""
    value = 0
    for name in (*names, "O_CLOEXEC", "O_BINARY"):
        value |= getattr(os, name, 0)
    return value


READING = open_flags("O_RDONLY", "O_NONBLOCK")
CREATING = open_flags("O_WRONLY", "O_CREAT", "O_EXCL")
APPENDING = open_flags("O_WRONLY", "O_CREAT", "O_APPEND", "O_NOFOLLOW")

_seeking = Lock()  # the place in a file belongs to all threads


def read_part(descriptor: int, nbytes: int, offset: int) -> bytes:
    """Up to `nbytes` bytes from `offset`. Raises OSError."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, nbytes, offset)
    with _seeking:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, nbytes)


def clone(source: int, target: int) -> None:
    """Let the empty file `target` share all blocks of `source`. Raises OSError where that cannot be done."""
    if fcntl is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fcntl.ioctl(target, _FICLONE, source)


def open_unnamed(folder: Path) -> int:
    """A new file in `folder` that has no name, and goes when it is closed. Raises OSError."""
    if not hasattr(os, "O_TMPFILE"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return os.open(folder, open_flags("O_TMPFILE", "O_RDWR"))


def fsync(descriptor: int) -> None:
    """Wait until the disk has the file. macOS: fsync alone waits for the drive's cache, F_FULLFSYNC for the drive."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):  # a network file system
                raise
        else:
            return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EBADF:  # Windows syncs no file that is open for reading only: a second name of one
            raise


def start_writeback(descriptor: int, first: int, nbytes: int) -> None:
    """Let the disk begin with some bytes, without waiting for it. Only an offer."""
    start = libc("sync_file_range")
    if start is not None:
        import ctypes  # here: where there is none, there is no `start`

        start(descriptor, ctypes.c_int64(first), ctypes.c_int64(nbytes), _START_WRITING)


@cache
def libc(name: str) -> Callable[..., int] | None:
    """The function of the C library, None where there is none. It leaves its error in `ctypes.get_errno()`."""
    try:
        import ctypes  # here: it may be missing

        return getattr(ctypes.CDLL(None, use_errno=True), name, None)
    except (ImportError, OSError, TypeError):  # Windows: a library must have a name
        return None


def free_bytes(folder: Path) -> int:
    """How many bytes the disk of `folder` has free for us. Raises OSError."""
    return shutil.disk_usage(folder).free


def sparse_bytes(status: os.stat_result) -> int:
    """How many bytes of a file take no room on its disk, as far as the system tells."""
    blocks: int | None = getattr(status, "st_blocks", None)
    return 0 if blocks is None else max(0, status.st_size - blocks * _SECTOR)


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def lock(descriptor: int) -> None:
    """Lock what is open, for as long as it is. Raises BlockingIOError while somebody else holds it."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class DirectoryHandle:
    """An open directory, no link to one, to be locked and synced. Where the system opens none, neither does anything.

    Raises NotADirectoryError, and OSError as os.open does.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._descriptor = path, None
        if hasattr(os, "O_DIRECTORY"):
            self._descriptor = os.open(path, open_flags("O_RDONLY", "O_DIRECTORY", "O_NOFOLLOW"))
        elif not stat.S_ISDIR(os.lstat(path).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))

    def is_at(self, path: Path) -> bool:
        """Whether it is what stands at `path` now. Raises OSError."""
        found = os.stat(path).st_ino
        return self._descriptor is None or os.fstat(self._descriptor).st_ino == found

    def is_ours(self) -> bool:
        """Whether it belongs to us, as what we make does: on some filesystems somebody else. Raises OSError."""
        if self._descriptor is None or os.fstat(self._descriptor).st_uid == os.geteuid():
            return True
        probe = open_unnamed(self._path)
        try:
            return os.fstat(probe).st_uid == os.fstat(self._descriptor).st_uid
        finally:
            os.close(probe)

    def lock(self) -> None:
        """Lock it, for as long as it is open. Raises BlockingIOError while somebody else holds it."""
        if self._descriptor is not None:
            lock(self._descriptor)

    def sync(self) -> None:
        """Wait until the disk knows the names in it. Raises OSError."""
        if self._descriptor is None:
            return
        try:
            fsync(self._descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some filesystems cannot sync a directory
                raise

    def close(self) -> None:
        """It is locked no more."""
        if self._descriptor is not None:
            os.close(self._descriptor)
