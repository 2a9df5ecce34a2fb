"""GGUF checkpoints: one file, or a split set of which the first file holds the metadata.

Laws (llama.cpp, gguf-split): files are called PREFIX-%05d-of-%05d.gguf; every file carries `split.no` (u16,
from 0), `split.count` (u16) and `split.tensors.count` (i32, over all files).
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from rewriter.checkpoint import CONTROL_VECTOR, GGUF, IMPORTANCES, LORA, Checkpoint, Field, FieldEdit, Shard, TensorInfo
from rewriter.errors import CheckpointError, UnsupportedError, shown
from rewriter.formats import json_text
from rewriter.formats.files import named, opened, read_at
from rewriter.formats.gguf_header import (
    MAGIC,
    aligned,
    field_bytes,
    kind_of,
    open_shard,
    tensor_record,
)
from rewriter.formats.grouping import Group, by_size, by_source, is_unchanged, tensors_by_shard
from rewriter.formats.pieces import tensor_pieces
from rewriter.formats.sizes import check_entries, check_total
from rewriter.output import BLOCK, CopyRange, Literal, Output, OutputFile, Piece, best_start, merged, whole_file
from rewriter.plan import Plan
from rewriter.tensors import TensorCopy

PROVENANCE_KEY = "rewriter.provenance"
PADDING_KEY = "rewriter.padding"  # spaces
ALIGNMENT_KEY = "general.alignment"
_TOTAL = "split.tensors.count"
_SPLIT_KINDS = {"split.no": "u16", "split.count": "u16", _TOTAL: "i32"}
SPLIT_NAME = re.compile(r"(?P<prefix>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)
_BLOCK = 1 << 20
_MOST_PADDING = 64 << 20  # bytes that are made up; real ones are padded to 32, and rarely to 4096


def looks_like(start: bytes) -> bool:
    """Whether a file that begins with `start` is GGUF."""
    return start[:4] == MAGIC


def open_gguf(path: Path) -> Checkpoint:
    """Open the GGUF file at `path`, with the other files of its set if it is the first of one."""
    first, tensors = open_shard(str(path), path.name, 0)
    opened_shards = _within_bounds(chain([(first, tensors)], _others(path, first)))
    shards = tuple(shard for shard, _ in opened_shards)
    tensors = tuple(chain.from_iterable(infos for _, infos in opened_shards))
    _check_set(shards, tensors)
    metadata = _values(first)
    architecture = metadata.get("general.architecture", "")
    return Checkpoint(
        format=GGUF,
        path=str(path),
        name=path.name,
        architecture=architecture if isinstance(architecture, str) else "",
        shards=shards,
        tensors=tensors,
        metadata=metadata,
        header_sha256=_header_sha256(shards),
        provenance=_provenance(metadata),
        nbytes=sum(shard.stamp.size for shard in shards),
        companion=_companion(metadata),
    )


def _companion(metadata: Mapping[str, object]) -> str:
    """What a file is that belongs to a model, "" for a model."""
    if metadata.get("general.architecture") == "controlvector":
        return CONTROL_VECTOR
    return {"adapter": LORA, "imatrix": IMPORTANCES}.get(str(metadata.get("general.type")), "")


def _within_bounds(
    opened_shards: Iterable[tuple[Shard, tuple[TensorInfo, ...]]],
) -> list[tuple[Shard, tuple[TensorInfo, ...]]]:
    """The files of a set, as long as they are together no more than a checkpoint may hold."""
    found = []
    tensors = headers = entries = 0
    for shard, infos in opened_shards:
        tensors, headers, entries = tensors + len(infos), headers + shard.data_start, entries + len(shard.fields or ())
        where = f"up to {shown(shard.name)}: "
        check_total(tensors, headers, where)
        check_entries(entries, where)
        found.append((shard, infos))
    return found


def _values(shard: Shard) -> dict[str, object]:
    return {field.key: field.value for field in shard.fields or ()}


def _provenance(metadata: dict[str, object]) -> object:
    record = metadata.get(PROVENANCE_KEY)
    try:
        return None if record is None else json_text.parse(str(record), PROVENANCE_KEY)
    except CheckpointError:
        return record  # to be refused if it is asked for


def _others(path: Path, first: Shard) -> Iterator[tuple[Shard, tuple[TensorInfo, ...]]]:
    """The other files of the set that `first` begins, found by name beside it."""
    values = _values(first)
    number, count = values.get("split.no", 0), values.get("split.count", 1)
    if type(number) is not int or type(count) is not int:
        raise CheckpointError(f"{shown(path.name)}: split.no and split.count must be numbers")
    match = SPLIT_NAME.fullmatch(path.name)
    if number:
        name = f"{match['prefix']}-00001-of-{match['count']}.gguf" if match else "the one that ends in -00001-of-..."
        raise CheckpointError(f"{shown(path.name)} is file {number + 1} of a split set; give the first: {shown(name)}")
    if count > 1 and (match is None or (int(match["number"]), int(match["count"])) != (1, count)):
        raise CheckpointError(
            f"{shown(path.name)} begins a set of {count}: its name must end in -00001-of-{count:05}.gguf"
        )
    for index in range(1, count):
        name = f"{match['prefix'] if match else ''}-{index + 1:05}-of-{count:05}.gguf"
        if not path.with_name(name).exists():
            raise CheckpointError(f"cannot open {shown(name)}: it is missing; is the download complete?")
        yield open_shard(str(path.with_name(name)), name, index)


def _check_set(shards: tuple[Shard, ...], tensors: tuple[TensorInfo, ...]) -> None:
    """Every file must say its place in the set, and the set must have the tensors that it says."""
    if _values(shards[0]).get("split.count") == 0:
        return  # what gguf-split --merge leaves: one file that is no part of a set any more
    if len(shards) > 1 and len({tensor.name for tensor in tensors}) != len(tensors):
        raise CheckpointError("the same tensor name stands in two files of the set")
    expected = {"split.count": len(shards), "split.tensors.count": len(tensors)}
    for index, shard in enumerate(shards):
        values = _values(shard)
        for key, value in {"split.no": index, **expected}.items():
            if values.get(key, None if len(shards) > 1 else value) != value:
                raise CheckpointError(f"{shown(shard.name)}: {key} is {shown(values.get(key))}, expected {value}")


def _header_sha256(shards: tuple[Shard, ...]) -> str:
    """One hash over everything before the tensor data of every file."""
    digest = hashlib.sha256()
    for shard in shards:
        end = min(shard.data_start, shard.stamp.size)
        with opened(shard.path) as (descriptor, _):
            for at in range(0, end, _BLOCK):
                digest.update(read_at(descriptor, at, min(_BLOCK, end - at), named(shard.path)))
    return digest.hexdigest()


def layout(plan: Plan, name: str) -> Output:
    """The files of the pruned checkpoint; `name` is the destination's file name."""
    parts = _regrouped(plan) if plan.options.regroups else _as_in_source(plan)
    _check_padding(plan, parts)
    was_split = len(plan.checkpoint.shards) > 1 or SPLIT_NAME.fullmatch(plan.checkpoint.name) is not None
    split = len(parts) > 1 or (was_split and not plan.options.regroups)
    names = _names(name, len(parts)) if split else [name]
    tensors = tensors_by_shard(plan)
    files = tuple(_file(plan, file_name, part, tensors) for file_name, part in zip(names, parts, strict=True))
    sources = tuple((shard.path, shard.stamp) for shard in plan.checkpoint.shards)
    claims = re.escape(_prefix(name)) + r"-[0-9]+-of-[0-9]+\.gguf(\.rewriter\.json)?"
    claims = claims if split else re.escape(name) + r"\.rewriter\.json"
    return Output(files, False, sources, claims)


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


