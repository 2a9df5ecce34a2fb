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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewriter.card import card_of
from rewriter.checkpoint import (
    ADAPTER,
    CARD,
    HUGGINGFACE,
    SAFETENSORS,
    Checkpoint,
    Document,
    Shard,
    TensorInfo,
)  # fmt: skip
from rewriter.errors import CheckpointError, RequestError, UnsupportedError, shown
from rewriter.formats import json_text, safetensors
from rewriter.formats.directory import ADAPTER_CONFIG, ADAPTER_WEIGHTS, card_text, companions, weight_files
from rewriter.formats.files import read_document
from rewriter.formats.grouping import Group, by_size, by_source, is_unchanged, tensors_by_shard
from rewriter.formats.sizes import TENSORS, check_entries, check_total
from rewriter.lineage import hub_name
from rewriter.output import Literal, Output, OutputFile, whole_file
from rewriter.plan import Plan

CONFIG = "config.json"
# Other files whose fields may follow the layers.
PATCHED = (
    "generation_config.json", "hf_quant_config.json", "quantize_config.json", "quant_config.json",
    "quantization_config.json",
)  # fmt: skip
PARAMS, MISTRAL = "params.json", "mistral_native"  # what describes `consolidated*.safetensors`, and its table entry
PROVENANCE_FILE = "rewriter.json"
_INDEX = ".safetensors.index.json"
PROVENANCE_ENTRY = "rewriter"  # in the __metadata__ of a lone file
Opened = tuple[Shard, tuple[TensorInfo, ...], bytes]  # the last is the SHA-256 of the header
_SHARD_NAME = re.compile(r"(?P<prefix>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})(?P<rest>\.safetensors)")


def open_file(path: Path) -> Checkpoint:
    """Open a lone safetensors file, with `STEM.config.json` or `config.json` from beside it."""
    opened = _shards(path.parent, [path.name])
    _refuse_part(path)
    adapter = _is_adapter(opened)
    if adapter and path.with_name(ADAPTER_CONFIG).exists():
        raise CheckpointError(f"{ADAPTER_CONFIG} beside {shown(path.name)} belongs to it: give their directory")
    config = None if adapter else _beside(path)
    documents = () if config is None else (read_document(config, CONFIG),)
    record = (safetensors.metadata_of(opened[0][0]) or {}).get(PROVENANCE_ENTRY)
    return _checkpoint(
        SAFETENSORS,
        path,
        opened,
        documents,
        provenance=None if record is None else _record(str(record)),
        companion=ADAPTER if adapter else "",
    )


def _is_adapter(opened: Sequence[Opened]) -> bool:
    """Whether the names are those of a PEFT adapter: wrapped in `base_model.`, or each of a `lora_` part."""
    names = [tensor.name for _, infos, _ in opened for tensor in infos]
    return bool(names) and all(name.startswith("base_model.") or ".lora_" in name for name in names)


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
    adapter = names == [ADAPTER_WEIGHTS]
    side_files, left_behind = companions(path, {*names, *(document.name for document in documents)}, adapter)
    card = card_text(side_files)
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
        companion=ADAPTER if adapter else "",
        card=card,
        hub_name=hub_name(path, json_text.parse(_config_text(documents), CONFIG), card),
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
    if weights == [ADAPTER_WEIGHTS]:
        return (ADAPTER_CONFIG,)
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
    text = _config_text(documents)
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


def _config_text(documents: Iterable[Document]) -> str:
    return next((document.text for document in documents if document.name == CONFIG), "{}")


