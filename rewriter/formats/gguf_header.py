"""GGUF headers: parsed into spans, so that every record that does not change is copied as its own bytes.

Laws (ggml, docs/gguf.md and gguf.cpp; little-endian, versions 2 and 3, which have the same layout):
- "GGUF", u32 version, u64 tensor count, u64 key-value count; key-value records; tensor records; padding.
- A string is a u64 length and its bytes. A key-value record is a key, a u32 type and a value; an array is a
  u32 item type, a u64 length and the items.
- A tensor record is a name, u32 dimensions, a u64 for each (fastest first), u32 type, u64 offset.
- Tensor data starts at the next multiple of `general.alignment` (a power of two, 32 where it is left out).
  Each tensor starts where the one before it, padded to the alignment, ends: llama.cpp loads nothing else.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable
from math import prod

from rewriter.checkpoint import Field, LongArray, Shard, TensorInfo
from rewriter.errors import CheckpointError, printable
from rewriter.formats.binary_reader import BinaryReader
from rewriter.formats.ggml_types import GGML_TYPES
from rewriter.formats.limits import check_entries, check_total
from rewriter.system.files import open_for_reading

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
ALIGNMENT_LIMIT = 1 << 24  # real files have 32, rarely 64 or 4096; more than this would only be padding
MAX_DIMENSIONS = 4
BUILT_ITEMS = 4096  # longer arrays are skipped; no stack has nearly as many layers
BUILT_KEYS = "general.tensor_extra."  # lists with an entry for each tensor, which must follow however long they are

# number in the file -> name, struct code
VALUE_TYPES = {
    0: ("u8", "B"), 1: ("i8", "b"), 2: ("u16", "H"), 3: ("i16", "h"), 4: ("u32", "I"), 5: ("i32", "i"),
    6: ("f32", "f"), 7: ("bool", "?"), 10: ("u64", "Q"), 11: ("i64", "q"), 12: ("f64", "d"),
}  # fmt: skip
STRING, ARRAY = 8, 9
_CODES = dict(VALUE_TYPES.values())
_NUMBERS = {name: number for number, (name, _) in VALUE_TYPES.items()} | {"string": STRING}


def open_shard(path: str, name: str, index: int) -> tuple[Shard, tuple[TensorInfo, ...]]:
    """Return the file's shard number `index` and its tensors in file order.

    Raises CheckpointError, with the file's name and the byte, for anything that the format does not allow.
    """
    with open_for_reading(path) as (descriptor, stamp):
        reader = BinaryReader(descriptor, stamp.size, name)
        try:
            version, tensor_count, field_count = _preamble(reader)
            check_total(tensor_count)
            check_entries(field_count)
            fields = tuple(_field(reader, index == 0) for _ in range(field_count))
            _check_unique((field.key for field in fields), "key")
            alignment = _alignment(fields)
            records = [_tensor_record(reader) for _ in range(tensor_count)]
            _check_unique((record[0] for record in records), "tensor name")
            start = aligned(reader.at, alignment)
            tensors = tuple(_placed(records, index, start, alignment, stamp.size))
        except CheckpointError as error:
            raise CheckpointError(f"{printable(name)}: {error}") from None
    return Shard(name, path, start, stamp, fields, version, alignment), tensors


def aligned(offset: int, alignment: int) -> int:
    """The next multiple of `alignment`."""
    return -(-offset // alignment) * alignment


def _preamble(reader: BinaryReader) -> tuple[int, int, int]:
    if reader.take(4) != MAGIC:
        raise CheckpointError("not a GGUF file")
    version = reader.number("I")
    if version & 0xFFFF == 0:
        raise CheckpointError("a big-endian GGUF; gguf-convert-endian turns it into a little-endian one")
    if version not in VERSIONS:
        raise CheckpointError(f"GGUF version {version}; versions 2 and 3 are read")
    tensor_count, field_count = reader.number("Q"), reader.number("Q")
    # the least that a record takes: an empty string, the types, one byte or an offset
    reader.check_room(tensor_count, 24, "tensors")
    reader.check_room(field_count, 13, "metadata records")
    return version, tensor_count, field_count


def _field(reader: BinaryReader, lists: bool) -> Field:
    """The next record. Without `lists` they are only measured: those of later files of a set mean nothing."""
    start = reader.at
    key = reader.string()
    number = reader.number("I")
    try:
        if number == ARRAY:
            most = sys.maxsize if key.startswith(BUILT_KEYS) else BUILT_ITEMS
            kind, value = _array(reader, most if lists else 0)
        elif number == STRING:
            kind, value = "string", reader.string()
        else:
            kind, code = _value_type(number)
            value = reader.number(code)
    except CheckpointError as error:
        raise CheckpointError(f"key {printable(key)}: {error}") from None
    return Field(key, kind, value, start, reader.at - start)


def _value_type(number: int) -> tuple[str, str]:
    if number not in VALUE_TYPES:
        raise CheckpointError(f"unknown value type {number}")
    return VALUE_TYPES[number]


def _array(reader: BinaryReader, built_items: int) -> tuple[str, object]:
    item, length = reader.number("I"), reader.number("Q")
    if item == ARRAY:
        raise CheckpointError("arrays of arrays are not read")
    if item == STRING:
        reader.check_room(length, 8, "strings")
        if length <= built_items:
            reader.build(length)
            return "array of string", tuple(reader.string() for _ in range(length))
        reader.skip_strings(length)
        return "array of string", LongArray("string", length)
    name, code = _value_type(item)
    width = struct.calcsize(code)
    reader.check_room(length, width, "items")
    if length > built_items:
        reader.skip(length * width)
        return f"array of {name}", LongArray(name, length)
    reader.build(length)
    return f"array of {name}", struct.unpack(f"<{length}{code}", reader.take(length * width))


def _check_unique(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise CheckpointError(f"the {what} {printable(name)} stands twice")
        seen.add(name)


def _alignment(fields: Iterable[Field]) -> int:
    kind, value = next(
        ((field.type, field.value) for field in fields if field.key == "general.alignment"), ("u32", DEFAULT_ALIGNMENT)
    )
    if type(value) is not int or value < 1 or value & (value - 1):
        raise CheckpointError(f"general.alignment must be a power of two, not {printable(value)}")
    if value > ALIGNMENT_LIMIT:
        raise CheckpointError(f"general.alignment is {value}, more than {ALIGNMENT_LIMIT}")
    if kind != "u32":
        raise CheckpointError(f"general.alignment is a {kind}; loaders read nothing but a u32")
    return value


def _tensor_record(reader: BinaryReader) -> tuple[str, tuple[int, ...], int, int]:
    name = reader.string()
    dimensions = reader.number("I")
    if dimensions > MAX_DIMENSIONS:
        raise CheckpointError(
            f"tensor {printable(name)} has {dimensions} dimensions; ggml has at most {MAX_DIMENSIONS}"
        )
    shape = struct.unpack(f"<{dimensions}Q", reader.take(8 * dimensions))
    return name, shape, reader.number("I"), reader.number("Q")


def _placed(
    records: Iterable[tuple[str, tuple[int, ...], int, int]], shard: int, start: int, alignment: int, size: int
) -> Iterable[TensorInfo]:
    """The tensors of `records`, each checked to begin where the one before it ends and to end in the file."""
    at = 0
    for name, shape, number, offset in records:
        if number not in GGML_TYPES:
            raise CheckpointError(f"tensor {printable(name)} has the unknown type {number}; a newer gguf may know it")
        dtype, block, width = GGML_TYPES[number]
        if (shape[0] if shape else 1) % block:
            raise CheckpointError(
                f"tensor {printable(name)}: rows of {shape[:1]} do not fill {dtype} blocks of {block}"
            )
        nbytes = prod(shape) // block * width
        if offset != at:
            raise CheckpointError(f"tensor {printable(name)} starts at offset {offset}, expected {at}")
        if start + offset + nbytes > size:
            raise CheckpointError(
                f"tensor {printable(name)} ends at byte {start + offset + nbytes}, the file has {size}: it is cut off"
            )
        yield TensorInfo(name, dtype, shape, shard, start + offset, nbytes, block)
        at = aligned(offset + nbytes, alignment)


def string_bytes(text: str) -> bytes:
    """A GGUF string. Bytes that are no UTF-8 come out as they went in."""
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


def field_bytes(key: str, kind: str, value: object) -> bytes:
    """A key-value record whose value is of type `kind`: `u32`, `array of bool`. Raises CheckpointError if not."""
    item = kind.removeprefix("array of ")
    items = value if isinstance(value, list | tuple) else (value,)
    head = string_bytes(key)
    if item != kind:
        head += struct.pack("<IIQ", ARRAY, _NUMBERS[item], len(items))
    else:
        head += struct.pack("<I", _NUMBERS[item])
    if item == "string":
        return head + b"".join(string_bytes(str(text)) for text in items)
    try:
        return head + struct.pack(f"<{len(items)}{_CODES[item]}", *items)
    except struct.error:
        raise CheckpointError(f"key {printable(key)}: {printable(value)} does not fit its type {kind}") from None


def kind_of(value: object) -> str:
    """The type that a new value is written with."""
    if isinstance(value, list | tuple):
        return f"array of {kind_of(value[0]) if value else 'u32'}"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "u32" if value >= 0 else "i32"
    return "f32" if isinstance(value, float) else "string"


def tensor_record(name: str, tensor: TensorInfo, offset: int) -> bytes:
    """The record of `tensor` under `name`, its data `offset` bytes after the data start."""
    shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
    return string_bytes(name) + shape + struct.pack("<IQ", _TYPE_NUMBERS[tensor.dtype], offset)


_TYPE_NUMBERS = {name: number for number, (name, _, _) in GGML_TYPES.items()}
