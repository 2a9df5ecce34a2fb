"""What scores cost: beside reading the file with `cat`, which is as fast as it can be read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import gguf
import numpy as np

from benchmarks import data
from benchmarks.measure import OURS, Case, Sample, Section, in_turns, rounds_of, run

TEXT = """\
A llama of {shape}: {weights:.2f} billion weights, {size:.0f} MB of {kind}; {cores} cores. `cat` reads the files, which
are in the page cache. A metric is `plan --strategy METRIC` with the start of Python and numpy, which is {start:.2f} s;
`score` looks at pieces of every tensor besides, for its table of components. Ratios are to `cat`, medians of {rounds}
runs in turns{once}."""
ONCE = "; what computes most, once"
METRICS = ("magnitude-l2", "magnitude-l1", "stream-influence", "influence")
LONG = ("stream-removal", "sampled-removal", "sampled-greedy")
HEAD = ("", "wall", "ratio", "CPU", "billion weights/s", "memory")
Q4_K_BLOCK, Q4_K_BYTES = 256, 144  # weights, bytes: two fp16 scales, 12 bytes of small ones, 128 of weights


@dataclass(frozen=True, slots=True)
class Shape:
    """A llama, three times as wide inside its feed-forwards as outside."""

    width: int
    layers: int
    tokens: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """llama.cpp's name -> rows, columns."""
        width, feed = self.width, self.width * 3
        parts = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (width, width))
        parts |= {"ffn_gate": (feed, width), "ffn_up": (feed, width), "ffn_down": (width, feed)}
        parts |= {"attn_norm": (width,), "ffn_norm": (width,)}
        outer: dict[str, tuple[int, ...]] = dict.fromkeys(("token_embd", "output"), (self.tokens, width))
        inner = {f"blk.{n}.{part}": shape for n in range(self.layers) for part, shape in parts.items()}
        return outer | inner | {"output_norm": (width,)}

    def config(self) -> dict[str, object]:
        """As transformers writes it."""
        return {
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": self.layers,
            "hidden_size": self.width, "num_attention_heads": self.width // 64,
            "num_key_value_heads": self.width // 64, "rms_norm_eps": 1e-5, "hidden_act": "silu",
            "vocab_size": self.tokens,
        }  # fmt: skip

    def __str__(self) -> str:
        return f"{self.layers} layers, {self.width} wide, {self.tokens} tokens"


NAMES = {
    "token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm", "blk": "model.layers",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip


def directory(folder: Path, shape: Shape) -> Path:
    """BF16 weights of a normal distribution, the same ones again and again."""
    found = shape.tensors()
    names = {name: ".".join(NAMES.get(word, word) for word in name.split(".")) + ".weight" for name in found}
    entries = [(names[name], list(sides), "BF16") for name, sides in found.items()]
    source = data.write_directory(folder, entries, 5, shape.config(), filled=False)
    drawn = np.random.default_rng(0).normal(0, 0.02, 1 << 22).astype(np.float32)
    block = (drawn.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    for shard in sorted(source.glob("*.safetensors")):
        with shard.open("r+b") as file:
            file.seek(8 + int.from_bytes(file.read(8), "little"))
            left = shard.stat().st_size - file.tell()
            while left > 0:
                left -= file.write(block[:left])
    return source


def quantised(path: Path, shape: Shape) -> Path:
    """Blocks of Q4_K with random weights and small scales; norms in F32."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(shape.layers)
    writer.add_head_count(shape.width // 64)
    writer.add_layer_norm_rms_eps(1e-5)
    rng = np.random.default_rng(0)
    for name, sides in shape.tensors().items():
        if len(sides) == 1:
            writer.add_tensor(f"{name}.weight", np.ones(sides, np.float32))
            continue
        blocks = rng.integers(0, 256, (*sides[:-1], sides[-1] // Q4_K_BLOCK, Q4_K_BYTES), dtype=np.uint8)
        blocks[..., :4] = np.array([1e-3, 1e-2], np.float16).view(np.uint8)
        writer.add_tensor(f"{name}.weight", blocks.reshape(*sides[:-1], -1), raw_dtype=gguf.GGMLQuantizationType.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def plan(source: Path, strategy: str) -> Case:
    return Case(strategy, [*OURS, "plan", str(source), "--strategy", strategy, "--count", "1"])


def numbers(each: Sample, cat: Sample, weights: int) -> tuple[str, ...]:
    rate = f"{weights / each.wall / 1e9:.2f}"
    return f"{each.wall:.2f} s", f"{each.wall / cat.wall:.1f}", f"{each.cpu:.2f} s", rate, f"{each.memory:.0f} MiB"


def measured(kind: str, shape: Shape, source: Path, start: float, rounds: int, long: Sequence[str]) -> Section:
    """What `cat` and the metrics take for `source`; those in `long` run once."""
    files = sorted(source.glob("*.safetensors")) or [source]
    cat = ["cat", *map(str, files)]
    run(cat)
    table = Case("score, magnitude-l2", [*OURS, "score", str(source), "--metric", "magnitude-l2", "--json"])
    found = in_turns([Case("cat", cat), *(plan(source, metric) for metric in METRICS), table], rounds)
    found |= in_turns([plan(source, metric) for metric in long], 1)
    weights = sum(prod(sides) for sides in shape.tensors().values())
    text = TEXT.format(
        shape=shape, weights=weights / 1e9, size=sum(file.stat().st_size for file in files) / 1e6, kind=kind,
        start=start, cores=os.cpu_count(), rounds=rounds, once=ONCE if long else "",
    )  # fmt: skip
    rows = tuple((name, *numbers(each, found["cat"], weights)) for name, each in found.items())
    return Section(f"Scoring: {weights / 1e9:.1f} billion weights in {kind}", text, HEAD, rows)


def sections(folder: Path, small: bool) -> list[Section]:
    """A large one for what reads most, a smaller one for what computes most."""
    tiny = Shape(256, 4, 500)
    large, medium = (tiny, tiny) if small else (Shape(4096, 12, 32_000), Shape(2048, 12, 32_000))
    source = directory(folder / "tiny", tiny)
    start = run(plan(source, METRICS[0]).command).wall
    found = []
    for kind, shape, make, long in (
        ("BF16", large, directory, LONG[:1]),
        ("BF16", medium, directory, LONG),
        ("Q4_K", medium, quantised, ()),
    ):
        source = make(folder / kind, shape)
        found.append(measured(kind, shape, source, start, rounds_of(small, 5), long))
        shutil.rmtree(source) if source.is_dir() else source.unlink()
    return found