def _others(documents: tuple[Document, ...]) -> dict[str, Any]:
    """What the other files say, each value under `file.json:key`."""
    others = (document for document in documents if document.name in (*PATCHED, PARAMS, ADAPTER_CONFIG))
    values = ((document.name, json_text.parse(document.text, document.name)) for document in others)
    return {
        f"{name}:{key}": member
        for name, value in values
        if isinstance(value, dict)
        for key, member in json_text.flatten(value).items()
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
        files += _side_files(plan)
        if plan.provenance is not None:
            record = json.dumps(plan.provenance.to_json(), indent=2, ensure_ascii=True) + "\n"
            files.append(OutputFile(PROVENANCE_FILE, (Literal(record.encode()),)))
    sources = [(shard.path, shard.stamp) for shard in checkpoint.shards]
    sources += [(file.path, file.stamp) for file in checkpoint.side_files]
    sources += [(document.path, document.stamp) for document in checkpoint.documents]
    stem = re.escape(_index_name(checkpoint).removesuffix(_INDEX))
    weights = f"{stem}(-[0-9]{{5}}-of-[0-9]{{5}})?[.]safetensors|{stem}{re.escape(_INDEX)}"
    claims = weights if is_directory else f"{re.escape(config_name(name))}|{re.escape(name)}[.]rewriter[.]json"
    return Output(tuple(files), is_directory, tuple(sources), claims)


def _side_files(plan: Plan) -> Iterator[OutputFile]:
    """What goes along as it is, and the model card."""
    card = card_of(plan)
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
    parts = (
        _regrouped(plan) if plan.options.regroups and checkpoint.format == HUGGINGFACE else _as_in_source(plan, name)
    )
    tensors = tensors_by_shard(plan)
    yield from (_weight_file(plan, part, tensors) for part in parts)
    index = next((document for document in checkpoint.documents if document.name.endswith("index.json")), None)
    files = {copy.name: part.name for part in parts for copy in part.copies}
    if plan.options.regroups and len(parts) > 1:
        text = index.text if index else '{\n  "metadata": {\n    "total_size": 0\n  },\n  "weight_map": {}\n}\n'
        yield OutputFile(_index_name(checkpoint), (Literal(_index(plan, text, files).encode()),))
    elif index is not None and not plan.options.regroups:
        yield OutputFile(index.name, (Literal(_index(plan, index.text, files).encode()),))


def _as_in_source(plan: Plan, name: str) -> list[_Part]:
    """The files of the source."""
    checkpoint, stay = plan.checkpoint, list(by_source(plan))
    if checkpoint.format == SAFETENSORS:
        if plan.options.max_size is not None:
            raise RequestError("a lone safetensors file stays one file: give the directory that it is in")
        metadata = _with_provenance(plan, safetensors.metadata_of(checkpoint.shards[0]))
        return [_Part(name, stay[0][1], metadata)]
    names = _shard_names(checkpoint, [index for index, _ in stay])
    return [
        _Part(file_name, copies, safetensors.metadata_of(checkpoint.shards[index]))
        for file_name, (index, copies) in zip(names, stay, strict=True)
    ]


def _regrouped(plan: Plan) -> list[_Part]:
    """Files of their own, named as transformers names them."""
    checkpoint = plan.checkpoint
    metadata = _common_metadata(checkpoint)
    head = safetensors.head_bytes(metadata)
    groups = by_size(plan, lambda copy: safetensors.room_for(copy.tensor, copy.name), lambda number: head)
    stem, count = _index_name(checkpoint).removesuffix(_INDEX), len(groups)
    names = [f"{stem}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    if count == 1:
        names = [f"{stem}.safetensors"]
    taken = {file.name for file in checkpoint.side_files} & set(names)
    if taken:
        raise UnsupportedError(f"{shown(min(taken))} goes along as it is, and the weights would take its name")
    return [_Part(name, copies, metadata) for name, copies in zip(names, groups, strict=True)]


def _common_metadata(checkpoint: Checkpoint) -> dict[str, object] | None:
    """What the files say together. Raises UnsupportedError where they contradict each other."""
    common: dict[str, object] | None = None
    for shard in checkpoint.shards:
        metadata = safetensors.metadata_of(shard)
        for key, value in (metadata or {}).items():
            if common is not None and common.get(key, value) != value:
                raise UnsupportedError(
                    f"the files disagree about {shown(key)} in their __metadata__: they stay as they are"
                )
        if metadata is not None:
            common = {**(common or {}), **metadata}
    return common


def _index_name(checkpoint: Checkpoint) -> str:
    """What the index is called, or would be: loaders look for it beside the first shard, under the same stem."""
    found = next((document.name for document in checkpoint.documents if document.name.endswith(_INDEX)), None)
    first = checkpoint.shards[0].name
    match = _SHARD_NAME.fullmatch(first)
    return found or (match["prefix"] if match else first.removesuffix(".safetensors")) + _INDEX


def _weight_file(plan: Plan, part: _Part, tensors: Sequence[Sequence[TensorInfo]]) -> OutputFile:
    shards = plan.checkpoint.shards
    source = part.copies[0].tensor.shard if part.copies else 0
    same_head = part.metadata == safetensors.metadata_of(shards[source]) and not shards[source].data_start % 8
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
    matches = [_SHARD_NAME.fullmatch(name) for name in names]
    if len(stay) == len(checkpoint.shards) or not all(matches):
        return names
    new = [
        f"{match['prefix']}-{number:05}-of-{len(stay):05}{match['rest']}"
        for number, match in enumerate(filter(None, matches), 1)
    ]
    return names if {file.name for file in checkpoint.side_files} & set(new) else new


def _index(plan: Plan, text: str, files: Mapping[str, str]) -> str:
    """The index with its new names, files and totals; everything else in it stays. `files`: tensor -> its file."""
    old = json_text.parse(text, "the index")
    new_names = {copy.tensor.name: copy.name for copy in plan.tensors}
    # in the index's own order, which need not be that of the files
    ordered = (new_names[name] for name in old["weight_map"] or sorted(new_names) if name in new_names)
    weight_map = {name: files[name] for name in ordered}
    changes: dict[str, Any] = {} if weight_map == old["weight_map"] else {"weight_map": weight_map}
    metadata = old.get("metadata")
    for key, value in _totals(plan, metadata if isinstance(metadata, dict) else {}).items():
        changes[f"metadata.{key}"] = value
    return json_text.edited(text, changes)


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
