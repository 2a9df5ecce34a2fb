"""Importance matrices in the form that llama-imatrix wrote before it took GGUF: a bare list of rows.

Laws (llama.cpp, imatrix.cpp, quantize.cpp; little-endian):
- i32 number of entries. Each: i32 length and the name of a weight, i32 number of calls, i32 number of values and as
  many f32.
- Then, in all but the oldest files: i32 last chunk, i32 length and name of the data set.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

from rewriter.checkpoint import IMATRIX, IMPORTANCES, Checkpoint, Field, Shard, TensorInfo
from rewriter.errors import CheckpointError, printable
from rewriter.formats.binary_reader import BinaryReader
from rewriter.formats.limits import TENSORS, check_total
from rewriter.system.files import open_for_reading

_NAME_LIMIT = 1024  # bytes; ggml's names have at most 64
_DATASET_LIMIT = 1 << 16  # bytes; it is a path
_HEAD = 12  # bytes of an entry besides its name and values
_ENDING = "ending"  # what follows the entries, as it is


def is_imatrix(start: bytes) -> bool:
    """Whether a file that begins with `start` (16 bytes) could be one: a count, a length, and a name."""
    if len(start) < _HEAD:
        return False
    count, length = struct.unpack_from("<ii", start)
    return 0 < count <= TENSORS and 0 < length <= _NAME_LIMIT and start[8 : 8 + length].isascii()


def open_imatrix(path: Path) -> Checkpoint:
    """Open the importance matrix at `path`. Raises CheckpointError for anything that the format does not allow."""
    with open_for_reading(path) as (descriptor, stamp):
        reader = BinaryReader(descriptor, stamp.size, path.name, stamp.size)
        try:
            tensors = tuple(_entries(reader))
            ending = _ending(reader, stamp.size)
        except CheckpointError as error:
            raise CheckpointError(f"{printable(path.name)}: {error}") from None
    shard = Shard(path.name, str(path), 4, stamp, (ending,) if ending.nbytes else None)
    said = repr([(tensor.name, tensor.nbytes, tensor.extra) for tensor in tensors] + [ending.value])
    return Checkpoint(
        format=IMATRIX,
        path=str(path),
        name=path.name,
        architecture="",
        shards=(shard,),
        tensors=tensors,
        metadata={},
        header_sha256=hashlib.sha256(said.encode()).hexdigest(),
        nbytes=stamp.size,
        companion=IMPORTANCES,
    )


def _entries(reader: BinaryReader) -> Iterator[TensorInfo]:
    count = _size(reader, "entries")
    reader.check_room(count, _HEAD, "entries")
    check_total(count)
    seen: set[str] = set()
    for _ in range(count):
        name = _text(reader, _NAME_LIMIT)
        calls, values = reader.number("i"), _size(reader, f"values of {printable(name)}")
        if name in seen or not name:
            raise CheckpointError(f"the entry {printable(name)} stands twice" if name else "an entry has no name")
        seen.add(name)
        reader.check_room(values, 4, f"values of {printable(name)}")
        yield TensorInfo(name, "F32", (values,), 0, reader.at, 4 * values, extra={"calls": calls})
        reader.skip(4 * values)


def _size(reader: BinaryReader, what: str) -> int:
    number = reader.number("i")
    if number < 1:
        raise CheckpointError(f"{number} {what} at byte {reader.at - 4}")
    return number


def _text(reader: BinaryReader, limit: int) -> str:
    length = reader.number("i")
    if not 0 <= length <= limit:
        raise CheckpointError(f"a name of {length} bytes at byte {reader.at}")
    return reader.take(length).decode("utf-8", "surrogateescape")


def _ending(reader: BinaryReader, size: int) -> Field:
    """The last chunk and the data set, where they are there."""
    start = reader.at
    if start == size:
        return Field(_ENDING, "bytes", None, start)
    reader.check_room(1, 8, "ending")
    value = reader.number("i"), _text(reader, _DATASET_LIMIT)
    if reader.at != size:
        raise CheckpointError(f"{size - reader.at} bytes after the end at byte {reader.at}")
    return Field(_ENDING, "bytes", value, start, size - start)
