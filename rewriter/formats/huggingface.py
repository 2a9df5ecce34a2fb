"""Hugging Face checkpoints: a directory, or a lone safetensors file with a config.json beside it.

Laws (transformers, huggingface_hub):
- `model.safetensors` alone, or shards that `model.safetensors.index.json` maps every tensor name to. A loader
  takes the single file where both are there.
- `config.json` says what the tensors are: by `model_type`, in diffusers by `_class_name`. Mistral's own layout has
  `params.json` beside `consolidated.safetensors`. Other files are copied, except other weights of the unpruned model.
- Files may be links into a cache; a shard's name in the index is a plain file name in the same directory.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rewriter.checkpoint import ADAPTER, HUGGINGFACE, SAFETENSORS, Checkpoint, Document, Shard, TensorInfo
from rewriter.errors import CheckpointError, printable
from rewriter.formats import json_edit, safetensors
from rewriter.formats.hf_directory import ADAPTER_CONFIG, ADAPTER_WEIGHTS, card_text, find_side_files, weight_files
from rewriter.formats.hub_id import hub_name
from rewriter.formats.limits import TENSORS, check_entries, check_total
from rewriter.system.files import read_document

CONFIG = "config.json"
# Other files whose fields may follow the layers.
PATCHED = (
    "generation_config.json", "hf_quant_config.json", "quantize_config.json", "quant_config.json",
    "quantization_config.json",
)  # fmt: skip
PARAMS, MISTRAL = "params.json", "mistral_native"  # what describes `consolidated*.safetensors`, and its table entry
PROVENANCE_FILE = "rewriter.json"
PROVENANCE_ENTRY = "rewriter"  # in the __metadata__ of a lone file
Opened = tuple[Shard, tuple[TensorInfo, ...], bytes]  # the last is the SHA-256 of the header
SHARD_NAME = re.compile(r"(?P<prefix>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})(?P<rest>\.safetensors)")


def open_file(path: Path) -> Checkpoint:
    """Open a lone safetensors file, with `STEM.config.json` or `config.json` from beside it. Raises CheckpointError."""
    opened = _shards(path.parent, [path.name])
    match = SHARD_NAME.fullmatch(path.name)
    if match and int(match["count"]) > 1:
        raise CheckpointError(
            f"{printable(path.name)} is one of {int(match['count'])} shards; give the directory that holds them all"
        )
    adapter = _is_adapter(opened)
    if adapter and path.with_name(ADAPTER_CONFIG).exists():
        raise CheckpointError(f"{ADAPTER_CONFIG} beside {printable(path.name)} belongs to it: give their directory")
    configs = () if adapter else (path.with_name(config_name(path.name)), path.with_name(CONFIG))
    config = next((config for config in configs if config.exists()), None)
    documents = () if config is None else (read_document(config, CONFIG),)
    record = (safetensors.metadata_of(opened[0][0]) or {}).get(PROVENANCE_ENTRY)
    return _checkpoint(
        SAFETENSORS, path, opened, documents,
        provenance=None if record is None else json_edit.parse_or_keep(str(record), PROVENANCE_FILE),
        companion=ADAPTER if adapter else "",
    )  # fmt: skip


def _is_adapter(opened: Sequence[Opened]) -> bool:
    """Whether the names are those of a PEFT adapter: wrapped in `base_model.`, or each of a `lora_` part."""
    names = [tensor.name for _, infos, _ in opened for tensor in infos]
    return bool(names) and all(name.startswith("base_model.") or ".lora_" in name for name in names)


def config_name(name: str) -> str:
    """What the config of a lone file called `name` is called: STEM.config.json."""
    return f"{name.removesuffix('.safetensors')}.{CONFIG}"


def open_directory(path: Path) -> Checkpoint:
    """Open a Hugging Face directory. Raises CheckpointError for anything that is not a complete, consistent one."""
    index, names = weight_files(path)
    missing = next((name for name in names if not (path / name).exists()), None)
    if missing is not None:
        raise CheckpointError(f"cannot open {printable(missing)}: it is missing; is the download complete?")
    opened = _shards(path, names)
    documents = [read_document(path / name, name) for name in _described_by(names) if (path / name).exists()]
    if index is not None:
        documents.append(index)
        _check_index(index, opened)
    adapter = names == [ADAPTER_WEIGHTS]
    side_files, left_behind = find_side_files(path, {*names, *(document.name for document in documents)}, adapter)
    card = card_text(side_files)
    record = path / PROVENANCE_FILE
    provenance = None
    if record.exists():
        provenance = json_edit.parse_or_keep(read_document(record, record.name).text, PROVENANCE_FILE)
    return _checkpoint(
        HUGGINGFACE, path, opened, tuple(documents),
        side_files=tuple(file for file in side_files if file.name != PROVENANCE_FILE),
        left_behind=left_behind, provenance=provenance, companion=ADAPTER if adapter else "", card=card,
        hub_name=hub_name(path, json_edit.parse(_config_text(documents), CONFIG), card),
    )  # fmt: skip


def _shards(path: Path, names: list[str]) -> tuple[Opened, ...]:
    opened: list[Opened] = []
    tensors = headers = 0
    for number, name in enumerate(names):
        opened.append(safetensors.open_shard(str(path / name), name, number))
        tensors, headers = tensors + len(opened[-1][1]), headers + opened[-1][0].data_start
        check_total(tensors, headers, f"up to {printable(name)}: ")
    return tuple(opened)


def _described_by(weights: list[str]) -> tuple[str, ...]:
    if weights == [ADAPTER_WEIGHTS]:
        return (ADAPTER_CONFIG,)
    native = any(name.startswith("consolidated") for name in weights)
    return (CONFIG, *PATCHED, PARAMS) if native else (CONFIG, *PATCHED)


def _checkpoint(
    format: str, path: Path, opened: tuple[Opened, ...], documents: tuple[Document, ...], **rest: Any
) -> Checkpoint:
    text = _config_text(documents)
    config = json_edit.parse(text, CONFIG)
    if not isinstance(config, dict):
        raise CheckpointError(f"{CONFIG} is not a JSON object")
    model_type = config.get("model_type") or config.get("_class_name")
    model_type = model_type if isinstance(model_type, str) else ""
    native = any(document.name == PARAMS for document in documents)
    flat = {**json_edit.flatten(config), **_others(documents)}
    check_entries(len(flat), f"{CONFIG}: ", TENSORS)  # quantised modules may be named one by one
    digest = hashlib.sha256(b"".join(header_digest for _, _, header_digest in opened))
    digest.update(text.encode())
    return Checkpoint(
        format=format,
        path=str(path),
        name=path.resolve().name if format == HUGGINGFACE else path.name,
        architecture=MISTRAL if native else model_type,
        shards=tuple(shard for shard, _, _ in opened),
        tensors=tuple(tensor for _, infos, _ in opened for tensor in infos),
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
    values = ((document.name, json_edit.parse(document.text, document.name)) for document in others)
    return {
        f"{name}:{key}": member
        for name, value in values
        if isinstance(value, dict)
        for key, member in json_edit.flatten(value).items()
    }


def _check_index(index: Document, opened: tuple[Opened, ...]) -> None:
    """The index must name every tensor, where it is."""
    expected = json_edit.parse(index.text, index.name)["weight_map"]
    found = {tensor.name: shard.name for shard, tensors, _ in opened for tensor in tensors}
    if len(found) != sum(len(tensors) for _, tensors, _ in opened):
        raise CheckpointError("the same tensor name stands in two shards")
    for name in expected:
        if found.get(name) != expected[name]:
            raise CheckpointError(
                f"{index.name} puts tensor {printable(name)} into {printable(expected[name])}, "
                f"it is in {printable(found.get(name, 'none of the shards'))}"
            )
    for name, shard in found.items():
        if name not in expected:
            raise CheckpointError(f"{index.name} does not name tensor {printable(name)} of {printable(shard)}")
