"""safetensors: an 8-byte little-endian header length, a JSON header, then the tensors without holes.

Laws (safetensors 0.8, tensor.rs):
- The header has at most 100 MB. It maps each name to dtype, shape and data_offsets [begin, end), counted from
  the end of the header; `__metadata__` maps strings to strings.
- Sorted by offset the tensors cover the rest of the file exactly: no holes, no overlaps, nothing after them.
- The header may be padded with spaces; its length is made a multiple of 8 here, as the library does.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from math import prod
from operator import attrgetter
from typing import Any

from rewriter.checkpoint import Field, FileStamp, Shard, TensorInfo
from rewriter.errors import CheckpointError, printable
from rewriter.formats import json_edit
from rewriter.formats.limits import check_entries, check_total
from rewriter.system.files import open_for_reading, read_at

HEADER_LIMIT = 100_000_000
DIMENSION_LIMIT = 64  # torch's and numpy's own; a product of thousands of large numbers takes forever
METADATA = "__metadata__"

# Bits of one element, by the names that safetensors 0.8 reads.
DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


def is_safetensors(start: bytes, size: int) -> bool:
    """Whether a file that begins with `start` (16 bytes) and has `size` bytes could be safetensors."""
    return len(start) > 8 and start[8:9] in b"{ " and struct.unpack_from("<Q", start)[0] <= size - 8


def open_shard(path: str, name: str, index: int) -> tuple[Shard, tuple[TensorInfo, ...], bytes]:
    """Return the file's shard number `index`, its tensors in header order, and the SHA-256 of its header.

    Raises CheckpointError, with the file's name, for anything that the format does not allow.
    """
    with open_for_reading(path) as (descriptor, stamp):
        if stamp.size < 8:
            raise CheckpointError(f"{printable(name)} is not safetensors: it has {stamp.size} bytes")
        prefix = read_at(descriptor, 0, 8, name)
        length = struct.unpack("<Q", prefix)[0]
        if length > HEADER_LIMIT or length > stamp.size - 8:
            raise CheckpointError(
                f"{printable(name)} says its header has {length} bytes; the file has {stamp.size}, the format's limit "
                f"is {HEADER_LIMIT}"
            )
        header = read_at(descriptor, 8, length, name)
    shard, tensors = _parsed(header, path, name, index, stamp)
    return shard, tensors, hashlib.sha256(prefix + header).digest()


def _parsed(header: bytes, path: str, name: str, index: int, stamp: FileStamp) -> tuple[Shard, tuple[TensorInfo, ...]]:
    start = 8 + len(header)
    entries = _json(header, f"the header of {name}")
    if not isinstance(entries, dict):
        raise CheckpointError(f"the header of {printable(name)} is not a JSON object")
    try:
        fields = _metadata(entries.pop(METADATA, None))
        check_total(len(entries))
        tensors = tuple(_tensor(key, entry, index, start) for key, entry in entries.items())
    except CheckpointError as error:
        raise CheckpointError(f"{printable(name)}: {error}") from None
    _check_coverage(tensors, start, stamp.size, name)
    return Shard(name, path, start, stamp, fields), tensors


def _json(header: bytes, where: str) -> Any:
    """Like the library's own reader, refuse text that cannot be written as UTF-8 again."""
    try:
        entries = json_edit.parse(header.decode("utf-8"), where, finite=True)
        if b"\\ud" in header.lower():
            json.dumps(entries, ensure_ascii=False).encode("utf-8")
    except UnicodeError as error:
        raise CheckpointError(f"{printable(where)} is not UTF-8: {error.reason}") from None  # type: ignore[attr-defined]
    return entries


def _metadata(value: object) -> tuple[Field, ...] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise CheckpointError(f"{METADATA} must map strings to strings")
    check_entries(len(value))
    return tuple(Field(key, "string", item) for key, item in value.items())


def _tensor(name: str, entry: object, shard: int, start: int) -> TensorInfo:
    members = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = members.pop("dtype", None), members.pop("shape", None), members.pop("data_offsets", None)
    if dtype is None or not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise CheckpointError(f"tensor {printable(name)} needs a dtype, a shape and two data_offsets")
    numbers = [*shape, *offsets]
    if len(shape) > DIMENSION_LIMIT or not _are_sizes(numbers):
        raise CheckpointError(
            f"tensor {printable(name)}: shape and offsets must be numbers from 0 to 2^63, at most "
            f"{DIMENSION_LIMIT} of them"
        )
    bits = DTYPE_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise CheckpointError(f"tensor {printable(name)} has the unknown dtype {printable(dtype)}")
    begin, end = offsets
    size = prod(shape) * bits
    if (size or prod(filter(None, shape))) >= 2**64:  # the library multiplies before it meets a zero
        raise CheckpointError(f"tensor {printable(name)}: the shape {printable(shape)} is too large")
    if size % 8 or size != (end - begin) * 8:
        raise CheckpointError(
            f"tensor {printable(name)}: {dtype} of shape {printable(list(shape))} needs {size / 8:g} bytes, "
            f"its offsets {begin} to {end} give {end - begin}"
        )
    return TensorInfo(name, dtype, tuple(shape), shard, start + begin, end - begin, extra=members or None)


def _are_sizes(numbers: list[Any]) -> bool:
    """Whether all are numbers from 0 to 2^63; `true` is none."""
    for number in numbers:  # noqa: SIM110  # there may be millions, and `all` takes twice as long
        if type(number) is not int or not 0 <= number < 2**63:
            return False
    return True


def _check_coverage(tensors: Iterable[TensorInfo], start: int, size: int, name: str) -> None:
    """Refuse holes, overlaps, bytes after the last tensor and tensors after the last byte."""
    at = start
    for tensor in sorted(tensors, key=attrgetter("offset", "nbytes")):
        if tensor.offset != at:
            flaw = "overlaps the one before it" if tensor.offset < at else "leaves a hole before it"
            raise CheckpointError(
                f"{printable(name)}: tensor {printable(tensor.name)} starts at byte {tensor.offset - start} of the "
                f"data and {flaw}, which ends at {at - start}"
            )
        at += tensor.nbytes
    if at != size:
        raise CheckpointError(f"{printable(name)} has {size} bytes, its tensors end at byte {at}")


def metadata_of(shard: Shard) -> dict[str, object] | None:
    """The `__metadata__` of a shard, None if it has none."""
    return None if shard.fields is None else {field.key: field.value for field in shard.fields}
