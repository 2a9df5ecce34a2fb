"""Hugging Face checkpoints: a directory, or a lone safetensors file with a config.json beside it.

Laws (transformers, huggingface_hub):
- `model.safetensors` alone, or shards that `model.safetensors.index.json` maps every tensor name to. A loader
  takes the single file where both are there.
- `config.json` says what the tensors are: by `model_type`, in diffusers by `_class_name`. Mistral's own layout has
  `params.json` beside `consolidated.safetensors`. All else goes along, but not other weights of the unpruned model.
- Files may be links into a cache; a shard's name in the index is a plain file name in the same directory.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rewriter.checkpoint import HUGGINGFACE, SAFETENSORS, Checkpoint, Document, Shard, TensorInfo
from rewriter.errors import CheckpointError, shown
from rewriter.formats import json_text, safetensors
from rewriter.formats.directory import companions, weight_files
from rewriter.formats.files import read_document
from rewriter.formats.sizes import TENSORS, check_entries, check_total
from rewriter.output import CopyRange, Literal, Output, OutputFile
from rewriter.plan import Plan

CONFIG = "config.json"
PATCHED = ("generation_config.json",)  # other files whose fields may follow the layers
PARAMS, MISTRAL = "params.json", "mistral_native"  # what describes `consolidated*.safetensors`, and its table entry
PROVENANCE_FILE = "rewriter.json"
PROVENANCE_ENTRY = "rewriter"  # in the __metadata__ of a lone file
Opened = tuple[Shard, tuple[TensorInfo, ...], bytes]  # the last is the SHA-256 of the header
_SHARD_NAME = re.compile(r"(?P<prefix>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})(?P<rest>\.safetensors)")


def open_file(path: Path) -> Checkpoint:
    """Open a lone safetensors file, with `STEM.config.json` or `config.json` from beside it."""
    opened = _shards(path.parent, [path.name])
    _refuse_part(path)
    config = _beside(path)
    documents = () if config is None else (read_document(config, CONFIG),)
    record = (safetensors.metadata_of(opened[0][0]) or {}).get(PROVENANCE_ENTRY)
    return _checkpoint(
        SAFETENSORS,
        path,
        opened,
        documents,
        provenance=None if record is None else _record(str(record)),
    )


def _record(text: str) -> object:
    """The record of an earlier run; one that is no JSON stays text, to be refused if it is asked for."""
    try:
        return json_text.parse(text, PROVENANCE_FILE)
    except CheckpointError:
        return text


def _refuse_part(path: Path) -> None:
    match = _SHARD_NAME.fullmatch(path.name)
    if match and int(match["count"]) > 1:
        raise CheckpointError(
            f"{shown(path.name)} is one of {int(match['count'])} shards; give the directory that holds them all"
        )


def _beside(path: Path) -> Path | None:
    candidates = (path.with_name(config_name(path.name)), path.with_name(CONFIG))
    return next((candidate for candidate in candidates if candidate.exists()), None)


def config_name(name: str) -> str:
    """What the config of a lone file called `name` is called: STEM.config.json."""
    return f"{name.removesuffix('.safetensors')}.{CONFIG}"


def open_directory(path: Path) -> Checkpoint:
    """Open a Hugging Face directory."""
    index, names = weight_files(path)
    missing = next((name for name in names if not (path / name).exists()), None)
    if missing is not None:
        raise CheckpointError(f"cannot open {shown(missing)}: it is missing; is the download complete?")
    opened = _shards(path, names)
    documents = [read_document(path / name, name) for name in _described_by(names) if (path / name).exists()]
    if index is not None:
        documents.append(index)
        _check_index(index, opened)
    side_files, left_behind = companions(path, {*names, *(document.name for document in documents)})
    record = path / PROVENANCE_FILE
    provenance = _record(read_document(record, record.name).text) if record.exists() else None
    return _checkpoint(
        HUGGINGFACE,
        path,
        opened,
        tuple(documents),
        side_files=tuple(file for file in side_files if file.name != PROVENANCE_FILE),
        left_behind=left_behind,
        provenance=provenance,
    )


def _shards(path: Path, names: list[str]) -> tuple[Opened, ...]:
    opened: list[Opened] = []
    tensors = headers = 0
    for number, name in enumerate(names):
        opened.append(safetensors.open_shard(str(path / name), name, number))
        tensors, headers = tensors + len(opened[-1][1]), headers + opened[-1][0].data_start
        check_total(tensors, headers, f"up to {shown(name)}: ")
    return tuple(opened)


def _described_by(weights: list[str]) -> tuple[str, ...]:
    native = any(name.startswith("consolidated") for name in weights)
    return (CONFIG, *PATCHED, PARAMS) if native else (CONFIG, *PATCHED)


def _checkpoint(
    format: str,
    path: Path,
    opened: tuple[Opened, ...],
    documents: tuple[Document, ...],
    **rest: Any,
) -> Checkpoint:
    tensors = tuple(tensor for _, infos, _ in opened for tensor in infos)
    text = next((document.text for document in documents if document.name == CONFIG), "{}")
    config = json_text.parse(text, CONFIG)
    if not isinstance(config, dict):
        raise CheckpointError(f"{CONFIG} is not a JSON object")
    flat = {**json_text.flatten(config), **_others(documents)}
    check_entries(len(flat), f"{CONFIG}: ", TENSORS)  # quantised modules may be named one by one
    digest = hashlib.sha256(b"".join(header_digest for _, _, header_digest in opened))
    digest.update(text.encode())
    return Checkpoint(
        format=format,
        path=str(path),
        name=path.resolve().name if format == HUGGINGFACE else path.name,
        architecture=MISTRAL if any(document.name == PARAMS for document in documents) else _model_type(config),
        shards=tuple(shard for shard, _, _ in opened),
        tensors=tensors,
        metadata=flat,
        header_sha256=digest.hexdigest(),
        documents=documents,
        nbytes=sum(shard.stamp.size for shard, _, _ in opened),
        **rest,
    )


def _others(documents: tuple[Document, ...]) -> dict[str, Any]:
    """The top members of the other files, each under `file.json:key`."""
    others = (document for document in documents if document.name in (*PATCHED, PARAMS))
    values = ((document.name, json_text.parse(document.text, document.name)) for document in others)
    return {
        f"{name}:{key}": member for name, value in values if isinstance(value, dict) for key, member in value.items()
    }


def _model_type(config: Mapping[str, Any]) -> str:
    value = config.get("model_type") or config.get("_class_name")
    return value if isinstance(value, str) else ""


def _check_index(index: Document, opened: tuple[Opened, ...]) -> None:
    """The index must name every tensor, where it is."""
    expected = json_text.parse(index.text, index.name)["weight_map"]
    found = {tensor.name: shard.name for shard, tensors, _ in opened for tensor in tensors}
    if len(found) != sum(len(tensors) for _, tensors, _ in opened):
        raise CheckpointError("the same tensor name stands in two shards")
    for name in expected:
        if found.get(name) != expected[name]:
            raise CheckpointError(
                f"{index.name} puts tensor {shown(name)} into {shown(expected[name])}, "
                f"it is in {shown(found.get(name, 'none of the shards'))}"
            )
    for name, shard in found.items():
        if name not in expected:
            raise CheckpointError(f"{index.name} does not name tensor {shown(name)} of {shown(shard)}")


def layout(plan: Plan, name: str) -> Output:
    """The files of the pruned checkpoint; `name` is the destination's file or directory name."""
    checkpoint = plan.checkpoint
    is_directory = checkpoint.format == HUGGINGFACE
    files = [*_weights(plan, name), *_configs(plan, name)]
    if is_directory:
        files += [
            OutputFile(file.name, (CopyRange(file.path, 0, file.stamp.size),) if file.stamp.size else ())
            for file in checkpoint.side_files
        ]
        if plan.provenance is not None:
            record = json.dumps(plan.provenance.to_json(), indent=2, ensure_ascii=True) + "\n"
            files.append(OutputFile(PROVENANCE_FILE, (Literal(record.encode()),)))
    sources = [(shard.path, shard.stamp) for shard in checkpoint.shards]
    sources += [(file.path, file.stamp) for file in checkpoint.side_files]
    sources += [(document.path, document.stamp) for document in checkpoint.documents]
    claims = "" if is_directory else f"{re.escape(config_name(name))}|{re.escape(name)}[.]rewriter[.]json"
    return Output(tuple(files), is_directory, tuple(sources), claims)


