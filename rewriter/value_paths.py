"""From the tensors of a layer to its attention, as far as a token's own value goes.

With `heads` heads, each input of the output projection belongs to head number `input // (inputs / heads)`: so its
shape says how large a head's values are, and the projection of the values how many heads share them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rewriter.errors import UnsupportedError
from rewriter.facts import GROUPED, GROUPED_IF_MANY, PARTITIONED, Facts
from rewriter.metrics.model import Attention, Linear, Norm
from rewriter.parts import Layer, inputs, linear, norm_in, only, outputs

_LATENT_EPS = 1e-6  # whatever the config says of the other norms, on the Hugging Face side


def attention(facts: Facts, layer: Layer) -> Attention:
    """Raises UnsupportedError that names what is missing or does not fit."""
    output = linear(facts, layer, "attn_output")
    if layer.has("attn_kv_a_mqa"):
        return _latent_attention(facts, layer, output)
    value = linear(facts, layer, "attn_v") if layer.has("attn_v") else _fused_values(facts, layer, output)
    return Attention(
        value,
        output,
        _expansion(facts, layer, _height(value), inputs(output)),
        sub_norm=norm_in(facts, layer, "attn_sub_norm"),
        scale=facts.number("values", 1.0),
        clip=facts.number("clip", 0.0) or np.inf,
    )


def _height(projection: Linear) -> int:
    """How many outputs count."""
    return outputs(projection) if projection.rows is None else len(projection.rows)


def _head_size(facts: Facts, layer: Layer, wide: int) -> int:
    """Values of one head."""
    heads = int(facts.number("heads", 0, layer.number))
    if not heads:
        raise UnsupportedError("the metadata does not say how many heads attention has")
    if wide % heads:
        raise UnsupportedError(f"the output projection of layer {layer.number} does not fit {heads} heads")
    return wide // heads


def _fused_values(facts: Facts, layer: Layer, output: Linear) -> Linear:
    """The values' rows of a fused projection: as many rows as `output` has inputs are queries."""
    fused, wide = linear(facts, layer, "attn_qkv"), inputs(output)
    size, rest = _head_size(facts, layer, wide), outputs(fused) - wide
    if rest <= 0 or rest % (2 * size):
        raise UnsupportedError(
            f"the fused projection of layer {layer.number} has {outputs(fused)} rows, which fit no layout"
        )
    return only(fused, _value_rows(facts, np.arange(outputs(fused)), rest // 2, size))


def _value_rows(facts: Facts, rows: NDArray[np.intp], values: int, size: int) -> NDArray[np.intp]:
    """Converters put all queries first, then all keys, then all values. Some loaders do otherwise."""
    groups = values // size
    if facts.hugging_face and facts.kind in PARTITIONED:
        parts, order = PARTITIONED[facts.kind]
        return rows.reshape(parts, 3, -1)[:, order.index(2)].ravel()
    grouped = facts.kind in GROUPED or (facts.kind in GROUPED_IF_MANY and groups > 1)
    if facts.hugging_face and grouped:
        return rows.reshape(groups, -1)[:, -size:].ravel()
    return rows[len(rows) - values :]


def _expansion(facts: Facts, layer: Layer, values: int, wide: int) -> NDArray[np.intp] | None:
    """Which value each input of the output projection gets, where heads share values."""
    if values == wide:
        return None
    size = _head_size(facts, layer, wide)
    if values % size or wide % values:
        raise UnsupportedError(f"the values of layer {layer.number} do not fit its output projection")
    return np.repeat(np.arange(values).reshape(-1, size), wide // values, axis=0).ravel()


def _latent_attention(facts: Facts, layer: Layer, output: Linear) -> Attention:
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
    both, size = linear(facts, layer, "attn_kv_b"), _head_size(facts, layer, inputs(output))
    heads = inputs(output) // size
    rows = np.arange(outputs(both)).reshape(heads, -1)[:, -size:].ravel()
    return Attention(latent, output, norm=norm, latent=only(both, rows))
