"""Opens files for reading, and only real ones: a FIFO would hang, a device has no end."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rewriter.checkpoint import Document, FileStamp
from rewriter.errors import CheckpointError, did_you_mean, os_reason, printable
from rewriter.system import calls
from rewriter.system.signals import STOP

_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
JSON_LIMIT = 100_000_000  # bytes, as the header of safetensors; the largest index of a real checkpoint has some 10 MB


@contextmanager
def open_for_reading(path: str | Path) -> Iterator[tuple[int, FileStamp]]:
    """Give a descriptor for reading and the file's stamp. Raises CheckpointError if it is no regular file."""
    try:
        descriptor = os.open(path, calls.READING)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        hint = _near(path) if isinstance(error, FileNotFoundError) else ""
        raise CheckpointError(f"cannot open {printable_name(path)}: {_reason(error)}{hint}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{printable_name(path)} is not a regular file")
        yield descriptor, FileStamp(status.st_ino, status.st_size, status.st_mtime_ns)
    finally:
        os.close(descriptor)


def _near(path: str | Path) -> str:
    """What in the folder has nearly this name."""
    folder, name = os.path.split(os.fspath(path).rstrip("/"))
    try:
        before = printable(os.path.join(folder, ""), 200) if folder else ""
        return did_you_mean(name, os.listdir(folder or "."), before, os.path.splitext(name)[1])
    except OSError:
        if _HUB.fullmatch(os.fspath(path)):
            return f"; if that is a name on the Hub, fetch it first: hf download {path} --local-dir {name}"
        return "; its folder does not exist either" if folder else ""


def _reason(error: OSError | ValueError) -> str:
    return os_reason(error) if isinstance(error, OSError) else str(error)


def printable_name(path: str | Path) -> str:
    """The last part of a path, safe to print."""
    return printable(os.path.basename(os.fspath(path).rstrip("/")) or path)


def file_stamp(path: str | Path) -> FileStamp:
    """The stamp of a regular file that can be read."""
    with open_for_reading(path) as (_, found):
        return found


def read_at(descriptor: int, offset: int, nbytes: int, where: str) -> bytes:
    """Return exactly `nbytes` bytes from `offset`. Raises CheckpointError if the file ends before, StoppedError."""
    parts: list[bytes] = []
    while nbytes:
        STOP.check()
        try:
            part = calls.read_part(descriptor, nbytes, offset)
        except OSError as error:
            raise CheckpointError(f"cannot read {printable(where)} at byte {offset}: {os_reason(error)}") from None
        if not part:
            raise CheckpointError(f"{printable(where)} ends at byte {offset}, {nbytes} bytes too early")
        parts.append(part)
        offset += len(part)
        nbytes -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_json_bytes(path: str | Path) -> tuple[bytes, FileStamp]:
    """Return the whole of a JSON file, and its stamp."""
    with open_for_reading(path) as (descriptor, found):
        if found.size > JSON_LIMIT:
            raise CheckpointError(f"{printable_name(path)} has {found.size} bytes, far too many for a JSON file")
        return read_at(descriptor, 0, found.size, printable_name(path)) if found.size else b"", found


def read_document(path: Path, name: str) -> Document:
    """Return the JSON text at `path`, which the checkpoint calls `name`. Raises CheckpointError if it is not UTF-8."""
    raw, found = read_json_bytes(path)
    try:
        return Document(name, str(path), raw.decode("utf-8"), found)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{printable(name)} is not UTF-8: {error.reason} at byte {error.start}") from None