def _weights(plan: Plan, name: str) -> Iterator[OutputFile]:
    checkpoint = plan.checkpoint
    copies: list[list[tuple[TensorInfo, str]]] = [[] for _ in checkpoint.shards]
    for copy in plan.tensors:
        copies[copy.tensor.shard].append((copy.tensor, copy.name))
    had = {tensor.shard for tensor in checkpoint.tensors}
    stay = [index for index in range(len(copies)) if copies[index] or index not in had]
    names = [name] if checkpoint.format == SAFETENSORS else _shard_names(checkpoint, stay)
    for index, file_name in zip(stay, names, strict=True):
        metadata = safetensors.metadata_of(checkpoint.shards[index])
        if checkpoint.format == SAFETENSORS:
            metadata = _with_provenance(plan, metadata)
        pieces = safetensors.pieces(copies[index], lambda shard: checkpoint.shards[shard].path, metadata)
        yield OutputFile(file_name, pieces)
    index_document = next((document for document in checkpoint.documents if document.name.endswith("index.json")), None)
    if index_document is not None:
        shard_names = dict(zip(stay, names, strict=True))
        yield OutputFile(index_document.name, (Literal(_index(plan, index_document, shard_names).encode()),))


def _with_provenance(plan: Plan, metadata: dict[str, object] | None) -> dict[str, object] | None:
    """A lone file carries its record in its own header."""
    kept = {key: value for key, value in (metadata or {}).items() if key != PROVENANCE_ENTRY}
    if plan.provenance is None:
        return kept if metadata is not None else None
    record = json.dumps(plan.provenance.to_json(), ensure_ascii=True, separators=(",", ":"))
    return {**kept, PROVENANCE_ENTRY: record}