def _regrouped(plan: Plan) -> list[_Part]:
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
    known = {*_SPLIT_KINDS, ALIGNMENT_KEY, PROVENANCE_KEY, PADDING_KEY, *_values(shards[0])}
    for shard in shards[1:]:
        for key in _values(shard):
            if key not in known:
                raise UnsupportedError(
                    f"{shown(shard.name)} has metadata of its own, {shown(key)}: files stay as they are"
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


def _names(name: str, count: int) -> list[str]:
    return [f"{_prefix(name)}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def _file(plan: Plan, name: str, part: _Part, tensors: Sequence[Sequence[TensorInfo]]) -> OutputFile:
    fields = list(_field_pieces(plan, part))
    if part.source is not None and part.shard is plan.checkpoint.shards[part.source]:
        same_fields = [isinstance(each, CopyRange) for each in fields] == [True] * len(part.shard.fields or ())
        if same_fields and is_unchanged(part.copies, tensors[part.source]):
            return whole_file(name, part.shard.path, part.shard.stamp.size)
    return OutputFile(name, merged(_pieces(plan, part, fields)))


def _pieces(plan: Plan, part: _Part, fields: list[Piece]) -> Iterator[Piece]:
    """The pieces of a file: its metadata, then its tensors."""
    alignment = part.shard.alignment
    data = merged(piece for copy in part.copies for piece in _data_pieces(plan, copy.tensor, alignment))
    records, at = [], 0
    for copy in part.copies:
        records.append(tensor_record(copy.name, copy.tensor, at))
        at += aligned(copy.tensor.nbytes, alignment)
    size = 24 + sum(piece.nbytes for piece in fields) + sum(map(len, records))
    if plan.provenance is not None:
        fields += _filler(size, alignment, best_start(data))
        size = 24 + sum(piece.nbytes for piece in fields) + sum(map(len, records))
    yield Literal(MAGIC + struct.pack("<IQQ", part.shard.version, len(part.copies), len(fields)))
    yield from fields
    yield Literal(b"".join(records))
    yield _padding(size, alignment)
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


def _padding(nbytes: int, alignment: int) -> Literal:
    return Literal(bytes(-nbytes % alignment))


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
