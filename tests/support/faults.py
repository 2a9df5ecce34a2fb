"""A double of the system calls: it counts those that a run makes, and lets something happen at the Nth.

What is covered is every function of `posix` that asks the kernel (our own calls and those of pathlib and shutil go
through the module `os`), flock, ioctl, renameat2, and the built-in `open`. Not covered: what iterating over
`os.scandir` reads, the libraries that `verify` asks, and the imports.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import errno
import fcntl
import io
import os
import posix
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

# functions of posix that ask the kernel for nothing that could fail
PURE = {
    "fspath", "strerror", "getpid", "getppid", "cpu_count", "fork", "_exit", "kill", "WEXITSTATUS", "WIFSIGNALED",
    "WIFEXITED", "WTERMSIG", "waitstatus_to_exitcode", "waitpid", "getuid", "geteuid", "register_at_fork", "umask",
    "putenv", "unsetenv", "sched_getaffinity", "isatty", "get_terminal_size", "pipe", "pipe2", "getcwd",
    "_path_normpath", "WIFSTOPPED", "WCOREDUMP", "WSTOPSIG",
}  # fmt: skip
CALLS = sorted(
    name
    for name, value in vars(posix).items()
    if callable(value) and not isinstance(value, type) and name not in PURE and getattr(os, name, None) is value
)
WATCHED = frozenset({*CALLS, "flock", "ioctl", "open", "renameat2"})
WRITING = frozenset({"open", "write", "copy_file_range", "sendfile", "mkdir", "fsync", "ftruncate", "close"})
ALL = -1  # in the place of a call's number
SHORT = frozenset({"write", "copy_file_range", "sendfile", "pread"})


@dataclass
class Calls:
    """The calls so far; `act(number, name)` comes before each and may raise."""

    act: Callable[[int, str], None] = lambda number, name: None
    after: Callable[[int, str], None] = lambda number, name: None
    shorten: int = 0  # the number of the call that does only part of what it is asked to, or ALL
    names: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wrapped(self, name: str, real: Callable) -> Callable:
        def call(*arguments, **named):
            with self.lock:
                self.names.append(name)
                number = len(self.names)
            if name == "close":  # a file is closed even where that fails
                real(*arguments, **named)
                return self.act(number, name)
            self.act(number, name)
            if name in SHORT and self.shorten in (number, ALL):
                arguments, named = shortened(name, arguments, named)
            done = None if name == "fsync" else real(*arguments, **named)  # a test survives no power cut anyway
            self.after(number, name)
            return done

        return call


def shortened(name: str, arguments: tuple, named: dict) -> tuple[tuple, dict]:
    if name == "write":
        return (arguments[0], arguments[1][: max(1, len(arguments[1]) // 2)]), named
    place = {"pread": 1, "copy_file_range": 2, "sendfile": 3}[name]
    changed = list(arguments)
    changed[place] = max(1, changed[place] // 2)
    return tuple(changed), named


@contextmanager
def watching(calls: Calls) -> Iterator[Calls]:
    """Every system call of this process goes through `calls`."""
    from rewriter.system import rename

    def renameat2(old, new, flags):
        function = ctypes.CDLL(None, use_errno=True).renameat2
        if function(-100, os.fsencode(old), -100, os.fsencode(new), flags):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(new))
        return True

    real = [(os, name, getattr(os, name)) for name in CALLS]
    real += [(fcntl, "flock", fcntl.flock), (fcntl, "ioctl", fcntl.ioctl), (builtins, "open", open), (io, "open", open)]
    real += [(rename, "_renameat2", rename._renameat2)]
    try:
        for module, name, function in real[:-1]:
            setattr(module, name, calls.wrapped(name, function))
        rename._renameat2 = calls.wrapped("renameat2", renameat2)
        yield calls
    finally:
        for module, name, function in real:
            setattr(module, name, function)


def points(names: list[str], among: Collection[str] = WATCHED) -> Iterator[int]:
    """The numbers of the calls `among` these. The way to a path, looked at folder by folder, is one point."""
    before = ""
    for number, name in enumerate(names, 1):
        if name in among and not name == before == "lstat":
            yield number
        before = name


def failing(nth: int, code: int, among: Collection[str] = WATCHED) -> Callable[[int, str], None]:
    """An OSError at the Nth call, or the first after it that is `among` these: threads change their order."""
    failed = []

    def act(number: int, name: str) -> None:
        if number >= nth and name in among and not failed:
            failed.append(number)
            raise OSError(code, os.strerror(code))

    return act


def full_disk(nth: int, code: int = errno.ENOSPC) -> Callable[[int, str], None]:
    """From the Nth call on nothing can be written any more, but things can still be removed."""

    def act(number: int, name: str) -> None:
        if number >= nth and name in WRITING - {"open", "close", "ftruncate"}:
            raise OSError(code, os.strerror(code))

    return act


def at(nth: int, what: Callable[[], None]) -> Callable[[int, str], None]:
    """Do `what` at the Nth call."""

    def act(number: int, name: str) -> None:
        if number == nth:
            what()

    return act


def in_child(run: Callable[[], None]) -> int:
    """Run in a fork of this warm process: how it ended, as waitpid says it."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    code = 70
    try:
        with contextlib.suppress(SystemExit):
            run()
        code = 0
    finally:
        os._exit(code)
