"""The files of a Hugging Face directory: weights, files that are copied unchanged, and stale files that are not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rewriter.checkpoint import CARD, Document, SideFile
from rewriter.errors import CheckpointError, printable
from rewriter.formats import json_edit, safetensors
from rewriter.formats.limits import FILES
from rewriter.system.files import file_stamp, open_for_reading, printable_name, read_at, read_document

CARD_LIMIT = 4_000_000  # bytes of a model card; the longest there are have some 500,000
SINGLE = "model.safetensors"
ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"  # PEFT's names
INDEX_SUFFIX = ".safetensors.index.json"
_LAYER = re.compile(r"(?:^|\.)[0-9]+\.")

# Weights of the unpruned model in other forms: they are not copied, since a loader might prefer them.
_STALE = re.compile(
    r"pytorch_model.*\.(?:bin|json)|.*\.(?:h5|msgpack|ot|onnx|onnx_data|tflite|gguf|ckpt|nemo|mlmodel)"
    r"|.*\.(?:pt|pth)|flax_model.*|tf_model.*|optimizer\.bin|adapter_model\.bin|adapter_config\.json|openvino_.*|.*\.(?:npz|ggml)"
    r"|.*\.safetensors\.index\..*json"
)
_STALE_FOLDERS = frozenset(
    {"onnx", "openvino", "mlx", "coreml", "original", "flax", "tf", "gguf", ".git", ".cache", ".eval_results"}
)


def weight_files(path: Path) -> tuple[Document | None, list[str]]:
    """The index, if the weights have one, and the names of the files that hold them. Raises CheckpointError."""
    names = sorted(entry.name for entry in path.iterdir() if entry.name.endswith((".safetensors", INDEX_SUFFIX)))
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    single = [name for name in names if not name.endswith(INDEX_SUFFIX)]
    if SINGLE in single:
        return None, [SINGLE]
    index = _chosen_index(indexes)
    if index is not None:
        document = read_document(path / index, index)
        return document, _shard_names(document)
    if len(single) == 1:
        return None, single
    raise CheckpointError(_no_weights(path, single))


def _chosen_index(indexes: list[str]) -> str | None:
    preferred = "model" + INDEX_SUFFIX
    if preferred in indexes or len(indexes) < 2:
        return preferred if preferred in indexes else next(iter(indexes), None)
    raise CheckpointError(f"several indexes: {', '.join(map(printable, indexes))}; remove all but one")


def _no_weights(path: Path, single: list[str]) -> str:
    if single:
        return f"{printable_name(path)} has {len(single)} safetensors files but no {SINGLE} and no model{INDEX_SUFFIX}"
    ggufs = sorted(entry.name for entry in path.iterdir() if entry.name.endswith(".gguf"))
    if ggufs:
        return f"{printable_name(path)} holds GGUF files: give one of them, such as {printable(path / ggufs[0], 200)}"
    others = sorted(entry.name for entry in path.iterdir() if _STALE.fullmatch(entry.name))
    if others:
        return (
            f"{printable_name(path)} holds no safetensors files; {printable(others[0])} would have to be converted "
            "first: save the model with transformers' save_pretrained, or convert it with llama.cpp's "
            "convert_hf_to_gguf.py"
        )
    inside = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and any(entry.glob("*.safetensors")))
    if inside:
        return f"{printable_name(path)} holds no safetensors files; did you mean {printable(path / inside[0], 80)}?"
    return f"{printable_name(path)} holds no safetensors files"


def _shard_names(index: Document) -> list[str]:
    """The files that the index names, in order of their names. Raises CheckpointError for anything but base names."""
    value = json_edit.parse(index.text, index.name)
    weight_map = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index.name} has no weight_map")
    names = {name for name in weight_map.values() if isinstance(name, str)}
    odd = [name for name in weight_map.values() if not isinstance(name, str)]
    for name in (*odd, *sorted(names)):
        if not isinstance(name, str) or name != os.path.basename(name) or name in ("", ".", "..") or "\0" in name:
            raise CheckpointError(f"{index.name} names the shard {printable(name)}, which is not a plain file name")
    return sorted(names)


def find_side_files(
    path: Path, weights: set[str], adapter: bool = False
) -> tuple[tuple[SideFile, ...], tuple[str, ...]]:
    """The files below `path` to copy unchanged, and the names of those that are not copied.

    `weights` are the files already accounted for. In the directory of an `adapter` a config.json counts the layers of
    the unpruned model. Links are followed. Raises CheckpointError for a loop of links and for too many files.
    """
    side_files: list[SideFile] = []
    left_behind: list[str] = []
    for name in _walk(path, left_behind):
        if name in weights:
            continue
        if _is_stale(path, name) or (adapter and name == "config.json"):
            left_behind.append(name)
        else:
            side_files.append(SideFile(name, str(path / name), file_stamp(path / name)))
    _leave_params(left_behind, side_files)
    return tuple(side_files), tuple(sorted(left_behind))


def _walk(path: Path, left_behind: list[str]) -> Iterator[str]:
    """Names of all files below `path`, relative to it; folders of stale weights go to `left_behind` as a whole."""
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    met = 0
    while pending:
        folder, above = pending.pop()
        status = os.stat(path / folder)
        real = status.st_dev, status.st_ino
        if real in above:
            raise CheckpointError(f"the folder {printable(folder)} is a link to one that holds it")
        entries = sorted(os.scandir(path / folder), key=lambda entry: entry.name)
        met += len(entries)
        if met > FILES:  # links that double at every level are no loop, and have no end either
            raise CheckpointError(f"{printable_name(path)} holds more than {FILES} files and folders")
        for entry in entries:
            name = f"{folder}{entry.name}"
            if not entry.is_dir():
                yield name
            elif entry.name in _STALE_FOLDERS or entry.name.startswith("checkpoint-"):
                left_behind.append(name + "/")
            else:
                pending.append((name + "/", (*above, real)))


def _is_stale(path: Path, name: str) -> bool:
    if "/" in name:  # sentence-transformers keeps modules of its own in folders, PEFT other adapters
        return name.endswith(("/" + ADAPTER_WEIGHTS, "/" + ADAPTER_CONFIG, "/adapter_model.bin"))
    if name.endswith(INDEX_SUFFIX):
        return True
    if name.endswith(".safetensors"):
        return _has_layers(path / name)
    return _STALE.fullmatch(name) is not None


def _has_layers(path: Path) -> bool:
    """Whether a second safetensors file holds numbered layers: then it belongs to the unpruned model."""
    with open_for_reading(path) as (descriptor, found):
        start = read_at(descriptor, 0, min(16, found.size), path.name)
    if not safetensors.is_safetensors(start, found.size):
        return False
    return any(_LAYER.search(tensor.name) for tensor in safetensors.open_shard(str(path), path.name, 0)[1])


def _leave_params(left_behind: list[str], side_files: list[SideFile]) -> None:
    """Mistral's `consolidated*.safetensors` are described by `params.json`, which counts the old layers."""
    params = next((file for file in side_files if file.name == "params.json"), None)
    if params is not None and any(name.startswith("consolidated") for name in left_behind):
        side_files.remove(params)
        left_behind.append(params.name)


def card_text(side_files: Sequence[SideFile]) -> str | None:
    """The text of the model card; None where there is none, or none that could be extended."""
    found = next((file for file in side_files if file.name == CARD), None)
    if found is None or found.stamp.size > CARD_LIMIT:
        return None
    try:
        return read_document(Path(found.path), CARD).text
    except CheckpointError:
        return None
