"""Files that anyone may have written, read within bounds of time and size."""

from __future__ import annotations

import errno
import os
import re
import signal
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any, TypeVar

from rewriter.errors import CheckpointError, os_reason, printable
from rewriter.system import calls

Kind = TypeVar("Kind")

_LIMIT = 4 << 20  # bytes; a batch of ten thousand jobs has one
_SECONDS = 4  # tomllib needs time in proportion to the square of a dotted key's length


class TooLongError(Exception):
    """It takes too long. No OSError: what goes through folders passes over those."""


class ShapeError(CheckpointError):
    """A value from JSON or TOML has not the members or the types that it must have; the message names the member."""


class NoFileError(OSError):
    """What is there is no regular file, or far too large a one: nobody who should has written it."""


def read_whole(path: str | Path, most: int) -> bytes:
    """All of a file of at most `most` bytes. Raises OSError, NoFileError for a pipe or a device, which have no end."""
    descriptor = os.open(path, calls.READING)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NoFileError(errno.EINVAL, "it is not a regular file", str(path))
        if status.st_size > most:
            raise NoFileError(errno.EFBIG, f"it has {status.st_size} bytes, more than {most}", str(path))
        parts: list[bytes] = []
        while part := os.read(descriptor, most):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooLongError in what takes more than `seconds` of the processor: regular expressions and parsers may never
    come to an end. Only the main thread can be interrupted; elsewhere, and on Windows, all goes on.
    """
    if not hasattr(signal, "setitimer") or current_thread() is not main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGPROF, stop)
    try:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_PROF, 0)
        finally:
            signal.signal(signal.SIGPROF, before)


def read_toml(path: Path) -> dict[str, Any]:
    """The table in the TOML file at `path`. Raises CheckpointError."""
    try:
        with time_limit(_SECONDS):
            return tomllib.loads(read_whole(path, _LIMIT).decode())
    except TooLongError:
        why = "it takes too long"
    except OSError as error:
        why = os_reason(error)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        why = f"it is not valid TOML: {printable(error, 100)}"
    raise CheckpointError(f"cannot read {printable(path.name or path)}: {why}")


_SHAPE_ERROR = re.compile(r"(?P<reason>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_REASONS = (
    (re.compile(r"Expected `array` of length ([0-9]+), .*"), r"must hold arrays of \1"),
    (re.compile(r"Expected `array`, .*"), "must be an array"),
    (re.compile(r"Expected `object`, .*"), "must be a table"),
    (re.compile(r"Expected `(\w+)`, .*"), r"must be of type \1"),
)  # what msgspec says -> what we say


def convert(value: object, kind: type[Kind], where: str = "the value") -> Kind:
    """`value`, read from JSON or TOML, as a `kind`: a dataclass, a tuple type, or whatever else msgspec converts to.

    Types are strict: a boolean is not an integer, a text is not a list. Members that `kind` does not have are ignored.
    A ValueError of a dataclass's `__post_init__` is a wrong shape too. Raises ShapeError; its message begins with
    `where`.
    """
    import msgspec  # 25 ms, and most runs read nothing of the kind

    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        match = _SHAPE_ERROR.fullmatch(str(error))
        reason, path = match.groups("") if match else (str(error), "")
        for words, ours in _REASONS:
            reason = words.sub(ours, reason)
        members = re.sub(r"\[.*?\]", "", path).replace(".", ": ").removeprefix(": ")
        raise ShapeError(printable(f"{where}{': ' * bool(members)}{members} {reason}", 200)) from None
