"""GGUF checkpoints: one file, or a split set of which the first file holds the metadata.

Laws (llama.cpp, gguf-split): files are called PREFIX-%05d-of-%05d.gguf; every file carries `split.no` (u16,
from 0), `split.count` (u16) and `split.tensors.count` (i32, over all files).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from rewriter.checkpoint import CONTROL_VECTOR, GGUF, IMPORTANCES, LORA, Checkpoint, Shard, TensorInfo
from rewriter.errors import CheckpointError, printable
from rewriter.formats import json_edit
from rewriter.formats.gguf_header import MAGIC, open_shard
from rewriter.formats.limits import check_entries, check_total
from rewriter.system.files import open_for_reading, printable_name, read_at

PROVENANCE_KEY = "rewriter.provenance"
SPLIT_NAME = re.compile(r"(?P<prefix>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)
_BLOCK = 1 << 20  # bytes that are hashed at a time
_COMPANIONS = {"adapter": LORA, "imatrix": IMPORTANCES}  # general.type of what belongs to a model


_Opened = tuple[Shard, tuple[TensorInfo, ...]]


def is_gguf(start: bytes) -> bool:
    """Whether a file that begins with `start` is GGUF."""
    return start[:4] == MAGIC


def open_gguf(path: Path) -> Checkpoint:
    """Open the GGUF file at `path`, with the other files of its set if it is the first of one.

    Raises CheckpointError for anything that the format does not allow, and for an incomplete set.
    """
    first, tensors = open_shard(str(path), path.name, 0)
    shards, per_shard = zip(*_within_limits(chain([(first, tensors)], _others(path, first))), strict=True)
    tensors = tuple(chain.from_iterable(per_shard))
    _check_set(shards, tensors)
    metadata = shard_values(first)
    architecture, kind = metadata.get("general.architecture", ""), str(metadata.get("general.type"))
    record = metadata.get(PROVENANCE_KEY)
    return Checkpoint(
        format=GGUF,
        path=str(path),
        name=path.name,
        architecture=architecture if isinstance(architecture, str) else "",
        shards=shards,
        tensors=tensors,
        metadata=metadata,
        header_sha256=_header_sha256(shards),
        provenance=None if record is None else json_edit.parse_or_keep(str(record), PROVENANCE_KEY),
        nbytes=sum(shard.stamp.size for shard in shards),
        companion=CONTROL_VECTOR if architecture == "controlvector" else _COMPANIONS.get(kind, ""),
    )


def _within_limits(opened_shards: Iterable[_Opened]) -> Iterator[_Opened]:
    """The files of a set, as long as together they hold no more than a checkpoint may hold."""
    tensors = headers = entries = 0
    for shard, infos in opened_shards:
        tensors, headers, entries = tensors + len(infos), headers + shard.data_start, entries + len(shard.fields or ())
        where = f"up to {printable(shard.name)}: "
        check_total(tensors, headers, where)
        check_entries(entries, where)
        yield shard, infos


def shard_values(shard: Shard) -> dict[str, object]:
    """The metadata of one file."""
    return {field.key: field.value for field in shard.fields or ()}


def _others(path: Path, first: Shard) -> Iterator[_Opened]:
    """The other files of the set that `first` begins, found by name beside it."""
    values = shard_values(first)
    number, count = values.get("split.no", 0), values.get("split.count", 1)
    if type(number) is not int or type(count) is not int:
        raise CheckpointError(f"{printable(path.name)}: split.no and split.count must be numbers")
    match = SPLIT_NAME.fullmatch(path.name)
    if number:
        name = f"{match['prefix']}-00001-of-{match['count']}.gguf" if match else "the one that ends in -00001-of-..."
        raise CheckpointError(
            f"{printable(path.name)} is file {number + 1} of a split set; give the first: {printable(name)}"
        )
    if count > 1 and (match is None or (int(match["number"]), int(match["count"])) != (1, count)):
        raise CheckpointError(
            f"{printable(path.name)} begins a set of {count}: its name must end in -00001-of-{count:05}.gguf"
        )
    for index in range(1, count):
        name = f"{match['prefix'] if match else ''}-{index + 1:05}-of-{count:05}.gguf"
        if not path.with_name(name).exists():
            raise CheckpointError(f"cannot open {printable(name)}: it is missing; is the download complete?")
        yield open_shard(str(path.with_name(name)), name, index)


def _check_set(shards: tuple[Shard, ...], tensors: tuple[TensorInfo, ...]) -> None:
    """Every file must say its place in the set, and the set must have the tensors that it says."""
    if shard_values(shards[0]).get("split.count") == 0:
        return  # what gguf-split --merge leaves: one file that is no part of a set any more
    if len(shards) > 1 and len({tensor.name for tensor in tensors}) != len(tensors):
        raise CheckpointError("the same tensor name stands in two files of the set")
    expected = {"split.count": len(shards), "split.tensors.count": len(tensors)}
    for index, shard in enumerate(shards):
        values = shard_values(shard)
        for key, value in {"split.no": index, **expected}.items():
            if values.get(key, None if len(shards) > 1 else value) != value:
                raise CheckpointError(
                    f"{printable(shard.name)}: {key} is {printable(values.get(key))}, expected {value}"
                )


def _header_sha256(shards: tuple[Shard, ...]) -> str:
    """One hash over everything before the tensor data of every file."""
    digest = hashlib.sha256()
    for shard in shards:
        end = min(shard.data_start, shard.stamp.size)
        with open_for_reading(shard.path) as (descriptor, _):
            for at in range(0, end, _BLOCK):
                digest.update(read_at(descriptor, at, min(_BLOCK, end - at), printable_name(shard.path)))
    return digest.hexdigest()
