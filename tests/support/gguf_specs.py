"""What the metadata of a tiny file of every llama.cpp architecture says, and which drops it allows.

The tensors are not written down here: `fixtures/make_gguf_names.py` asks llama.cpp which it wants, and keeps the
answer in fixtures/names/gguf.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


class PerLayer(tuple):
    """A metadata value with one entry per layer."""


class Leading(int):
    """A metadata value that says of how many first layers something is true."""


class Trailing(int):
    """A metadata value that says of how many last layers something is true."""


class Indexes(tuple):
    """A metadata value that names layers."""


Value = str | int | float | bool | list | tuple
Drops = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Spec:
    """One file. Keys stand without the architecture's name; those that begin with `/` are whole keys."""

    name: str
    keys: Mapping[str, Value | None] = field(default_factory=dict)  # besides BASE; None: not that one
    label: str = ""  # tells files of one architecture apart
    layers: int = 8
    mtp_layers: int = 0
    given: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # tensors that llama.cpp can do without
    implied: Callable[[int], dict[str, list]] | None = None  # what a period or a built-in pattern makes of n blocks
    drops: Drops = ((1, 4), (0,), (7,))
    refused: Mapping[tuple[int, ...], str] = field(default_factory=dict)  # drop -> a word of the reason
    writes: Mapping[str, Value] = field(default_factory=dict)  # what is written besides, whatever goes
    question: str = "logits"
    forced: bool = True  # --force lifts its refusals
    identity: bool = True  # a block whose outputs are zero adds nothing
    not_run: str = ""  # why llama.cpp does not run it

    @property
    def metadata(self) -> dict[str, Value]:
        """Whole key -> value."""
        own = BASE | {"block_count": self.layers + self.mtp_layers} | dict(self.keys)
        if self.mtp_layers:
            own["nextn_predict_layers"] = self.mtp_layers
        named = {self.whole(key): value for key, value in own.items() if value is not None}
        return {"general.architecture": self.name, "tokenizer.ggml.model": "no_vocab"} | named

    def whole(self, key: str) -> str:
        return key[1:] if key[0] == "/" else f"{self.name}.{key}"

    @property
    def fixture(self) -> str:
        return f"{self.name}.{self.label.upper()}" if self.label else self.name

    def __str__(self) -> str:
        return self.fixture


