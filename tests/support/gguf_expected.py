"""What a correct pruning of a tiny GGUF file has, worked out from its Spec without the tool."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from tests.support.gguf_files import Contents, Tensor
from tests.support.gguf_specs import Indexes, Leading, PerLayer, Spec, Trailing

BLOCK = re.compile(r"blk\.([0-9]+)\.")


def kept_of(spec: Spec, dropped: tuple[int, ...]) -> list[int]:
    """The blocks that stay, MTP blocks last."""
    return [layer for layer in range(spec.layers + spec.mtp_layers) if layer not in dropped]


def expected(spec: Spec, source: Contents, kept: list[int]) -> Contents:
    metadata, tensors = source
    values = {key: (types, _value(spec, key, value, kept)) for key, (types, value) in metadata.items()}
    for key, value in _written(spec, metadata, kept).items():
        there, _ = values.get(key, ([], None))
        values[key] = (there if there and isinstance(value, list) == (there[0] == "ARRAY") else _types(value), value)
    cut = {name: _cut(spec, name, tensor, kept) for name, tensor in tensors.items()}
    named = ((_name(name, kept), tensor) for name, tensor in cut.items())
    return values, {name: tensor for name, tensor in named if name}


def _types(value: Any) -> list[str]:
    if isinstance(value, list):
        return ["ARRAY", *_types(value[0])]
    return [{bool: "BOOL", int: "UINT32", float: "FLOAT32"}[type(value)]]


def _name(name: str, kept: list[int]) -> str | None:
    match = BLOCK.match(name)
    if match is None:
        return name
    layer = int(match[1])
    return f"blk.{kept.index(layer)}.{name[match.end() :]}" if layer in kept else None


def _cut(spec: Spec, name: str, tensor: Tensor, kept: list[int]) -> Tensor:
    """Gemma's embeddings of all blocks stand side by side: along the first dimension, or the second."""
    if name not in ("per_layer_token_embd.weight", "per_layer_model_proj.weight") or spec.name == "qwen4exp":
        return tensor
    kind, shape, data = tensor
    axis = 1 if name.startswith("per_layer_token") else 0
    array = np.frombuffer(data, np.float32).reshape(shape[::-1])
    parts = np.split(array, spec.layers, axis)
    left = np.concatenate([parts[layer] for layer in kept], axis)
    return kind, left.shape[::-1], left.tobytes()


def _value(spec: Spec, key: str, value: Any, kept: list[int]) -> Any:
    main = [layer for layer in kept if layer < spec.layers]
    if key == f"{spec.name}.block_count":
        return len(kept)
    if key == f"{spec.name}.nextn_predict_layers":
        return len(kept) - len(main)
    match spec.keys.get(key.removeprefix(spec.name + "."), spec.keys.get("/" + key)):
        case PerLayer():
            return [value[layer] for layer in kept if layer < len(value)]
        case Indexes():
            return [kept.index(layer) for layer in value if layer in kept]
        case Leading():
            return sum(layer < value for layer in main)
        case Trailing():
            return sum(layer >= spec.layers - value for layer in main)
    return value


def _written(spec: Spec, metadata: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    """What was implied by the blocks' numbers and is no more, and what was derived from their count."""
    written = {spec.whole(key): value for key, value in spec.writes.items() if spec.whole(key) not in metadata}
    if spec.implied is None:
        return written
    before, after = spec.implied(spec.layers + spec.mtp_layers), spec.implied(len(kept))
    main = sum(layer < spec.layers for layer in kept)
    for key, every in before.items():
        wanted = [every[layer] for layer in kept]
        if spec.name.startswith("qwen3"):  # MTP blocks have attention
            wanted = [kind and layer < spec.layers for kind, layer in zip(wanted, kept, strict=True)]
            after[key][main:] = [False] * (len(kept) - main)
        if wanted != after[key]:
            written[spec.whole(key)] = wanted
            if not any(wanted) and spec.name == "gemma3":
                written = {spec.whole("attention.sliding_window"): 0}
    return written
