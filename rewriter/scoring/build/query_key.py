"""From the tensors of a layer to its attention weights: queries, keys and positions.

If anything about them is unknown they are None: metrics that need them do not apply, others follow a token's own value.
"""

from __future__ import annotations

import numpy as np

from rewriter.scoring.build.fused_qkv import KEYS, QUERIES, split_qkv
from rewriter.scoring.build.layer_tensors import LayerTensors
from rewriter.scoring.build.model_facts import ModelFacts
from rewriter.scoring.build.norms_and_projections import make_norm, projection, vector
from rewriter.scoring.build.rotary import build_rotary
from rewriter.scoring.forward.attention import QueryKeyAttention, alibi_slopes
from rewriter.scoring.forward.primitives import Linear, Norm


def query_key_attention(facts: ModelFacts, layer: LayerTensors) -> QueryKeyAttention | None:
    """The attention weights of the layer, None if they are unknown."""
    compute, heads = facts.compute, int(facts.number("heads", 0, layer.number))
    unknown = compute.unknown_attention or facts.stated("alibi")
    if compute.unknown_attention_if:
        unknown = unknown or facts.stated(compute.unknown_attention_if)
    query, key = (None, None) if unknown or not heads else _projections(facts, layer)
    if query is None or key is None or query.shape[0] % heads:
        return None
    size = query.shape[0] // heads
    if key.shape[0] % size or heads % (key.shape[0] // size):
        return None
    return QueryKeyAttention(
        query, key, heads, key.shape[0] // size, _scale(facts, size),
        query_norm=_norm(facts, layer, "attn_q_norm", size), key_norm=_norm(facts, layer, "attn_k_norm", size),
        rotary=build_rotary(facts, layer.number, size),
        slopes=alibi_slopes(heads) if compute.positions == "alibi" else None,
        sinks=vector(layer.weights.get("attn_sinks")), softcap=facts.number("attention_softcap", 0.0),
        causal=_is_causal(facts), clip=facts.number("clip", 0.0) or np.inf, norm_last=compute.norm_after_rotary,
    )  # fmt: skip


def _projections(facts: ModelFacts, layer: LayerTensors) -> tuple[Linear | None, Linear | None]:
    if layer.has("attn_q", "attn_k"):
        return projection(facts, layer, "attn_q"), projection(facts, layer, "attn_k")
    if layer.has("attn_qkv"):
        return split_qkv(facts, layer, QUERIES), split_qkv(facts, layer, KEYS)
    return None, None


def _scale(facts: ModelFacts, size: int) -> float:
    if facts.compute.unscaled_attention:
        return 1.0
    return facts.number("attention_scale", 0.0) or facts.number("query_size", size) ** -0.5


def _norm(facts: ModelFacts, layer: LayerTensors, word: str, size: int) -> Norm | None:
    """The norm of one head, or of all of them; a gain with two axes has a row for each head."""
    if word not in layer.weights:
        return None
    gain = layer.weights[word]
    norm = make_norm(facts, gain, layer.biases.get(word))
    if len(gain.shape) < 2 or norm.gain is None:
        return norm
    bias = None if norm.bias is None else norm.bias.reshape(-1, size)
    return Norm(norm.gain.reshape(-1, size), bias, norm.rms, norm.eps)


def _is_causal(facts: ModelFacts) -> bool:
    stated = facts.stated("attention.causal")
    if stated is not None:
        return stated is True
    return not facts.compute.bidirectional and facts.stack.name != "encoder"
