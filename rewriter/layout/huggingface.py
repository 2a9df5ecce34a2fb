"""The files of a pruned Hugging Face directory, or of a lone safetensors file. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewriter.checkpoint import CARD, HUGGINGFACE, SAFETENSORS, Checkpoint, TensorInfo
from rewriter.errors import RequestError, UnsupportedError, printable
from rewriter.formats import json_edit
from rewriter.formats.hf_directory import INDEX_SUFFIX
from rewriter.formats.huggingface import PROVENANCE_ENTRY, PROVENANCE_FILE, SHARD_NAME, config_name
from rewriter.formats.safetensors import metadata_of
from rewriter.layout import safetensors
from rewriter.layout.model_card_text import make_card
from rewriter.layout.output import Literal, Output, OutputFile, whole_file
from rewriter.layout.sharding import Group, by_size, by_source, is_unchanged, tensors_by_shard
from rewriter.planning.plan import Plan


def layout(plan: Plan, name: str) -> Output:
    """The files of the pruned checkpoint; `name` is the destination's file or directory name.

    Raises UnsupportedError if shards cannot be joined, RequestError for a lone file of limited size.
    """
    checkpoint = plan.checkpoint
    is_directory = checkpoint.format == HUGGINGFACE
    files = [*_weights(plan, name), *_configs(plan, name)]
    if is_directory:
        files += _side_files(plan)
        if plan.provenance is not None:
            record = json.dumps(plan.provenance.to_json(), indent=2, ensure_ascii=True) + "\n"
            files.append(OutputFile(PROVENANCE_FILE, (Literal(record.encode()),)))
    sources = [(shard.path, shard.stamp) for shard in checkpoint.shards]
    sources += [(file.path, file.stamp) for file in checkpoint.side_files]
    sources += [(document.path, document.stamp) for document in checkpoint.documents]
    stem = re.escape(_index_name(checkpoint).removesuffix(INDEX_SUFFIX))
    weights = f"{stem}(-[0-9]{{5}}-of-[0-9]{{5}})?[.]safetensors|{stem}{re.escape(INDEX_SUFFIX)}"
    owned_names = weights if is_directory else f"{re.escape(config_name(name))}|{re.escape(name)}[.]rewriter[.]json"
    return Output(tuple(files), is_directory, tuple(sources), owned_names)


def _side_files(plan: Plan) -> Iterator[OutputFile]:
    """Files that are copied unchanged, and the model card."""
    card = make_card(plan)
    text = card.text if card else None
    for file in plan.checkpoint.side_files:
        if file.name != CARD or text is None:
            yield whole_file(file.name, file.path, file.stamp.size)
    if text is not None:
        yield OutputFile(CARD, (Literal(text.encode()),))


@dataclass(frozen=True, slots=True)
class _Part:
    """One file to be: its tensors, and what its `__metadata__` says."""

    name: str
    copies: Group
    metadata: dict[str, object] | None


def _weights(plan: Plan, name: str) -> Iterator[OutputFile]:
    checkpoint = plan.checkpoint
    resharded = plan.options.reshards and checkpoint.format == HUGGINGFACE
    parts = _resharded(plan) if resharded else _as_in_source(plan, name)
    tensors = tensors_by_shard(plan)
    yield from (_weight_file(plan, part, tensors) for part in parts)
    index = next((document for document in checkpoint.documents if document.name.endswith("index.json")), None)
    files = {copy.name: part.name for part in parts for copy in part.copies}
    if plan.options.reshards and len(parts) > 1:
        text = index.text if index else '{\n  "metadata": {\n    "total_size": 0\n  },\n  "weight_map": {}\n}\n'
        yield OutputFile(_index_name(checkpoint), (Literal(_index(plan, text, files).encode()),))
    elif index is not None and not plan.options.reshards:
        yield OutputFile(index.name, (Literal(_index(plan, index.text, files).encode()),))


def _as_in_source(plan: Plan, name: str) -> list[_Part]:
    """The files of the source."""
    checkpoint, stay = plan.checkpoint, list(by_source(plan))
    if checkpoint.format == SAFETENSORS:
        if plan.options.max_size is not None:
            raise RequestError("a lone safetensors file stays one file: give the directory that it is in")
        metadata = _with_provenance(plan, metadata_of(checkpoint.shards[0]))
        return [_Part(name, stay[0][1], metadata)]
    names = _shard_names(checkpoint, [index for index, _ in stay])
    return [
        _Part(file_name, copies, metadata_of(checkpoint.shards[index]))
        for file_name, (index, copies) in zip(names, stay, strict=True)
    ]


def _resharded(plan: Plan) -> list[_Part]:
    """Files of their own, named as transformers names them."""
    checkpoint = plan.checkpoint
    metadata = _common_metadata(checkpoint)
    head = safetensors.head_bytes(metadata)
    groups = by_size(plan, lambda copy: safetensors.room_for(copy.tensor, copy.name), lambda number: head)
    stem, count = _index_name(checkpoint).removesuffix(INDEX_SUFFIX), len(groups)
    names = [f"{stem}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    if count == 1:
        names = [f"{stem}.safetensors"]
    taken = {file.name for file in checkpoint.side_files} & set(names)
    if taken:
        raise UnsupportedError(f"{printable(min(taken))} goes along as it is, and the weights would take its name")
    return [_Part(name, copies, metadata) for name, copies in zip(names, groups, strict=True)]


def _common_metadata(checkpoint: Checkpoint) -> dict[str, object] | None:
    """What the files say together. Raises UnsupportedError where they contradict each other."""
    common: dict[str, object] | None = None
    for shard in checkpoint.shards:
        metadata = metadata_of(shard)
        for key, value in (metadata or {}).items():
            if common is not None and common.get(key, value) != value:
                raise UnsupportedError(
                    f"the files disagree about {printable(key)} in their __metadata__: they stay as they are"
                )
        if metadata is not None:
            common = {**(common or {}), **metadata}
    return common


def _index_name(checkpoint: Checkpoint) -> str:
    """What the index is called, or would be: loaders look for it beside the first shard, under the same stem."""
    found = next((document.name for document in checkpoint.documents if document.name.endswith(INDEX_SUFFIX)), None)
    first = checkpoint.shards[0].name
    match = SHARD_NAME.fullmatch(first)
    return found or (match["prefix"] if match else first.removesuffix(".safetensors")) + INDEX_SUFFIX


def _weight_file(plan: Plan, part: _Part, tensors: Sequence[Sequence[TensorInfo]]) -> OutputFile:
    shards = plan.checkpoint.shards
    source = part.copies[0].tensor.shard if part.copies else 0
    same_head = part.metadata == metadata_of(shards[source]) and not shards[source].data_start % 8
    if same_head and part.copies and is_unchanged(part.copies, tensors[source]):
        return whole_file(part.name, shards[source].path, shards[source].stamp.size)
    copies = [(copy.tensor, copy.name) for copy in part.copies]
    return OutputFile(part.name, safetensors.pieces(copies, lambda shard: shards[shard].path, part.metadata))


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
    matches = [SHARD_NAME.fullmatch(name) for name in names]
    if len(stay) == len(checkpoint.shards) or not all(matches):
        return names
    new = [
        f"{match['prefix']}-{number:05}-of-{len(stay):05}{match['rest']}"
        for number, match in enumerate(filter(None, matches), 1)
    ]
    return names if {file.name for file in checkpoint.side_files} & set(new) else new


def _index(plan: Plan, text: str, files: Mapping[str, str]) -> str:
    """The index with its new names, files and totals; everything else in it stays. `files`: tensor -> its file."""
    old = json_edit.parse(text, "the index")
    new_names = {copy.tensor.name: copy.name for copy in plan.tensors}
    # in the index's own order, which need not be that of the files
    ordered = (new_names[name] for name in old["weight_map"] or sorted(new_names) if name in new_names)
    weight_map = {name: files[name] for name in ordered}
    changes: dict[str, Any] = {} if weight_map == old["weight_map"] else {"weight_map": weight_map}
    metadata = old.get("metadata")
    for key, value in _totals(plan, metadata if isinstance(metadata, dict) else {}).items():
        changes[f"metadata.{key}"] = value
    return json_edit.edit(text, changes)


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
        yield OutputFile(target, (Literal(json_edit.edit(document.text, changes).encode()),))
