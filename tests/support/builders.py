"""Makes small checkpoints whose every tensor has bytes of its own, with the libraries that own the formats."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors import deserialize
from safetensors.numpy import save_file

from rewriter import PlanOptions, WriteOptions, make_plan, open_checkpoint, write

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "fixtures"
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


def raw_safetensors(path: Path, header: Any, data: bytes = b"", padding: int = 0) -> Path:
    """A safetensors file with exactly this header (a JSON value, or its bytes) and these bytes after it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    raw += b" " * padding
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def gguf_string(text: str | bytes) -> bytes:
    """A string as GGUF stores it."""
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_field(key: str | bytes, kind: int, value: bytes) -> bytes:
    """A metadata record: value type `kind`, the value as its bytes."""
    return gguf_string(key) + struct.pack("<I", kind) + value


def gguf_record(name: str | bytes, shape: Iterable[int], kind: int, offset: int) -> bytes:
    """A tensor record."""
    shape = tuple(shape)
    return gguf_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def raw_gguf(
    path: Path,
    fields: Iterable[bytes],
    records: Iterable[bytes],
    data: bytes,
    version: int = 3,
    alignment: int = 32,
    counts: tuple[int, int] | None = None,
) -> Path:
    """A GGUF file of exactly these records; `counts` lies about their numbers (tensors, fields)."""
    fields, records = tuple(fields), tuple(records)
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(records), len(fields))))
    head += b"".join(fields) + b"".join(records)
    path.write_bytes(head + bytes(-len(head) % alignment) + data)
    return path


def split_gguf(folder: Path, layers: int = 6, files: int = 3, empty_first: bool = False, stem: str = "model") -> Path:
    """A split set; all metadata is in the first file, which has no tensors if `empty_first`."""
    names = block_names(layers)
    holders = files - empty_first
    parts = [names[number * len(names) // holders : (number + 1) * len(names) // holders] for number in range(holders)]
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate([[]] * empty_first + parts):
        path = folder / f"{stem}-{number + 1:05}-of-{files:05}.gguf"
        write_split(path, layers, part, number, files, len(names))
    return folder / f"{stem}-00001-of-{files:05}.gguf"


def write_split(path: Path, layers: int, names: list[str], number: int, files: int, total: int) -> None:
    """One file of a split set, as llama.cpp's gguf-split writes it (its header is padded in every file)."""
    fields = []
    if number == 0:
        fields += [gguf_field("general.architecture", 8, gguf_string("llama"))]
        fields += [gguf_field("llama.block_count", 4, struct.pack("<I", layers))]
        fields += [
            gguf_field("llama.attention.head_count_kv", 9, struct.pack(f"<IQ{layers}I", 4, layers, *[2] * layers))
        ]
        fields += [gguf_field("general.unknown", 8, gguf_string("stays"))]
    fields += [gguf_field("split.no", 2, struct.pack("<H", number))]
    fields += [gguf_field("split.count", 2, struct.pack("<H", files))]
    fields += [gguf_field("split.tensors.count", 5, struct.pack("<i", total))]
    records, data = [], b""
    for name in names:
        array = values(name, (3, 7))
        records.append(gguf_record(name, array.shape[::-1], 0, len(data)))
        data += array.tobytes() + bytes(-array.nbytes % 32)
    raw_gguf(path, fields, records, data)


def everything(path: Path) -> dict[str, bytes]:
    """Every file below a folder: its name relative to it -> its bytes."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


Contents = dict[str, tuple[str, tuple[int, ...], bytes]]


def tensors_of(path: Path) -> Contents:
    """Name -> dtype, shape and bytes, as the libraries that own the formats read them."""
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        return {name: entry for file in files for name, entry in tensors_of(file).items()}
    if path.read_bytes()[:4] == b"GGUF":
        return {name: entry for file in split_files(path) for name, entry in _gguf_tensors(file).items()}
    entries = deserialize(path.read_bytes())
    return {name: (entry["dtype"], tuple(entry["shape"]), bytes(entry["data"])) for name, entry in entries}


def split_files(path: Path) -> list[Path]:
    """All files of the set that `path` begins; `path` alone if it begins none."""
    prefix, mark, rest = path.name.rpartition("-00001-of-")
    return sorted(path.parent.glob(f"{prefix}-*-of-{rest}")) if mark else [path]


def _gguf_tensors(path: Path) -> Contents:
    tensors = gguf.GGUFReader(path).tensors
    return {each.name: (each.tensor_type.name, tuple(map(int, each.shape)), each.data.tobytes()) for each in tensors}


def gguf_metadata(path: Path) -> dict[str, Any]:
    """Key -> type and value of every metadata record, as gguf reads them."""
    fields = gguf.GGUFReader(path).fields.values()
    return {field.name: (field.types, field.contents()) for field in fields if not field.name.startswith("GGUF.")}


def prune(source: Path, target: Path, keep: Iterable[int], options: PlanOptions | None = None, **how: Any) -> Path:
    """Write `target` through the Python API and return the path that opens it."""
    rest = {name: how.pop(name) for name in ("progress", "on_commit", "notify", "executor") if name in how}
    output = write(make_plan(open_checkpoint(source), keep, options), target, WriteOptions(**how), **rest)
    return target if output.directory else target.with_name(output.files[0].name)


HOSTILE = """</script><img src=x onerror=alert(1)>"'&\u202e\u2066\x1b[31m"""
