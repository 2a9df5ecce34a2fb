"""From the tensors and facts of a layer to where its tokens look: queries, keys and positions.

What is not known for sure is None: metrics that need it then follow a token's own value alone. In a GGUF, stretched
frequencies are left out: they hardly touch the few positions that are looked at here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rewriter.planning.metadata.layer_patterns import active_patterns, pattern_list
from rewriter.scoring.build.fused_qkv import KEYS, QUERIES, fused
from rewriter.scoring.build.model_facts import (
    ALIBI,
    BOTH_WAYS,
    NEIGHBOURS,
    NORM_LAST,
    NOT_LOOKED,
    NOT_LOOKED_IN_GGUF,
    NOT_TURNED,
    ONLY_SLIDING_TURNED,
    THETAS,
    UNSCALED,
    ModelFacts,
)
from rewriter.scoring.build.norms_and_projections import LayerTensors, height, linear, norm_of
from rewriter.scoring.forward.attention import QueryKeyAttention, Rotary
from rewriter.scoring.forward.primitives import Floats, Linear, Norm

Doubles = NDArray[np.float64]


def query_key_attention(facts: ModelFacts, layer: LayerTensors) -> QueryKeyAttention | None:
    """Queries and keys of the layer, None where nobody has described them."""
    heads = int(facts.number("heads", 0, layer.number))
    unknown_norms = facts.kind == "stablelm" and facts.stated("qk_layernorm")  # one for each head
    kinds = {facts.kind, facts.checkpoint.architecture}
    unknown = NOT_LOOKED if facts.hugging_face else NOT_LOOKED | NOT_LOOKED_IN_GGUF
    if kinds & unknown or not heads or unknown_norms or facts.stated("alibi"):
        return None
    query, key = _projections(facts, layer)
    if query is None or key is None or height(query) % heads:
        return None
    size = height(query) // heads
    if height(key) % size or heads % (height(key) // size):
        return None
    sinks = layer.weights.get("attn_sinks")
    return QueryKeyAttention(
        query, key, heads, height(key) // size, _scale(facts, size),
        query_norm=_norm(facts, layer, "attn_q_norm", size), key_norm=_norm(facts, layer, "attn_k_norm", size),
        rotary=_rotary(facts, layer, size), slopes=slopes(heads) if facts.kind in ALIBI else None,
        sinks=None if sinks is None else sinks.whole().ravel(), softcap=facts.number("attention_softcap", 0.0),
        causal=_is_causal(facts), clip=facts.number("clip", 0.0) or np.inf, norm_last=facts.kind in NORM_LAST,
    )  # fmt: skip


def _projections(facts: ModelFacts, layer: LayerTensors) -> tuple[Linear | None, Linear | None]:
    if layer.has("attn_q", "attn_k"):
        return linear(facts, layer, "attn_q"), linear(facts, layer, "attn_k")
    if layer.has("attn_qkv"):
        return fused(facts, layer, QUERIES), fused(facts, layer, KEYS)
    return None, None


def _scale(facts: ModelFacts, size: int) -> float:
    if facts.kind in UNSCALED:
        return 1.0
    return facts.number("attention_scale", 0.0) or facts.number("query_size", size) ** -0.5


def _norm(facts: ModelFacts, layer: LayerTensors, word: str, size: int) -> Norm | None:
    """Of a head, or of all of them; a gain with two axes has a row for each head."""
    if word not in layer.weights:
        return None
    gain = layer.weights[word]
    norm = norm_of(facts, gain, layer.biases.get(word))
    if len(gain.shape) < 2 or norm.gain is None:
        return norm
    bias = None if norm.bias is None else norm.bias.reshape(-1, size)
    return Norm(norm.gain.reshape(-1, size), bias, norm.rms, norm.eps)


def _rotary(facts: ModelFacts, layer: LayerTensors, size: int) -> Rotary | None:
    kind = _said(facts, layer, "layer_types")
    if facts.kind in NOT_TURNED | ALIBI or _said(facts, layer, "no_rope_layers") == 0:
        return None
    if facts.kind in ONLY_SLIDING_TURNED and kind == "full_attention" and facts.stated("sliding_window") is not None:
        return None
    turned = int(facts.number("turned", facts.number("turned_share", 1.0) * size))
    base = _base(facts, kind)
    rates = base ** (-np.arange(0, turned, 2, dtype=np.float64) / turned)
    rates, factor = scaled(rates, base, _scaling(facts, kind))
    return Rotary(rates.astype(np.float32), facts.kind in NEIGHBOURS[facts.hugging_face], factor)


def _said(facts: ModelFacts, layer: LayerTensors, key: str) -> object:
    """What a per-layer list says of the layer; where it is not written out, what the loader takes it for."""
    for pattern in active_patterns(facts.checkpoint, facts.stack):
        if pattern.explicit == key:
            return pattern_list(facts.checkpoint, facts.stack, pattern)[layer.number]
    stated = facts.stated(key)
    return stated[layer.number] if isinstance(stated, list) and layer.number < len(stated) else None


def _base(facts: ModelFacts, kind: object) -> float:
    """The base of the rotary frequencies; some models have one for layers that see a window."""
    local = kind == "sliding_attention"
    stated = facts.stated(f"rope_parameters.{kind}.rope_theta")
    if stated is None and local and facts.kind in THETAS:
        stated = facts.stated("rope_local_base_freq") or facts.stated("local_rope_theta") or THETAS[facts.kind][1]
    if stated is None and facts.kind in THETAS:
        stated = facts.stated("global_rope_theta")
    usual = THETAS[facts.kind][0] if facts.kind in THETAS else 10000.0
    return float(stated) if isinstance(stated, int | float) else facts.number("theta", usual)


def _scaling(facts: ModelFacts, kind: object) -> Mapping[str, object]:
    """How the frequencies were stretched for long contexts, as transformers says it."""
    for key in (f"rope_parameters.{kind}", "rope_parameters", "rope_scaling"):
        found = facts.stated(key)
        if isinstance(found, dict) and ("rope_type" in found or "type" in found):
            return found
    return {}


def scaled(rates: Doubles, base: float, how: Mapping[str, object]) -> tuple[Doubles, float]:
    """The frequencies as they were stretched, and the factor of cosines and sines (Llama 3's, YaRN's, linear)."""
    kind, number = how.get("rope_type", how.get("type")), partial(_number, how)
    factor, context = number("factor", 1.0), number("original_max_position_embeddings", 8192.0)
    turns = context * rates / (2 * np.pi)  # over the context that the model was first trained on
    if kind == "linear":
        return rates / factor, 1.0
    if kind == "llama3":
        low, high = number("low_freq_factor", 1.0), number("high_freq_factor", 4.0)
        kept = np.clip((turns - low) / (high - low), 0, 1)
        return rates * (kept + (1 - kept) / factor), 1.0
    if kind == "yarn":
        return _yarn(rates, base, how, context)
    return rates, 1.0


def _yarn(rates: Doubles, base: float, how: Mapping[str, object], context: float) -> tuple[Doubles, float]:
    """Peng et al. 2023: fast components stay, slow ones are stretched, between two of them a ramp."""
    number, pairs = partial(_number, how), len(rates)
    factor = number("factor", 1.0)
    fast, slow = (
        pairs * np.log(context / (turns * 2 * np.pi)) / np.log(base)
        for turns in (number("beta_fast", 32.0), number("beta_slow", 1.0))
    )
    if how.get("truncate", True):
        fast, slow = np.floor(fast), np.ceil(slow)
    fast, slow = max(fast, 0.0), min(slow, 2.0 * pairs - 1)
    stretched = np.clip((np.arange(pairs) - fast) / max(slow - fast, 0.001), 0, 1)
    usual = 0.1 * np.log(factor) + 1 if factor > 1 else 1.0
    return rates * (1 - stretched + stretched / factor), number("attention_factor", float(usual))


def _number(how: Mapping[str, object], key: str, default: float) -> float:
    found = how.get(key)
    return float(found) if isinstance(found, int | float) else default


def slopes(heads: int) -> Floats:
    """ALiBi's (Press et al. 2022): powers of 2^(-8 / n) for n heads; where n is no power of two, every other of 2 n."""
    whole = 2 ** int(np.floor(np.log2(heads)))
    first = 2.0 ** (-8.0 * np.arange(1, whole + 1) / whole)
    more = 2.0 ** (-4.0 * np.arange(1, 2 * (heads - whole) + 1, 2) / whole)
    return np.concatenate((first, more)).astype(np.float32)


def _is_causal(facts: ModelFacts) -> bool:
    stated = facts.stated("attention.causal")
    if stated is not None:
        return stated is True
    return facts.kind not in BOTH_WAYS and facts.stack.name != "encoder"
