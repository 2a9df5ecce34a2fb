"""From the tensors of a layer to its attention, as far as a token's own value goes.

With `heads` heads, each input of the output projection belongs to head number `input // (inputs / heads)`: so its
shape says how large a head's values are, and the projection of the values how many heads share them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rewriter.errors import UnsupportedError
from rewriter.scoring.build.fused_qkv import VALUES, fused, head_size
from rewriter.scoring.build.model_facts import ModelFacts
from rewriter.scoring.build.norms_and_projections import LayerTensors, height, inputs, linear, norm_in, only, outputs
from rewriter.scoring.build.query_key import query_key_attention
from rewriter.scoring.forward.attention import Attention
from rewriter.scoring.forward.primitives import Linear, Norm

_LATENT_EPS = 1e-6  # whatever the config says of the other norms, on the Hugging Face side


def attention(facts: ModelFacts, layer: LayerTensors) -> Attention:
    """Raises UnsupportedError that names what is missing or does not fit."""
    output = linear(facts, layer, "attn_output")
    if layer.has("attn_kv_a_mqa"):
        return _latent_attention(facts, layer, output)
    value = linear(facts, layer, "attn_v") if layer.has("attn_v") else fused(facts, layer, VALUES)
    return Attention(
        value,
        output,
        _expansion(facts, layer, height(value), inputs(output)),
        sub_norm=norm_in(facts, layer, "attn_sub_norm"),
        scale=facts.number("values", 1.0),
        clip=facts.number("clip", 0.0) or np.inf,
        weights=query_key_attention(facts, layer),
    )


def _expansion(facts: ModelFacts, layer: LayerTensors, values: int, wide: int) -> NDArray[np.intp] | None:
    """Which value each input of the output projection gets, where heads share values."""
    if values == wide:
        return None
    size = head_size(facts, layer, wide)
    if values % size or wide % values:
        raise UnsupportedError(f"the values of layer {layer.number} do not fit its output projection")
    return np.repeat(np.arange(values).reshape(-1, size), wide // values, axis=0).ravel()


def _latent_attention(facts: ModelFacts, layer: LayerTensors, output: Linear) -> Attention:
    """DeepSeek's: the values are made from a normalised latent, whose projection also gives the rotary key."""
    norm = norm_in(facts, layer, "attn_kv_a_norm")
    gain = None if norm is None else norm.gain
    if norm is None or gain is None:
        raise UnsupportedError(f"layer {layer.number} has no norm of its latent")
    if facts.hugging_face:
        norm = Norm(norm.gain, norm.bias, norm.rms, _LATENT_EPS)
    latent = only(linear(facts, layer, "attn_kv_a_mqa"), np.arange(gain.size))
    if layer.has("attn_v_b"):
        return Attention(latent, output, norm=norm, latent=linear(facts, layer, "attn_v_b"))
    both, size = linear(facts, layer, "attn_kv_b"), head_size(facts, layer, inputs(output))
    heads = inputs(output) // size
    rows = np.arange(outputs(both)).reshape(heads, -1)[:, -size:].ravel()
    return Attention(latent, output, norm=norm, latent=only(both, rows))
