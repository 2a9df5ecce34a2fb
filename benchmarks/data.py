"""Makes the checkpoints that are measured: random bytes where bytes are moved, holes where only headers matter."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

Entry = tuple[str, list[int], str]
WIDTHS = {"BF16": 2, "F32": 4, "F8_E4M3": 1}


def nbytes(entry: Entry) -> int:
    size = WIDTHS[entry[2]]
    for length in entry[1]:
        size *= length
    return size


def write_directory(folder: Path, entries: list[Entry], shards: int, config: dict, filled: bool) -> Path:
    """A Hugging Face directory, its data random or one hole."""
    folder.mkdir()
    weight_map: dict[str, str] = {}
    each = -(-len(entries) // shards)
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = sorted(entries[number * each : (number + 1) * each], key=lambda entry: -WIDTHS[entry[2]])
        write_shard(folder / name, part, filled)
        weight_map |= dict.fromkeys((entry[0] for entry in part), name)
    total = sum(map(nbytes, entries))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return folder


def write_shard(path: Path, entries: list[Entry], filled: bool) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for entry in entries:
        header[entry[0]] = {"dtype": entry[2], "shape": entry[1], "data_offsets": [at, at + nbytes(entry)]}
        at += nbytes(entry)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        fill(file, at) if filled else file.truncate(8 + len(text) + at)


def fill(file, size: int) -> None:
    while size:
        step = min(size, 1 << 24)
        file.write(os.urandom(step))
        size -= step


def llama(folder: Path, width: int, layers: int = 30, shards: int = 5) -> Path:
    """A llama as wide as small ones are: 1.7 GB with 2048."""
    parts = {f"self_attn.{each}_proj.weight": [width, width] for each in "qkvo"}
    parts |= {"mlp.down_proj.weight": [width, width * 11 // 4]}
    parts |= {"input_layernorm.weight": [width], "post_attention_layernorm.weight": [width]}
    entries: list[Entry] = [("model.embed_tokens.weight", [1000, width], "BF16")]
    entries += [(f"model.layers.{n}.{part}", shape, "BF16") for n in range(layers) for part, shape in parts.items()]
    return write_directory(folder, entries, shards, {"model_type": "llama", "num_hidden_layers": layers}, filled=True)


def linear(name: str, out: int, into: int) -> Iterator[Entry]:
    """A matrix in FP8 with the scales of its blocks."""
    yield f"{name}.weight", [out, into], "F8_E4M3"
    yield f"{name}.weight_scale_inv", [-(-out // 128), -(-into // 128)], "F32"


def deepseek_entries(layers: int, experts: int) -> Iterator[Entry]:
    """The tensors of DeepSeek-V3: three dense layers, then experts."""
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        yield name, [129280, 7168], "BF16"
    yield "model.norm.weight", [7168], "BF16"
    attention = {"q_a_proj": (1536, 7168), "q_b_proj": (24576, 1536), "kv_a_proj_with_mqa": (576, 7168)}
    attention |= {"kv_b_proj": (32768, 512), "o_proj": (7168, 16384)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for norm, width in (("input", 7168), ("post_attention", 7168)):
            yield f"{prefix}{norm}_layernorm.weight", [width], "BF16"
        for name, shape in attention.items():
            yield from linear(f"{prefix}self_attn.{name}", *shape)
        yield from mlp(prefix, experts if layer >= 3 else 0)


def mlp(prefix: str, experts: int) -> Iterator[Entry]:
    places = [f"experts.{number}." for number in range(experts)] + ["shared_experts."] * bool(experts)
    width = 2048 if experts else 18432
    if experts:
        yield f"{prefix}mlp.gate.weight", [256, 7168], "BF16"
    for place in places or [""]:
        for name, shape in (("gate", (width, 7168)), ("up", (width, 7168)), ("down", (7168, width))):
            yield from linear(f"{prefix}mlp.{place}{name}_proj", *shape)


def deepseek(folder: Path, layers: int, experts: int, shards: int) -> Path:
    """A sparse DeepSeek-V3: real names, shapes and sizes, no data."""
    config = {"model_type": "deepseek_v3", "num_hidden_layers": layers, "first_k_dense_replace": 3}
    config |= {"n_routed_experts": experts, "moe_layer_freq": 1}
    return write_directory(folder, list(deepseek_entries(layers, experts)), shards, config, filled=False)


# GGUF

PARTS = ("attn_q", "attn_output", "ffn_down")


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def field(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def words(count: int, most: int) -> bytes:
    chance = random.Random(0)
    return b"".join(string("".join(chance.choices("abcdefghij", k=chance.randint(1, most)))) for _ in range(count))


def gguf(path: Path, tokens: int, row: int, layers: int = 30) -> Path:
    """A llama whose layers are three matrices of F32, `row` times `row`, with a vocabulary and merges."""
    fields = [
        field("general.architecture", 8, string("llama")),
        field("llama.block_count", 4, struct.pack("<I", layers)),
    ]
    fields += [field("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, tokens) + words(tokens, 14))]
    fields += [field("tokenizer.ggml.token_type", 9, struct.pack("<IQ", 5, tokens) + bytes(4 * tokens))]
    fields += [field("tokenizer.ggml.merges", 9, struct.pack("<IQ", 8, tokens) + words(tokens, 16))]
    records, at = [], 0
    for name in (f"blk.{layer}.{part}.weight" for layer in range(layers) for part in PARTS):
        records.append(string(name) + struct.pack("<IQQIQ", 2, row, row, 0, at))
        at += 4 * row * row
    head = b"GGUF" + struct.pack("<IQQ", 3, len(records), len(fields)) + b"".join((*fields, *records))
    with path.open("wb") as file:
        file.write(head + bytes(-len(head) % 32))
        fill(file, at)
    return path