def _shard_names(checkpoint: Checkpoint, stay: list[int]) -> list[str]:
    """The shards' names, renumbered where one is gone. Names of another form stay, and all do where a side file
    has one of the new names.
    """
    names = [checkpoint.shards[index].name for index in stay]
    matches = [_SHARD_NAME.fullmatch(name) for name in names]
    if len(stay) == len(checkpoint.shards) or not all(matches):
        return names
    new = [
        f"{match['prefix']}-{number:05}-of-{len(stay):05}{match['rest']}"
        for number, match in enumerate(filter(None, matches), 1)
    ]
    return names if {file.name for file in checkpoint.side_files} & set(new) else new


def _index(plan: Plan, index: Document, names: Mapping[int, str]) -> str:
    """The index with its new names, files and totals; everything else in it stays."""
    old = json_text.parse(index.text, index.name)
    new_names = {copy.tensor.name: copy for copy in plan.tensors}
    # in the index's own order, which need not be that of the files
    ordered = (new_names[name] for name in old["weight_map"] if name in new_names)
    weight_map = {copy.name: names[copy.tensor.shard] for copy in ordered}
    changes: dict[str, Any] = {} if weight_map == old["weight_map"] else {"weight_map": weight_map}
    metadata = old.get("metadata")
    for key, value in _totals(plan, metadata if isinstance(metadata, dict) else {}).items():
        changes[f"metadata.{key}"] = value
    return json_text.edited(index.text, changes)


def _totals(plan: Plan, metadata: Mapping[str, Any]) -> dict[str, int]:
    """total_size counts bytes of tensors; total_parameters counts weights, which packed tensors hide."""
    new = {}
    if "total_size" in metadata and metadata["total_size"] != plan.nbytes:
        new["total_size"] = plan.nbytes
    parameters = metadata.get("total_parameters")
    gone = sum(tensor.parameters for tensor in plan.dropped)
    if type(parameters) is int and gone:
        new["total_parameters"] = parameters - gone
    return new


def _configs(plan: Plan, name: str) -> Iterator[OutputFile]:
    """The patched config.json: STEM.config.json beside a lone file."""
    for document in plan.checkpoint.documents:
        if document.name.endswith("index.json"):
            continue
        changes = {edit.key: edit.after for edit in plan.edits if edit.file == document.name}
        target = document.name if plan.checkpoint.format == HUGGINGFACE else config_name(name)
        yield OutputFile(target, (Literal(json_text.edited(document.text, changes).encode()),))
