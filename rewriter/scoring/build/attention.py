"""From the tensors of a layer to its attention.

With `heads` heads, each input of the output projection belongs to head number `input // (inputs / heads)`: so its
shape says how large a head's values are, and the projection of the values how many heads share them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rewriter.errors import UnsupportedError
from rewriter.scoring.build.fused_qkv import VALUES, head_size, split_qkv
from rewriter.scoring.build.layer_tensors import LayerTensors
from rewriter.scoring.build.model_facts import ModelFacts
from rewriter.scoring.build.norms_and_projections import first_norm, projection
from rewriter.scoring.build.query_key import query_key_attention
from rewriter.scoring.forward.attention import Attention
from rewriter.scoring.forward.primitives import Linear, Norm

_LATENT_EPS = 1e-6  # whatever the config says of the other norms, on the Hugging Face side


def build_attention(facts: ModelFacts, layer: LayerTensors) -> Attention:
    """The attention of the layer. Raises UnsupportedError that names what is missing or does not fit."""
    output = projection(facts, layer, "attn_output")
    if layer.has("attn_kv_a_mqa"):
        return _latent_attention(facts, layer, output)
    value = projection(facts, layer, "attn_v") if layer.has("attn_v") else split_qkv(facts, layer, VALUES)
    return Attention(
        value,
        output,
        _expansion(facts, layer, value.shape[0], output.shape[1]),
        sub_norm=first_norm(facts, layer, "attn_sub_norm"),
        scale=facts.number("values", 1.0),
        clip=facts.number("clip", 0.0) or np.inf,
        weights=query_key_attention(facts, layer),
    )


def _expansion(facts: ModelFacts, layer: LayerTensors, values: int, wide: int) -> NDArray[np.intp] | None:
    """Which value each input of the output projection gets, if heads share values."""
    if values == wide:
        return None
    size = head_size(facts, layer, wide)
    if values % size or wide % values:
        raise UnsupportedError(f"the values of layer {layer.number} do not fit its output projection")
    return np.repeat(np.arange(values).reshape(-1, size), wide // values, axis=0).ravel()


def _latent_attention(facts: ModelFacts, layer: LayerTensors, output: Linear) -> Attention:
    """Multi-head latent attention (DeepSeek-V2): values come from a normalized latent.

    The projection of the latent also gives the rotary key.
    """
    norm = first_norm(facts, layer, "attn_kv_a_norm")
    gain = None if norm is None else norm.gain
    if norm is None or gain is None:
        raise UnsupportedError(f"layer {layer.number} has no norm of its latent")
    if facts.hugging_face:
        norm = Norm(norm.gain, norm.bias, norm.rms, _LATENT_EPS)
    latent = projection(facts, layer, "attn_kv_a_mqa").select(np.arange(gain.size))
    if layer.has("attn_v_b"):
        return Attention(latent, output, norm=norm, latent=projection(facts, layer, "attn_v_b"))
    both, size = projection(facts, layer, "attn_kv_b"), head_size(facts, layer, output.shape[1])
    rows = np.arange(both.shape[0]).reshape(output.shape[1] // size, -1)[:, -size:].ravel()
    return Attention(latent, output, norm=norm, latent=both.select(rows))