BASE: Mapping[str, Value] = {
    "vocab_size": 64,
    "context_length": 64,
    "embedding_length": 32,
    "feed_forward_length": 48,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 8,
    "attention.value_length": 8,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.layer_norm_epsilon": 1e-5,
    "rope.dimension_count": 8,
    "rope.freq_base": 10000.0,
}
NO_KV = {"attention.head_count_kv": 4}
MOE = {
    "expert_count": 4,
    "expert_used_count": 2,
    "expert_feed_forward_length": 24,
    "expert_shared_feed_forward_length": 24,
    "expert_shared_count": 1,
    "expert_weights_scale": 1.0,
    "expert_gating_func": 2,
}
LEAD = MOE | {"leading_dense_block_count": Leading(2)}
SSM = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 64,
    "ssm.state_size": 8,
    "ssm.time_step_rank": 4,
    "ssm.group_count": 2,
}
NO_HEADS = {"attention.head_count": 0, "attention.head_count_kv": None, "feed_forward_length": 0}
MAMBA2 = SSM | {"ssm.inner_size": 64, "ssm.time_step_rank": 8}
DELTA = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 32,
    "ssm.state_size": 8,
    "ssm.time_step_rank": 4,
    "ssm.group_count": 2,
    "rope.dimension_sections": [2, 1, 1, 0],
}
MLA = {
    "attention.kv_lora_rank": 16,
    "attention.key_length_mla": 16,
    "attention.value_length_mla": 8,
    "attention.key_length": 24,
    "attention.value_length": 16,
    "attention.head_count_kv": 1,
}
DSA = MLA | {
    "attention.q_lora_rank": 16,
    "attention.indexer.head_count": 2,
    "attention.indexer.key_length": 64,
    "attention.indexer.top_k": 4,
}
TOKEN_TYPES = {"/tokenizer.ggml.token_type_count": 2, "attention.causal": False, "pooling_type": 0, **NO_KV}
WINDOW = {"attention.sliding_window": 4}
PATTERN = "attention.sliding_window_pattern"
TOKENS_READ = [54, 40, 32, 17, 19, 2, 4, 1, 11, 52, 41, 62, 32, 39, 63, 46, 40, 35, 34, 60, 16, 23, 12, 59]
CLIP_KEYS: Mapping[str, Value] = {
    "general.architecture": "clip",
    "clip.has_vision_encoder": True,
    "clip.projector_type": "qwen3vl_merger",
    "clip.vision.block_count": 6,
    "clip.vision.embedding_length": 32,
    "clip.vision.image_mean": [0.5, 0.5, 0.5],
    "clip.vision.image_std": [0.5, 0.5, 0.5],
    "clip.vision.feature_layer": [2, 4, 6],
    "clip.vision.wa_layer_indexes": [1, 3, 5],
}
CLIP_NAMES = [
    "mm.0.weight",
    "mm.2.weight",
    "v.patch_embd.weight",
    "v.patch_embd.weight.1",
    "v.position_embd.weight",
    *(
        f"v.blk.{block}.{part}.weight"
        for block in range(6)
        for part in ("attn_out", "attn_qkv", "ffn_down", "ffn_up", "ln1")
    ),
    "v.deepstack.1.fc1.weight",
    "v.deepstack.3.fc1.weight",
]
CLIP_AUDIO_KEYS: Mapping[str, Value] = {
    "general.architecture": "clip",
    "clip.has_audio_encoder": True,
    "clip.vision.block_count": 4,
    "clip.vision.sam.block_count": 4,
    "clip.audio.block_count": 5,
    "clip.audio.local_block_count": 4,
    "clip.audio.wa_pattern_mode": [0, 1, 0, 1, 1],
}
CLIP_AUDIO_NAMES = [
    "a.conv1d.1.weight",
    "a.conv1d.2.weight",
    "mm.a.mlp.1.weight",
    *(f"v.blk.{block}.attn_q.weight" for block in range(4)),
    *(f"v.sam.blk.{block}.attn.qkv.weight" for block in range(4)),
    *(f"a.blk.{block}.attn_q.weight" for block in range(5)),
    *(f"mm.a.local_blk.{block}.attn_q.weight" for block in range(4)),
]


def _mmproj(file: str, keys: Mapping[str, Value], names: list[str]) -> dict[str, Any]:
    tensors = {name: ["F32", [32, 4]] for name in names}
    reason = "a file beside a language model"
    return {"file": file, "architecture": "clip", "not run": reason, "metadata": dict(keys), "tensors": tensors}


OTHERS = (_mmproj("clip", CLIP_KEYS, CLIP_NAMES), _mmproj("clip.AUDIO", CLIP_AUDIO_KEYS, CLIP_AUDIO_NAMES))
RECURRENT = "attention.recurrent_layers"
RWKV = {
    **NO_HEADS,
    "feed_forward_length": 48,
    "wkv.head_size": 8,
    "token_shift_count": 2,
    "time_mix_extra_dim": 4,
    "time_decay_extra_dim": 4,
    "attention.decay_lora_rank": 4,
    "attention.iclr_lora_rank": 4,
    "attention.value_residual_mix_lora_rank": 4,
    "attention.gate_lora_rank": 4,
}
MIXED_KV = PerLayer((0, 2, 0, 0, 2, 0, 2, 0))  # 0: a recurrent block
ALTERNATING = PerLayer((False, True, True, False, True, True, False, True))


