"""Writes what belongs to a model: adapters, control vectors, importance matrices."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

from tests.support.builders import add_field, values

PEFT = "base_model.model.model.layers."


def write_gguf(path: Path, fields: Mapping[str, Any], tensors: Mapping[str, np.ndarray], arch: str = "llama") -> Path:
    """A GGUF file with exactly these tensors."""
    writer = gguf.GGUFWriter(path, arch)
    for key, value in fields.items():
        add_field(writer, key, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def named(*names: str, shape: tuple[int, ...] = (2, 8)) -> dict[str, np.ndarray]:
    """A tensor of its own for each name."""
    return {name: values(name, shape) for name in names}


def lora(path: Path, layers: Iterable[int] = range(6), arch: str = "llama", prefix: str = "blk.", **more: Any) -> Path:
    """An adapter as convert_lora_to_gguf writes it."""
    fields = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 8.0, **more}
    names = [f"{prefix}{layer}.attn_q.weight.lora_{part}" for layer in layers for part in "ab"]
    return write_gguf(path, fields, named(*names, "output.weight.lora_a", "output.weight.lora_b"), arch)


def control_vector(path: Path, layers: Iterable[int] = range(1, 6), hint: str = "llama", count: int = 5) -> Path:
    """A control vector as llama-cvector-generator writes it."""
    fields = {"controlvector.model_hint": hint, "controlvector.layer_count": count}
    return write_gguf(path, fields, named(*(f"direction.{n}" for n in layers), shape=(8,)), "controlvector")


def importances(path: Path, layers: int = 6) -> Path:
    """An importance matrix as llama-imatrix writes it."""
    fields = {
        "general.type": "imatrix", "imatrix.datasets": ["a.txt"], "imatrix.chunk_count": 3, "imatrix.chunk_size": 512
    }  # fmt: skip
    names = [f"blk.{layer}.ffn_up.weight" for layer in range(layers)] + ["output.weight"]
    sums = {f"{name}.in_sum2": values(name, (1, 8)) for name in names}
    counts = {f"{name}.counts": values(name, (1, 1)) for name in names}
    return write_gguf(path, fields, {**sums, **counts}, "imatrix")


def old_importances(path: Path, names: Iterable[str] | None = None, ending: bytes | None = None) -> Path:
    """The same as llama-imatrix wrote it before."""
    names = [*(f"blk.{n}.ffn_up.weight" for n in range(6)), "output.weight"] if names is None else list(names)
    ending = struct.pack("<ii", 3, 5) + b"a.txt" if ending is None else ending
    entries = b"".join(entry(name, values(name, (8,)).tobytes()) for name in names)
    path.write_bytes(struct.pack("<i", len(names)) + entries + ending)
    return path


def entry(name: str, data: bytes, calls: int = 2) -> bytes:
    """An entry of the old form."""
    raw = name.encode()
    return struct.pack("<i", len(raw)) + raw + struct.pack("<ii", calls, len(data) // 4) + data


def read_old(path: Path) -> tuple[dict[str, tuple[int, bytes]], bytes]:
    """Name -> number of calls and values, and what follows: read the plain way."""
    raw, entries = path.read_bytes(), {}
    (count,), at = struct.unpack_from("<i", raw), 4
    for _ in range(count):
        (length,) = struct.unpack_from("<i", raw, at)
        name = raw[at + 4 : at + 4 + length].decode()
        calls, number = struct.unpack_from("<ii", raw, at + 4 + length)
        start = at + 12 + length
        at = start + 4 * number
        entries[name] = calls, raw[start:at]
    return entries, raw[at:]


def adapter(
    path: Path, config: Mapping[str, Any] | None = None, layers: Iterable[int] = range(6), prefix: str = PEFT
) -> Path:
    """A PEFT adapter's directory; without a config only the weights."""
    path.mkdir()
    modules = [f"{prefix}{layer}.{name}" for layer in layers for name in ("self_attn.q_proj", "mlp.up_proj")]
    names = [f"{module}.lora_{part}.weight" for module in modules for part in "AB"]
    save_file(named(*names), path / "adapter_model.safetensors", {"format": "pt"})
    if config is not None:
        said = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "up_proj"], **config}
        (path / "adapter_config.json").write_text(json.dumps(said, indent=2))
    return path
