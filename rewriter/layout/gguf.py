"""The files of a pruned GGUF: one file, or a split set of which the first file holds the metadata. Pure."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rewriter.checkpoint import Field, FieldEdit, Shard, TensorInfo
from rewriter.errors import UnsupportedError, printable
from rewriter.formats.gguf import PROVENANCE_KEY, SPLIT_NAME, shard_values
from rewriter.formats.gguf_header import MAGIC, aligned, field_bytes, kind_of, tensor_record
from rewriter.layout.output import (  # fmt: skip
    BLOCK,
    CopyRange,
    Literal,
    Output,
    OutputFile,
    Piece,
    best_alignment,
    coalesce,
    whole_file,
)
from rewriter.layout.sharding import Group, by_size, by_source, is_unchanged, tensors_by_shard
from rewriter.layout.tensor_pieces import tensor_pieces
from rewriter.planning.plan import Plan
from rewriter.planning.tensor_renaming import TensorCopy

PADDING_KEY = "rewriter.padding"  # its value is spaces
ALIGNMENT_KEY = "general.alignment"
_TOTAL = "split.tensors.count"
_SPLIT_KINDS = {"split.no": "u16", "split.count": "u16", _TOTAL: "i32"}
_MOST_PADDING = 64 << 20  # bytes that are made up; real ones are padded to 32, and rarely to 4096


def layout(plan: Plan, name: str) -> Output:
    """The files of the pruned checkpoint; `name` is the destination's file name. Raises UnsupportedError."""
    parts = _resharded(plan) if plan.options.reshards else _as_in_source(plan)
    _check_padding(plan, parts)
    was_split = len(plan.checkpoint.shards) > 1 or SPLIT_NAME.fullmatch(plan.checkpoint.name) is not None
    split = len(parts) > 1 or (was_split and not plan.options.reshards)
    count = len(parts)
    names = [f"{_prefix(name)}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)] if split else [name]
    tensors = tensors_by_shard(plan)
    files = tuple(_file(plan, file_name, part, tensors) for file_name, part in zip(names, parts, strict=True))
    sources = tuple((shard.path, shard.stamp) for shard in plan.checkpoint.shards)
    owned_names = re.escape(_prefix(name)) + r"-[0-9]+-of-[0-9]+\.gguf(\.rewriter\.json)?"
    owned_names = owned_names if split else re.escape(name) + r"\.rewriter\.json"
    return Output(files, False, sources, owned_names)


@dataclass(frozen=True, slots=True)
class _Part:
    """One file to be: metadata as in `shard`, with these values for the keys of a split set (None: the key goes)."""

    shard: Shard
    copies: Group
    split: Mapping[str, int | None]
    first: bool
    source: int | None = None  # the number of the source's file that it continues


def _as_in_source(plan: Plan) -> list[_Part]:
    """The files of the source. The metadata stands in the first: it moves on when that one is left without tensors."""
    shards, stay = plan.checkpoint.shards, list(by_source(plan))
    merged_before = plan.checkpoint.metadata.get("split.count") == 0  # only the number of tensors is still true
    parts = []
    for number, (index, copies) in enumerate(stay):
        split: dict[str, int | None] = {} if merged_before else {"split.no": number, "split.count": len(stay)}
        shard = shards[index if number else 0]
        there = {field.key for field in shard.fields or ()}
        split = {key: value for key, value in {**split, _TOTAL: len(plan.tensors)}.items() if key in there}
        parts.append(_Part(shard, copies, split, number == 0, index))
    return parts


def _resharded(plan: Plan) -> list[_Part]:
    """Files of their own: what a split set says about itself is new, and a single file says nothing."""
    first = plan.checkpoint.shards[0]
    _refuse_other_metadata(plan.checkpoint.shards)
    later = replace(first, fields=tuple(field for field in first.fields or () if field.key == ALIGNMENT_KEY))
    whole = _Part(first, (), dict.fromkeys(_SPLIT_KINDS, 0), first=True)
    heads = [_head_bytes(plan, part) for part in (whole, replace(whole, shard=later, first=False))]
    groups = by_size(plan, lambda copy: _record_bytes(copy, first.alignment), lambda number: heads[number > 0])
    if len(groups) == 1:
        return [replace(whole, copies=groups[0], split=dict.fromkeys(_SPLIT_KINDS))]
    counts = {"split.count": len(groups), _TOTAL: len(plan.tensors)}
    return [
        _Part(later if number else first, copies, {"split.no": number, **counts}, number == 0)
        for number, copies in enumerate(groups)
    ]


def _refuse_other_metadata(shards: tuple[Shard, ...]) -> None:
    """llama.cpp reads the metadata of the first file alone: other files have nothing else to say."""
    known = {*_SPLIT_KINDS, ALIGNMENT_KEY, PROVENANCE_KEY, PADDING_KEY, *shard_values(shards[0])}
    for shard in shards[1:]:
        for key in shard_values(shard):
            if key not in known:
                raise UnsupportedError(
                    f"{printable(shard.name)} has metadata of its own, {printable(key)}: files stay as they are"
                )


def _head_bytes(plan: Plan, part: _Part) -> int:
    """At most so many bytes are in a file besides its tensors, their records and what pads it to whole blocks."""
    fields = sum(piece.nbytes for piece in _field_pieces(plan, part))
    return 24 + fields + len(field_bytes(PADDING_KEY, "string", "")) + 2 * part.shard.alignment


def _record_bytes(copy: TensorCopy, alignment: int) -> int:
    return len(tensor_record(copy.name, copy.tensor, 0)) + aligned(copy.tensor.nbytes, alignment)


def _check_padding(plan: Plan, parts: Iterable[_Part]) -> None:
    """Refuse what would be padding and little else: all that is not in the source is held in memory."""
    made_up = 0
    for part in parts:
        alignment = part.shard.alignment
        made_up += alignment + sum(_missing(plan, copy.tensor, alignment) for copy in part.copies)
        if made_up > _MOST_PADDING:
            raise UnsupportedError(f"the output would be mostly padding: its tensors are padded to {alignment} bytes")


def _missing(plan: Plan, tensor: TensorInfo, alignment: int) -> int:
    """How much of the tensor's padding is not in the source."""
    shard, padded = plan.checkpoint.shards[tensor.shard], aligned(tensor.nbytes, alignment)
    there = tensor.cut is None and shard.alignment == alignment and tensor.offset + padded <= shard.stamp.size
    return 0 if there else padded - tensor.nbytes


def _prefix(name: str) -> str:
    """`x.gguf` and `x-00001-of-00003.gguf` both name the set x."""
    match = SPLIT_NAME.fullmatch(name)
    return match["prefix"] if match else name.removesuffix(".gguf")


def _file(plan: Plan, name: str, part: _Part, tensors: Sequence[Sequence[TensorInfo]]) -> OutputFile:
    fields = list(_field_pieces(plan, part))
    if part.source is not None and part.shard is plan.checkpoint.shards[part.source]:
        same_fields = [isinstance(each, CopyRange) for each in fields] == [True] * len(part.shard.fields or ())
        if same_fields and is_unchanged(part.copies, tensors[part.source]):
            return whole_file(name, part.shard.path, part.shard.stamp.size)
    return OutputFile(name, coalesce(_pieces(plan, part, fields)))


def _pieces(plan: Plan, part: _Part, fields: list[Piece]) -> Iterator[Piece]:
    """The pieces of a file: its metadata, then its tensors."""
    alignment = part.shard.alignment
    data = coalesce(piece for copy in part.copies for piece in _data_pieces(plan, copy.tensor, alignment))
    records, at = [], 0
    for copy in part.copies:
        records.append(tensor_record(copy.name, copy.tensor, at))
        at += aligned(copy.tensor.nbytes, alignment)
    size = 24 + sum(piece.nbytes for piece in fields) + sum(map(len, records))
    if plan.provenance is not None:
        fields += _filler(size, alignment, best_alignment(data))
        size = 24 + sum(piece.nbytes for piece in fields) + sum(map(len, records))
    yield Literal(MAGIC + struct.pack("<IQQ", part.shard.version, len(part.copies), len(fields)))
    yield from fields
    yield Literal(b"".join(records))
    yield Literal(bytes(-size % alignment))
    yield from data


def _filler(size: int, alignment: int, start: int | None) -> list[Piece]:
    """A key that makes a header of `size` bytes so long that the data starts where it should, modulo BLOCK.

    The format pads to the alignment and not further.
    """
    if start is None or aligned(size, alignment) % BLOCK == start or BLOCK % alignment:
        return []
    empty = field_bytes(PADDING_KEY, "string", "")
    length = (start - aligned(size + len(empty), alignment)) % BLOCK
    return [Literal(field_bytes(PADDING_KEY, "string", " " * length))]


def _data_pieces(plan: Plan, tensor: TensorInfo, alignment: int) -> Iterator[Piece]:
    """The tensor and its padding: the source's own where it is there, so that neighbours stay one range."""
    shard, missing = plan.checkpoint.shards[tensor.shard], _missing(plan, tensor, alignment)
    if tensor.cut is not None:
        yield from tensor_pieces(tensor, shard.path)
    else:
        yield CopyRange(shard.path, tensor.offset, aligned(tensor.nbytes, alignment) - missing)
    yield Literal(bytes(missing))


def _field_pieces(plan: Plan, part: _Part) -> Iterator[Piece]:
    """One piece for each key-value record: the source's bytes, or new ones for what changes."""
    edits = {edit.key: edit for edit in plan.edits} if part.first else {}
    split = dict(part.split)
    for field in part.shard.fields or ():
        if field.key in (PROVENANCE_KEY, PADDING_KEY):
            continue
        value = split.pop(field.key, field.value)
        if field.key in edits:
            yield Literal(_edited(field, edits.pop(field.key)))
        elif value == field.value:
            yield CopyRange(part.shard.path, field.offset, field.nbytes)
        elif value is not None:
            yield Literal(field_bytes(field.key, field.type, value))
    for key, value in split.items():
        if value is not None:
            yield Literal(field_bytes(key, _SPLIT_KINDS[key], value))
    for edit in edits.values():
        yield Literal(field_bytes(edit.key, kind_of(edit.after), edit.after))
    if part.first and plan.provenance is not None:
        record = json.dumps(plan.provenance.to_json(), ensure_ascii=True, separators=(",", ":"))
        yield Literal(field_bytes(PROVENANCE_KEY, "string", record))


def _edited(field: Field, edit: FieldEdit) -> bytes:
    """The record with its new value, in its old type unless a number becomes a list."""
    kind = kind_of(edit.after)
    keeps_form = kind.startswith("array") == field.type.startswith("array")
    return field_bytes(field.key, field.type if keeps_form else kind, edit.after)