def windowed(period: int, first: bool = False) -> Callable[[int], dict[str, list]]:
    """Every `period`-th block, the first or the last of it, has no window."""
    special = 0 if first else period - 1
    return lambda count: {PATTERN: [layer % period != special for layer in range(count)]}


def recurrent(period: int) -> Callable[[int], dict[str, list]]:
    """Every `period`-th block has attention, the others are recurrent."""
    return lambda count: {RECURRENT: [layer % period != period - 1 for layer in range(count)]}


def _each(*names: str, **more: Any) -> tuple[Spec, ...]:
    return tuple(Spec(name, **more) for name in names)


def _delta(layers: int, *attention: int) -> dict[str, tuple[int, ...]]:
    """What llama.cpp can do without in recurrent blocks of the Qwen kind."""
    blocks = [layer for layer in range(layers) if layer not in attention]
    return {f"blk.{i}.attn_qkv.weight": (32, 64) for i in blocks} | {
        f"blk.{i}.attn_gate.weight": (32, 32) for i in blocks
    }


def glm_indexers(count: int) -> dict[str, list]:
    """The table that llama.cpp has for GLM 5.2."""
    return {INDEXERS: [int(layer < 2 or layer % 4 == 2) for layer in range(count)]}


INDEXERS = "attention.indexer.types"
TYPES = PerLayer((1, 0, 0, 1, 0, 0, 1, 0))
INDEXER = {
    "blk.{}.indexer.k_norm.weight": (64,),
    "blk.{}.indexer.k_norm.bias": (64,),
    "blk.{}.indexer.proj.weight": (32, 2),
    "blk.{}.indexer.attn_k.weight": (32, 64),
    "blk.{}.indexer.attn_q_b.weight": (16, 128),
}
MTP = {
    "attn_norm.weight": (32,),
    "nextn.eh_proj.weight": (64, 32),
    "nextn.enorm.weight": (32,),
    "nextn.hnorm.weight": (32,),
}
DENSE = {
    "blk.{}.ffn_gate.weight": (32, 48),
    "blk.{}.ffn_up.weight": (32, 48),
    "blk.{}.ffn_down.weight": (48, 32),
}
SHARED = {
    f"blk.{layer}.ffn_{name}_shexp.weight": shape
    for layer in range(2, 8)
    for name, shape in (("gate", (32, 24)), ("up", (32, 24)), ("down", (24, 32)))
}
ASSISTANT = {
    "blk.{}.attn_norm.weight": (32,),
    "blk.{}.attn_q.weight": (32, 32),
    "blk.{}.attn_output.weight": (32, 32),
}
LERP = {"blk.{}.time_mix_lerp_fused.weight": (32, 1, 1, 5)}
BY_4: Drops = ((1, 2, 3, 4), (0, 1, 2, 3), (7,))
NOT_BY_4 = {(1, 4): "rope", (0,): "rope"}
NEVER: Drops = ()
ANY = {(1, 4): "no drop", (0,): "no drop", (7,): "no drop"}
BERT = TOKEN_TYPES
XIELU = {
    f"/xielu.{name}": PerLayer(0.5 + layer / 8 for layer in range(8)) for name in ("alpha_n", "alpha_p", "beta", "eps")
}
QWEN_VL = {"rope.dimension_sections": [2, 1, 1, 0], "n_deepstack_layers": 2}
KIMI = {"attention.head_count_kv": PerLayer((0, 1, 0, 0, 1, 0, 0, 1)), "ssm.conv_kernel": 4, "kda.head_dim": 8}

