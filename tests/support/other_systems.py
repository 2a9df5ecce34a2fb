"""Makes this system look like another one, as far as Python programs see it: `python other_systems.py NAME ...` then
runs `rewriter ...` there. What a system lacks is taken away before the program is imported.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import sys
from types import SimpleNamespace

HIDDEN = {
    "windows": [
        "pread", "preadv", "pwrite", "sendfile", "copy_file_range", "statvfs", "fstatvfs", "getuid", "geteuid", "fork",
        "sched_getaffinity", "posix_fadvise", "mkfifo", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC",
        "O_TMPFILE", "SEEK_DATA", "SEEK_HOLE", "fchmod", "fdatasync",
    ],
    "macos": ["copy_file_range", "O_TMPFILE", "sched_getaffinity", "posix_fadvise", "fdatasync"],
}  # fmt: skip


def windows() -> None:
    """No fcntl, no directory that opens, no C library without a name, no sync of what is open for reading."""
    sys.modules["fcntl"] = sys.modules["resource"] = None  # type: ignore[assignment]
    del signal.SIGHUP
    statvfs, opened, fsync, status = os.statvfs, os.open, os.fsync, os.fstat
    shutil.disk_usage = lambda path: SimpleNamespace(free=statvfs(path).f_bavail * statvfs(path).f_frsize)
    shutil._use_fd_functions = False
    reading = set()

    def open_file(path, flags, mode=0o777, **named):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "permission denied", path)
        descriptor = opened(path, flags, mode, **named)
        (reading.discard if flags & (os.O_WRONLY | os.O_RDWR) else reading.add)(descriptor)
        return descriptor

    def sync(descriptor):
        status(descriptor)
        if descriptor in reading:
            raise OSError(errno.EBADF, "bad file descriptor")
        fsync(descriptor)

    real = ctypes.CDLL

    def library(name, **how):
        if "mode" in how or name is not None:  # threadpoolctl goes by sys.platform, which says Linux here
            return real(name, **how)
        raise TypeError("LoadLibrary() argument 1 must be str, not None")

    os.open, os.fsync, ctypes.CDLL = open_file, sync, library


def macos() -> None:
    """Its own rename, its own sync, and files that are sent to sockets only."""
    import fcntl

    control, descriptors = fcntl.fcntl, []
    fcntl.F_FULLFSYNC = 51  # sys/fcntl.h of macOS

    def fcntl_(descriptor, command, *more):
        if command == fcntl.F_FULLFSYNC:
            descriptors.append(descriptor)
            return os.fsync(descriptor)
        return control(descriptor, command, *more)

    def sendfile(*arguments):
        raise OSError(errno.ENOTSOCK, "socket operation on non-socket")

    def ioctl(*arguments):
        raise OSError(errno.ENOTTY, "inappropriate ioctl for device")

    libc = ctypes.CDLL(None, use_errno=True)
    swap_or_new = {2: 2, 4: 1}  # RENAME_SWAP, RENAME_EXCL there; RENAME_EXCHANGE, RENAME_NOREPLACE here
    apple = SimpleNamespace(renamex_np=lambda old, new, flags: libc.renameat2(-100, old, -100, new, swap_or_new[flags]))
    real = ctypes.CDLL
    ctypes.CDLL = lambda name, **how: real(name, **how) if "mode" in how or name is not None else apple
    fcntl.fcntl, fcntl.ioctl, os.sendfile = fcntl_, ioctl, sendfile


def become(name: str) -> None:
    """Take away what the system called `name` does not have."""
    {"windows": windows, "macos": macos}[name]()
    for hidden in HIDDEN[name]:
        if hasattr(os, hidden):
            delattr(os, hidden)


if __name__ == "__main__":
    become(sys.argv.pop(1))
    from rewriter.cli import main

    main()
