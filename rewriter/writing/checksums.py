"""Hashes of an output's tensors and files: recorded, checked, and listed.

The record stands in `rewriter.json` of a directory. A file cannot hold its own hash, so a lone file, a GGUF or the
first file of a split set has it beside itself, in `NAME.rewriter.json`. The hashes are those of the source's bytes
that belong there: a copy that went wrong would not agree with them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from rewriter.architectures.lookup import Stack
from rewriter.checkpoint import HUGGINGFACE, Checkpoint, Problem, TensorInfo
from rewriter.errors import CheckpointError, RequestError, printable
from rewriter.formats import json_edit, open_checkpoint
from rewriter.formats.huggingface import PROVENANCE_FILE
from rewriter.formats.limits import FILES, TENSORS
from rewriter.layout.output import CopyRange, Literal, Output, OutputFile, Piece, RangeDigest, coalesce
from rewriter.layout.tensor_pieces import tensor_pieces
from rewriter.planning.companions.plan import source_layer_numbers
from rewriter.planning.plan import Plan
from rewriter.planning.provenance import SCHEMA, recorded
from rewriter.planning.saved_plan import recorded_stack
from rewriter.system.files import open_for_reading, printable_name, read_document
from rewriter.system.untrusted import ShapeError, convert
from rewriter.version import VERSION
from rewriter.writing.hashing import digests

BESIDE = ".rewriter.json"  # after the name of the file to open
_MOST_SAID = 10_000  # tensors that are missing
_HASH = re.compile("[0-9a-f]{64}")
_SEAL = '"record_sha256": "'  # the hash of everything before it
_END = '"\n}\n'


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """A tensor by its own name and by the one that it had in the source, and its SHA-256 in hexadecimal."""

    tensor: TensorInfo
    source: str
    sha256: str


@dataclass(frozen=True, slots=True)
class _RecordedTensor:
    source: str
    sha256: str


@dataclass(frozen=True, slots=True)
class _Record:
    """What was recorded: file -> hash; tensor -> its name in the source, and hash. It may come from anyone: names of
    files lead nowhere else.
    """

    algorithm: str
    files: dict[str, str]
    tensors: dict[str, _RecordedTensor]

    def __post_init__(self) -> None:
        odd = any("\0" in name or not {"", ".", ".."}.isdisjoint(name.split("/")) for name in self.files)
        hashes = (*self.files.values(), *(tensor.sha256 for tensor in self.tensors.values()))
        odd |= self.algorithm != "sha256"
        if odd or len(self.files) > FILES or len(self.tensors) > TENSORS or not all(map(_HASH.fullmatch, hashes)):
            raise ValueError("no such record is written")


def with_checksums(output: Output, plan: Plan) -> Output:
    """`output` with a record of its hashes. Raises RequestError for a directory that shall have no record."""
    if output.directory and plan.provenance is None:
        raise RequestError("--checksums writes into the record of the run, which --no-provenance leaves out")
    name = PROVENANCE_FILE if output.directory else output.files[0].name + BESIDE
    files = [file for file in output.files if file.name != name]
    pieces = tuple(_pieces(plan, files, output.directory))
    sealed = coalesce((*pieces, RangeDigest(pieces), Literal(_END.encode())))
    return replace(output, files=(*files, OutputFile(name, sealed)))


def _pieces(plan: Plan, files: list[OutputFile], directory: bool) -> Iterator[Piece]:
    head = plan.provenance.to_json() if directory and plan.provenance else {"schema": SCHEMA, "rewriter": VERSION}
    text = json.dumps(head, indent=2, ensure_ascii=True).removesuffix("\n}")
    yield Literal(f'{text},\n  "checksums": {{\n    "algorithm": "sha256",\n    "files": {{'.encode())
    for number, file in enumerate(files):
        yield Literal(f'{"," * (number > 0)}\n      {json.dumps(file.name)}: "'.encode())
        yield RangeDigest(file.pieces)
        yield Literal(b'"')
    yield Literal(b'\n    },\n    "tensors": {')
    for number, copy in enumerate(plan.tensors):
        old, new = json.dumps(copy.tensor.name), json.dumps(copy.name)
        yield Literal(f'{"," * (number > 0)}\n      {new}: {{"source": {old}, "sha256": "'.encode())
        yield RangeDigest(tuple(tensor_pieces(copy.tensor, plan.checkpoint.shards[copy.tensor.shard].path)))
        yield Literal(b'"}')
    yield Literal(f"\n    }}\n  }},\n  {_SEAL}".encode())


def manifest(checkpoint: Checkpoint) -> tuple[ManifestEntry, ...]:
    """The hash of every tensor, in the order of their names in the source. Raises CheckpointError."""
    names = _source_names(checkpoint)
    hashes = digests([_where(checkpoint, tensor) for tensor in checkpoint.tensors])
    entries = zip(checkpoint.tensors, hashes, strict=True)
    found = (ManifestEntry(tensor, names.get(tensor.name, tensor.name), sha256) for tensor, sha256 in entries)
    return tuple(sorted(found, key=lambda entry: entry.source))


def _where(checkpoint: Checkpoint, tensor: TensorInfo) -> tuple[Piece, ...]:
    return tuple(tensor_pieces(tensor, checkpoint.shards[tensor.shard].path))


def _source_names(checkpoint: Checkpoint) -> dict[str, str]:
    """Name -> name in the source: as recorded with the hashes, else by the numbers of the layers that were kept."""
    path = Path(checkpoint.path)
    if os.path.lexists(_place(path)) and (record := _read(path)[1]) is not None:
        return {name: tensor.source for name, tensor in record.tensors.items()}
    found = source_layer_numbers(checkpoint) if checkpoint.companion else _source_numbers(checkpoint)
    if found is None:
        return {}
    stack, kept = found
    names: dict[str, str] = {}
    for tensor in checkpoint.tensors:
        layer = stack.layer_of(tensor.name)
        if layer is not None and layer < len(kept):
            names[tensor.name] = f"{stack.prefix}{kept[layer]}{stack.after(tensor.name, layer)}"
    return names


def _source_numbers(checkpoint: Checkpoint) -> tuple[Stack, tuple[int, ...]] | None:
    """The stack that was pruned, and the numbers that its layers had."""
    run = recorded(checkpoint)
    if run is None:
        return None
    return recorded_stack(checkpoint, run)[0], run.layers.kept


def _place(path: Path) -> Path:
    return path / PROVENANCE_FILE if path.is_dir() else path.with_name(path.name + BESIDE)


def _read(path: Path) -> tuple[str, _Record | None]:
    """The text of the record of the output at `path`, and what it says. Raises CheckpointError if it is damaged."""
    place = _place(path)
    text = read_document(place, place.name).text
    value = json_edit.parse(text, place.name)
    if not isinstance(value, dict) or "checksums" not in value:
        return text, None
    try:
        return text, convert(value["checksums"], _Record)
    except ShapeError:
        raise CheckpointError(f"the checksums in {printable_name(place)} are damaged") from None


def checksum_problems(path: str | os.PathLike[str]) -> Iterator[Problem]:
    """Everything at `path` that is not as it was recorded. The source is not needed."""
    target = Path(path)
    where = printable_name(_place(target))
    try:
        text, record = _read(target)
    except CheckpointError as error:
        yield Problem(where, "a record with checksums, as prune --checksums leaves", str(error))
        return
    if record is None:
        yield Problem(where, "checksums, as prune --checksums leaves", "none")
        return
    yield from _seal(text, where)
    yield from _files(target if target.is_dir() else target.parent, record)
    try:
        checkpoint = open_checkpoint(target)
    except CheckpointError:
        return  # why it cannot be opened is a problem of its own, and one of the files is named already
    yield from _tensors(checkpoint, record)
    yield from _others(checkpoint, record)


def _seal(text: str, where: str) -> Iterator[Problem]:
    before, mark, after = text.rpartition(_SEAL)
    wanted = digests([(Literal((before + mark).encode("utf-8", "surrogatepass")),)])[0] + _END
    if after != wanted:
        yield Problem(where, "the record as it was written", "a changed one")


def _files(folder: Path, record: _Record) -> Iterator[Problem]:
    there: dict[str, tuple[Piece, ...]] = {}
    for name in record.files:
        if not os.path.lexists(folder / name):  # without a look at what else is there
            yield Problem(printable(name, 80), f"sha256 {record.files[name]}", "cannot open it: there is none")
            continue
        try:
            with open_for_reading(folder / name) as (_, found):
                there[name] = (CopyRange(str(folder / name), 0, found.size),)
        except CheckpointError as error:
            yield Problem(printable(name, 80), f"sha256 {record.files[name]}", str(error))
    for name, sha256 in zip(there, digests(list(there.values())), strict=True):
        if sha256 != record.files[name]:
            yield Problem(printable(name, 80), f"sha256 {record.files[name]}", sha256)


def _tensors(checkpoint: Checkpoint, record: _Record) -> Iterator[Problem]:
    left = {name: tensor.sha256 for name, tensor in record.tensors.items()}
    hashes = digests([_where(checkpoint, tensor) for tensor in checkpoint.tensors])
    for tensor, sha256 in zip(checkpoint.tensors, hashes, strict=True):
        wanted = left.pop(tensor.name, None)
        if sha256 != wanted:
            yield Problem(f"tensor {printable(tensor.name, 80)}", f"sha256 {wanted}" if wanted else "nothing", sha256)
    for name in islice(left, _MOST_SAID):
        yield Problem(f"tensor {printable(name, 80)}", f"sha256 {left[name]}", "nothing")
    if len(left) > _MOST_SAID:
        yield Problem(f"{len(left) - _MOST_SAID} more tensors", "the bytes that were recorded", "nothing")


def _others(checkpoint: Checkpoint, record: _Record) -> Iterator[Problem]:
    """Files of a directory that were not there; what tools leave in hidden folders does not count."""
    if checkpoint.format != HUGGINGFACE:
        return
    names = {*checkpoint.left_behind, *(file.name for file in checkpoint.side_files)}
    names |= {document.name for document in checkpoint.documents} | {shard.name for shard in checkpoint.shards}
    for name in sorted(names - record.files.keys()):
        if not name.startswith("."):
            yield Problem(printable(name, 80), "nothing", "a file that was not recorded")