SPECS: tuple[Spec, ...] = (
    *_each(
        "llama",
        "deci",
        "falcon",
        "stablelm",
        "qwen",
        "qwen2",
        "qwen3",
        "phi2",
        "plamo",
        "orion",
        "internlm2",
        "gemma",
        "xverse",
        "command-r",
        "olmo",
        "openelm",
        "chatglm",
        "glm4",
        "bitnet",
        "jais2",
        "nemotron",
        "exaone",
        "arcee",
        "hunyuan-dense",
        "hunyuan_vl",
        "dream",
        "llada",
        "seed_oss",
        "pangu-embedded",
        "mistral3",
        "maincoder",
        "cogvlm",
        "nanbeige",
        "ernie4_5",
        "granite",
        "starcoder2",
    ),
    *_each("gpt2", "mpt", "starcoder", "refact", "bloom", "codeshell", "jais", "pockettts", keys=NO_KV),
    *_each("qwen2vl", "paddleocr", keys={"rope.dimension_sections": [2, 1, 1, 0]}),
    Spec("chameleon", NO_KV | {"vocab_size": 8256}),  # it names 8192 image tokens
    Spec("gptneox", NO_KV | {"use_parallel_residual": True}),
    Spec("phi3", given={"blk.{}.attn_qkv.weight": (32, 64)}),
    Spec("llama-embed", question="embeddings"),
    Spec("llama", {"attention.head_count_kv": PerLayer([2] * 8), "feed_forward_length": PerLayer([48] * 8)}, "arrays"),
    Spec("apertus", XIELU),
    *_each(
        "grok",
        "qwen2moe",
        "qwen3moe",
        "phimoe",
        "dbrx",
        "arctic",
        "granitemoe",
        "hunyuan-moe",
        "llada-moe",
        "grovemoe",
        "minimax-m2",
        "rnd1",
        keys=MOE,
    ),
    *_each(
        "deepseek",
        "glm4moe",
        "bailingmoe",
        "bailingmoe2",
        keys=LEAD,
    ),
    *_each("deepseek2-ocr", "dots1", keys=LEAD | NO_KV),
    Spec("olmoe", MOE | NO_KV),
    Spec("hy_v3", MOE, given=DENSE),
    Spec("ernie4_5-moe", LEAD | {"interleave_moe_layer_step": 1}),
    Spec(
        "minimax-m3",
        LEAD
        | {
            "attention.indexer.head_count": 2,
            "attention.indexer.key_length": 8,
            "attention.indexer.top_k": 4,
            "attention.indexer.block_size": 4,
            "attention.indexer.local_blocks": 1,
        },
    ),
    Spec(
        "bailingmoe3",
        LEAD
        | MLA
        | {
            "attention.head_count_kv": PerLayer((0, 1, 0, 0, 1, 0, 0, 1)),
            "kda.head_dim": 8,
            "kda.gate_lower_bound": -5.0,
            "ssm.conv_kernel": 4,
            "attention.q_lora_rank": 16,
        },
    ),
    Spec(
        "glm4moe",
        LEAD,
        "mtp",
        layers=7,
        mtp_layers=1,
        given={"blk.0.attn_norm.weight": (32,)} | {f"blk.7.{part}": shape for part, shape in MTP.items()},
        drops=((1, 4), (0,), (6,), (7,), (2, 7)),
    ),
    # ---- encoders: what they add is normalised at once
    *_each(
        "bert",
        "nomic-bert",
        "jina-bert-v3",
        keys=BERT,
        question="embeddings",
        identity=False,
    ),
    *_each("neo-bert", "eurobert", keys=BERT, question="embeddings"),
    Spec(
        "jina-bert-v2",
        BERT,
        given={"blk.{}.ffn_up.weight": (32, 48)},
        question="embeddings",
        identity=False,
    ),
    Spec(
        "nomic-bert-moe",
        BERT | MOE | {"moe_every_n_layers": 2},
        question="embeddings",
        identity=False,
        drops=((1, 2), (0, 1), (7,)),
        refused={(1, 4): "moe_every_n_layers", (0,): "moe_every_n_layers"},
    ),
    Spec("modern-bert", BERT | WINDOW, question="embeddings", implied=windowed(3, first=True)),
    Spec("gemma-embedding", WINDOW | {"pooling_type": 0}, question="embeddings", implied=windowed(6)),
    # ---- windows by number
    *_each("gemma2", keys=WINDOW, implied=windowed(2)),
    *_each("gemma3", keys=WINDOW, implied=windowed(6)),
    *_each("cohere2", "muse-glimmer", keys=WINDOW, implied=windowed(4)),
    Spec("olmo2", WINDOW, implied=windowed(4)),
    Spec("olmo2", label="plain"),
    Spec("plamo3", WINDOW, implied=windowed(8)),
    *_each("mellum", keys=WINDOW | MOE, implied=windowed(4)),
    Spec("gpt-oss", WINDOW | MOE, implied=windowed(2)),
    Spec("exaone-moe", WINDOW | LEAD, implied=windowed(4)),
    Spec("cohere2moe", WINDOW | LEAD, implied=windowed(4, first=True)),
    Spec("laguna", WINDOW | LEAD, given={"blk.{}.attn_gate.weight": (32, 4)}, implied=windowed(4, first=True)),
    *(
        Spec(name, keys | WINDOW | {PATTERN: 3}, "period", implied=windowed(3, first=first))
        for name, keys, first in (
            ("gemma2", {}, False),
            ("gemma3", {}, False),
            ("cohere2", {}, False),
            ("olmo2", {}, False),
            ("plamo3", {}, False),
            ("muse-glimmer", {}, False),
            ("mellum", MOE, False),
            ("gpt-oss", MOE, False),
            ("exaone-moe", LEAD, False),
            ("cohere2moe", LEAD, True),
        )
    ),
    *(
        Spec(name, keys | WINDOW | {PATTERN: ALTERNATING}, "array")
        for name, keys in (
            ("gemma2", {}),
            ("gemma3", {}),
            ("cohere2", {}),
            ("olmo2", {}),
            ("plamo3", {}),
            ("muse-glimmer", {}),
            ("mellum", MOE),
            ("gpt-oss", MOE),
            ("exaone-moe", LEAD),
            ("cohere2moe", LEAD),
        )
    ),
    Spec(
        "exaone-moe",
        WINDOW | LEAD,
        "mtp",
        layers=7,
        mtp_layers=1,
        implied=windowed(4),
        drops=((1, 4), (0,), (6,), (7,)),
    ),
    # ---- windows that the metadata states
    Spec("maple", MOE | WINDOW | {PATTERN: ALTERNATING, "swiglu_clamp_exp": PerLayer([7.0, 6.0] * 4)}),
    Spec("mimo2", MOE | WINDOW | {PATTERN: ALTERNATING}, given=DENSE),
    Spec("step35", LEAD | WINDOW | {PATTERN: ALTERNATING}, given=DENSE),
    Spec("spark2_5", WINDOW | {PATTERN: ALTERNATING}),
    Spec("granite_swa", WINDOW | {PATTERN: ALTERNATING, "attention.rope_pattern": PerLayer(ALTERNATING[::-1])}),
    Spec(
        "dflash",
        WINDOW | {"target_layers": [1, 3], PATTERN: ALTERNATING},
        not_run="a draft model needs the context of its target",
    ),
    # ---- rope by number
    Spec("smollm3", drops=BY_4, refused=NOT_BY_4),
    Spec("afmoe", LEAD | WINDOW, drops=BY_4, refused=NOT_BY_4),
    Spec(
        "smallthinker",
        MOE | WINDOW,
        layers=12,
        drops=((1, 2, 3, 4), (0, 1, 2, 3), (11,), (9, 10, 11)),
        refused={(1, 4): "rope", (0,): "rope", (4, 5, 6, 7, 8, 9, 10, 11): "exactly 4"},
    ),
    Spec("smallthinker", MOE, "plain"),
    Spec("llama4", MOE | {"interleave_moe_layer_step": 2}, drops=BY_4, refused=NOT_BY_4),
    # ---- state spaces and other recurrences
    Spec("mamba", SSM | NO_HEADS),
    Spec("mamba2", MAMBA2 | NO_HEADS),
    Spec("jamba", SSM | {"attention.head_count_kv": MIXED_KV}),
    Spec("falcon-h1", MAMBA2, given={"blk.{}.ssm_conv1d.bias": (96,), "blk.{}.ssm_norm.weight": (32, 2)}),
    Spec("plamo2", MAMBA2 | {"attention.head_count_kv": MIXED_KV, "ssm.group_count": 0}),
    *(
        Spec(
            name,
            MAMBA2
            | more
            | {
                "attention.head_count_kv": PerLayer((0, 2, 0, 0, 0, 2, 0, 0)),
                "feed_forward_length": PerLayer((0, 0, 48, 0, 48, 0, 0, 48)),
            },
            given={f"blk.{layer}.ssm_conv1d.bias": (96,) for layer in (0, 3, 6)},
        )
        for name, more in (("nemotron_h", {}), ("nemotron_h_moe", MOE))
    ),
    Spec(
        "granitehybrid",
        MAMBA2 | {"attention.head_count_kv": MIXED_KV},
        given={f"blk.{layer}.ssm_conv1d.bias": (96,) for layer in (0, 2, 3, 5, 7)},
    ),
    Spec("lfm2", {"attention.head_count_kv": MIXED_KV, "shortconv.l_cache": 3}),
    Spec("lfm2moe", LEAD | {"attention.head_count_kv": MIXED_KV, "shortconv.l_cache": 3}),
    Spec("kimi-linear", LEAD | MLA | KIMI, given=SHARED),
    Spec("qwen3next", MOE | DELTA, given=_delta(8, 3, 7), implied=recurrent(4)),
    Spec("qwen35", DELTA, given=_delta(8, 3, 7), implied=recurrent(4)),
    Spec("qwen35moe", MOE | DELTA, given=_delta(8, 3, 7), implied=recurrent(4)),
    Spec(
        "qwen35",
        DELTA | {"full_attention_interval": 2},
        "interval",
        given=_delta(8, 1, 3, 5, 7),
        implied=recurrent(2),
    ),
    Spec("qwen35", DELTA | {RECURRENT: ALTERNATING}, "array", given=_delta(8, 0, 3, 6)),
    Spec(
        "qwen35",
        DELTA,
        "mtp",
        mtp_layers=1,
        given={"blk.0.attn_norm.weight": (32,)}
        | {f"blk.8.{part}": shape for part, shape in MTP.items()}
        | _delta(8, 3, 7),
        implied=recurrent(4),
        drops=((1, 4), (0,), (7,), (8,), (2, 8)),
    ),
    Spec(
        "qwen4exp",
        MOE
        | DELTA
        | {
            "hyper_connection.count": 2,
            "hyper_connection.low_rank": 4,
            "attention.indexer.head_count": 2,
            "attention.indexer.key_length": 8,
            "attention.indexer.top_k": 4,
        },
        implied=recurrent(4),
        identity=False,
    ),
    Spec("rwkv6", RWKV | {"rescale_every_n_layers": 0}, given=LERP),
    Spec(
        "rwkv6",
        RWKV | {"rescale_every_n_layers": 2},
        "rescaled",
        given=LERP,
        drops=((7,), (6, 7)),
        refused={(1, 4): "halved", (0, 1): "halved"},
        identity=False,
    ),
    Spec("rwkv6qwen2", RWKV | {"token_shift_count": 1, "attention.head_count_kv": 2, "rescale_every_n_layers": 0}),
    *(
        Spec(
            name,
            RWKV | more,
            drops=((1, 4), (7,)),
            refused={(0,): "block 0"},
            not_run="what llama.cpp makes of it differs from run to run",
        )
        for name, more in (("rwkv7", {}), ("arwkv7", {"token_shift_count": 1}))
    ),
    # ---- latent attention
    *_each("deepseek2", "mistral4", keys=LEAD | MLA, writes={"attention.q_lora_rank": 0}),
    Spec("deepseek2", LEAD | MLA | {"attention.q_lora_rank": 16}, "lora"),
    Spec("deepseek32", LEAD | DSA),
    Spec("glm-dsa", LEAD | DSA, given=INDEXER),
    Spec(
        "glm-dsa",
        LEAD | DSA | {"context_length": 1 << 20},
        "long",
        given=INDEXER,
        implied=glm_indexers,
        drops=((7,), (3, 4), (0,)),
        refused={(2,): "indexer"},
    ),
    Spec(
        "glm-dsa",
        LEAD | DSA | {"context_length": 1 << 20, INDEXERS: TYPES},
        "array",
        given=INDEXER,
        drops=((7,), (1, 4), (3, 4, 5)),
        refused={(0,): "indexer"},
    ),
    Spec(
        "hy_v4",
        LEAD
        | DSA
        | {
            "hyper_connection.count": 2,
            "hyper_connection.epsilon": 1e-5,
            "hyper_connection.magnitude": 1.0,
            INDEXERS: TYPES,
        },
        drops=((7,), (1, 4), (3, 4, 5)),
        refused={(0,): "indexer"},
    ),
    Spec(
        "glm5-next",
        LEAD
        | DSA
        | {
            "hyper_connection.count": 4,
            "hyper_connection.epsilon": 1e-5,
            "hyper_connection.sinkhorn_iterations": 3,
            "attention.head_count_kv": PerLayer((1, 0, 0, 1, 0, 0, 1, 0)),
            INDEXERS: TYPES,
            "attention.indexer.kpool": 2,
            "ssm.conv_kernel": 4,
            "kda.head_dim": 8,
            "kda.gate_lower_bound": -5.0,
            "rope.dimension_count": 0,
            "attention.key_length": 16,
        },
        drops=((7,), (1, 4), (3, 4, 5)),
        refused={(0,): "indexer"},
        identity=False,
    ),
    Spec(
        "dots3note",
        LEAD
        | DSA
        | WINDOW
        | {
            PATTERN: PerLayer((False, True, True, False, True, True, False, True)),
            "attention.kv_lora_rank_swa": 16,
            "attention.key_length_mla_swa": 16,
            "attention.value_length_mla_swa": 8,
            INDEXERS: TYPES,
        },
        drops=((7,), (1, 4), (3, 4, 5)),
        refused={(0,): "indexer"},
    ),
    Spec(
        "kimi-k3",
        LEAD
        | MLA
        | KIMI
        | {
            "attn_res.block_size": 4,
            "activation.situ_beta": 1.0,
            "activation.situ_linear_beta": 1.0,
            "attention.q_lora_rank": 16,
            "expert_latent_length": 16,
        },
        drops=BY_4,
        refused={(1, 4): "block_size", (0,): "block_size"},
        identity=False,
    ),
    Spec(
        "deepseek4",
        MOE
        | {
            "expert_gating_func": 4,
            "swiglu_clamp_exp": PerLayer([7.0, 6.0] * 4),
            "hash_layer_count": Leading(2),
            "attention.compress_ratios": PerLayer((0, 4, 0, 4, 0, 4, 0, 4)),
            "attention.output_group_count": 2,
            "attention.output_lora_rank": 4,
            "attention.q_lora_rank": 16,
            "attention.compress_rope_freq_base": 1e4,
            "attention.indexer.head_count": 2,
            "attention.indexer.key_length": 16,
            "attention.indexer.top_k": 4,
            "hyper_connection.count": 4,
            "hyper_connection.sinkhorn_iterations": 3,
            "hyper_connection.epsilon": 1e-5,
            "attention.sliding_window": 4,
            "expert_weights_norm": True,
            "attention.key_length": 16,
            "attention.value_length": 16,
        },
        identity=False,
    ),
    Spec("plm", NO_KV | {"attention.kv_lora_rank": 16, "attention.key_length": 16}),
    # ---- one of a kind
    *_each("qwen3vl", "qwen3tts", keys=QWEN_VL, drops=((2, 4), (7,)), refused={(1, 4): "vision", (0,): "vision"}),
    Spec("qwen3vlmoe", MOE | QWEN_VL, drops=((2, 4), (7,)), refused={(1, 4): "vision", (0,): "vision"}),
    Spec("talkie", identity=False),
    Spec("minicpm", writes={"residual_scale": 1.4 / 8**0.5}),
    Spec("minicpm", {"residual_scale": 0.25}, "stated"),
    Spec("exaone4"),
    Spec("baichuan"),
    Spec(
        "gemma3n",
        WINDOW,
        layers=24,
        implied=windowed(5),
        identity=False,
        drops=((20, 22), (23,)),
        refused={(1, 4): "20"},
    ),
    Spec(
        "gemma4",
        WINDOW
        | {
            PATTERN: PerLayer((True, False, True, True, False, True, True, False)),
            "attention.shared_kv_layers": Trailing(3),
            "embedding_length_per_layer_input": 8,
            "attention.key_length_swa": 8,
            "attention.value_length_swa": 8,
        },
        drops=((1, 5), (0,), (7,), (0, 2, 6)),
        refused={(3,): "keys and values", (4,): "keys and values"},
    ),
    # ---- other stacks than blk.N: tests/architectures/scenarios/test_gguf_traps.py
    Spec(
        "t5encoder",
        NO_KV | {"attention.relative_buckets_count": 32},
        given={"enc.blk.0.attn_rel_b.weight": (4, 32)},
        drops=NEVER,
        question="embeddings",
        identity=False,
    ),
    Spec(
        "wavtokenizer-dec",
        {
            "features_length": 16,
            "posnet.embedding_length": 32,
            "posnet.block_count": 6,
            "convnext.embedding_length": 32,
            "convnext.block_count": 6,
        },
        drops=NEVER,
        question="embeddings",
        identity=False,
    ),
    # ---- what cannot be pruned
    Spec(
        "eagle3",
        {
            "target_layers": [1, 3, 5],
            "extract_layers": [1, 3, 5],
            "target_hidden_size": 32,
        },
        layers=1,
        drops=NEVER,
        not_run="a draft model needs its target",
    ),
    Spec(
        "gemma4-assistant",
        WINDOW
        | {
            PATTERN: ALTERNATING,
            "attention.key_length_swa": 8,
            "attention.value_length_swa": 8,
            "embedding_length_out": 48,
        },
        given=ASSISTANT,
        drops=NEVER,
        refused=ANY,
        not_run="a draft model needs its target",
    ),
    Spec(
        "graniteswitch",
        {
            "adapters.count": 2,
            "adapters.lora_rank": 4,
            "adapters.token_ids_activate": [1, 2],
            "adapters.token_ids_substitute": [3, 4],
            "adapters.router_gain": 1.0,
        },
        drops=NEVER,
        refused=ANY,
    ),
    Spec(
        "minicpm3",
        NO_KV | {"attention.q_lora_rank": 16, "attention.kv_lora_rank": 16, "attention.key_length": 16},
        drops=NEVER,
        refused=ANY,
    ),
    Spec(
        "hrm_text",
        {
            "hrm.layers_per_stack": 2,
            "hrm.h_cycles": 2,
            "hrm.l_cycles": 1,
            "block_count": 8,
        },
        layers=4,
        drops=NEVER,
        refused={(1,): "no drop", (0,): "no drop"},
        forced=False,
    ),
    Spec("minimax-01", MOE, drops=NEVER, refused=ANY),
)
