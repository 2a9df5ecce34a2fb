"""A table of tiny GGUF models with random weights, one row per way a file may state its layers.

Tensor names come from gguf's own tables. The values of a tensor follow from its name in the full model, so a
file of only some layers, written afresh, has exactly the tensors that a correct pruning of the full file has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import gguf
import numpy as np
from gguf import MODEL_ARCH as ARCH
from gguf import MODEL_TENSOR as T

Layers = Mapping[str, tuple[int, ...]]  # stack -> layers, by their number in the full model


class PerLayer(tuple):
    """A metadata value with one entry per layer."""


class Leading(int):
    """A metadata value that says of how many first layers something is true."""


Value = str | int | float | bool | list | PerLayer

NO_TOKENIZER = {"tokenizer.ggml.model": "no_vocab"}
COUNT_KEYS = {"blk": "block_count", "enc.blk": "block_count", "dec.blk": "decoder_block_count"}

# GGUF order: the dimension that lies contiguous in memory comes first. The words are keys of `_sizes`.
SHAPES: Mapping[T, str] = {
    T.ROPE_FREQS: "head/2",
    T.ROPE_FACTORS_LONG: "head/2",
    T.ROPE_FACTORS_SHORT: "head/2",
    T.TOKEN_EMBD: "embd vocab",
    T.TOKEN_EMBD_NORM: "embd",
    T.TOKEN_TYPES: "embd types",
    T.POS_EMBD: "embd context",
    T.OUTPUT: "embd vocab",
    T.OUTPUT_NORM: "embd",
    T.ATTN_NORM: "embd",
    T.ATTN_Q: "embd q",
    T.ATTN_K: "embd kv",
    T.ATTN_V: "embd kv",
    T.ATTN_QKV: "embd qkv",
    T.ATTN_Q_NORM: "head",
    T.ATTN_K_NORM: "head",
    T.ATTN_OUT: "q embd",
    T.ATTN_OUT_NORM: "embd",
    T.ATTN_POST_NORM: "embd",
    T.FFN_NORM: "embd",
    T.FFN_PRE_NORM: "embd",
    T.FFN_POST_NORM: "embd",
    T.FFN_GATE: "embd ff",
    T.FFN_UP: "embd ff",
    T.FFN_DOWN: "ff embd",
    T.FFN_GATE_INP: "embd experts",
    T.FFN_GATE_EXP: "embd expert-ff experts",
    T.FFN_UP_EXP: "embd expert-ff experts",
    T.FFN_DOWN_EXP: "expert-ff embd experts",
    T.FFN_GATE_SHEXP: "embd expert-ff",
    T.FFN_UP_SHEXP: "embd expert-ff",
    T.FFN_DOWN_SHEXP: "expert-ff embd",
    T.LAYER_OUT_NORM: "embd",
    T.SSM_IN: "embd 2inner",
    T.SSM_CONV1D: "conv inner",
    T.SSM_X: "inner dt+2state",
    T.SSM_DT: "dt inner",
    T.SSM_A: "state inner",
    T.SSM_D: "inner",
    T.SSM_OUT: "inner embd",
    T.ENC_ATTN_NORM: "embd",
    T.ENC_ATTN_Q: "embd q",
    T.ENC_ATTN_K: "embd q",
    T.ENC_ATTN_V: "embd q",
    T.ENC_ATTN_OUT: "q embd",
    T.ENC_ATTN_REL_B: "heads buckets",
    T.ENC_FFN_NORM: "embd",
    T.ENC_FFN_GATE: "embd ff",
    T.ENC_FFN_UP: "embd ff",
    T.ENC_FFN_DOWN: "ff embd",
    T.ENC_OUTPUT_NORM: "embd",
    T.DEC_ATTN_NORM: "embd",
    T.DEC_ATTN_Q: "embd q",
    T.DEC_ATTN_K: "embd q",
    T.DEC_ATTN_V: "embd q",
    T.DEC_ATTN_OUT: "q embd",
    T.DEC_ATTN_REL_B: "heads buckets",
    T.DEC_CROSS_ATTN_NORM: "embd",
    T.DEC_CROSS_ATTN_Q: "embd q",
    T.DEC_CROSS_ATTN_K: "embd q",
    T.DEC_CROSS_ATTN_V: "embd q",
    T.DEC_CROSS_ATTN_OUT: "q embd",
    T.DEC_FFN_NORM: "embd",
    T.DEC_FFN_GATE: "embd ff",
    T.DEC_FFN_UP: "embd ff",
    T.DEC_FFN_DOWN: "ff embd",
    T.DEC_OUTPUT_NORM: "embd",
}

# Zero in all of these, a pre-norm layer adds nothing to the residual stream: it computes the identity.
WRITES_RESIDUAL = frozenset(
    {
        T.ATTN_OUT,
        T.ATTN_POST_NORM,
        T.FFN_DOWN,
        T.FFN_DOWN_EXP,
        T.FFN_DOWN_SHEXP,
        T.FFN_POST_NORM,
        T.SSM_OUT,
        T.ENC_ATTN_OUT,
        T.ENC_FFN_DOWN,
        T.DEC_ATTN_OUT,
        T.DEC_CROSS_ATTN_OUT,
        T.DEC_FFN_DOWN,
    }
)

# T5 stores its position biases once, in the first layer, for all layers: they stay when that layer goes.
FIRST_LAYER_ONLY = frozenset({T.ENC_ATTN_REL_B, T.DEC_ATTN_REL_B})

# llama.cpp reads `blk.0.ssm_a`, not `blk.0.ssm_a.weight`.
WITHOUT_SUFFIX = frozenset({T.SSM_A, T.SSM_D})

# gguf lists what any variant of an architecture may have. These are the rare ones.
OPTIONAL = frozenset(
    {
        T.ROPE_FREQS,
        T.ROPE_FACTORS_LONG,
        T.ROPE_FACTORS_SHORT,
        T.ATTN_ROT_EMBD,
        T.DEC_CROSS_ATTN_REL_B,
        T.FFN_GATE_INP,
        T.FFN_GATE_EXP,
        T.FFN_UP_EXP,
        T.FFN_DOWN_EXP,
        T.CLS,
        T.CLS_OUT,
    }
)


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    arch: ARCH
    layers: Mapping[str, int] = field(default_factory=lambda: {"blk": 7})
    metadata: Mapping[str, Value] = field(default_factory=dict)  # without the architecture's prefix
    general: Mapping[str, Value] = field(default_factory=lambda: NO_TOKENIZER)  # keys that have no such prefix
    without: frozenset[T] = frozenset()
    optional: frozenset[T] = frozenset()  # those of OPTIONAL that this one has
    biases: frozenset[T] = frozenset()
    only: Mapping[T, range] = field(default_factory=dict)  # the layers that have it, where not all do
    shapes: Mapping[T, str] = field(default_factory=dict)  # where they are not those of SHAPES
    # What a period or a built-in default of llama.cpp means: a file with other layers has to state it.
    implied: Mapping[str, PerLayer] = field(default_factory=dict)
    zeroing_is_identity: bool = True  # not so where the residual stream itself is normalised

    @property
    def architecture(self) -> str:
        return gguf.MODEL_ARCH_NAMES[self.arch]

    @property
    def main_stack(self) -> str:
        return "dec.blk" if "dec.blk" in self.layers else "blk"

    def all_layers(self) -> Layers:
        return {stack: tuple(range(count)) for stack, count in self.layers.items()}


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    source: str  # its name in the full model
    kind: T
    stack: str | None
    layer: int | None  # its layer in the full model
    shape: tuple[int, ...]  # in GGUF order


# ---- one row -> its tensors and metadata


def tensors(row: Row, keep: Layers | None = None) -> list[Tensor]:
    """What a file holding the layers `keep` (default: all) consists of, layer by layer."""
    found = _tensors_by_kind(row, keep or row.all_layers())
    return sorted(found, key=lambda tensor: (tensor.stack or "", tensor.layer or 0))


def _tensors_by_kind(row: Row, keep: Layers) -> Iterator[Tensor]:
    for kind in gguf.MODEL_TENSORS[row.arch]:
        if kind in row.without | (OPTIONAL - row.optional):
            continue
        yield from _copies(row, kind, "" if kind in WITHOUT_SUFFIX else ".weight", keep)
        if kind in row.biases:
            yield from _copies(row, kind, ".bias", keep)


def _copies(row: Row, kind: T, suffix: str, keep: Layers) -> Iterator[Tensor]:
    pattern = gguf.TENSOR_NAMES[kind] + suffix
    stack, in_layer, _ = pattern.partition(".{bid}")
    if not in_layer:
        yield Tensor(pattern, pattern, kind, None, None, _shape(row, kind, suffix, 0))
        return
    kept = (0,) if kind in FIRST_LAYER_ONLY else keep[stack]
    for new, old in enumerate(kept):
        if old in row.only.get(kind, kept):
            shape = _shape(row, kind, suffix, old)
            yield Tensor(pattern.format(bid=new), pattern.format(bid=old), kind, stack, old, shape)


def _shape(row: Row, kind: T, suffix: str, layer: int) -> tuple[int, ...]:
    sizes = _sizes(row, layer)
    shape = tuple(sizes[word] for word in row.shapes.get(kind, SHAPES[kind]).split())
    return shape[-1:] if suffix == ".bias" else shape


def _sizes(row: Row, layer: int) -> dict[str, int]:
    def value(key: str, default: int = 0) -> int:
        found = row.metadata.get(key, default)
        return found[layer] if isinstance(found, PerLayer) else found

    heads, embd, ff = value("attention.head_count"), value("embedding_length"), value("feed_forward_length")
    head = value("attention.key_length", embd // max(heads, 1))
    q, kv = heads * head, value("attention.head_count_kv", heads) * head
    inner, state, dt = value("ssm.inner_size"), value("ssm.state_size"), value("ssm.time_step_rank")
    return {
        "vocab": value("vocab_size"),
        "context": value("context_length"),
        "types": row.general.get("tokenizer.ggml.token_type_count", 0),
        "buckets": value("attention.relative_buckets_count"),
        "embd": embd,
        "heads": heads,
        "head": head,
        "head/2": head // 2,
        "q": q,
        "kv": kv,
        "qkv": q + 2 * kv,
        "ff": ff,
        "gate+up": 2 * ff,
        "experts": value("expert_count"),
        "expert-ff": value("expert_feed_forward_length", ff),
        "inner": inner,
        "2inner": 2 * inner,
        "conv": value("ssm.conv_kernel"),
        "state": state,
        "dt": dt,
        "dt+2state": dt + 2 * state,
    }


def metadata(row: Row, keep: Layers | None = None) -> dict[str, Value]:
    """The keys and values of a file holding the layers `keep`, which states what the full one implies."""
    own = dict(row.metadata) | (dict(row.implied) if keep else {})
    keep = keep or row.all_layers()
    counts = {COUNT_KEYS[stack]: len(layers) for stack, layers in keep.items()}
    own = {key: _of_layers(value, keep[row.main_stack]) for key, value in own.items()}
    return dict(row.general) | {f"{row.architecture}.{key}": value for key, value in (own | counts).items()}


def _of_layers(value: Value, layers: tuple[int, ...]) -> Value:
    match value:
        case PerLayer():
            return PerLayer(value[layer] for layer in layers)
        case Leading():
            return Leading(sum(layer < value for layer in layers))
    return value


# ---- writing


def write(path: Path, row: Row, *, keep: Layers | None = None, zero: Layers | None = None, **options: int) -> Path:
    """Write the model: of its layers only `keep`, and those in `zero` computing nothing."""
    writer = gguf.GGUFWriter(path, row.architecture, **options)
    for key, value in metadata(row, keep).items():
        _add_value(writer, key, value)
    for tensor in tensors(row, keep):
        writer.add_tensor(tensor.name, values(tensor, zero or {}))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_value(writer: gguf.GGUFWriter, key: str, value: Value) -> None:
    match value:
        case _ if key == "general.alignment":
            writer.add_custom_alignment(value)
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, list(value))


def values(tensor: Tensor, zero: Layers) -> np.ndarray:
    """Random, and of a size at which every layer and every norm has its say."""
    generator = np.random.default_rng(crc32(tensor.source.encode()))
    random = generator.standard_normal(tensor.shape[::-1], np.float32)
    if tensor.kind in WRITES_RESIDUAL and tensor.layer in zero.get(tensor.stack or "", ()):
        return np.zeros_like(random)
    if tensor.source.endswith(".bias"):
        return random * np.float32(0.3)
    if tensor.kind is T.SSM_A:
        return -np.abs(random)  # a decay
    if re.search(r"norm\.weight$|^rope_", tensor.source):
        return 1 + random * np.float32(0.2)
    if len(tensor.shape) > 1 and tensor.layer is not None and tensor.kind not in FIRST_LAYER_ONLY:
        return random * np.float32(1.5 / tensor.shape[0] ** 0.5)
    return random


# ---- the table

VOCAB = 64
QUERY_KEY_VALUE = frozenset({T.ATTN_Q, T.ATTN_K, T.ATTN_V})
ONE_HEAD_COUNT = {
    "vocab_size": VOCAB,
    "context_length": 64,
    "embedding_length": 32,
    "feed_forward_length": 48,
    "attention.head_count": 4,
}
DECODER = ONE_HEAD_COUNT | {"attention.head_count_kv": 2}
RMS = {"attention.layer_norm_rms_epsilon": 1e-6}
LAYER_NORM = {"attention.layer_norm_epsilon": 1e-5}
HEADS_OF_16 = {"attention.key_length": 16, "attention.value_length": 16}
LLAMA = DECODER | RMS | {"rope.dimension_count": 8, "rope.freq_base": 10000.0}
GEMMA3 = DECODER | RMS | HEADS_OF_16 | {"rope.freq_base": 1e6, "attention.sliding_window": 4}
GEMMA3_LAYERS = 13  # two whole periods and a rest
PERIOD_6 = PerLayer(layer % 6 != 5 for layer in range(GEMMA3_LAYERS))
PERIOD_3 = PerLayer(layer % 3 != 2 for layer in range(GEMMA3_LAYERS))
IRREGULAR = PerLayer(layer not in (0, 3, 4, 8, 12) for layer in range(GEMMA3_LAYERS))
PATTERN = "attention.sliding_window_pattern"
T5_LAYERS = {"enc.blk": 8, "dec.blk": 5}  # llama.cpp wants no fewer encoder than decoder layers


def _gemma3(name: str, implied: PerLayer, stated: Mapping[str, Value]) -> Row:
    return Row(
        name,
        ARCH.GEMMA3,
        layers={"blk": GEMMA3_LAYERS},
        metadata=GEMMA3 | stated,
        without=frozenset({T.OUTPUT}),
        implied={PATTERN: implied},
    )


ROWS = (
    Row(
        "llama",
        ARCH.LLAMA,
        metadata=LLAMA,
        general=NO_TOKENIZER | {"general.tags": list("abcdefg")},  # as many as layers, and not theirs
        optional=frozenset({T.ROPE_FREQS}),
    ),
    Row(
        "llama-experts",
        ARCH.LLAMA,
        metadata=LLAMA | {"expert_count": 4, "expert_used_count": 2},
        without=frozenset({T.FFN_GATE, T.FFN_UP, T.FFN_DOWN}),
        optional=frozenset({T.FFN_GATE_INP, T.FFN_GATE_EXP, T.FFN_UP_EXP, T.FFN_DOWN_EXP}),
    ),
    Row(
        "llama-uniform-arrays",
        ARCH.LLAMA,
        metadata=LLAMA | {"attention.head_count_kv": PerLayer([2] * 7), "feed_forward_length": PerLayer([48] * 7)},
    ),
    Row(
        "qwen2",
        ARCH.QWEN2,
        metadata=DECODER | RMS | {"rope.freq_base": 1e6},
        biases=QUERY_KEY_VALUE,
    ),
    Row(
        "qwen3",
        ARCH.QWEN3,
        metadata=DECODER | RMS | HEADS_OF_16 | {"rope.freq_base": 1e6},
        without=frozenset({T.OUTPUT}),
    ),
    _gemma3("gemma3", PERIOD_6, {}),
    _gemma3("gemma3-period", PERIOD_3, {PATTERN: 3}),
    _gemma3("gemma3-array", IRREGULAR, {PATTERN: IRREGULAR}),
    Row(
        "phi3",
        ARCH.PHI3,
        metadata=LLAMA | {"attention.sliding_window": 8, "rope.scaling.original_context_length": 16},
        without=QUERY_KEY_VALUE,
        optional=frozenset({T.ROPE_FACTORS_LONG, T.ROPE_FACTORS_SHORT}),
        shapes={T.FFN_UP: "embd gate+up"},
    ),
    Row(
        "gpt2",
        ARCH.GPT2,
        metadata=ONE_HEAD_COUNT | LAYER_NORM,
        biases=frozenset({T.OUTPUT_NORM, T.ATTN_NORM, T.ATTN_QKV, T.ATTN_OUT, T.FFN_NORM, T.FFN_UP, T.FFN_DOWN}),
    ),
    Row(
        "bert",
        ARCH.BERT,
        metadata=ONE_HEAD_COUNT | {"attention.layer_norm_epsilon": 1e-12, "attention.causal": False, "pooling_type": 0},
        general=NO_TOKENIZER | {"tokenizer.ggml.token_type_count": 2},
        without=frozenset({T.OUTPUT_NORM, T.ATTN_QKV}),
        biases=frozenset(
            {
                T.TOKEN_EMBD_NORM,
                T.ATTN_OUT,
                T.ATTN_OUT_NORM,
                T.FFN_UP,
                T.FFN_DOWN,
                T.LAYER_OUT_NORM,
            }
        )
        | QUERY_KEY_VALUE,
        zeroing_is_identity=False,
    ),
    Row(
        "t5",
        ARCH.T5,
        layers=T5_LAYERS,
        metadata=ONE_HEAD_COUNT
        | HEADS_OF_16
        | RMS
        | LAYER_NORM
        | {"attention.relative_buckets_count": 32, "decoder_start_token_id": 0},
    ),
)

VARYING = {
    "attention.key_length": 8,
    "attention.value_length": 8,
    "attention.head_count": PerLayer((4, 2, 4, 6, 4, 2, 8)),
    "attention.head_count_kv": PerLayer((2, 1, 4, 3, 1, 2, 4)),
    "feed_forward_length": PerLayer((48, 64, 32, 96, 16, 80, 40)),
}

# llama.cpp gives every layer of a llama the sizes of its first, so nothing can run this one.
UNRUNNABLE = Row("llama-per-layer", ARCH.LLAMA, metadata=LLAMA | VARYING)

EXPERTS = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 24}
EXPERT_TENSORS = frozenset({T.FFN_GATE_INP, T.FFN_GATE_EXP, T.FFN_UP_EXP, T.FFN_DOWN_EXP})
DENSE_FFN = frozenset({T.FFN_GATE, T.FFN_UP, T.FFN_DOWN})
SHARED_EXPERT = frozenset({T.FFN_GATE_SHEXP, T.FFN_UP_SHEXP, T.FFN_DOWN_SHEXP})


def _windowed(name: str, arch: ARCH, period: int, metadata: Mapping[str, Value]) -> Row:
    pattern = PerLayer(layer % period != period - 1 for layer in range(7))
    return Row(name, arch, metadata={**metadata, "attention.sliding_window": 4}, implied={PATTERN: pattern})


# Rows without a fixture of their own: those of their architectures come from tests/support/gguf_specs.py.
AHEAD = (
    Row("deci-per-layer", ARCH.DECI, metadata=LLAMA | VARYING),
    Row("gemma", ARCH.GEMMA, metadata=DECODER | RMS | HEADS_OF_16),
    _windowed("gemma2", ARCH.GEMMA2, 2, DECODER | RMS | HEADS_OF_16),
    _windowed("cohere2", ARCH.COHERE2, 4, LLAMA | LAYER_NORM | {"logit_scale": 0.25}),
    Row(
        "olmo2",
        ARCH.OLMO2,
        metadata=LLAMA,
        shapes={T.ATTN_Q_NORM: "q", T.ATTN_K_NORM: "kv"},
    ),
    Row(
        "starcoder2",
        ARCH.STARCODER2,
        metadata=LLAMA | LAYER_NORM,
        biases=frozenset({T.OUTPUT_NORM, T.ATTN_NORM, T.FFN_NORM, T.ATTN_OUT, T.FFN_UP, T.FFN_DOWN}) | QUERY_KEY_VALUE,
    ),
    Row(
        "gptneox",
        ARCH.GPTNEOX,
        metadata=ONE_HEAD_COUNT | LAYER_NORM | {"rope.dimension_count": 8, "use_parallel_residual": True},
        biases=frozenset({T.OUTPUT_NORM, T.ATTN_NORM, T.ATTN_QKV, T.ATTN_OUT, T.FFN_NORM, T.FFN_UP, T.FFN_DOWN}),
    ),
    Row("qwen3moe", ARCH.QWEN3MOE, metadata=DECODER | RMS | HEADS_OF_16 | EXPERTS, optional=EXPERT_TENSORS),
    Row(
        "deepseek",
        ARCH.DEEPSEEK,
        metadata=LLAMA
        | EXPERTS
        | {"leading_dense_block_count": Leading(2), "expert_shared_count": 1, "expert_weights_scale": 1.0},
        optional=EXPERT_TENSORS,
        only=dict.fromkeys(DENSE_FFN, range(2)) | dict.fromkeys(EXPERT_TENSORS | SHARED_EXPERT, range(2, 7)),
    ),
    Row(
        "mamba",
        ARCH.MAMBA,
        metadata=ONE_HEAD_COUNT
        | RMS
        | {
            "attention.head_count": 0,
            "feed_forward_length": 0,
            "ssm.conv_kernel": 4,
            "ssm.inner_size": 64,
            "ssm.state_size": 8,
            "ssm.time_step_rank": 4,
        },
        biases=frozenset({T.SSM_CONV1D, T.SSM_DT}),
    ),
)
