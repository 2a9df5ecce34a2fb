"""What scores cost: beside reading the file with `cat`, which is as fast as it can be read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import gguf
import numpy as np

from benchmarks import data
from benchmarks.measure import OURS, Case, Sample, Section, in_turns, rounds_of, run

TEXT = """\
A llama of {layers} layers, {width} wide, with a vocabulary of {tokens}: {weights:.2f} billion weights,
{size:.0f} MB of BF16 in 5 shards, and the same as Q4_K; {cores} cores. `cat` reads the files, which are in
the page cache. Ratios are to that, medians of {rounds} runs in turns; the sampled metrics and `stream-removal`, which
compute most, once."""
METRICS = ("magnitude-l2", "magnitude-l1", "influence", "stream-influence")
LONG = ("stream-removal", "sampled-removal", "sampled-greedy")
HEAD = ("", "wall", "ratio", "CPU", "billion weights/s", "memory")
Q4_K_BLOCK, Q4_K_BYTES = 256, 144  # weights, bytes: two fp16 scales, 12 bytes of small ones, 128 of weights


def shapes(width: int, layers: int, tokens: int) -> dict[str, tuple[int, ...]]:
    """llama.cpp's name -> rows, columns."""
    feed = width * 3
    parts = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (width, width))
    parts |= {"ffn_gate": (feed, width), "ffn_up": (feed, width), "ffn_down": (width, feed)}
    parts |= {"attn_norm": (width,), "ffn_norm": (width,)}
    outer: dict[str, tuple[int, ...]] = {"token_embd": (tokens, width), "output": (tokens, width)}
    inner = {f"blk.{n}.{part}": shape for n in range(layers) for part, shape in parts.items()}
    return outer | inner | {"output_norm": (width,)}


NAMES = {
    "token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm", "blk": "model.layers",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip


def directory(folder: Path, found: dict[str, tuple[int, ...]], config: dict) -> Path:
    """BF16 weights of a normal distribution, the same ones again and again."""
    names = {name: ".".join(NAMES.get(word, word) for word in name.split(".")) + ".weight" for name in found}
    entries = [(names[name], list(shape), "BF16") for name, shape in found.items()]
    source = data.write_directory(folder, entries, 5, config, filled=False)
    drawn = np.random.default_rng(0).normal(0, 0.02, 1 << 22).astype(np.float32)
    block = (drawn.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    for shard in sorted(source.glob("*.safetensors")):
        with shard.open("r+b") as file:
            file.seek(8 + int.from_bytes(file.read(8), "little"))
            left = shard.stat().st_size - file.tell()
            while left > 0:
                left -= file.write(block[:left])
    return source


def quantised(path: Path, found: dict[str, tuple[int, ...]], config: dict) -> Path:
    """Blocks of Q4_K with random weights and small scales; norms in F32."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rng = np.random.default_rng(0)
    for name, shape in found.items():
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
            continue
        blocks = rng.integers(0, 256, (*shape[:-1], shape[-1] // Q4_K_BLOCK, Q4_K_BYTES), dtype=np.uint8)
        blocks[..., :4] = np.array([1e-3, 1e-2], np.float16).view(np.uint8)
        writer.add_tensor(f"{name}.weight", blocks.reshape(*shape[:-1], -1), raw_dtype=gguf.GGMLQuantizationType.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def score(source: Path, metric: str) -> Case:
    return Case(metric, [*OURS, "score", str(source), "--metric", metric, "--json"])


def numbers(each: Sample, cat: Sample, weights: int) -> tuple[str, ...]:
    rate = f"{weights / each.wall / 1e9:.2f}"
    return f"{each.wall:.2f} s", f"{each.wall / cat.wall:.1f}", f"{each.cpu:.2f} s", rate, f"{each.memory:.0f} MiB"


def sections(folder: Path, small: bool) -> list[Section]:
    rounds = rounds_of(small, 5)
    width, layers, tokens = (256, 4, 500) if small else (2048, 12, 32_000)
    found = shapes(width, layers, tokens)
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": layers,
        "hidden_size": width, "num_attention_heads": width // 64, "num_key_value_heads": width // 64,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "vocab_size": tokens,
    }  # fmt: skip
    weights = sum(int(np.prod(shape)) for shape in found.values())
    source = directory(folder / "scored", found, config)
    size = sum(file.stat().st_size for file in source.glob("*.safetensors"))
    cat = ["sh", "-c", f"cat '{source}'/*.safetensors > /dev/null"]
    run(cat)
    plain = in_turns([Case("cat", cat), *(score(source, metric) for metric in METRICS)], rounds)
    plain |= in_turns([score(source, metric) for metric in LONG], 1)
    shutil.rmtree(source)
    small_file = quantised(folder / "scored.gguf", found, config)
    run(["cat", str(small_file)])
    blocks = in_turns([score(small_file, metric) for metric in METRICS], rounds)
    rows = [*plain.items(), *((f"Q4_K, {name}", each) for name, each in blocks.items())]
    cells = tuple((name, *numbers(each, plain["cat"], weights)) for name, each in rows)
    small_file.unlink()
    text = TEXT.format(
        layers=layers, width=width, tokens=tokens, weights=weights / 1e9, size=size / 1e6, rounds=rounds,
        cores=os.cpu_count(),
    )  # fmt: skip
    return [Section("Scoring", text, HEAD, cells)]
