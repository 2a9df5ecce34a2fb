"""Makes small checkpoints whose every tensor has bytes of its own, with the libraries that own the formats."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

FIXTURES = Path(__file__).parent.parent / "fixtures"
MODELS = FIXTURES / "models"
LLAMA_PARTS = ("input_layernorm.weight", "self_attn.q_proj.weight", "mlp.down_proj.weight")
BLOCK_PARTS = ("attn_norm.weight", "attn_q.weight", "ffn_down.weight")


def values(name: str, shape: tuple[int, ...] = (4, 8), dtype: str = "float32") -> np.ndarray:
    """Numbers that depend on the name alone, so that a mixed-up tensor shows."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def llama_names(layers: int, prefix: str = "model.layers.") -> list[str]:
    """A few tensors outside the layers and three in each."""
    outside = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    return outside + [f"{prefix}{layer}.{part}" for layer in range(layers) for part in LLAMA_PARTS]


def write_safetensors(path: Path, names: list[str], metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file with one small tensor for each name."""
    save_file({name: values(name) for name in names}, path, metadata={"format": "pt"} if metadata is None else metadata)
    return path


def write_config(path: Path, **config: Any) -> Path:
    """A config.json as transformers writes it."""
    path.write_text(json.dumps({"architectures": ["X"], **config}, indent=2) + "\n")
    return path


def huggingface(path: Path, layers: int = 6, shards: int = 1, names: list[str] | None = None, **config: Any) -> Path:
    """A Hugging Face directory in `shards` files, by default a llama; `config` adds to its config.json."""
    path.mkdir(parents=True)
    names = llama_names(layers) if names is None else names
    write_config(path / "config.json", **{"model_type": "llama", "num_hidden_layers": layers, **config})
    if shards == 1:
        write_safetensors(path / "model.safetensors", names)
        return path
    weight_map: dict[str, str] = {}
    for number in range(shards):
        part = names[number * len(names) // shards : (number + 1) * len(names) // shards]
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        write_safetensors(path / file, part)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 128 * len(names)}, "weight_map": dict(sorted(weight_map.items()))}
    (path / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return path


def block_names(layers: int, prefix: str = "blk.") -> list[str]:
    """The GGUF names that correspond to `llama_names`."""
    outside = ["token_embd.weight", "output_norm.weight", "output.weight"]
    return outside + [f"{prefix}{layer}.{part}" for layer in range(layers) for part in BLOCK_PARTS]


def write_gguf(
    path: Path,
    layers: int = 6,
    arch: str = "llama",
    names: list[str] | None = None,
    fields: Mapping[str, Any] | None = None,
    alignment: int | None = None,
) -> Path:
    """A GGUF file; `fields` are its own keys without the architecture, in Python's types."""
    writer = gguf.GGUFWriter(path, arch)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_block_count(layers)
    for key, value in (fields or {}).items():
        add_field(writer, key if "." in key and key.split(".")[0] == "general" else f"{arch}.{key}", value)
    writer.add_array("tokenizer.ggml.tokens", [f"<{number}>" for number in range(layers)])
    for name in block_names(layers) if names is None else names:
        writer.add_tensor(name, values(name, (3, 7)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_field(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Add a metadata value under the type that its Python type suggests."""
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    adders.get(type(value), writer.add_array)(key, value)
