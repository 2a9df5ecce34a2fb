"""From the tensors of one layer to what it computes.

Words mean different places in different architectures: which other tensors are there decides (a norm called
`post_attention_norm` closes attention in Gemma 2 and feeds the feed-forward in gpt-oss).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriter.errors import UnsupportedError, shown
from rewriter.facts import (
    ACTIVATION,
    GROUPED,
    INTERLEAVED_EXPERTS,
    NOT_NORMALISED,
    PARALLEL,
    PLAIN_NORMS,
    PLUS_ONE,
    RMS,
    TRANSPOSED,
    Facts,
)
from rewriter.formats.decode import Weight
from rewriter.metrics.activations import ACTIVATIONS
from rewriter.metrics.model import (
    Activation,
    Attention,
    Block,
    Branch,
    Experts,
    FeedForward,
    Floats,
    Linear,
    Norm,
)


@dataclass(slots=True)
class Layer:
    """The tensors of one layer by what they do."""

    number: int
    weights: dict[str, Weight] = field(default_factory=dict)
    biases: dict[str, Weight] = field(default_factory=dict)
    experts: dict[str, dict[int, Weight]] = field(default_factory=dict)  # one tensor for each expert

    def has(self, *words: str) -> bool:
        """Whether there are tensors for all of `words`."""
        return all(word in self.weights or word in self.experts for word in words)


def block(facts: Facts, layer: Layer) -> Block:
    """What the layer computes. Raises UnsupportedError that names what is missing or unknown."""
    norms = _norms(facts, layer)
    attention = Branch(_attention(facts, layer), *norms["attention"])
    feed_forward = Branch(_feed_forward(facts, layer), *norms["feed_forward"])
    return Block(attention, feed_forward, _is_parallel(facts, layer), _multiplier(facts))


def _multiplier(facts: Facts) -> float:
    depth = facts.checkpoint.value(facts.stack.key("scale_depth"))
    if isinstance(depth, int | float) and facts.kind.startswith("minicpm"):
        return float(depth / facts.stack.count**0.5)
    return facts.number("residual", 1.0)


def _is_parallel(facts: Facts, layer: Layer) -> bool:
    if not layer.has("ffn_norm") and not layer.has("post_attention_norm") and not layer.has("attn_output_norm"):
        return facts.kind not in PLAIN_NORMS
    stated = facts.get("parallel")
    return bool(stated) if stated is not None else facts.kind in PARALLEL


_Norms = tuple[Norm | None, Norm | None, Norm | None]  # before, after, closing


def _norms(facts: Facts, layer: Layer) -> dict[str, _Norms]:
    """Which norm stands where. Words mean different places in different architectures: what is there decides."""
    norm = partial(_norm, facts, layer)
    if facts.kind in PLAIN_NORMS:
        plain = Norm(None, None, rms=False, eps=1e-5)
        return {"attention": (plain, None, None), "feed_forward": (plain, None, None)}
    if layer.has("attn_output_norm", "layer_output_norm") and not layer.has("attn_norm"):  # BERT: on the stream itself
        return {
            "attention": (None, None, norm("attn_output_norm")),
            "feed_forward": (None, None, norm("layer_output_norm")),
        }
    before = norm("attn_norm_2") or norm("attn_norm")
    second = norm("ffn_norm")
    after, after_second = norm("post_attention_norm", "attn_output_norm"), norm("post_ffw_norm", "layer_output_norm")
    if after is not None and second is None and after_second is None:
        after, second = None, after  # gpt-oss, GLM-4.5 and others: the norm after attention feeds the feed-forward
    if layer.has("attn_norm_2") or second is None:
        second = second or norm("attn_norm")  # both branches read one norm, or Falcon's two
    if before is None and after is None:
        raise UnsupportedError(f"layer {layer.number} has no norm that is known")
    second = None if before is None else second  # OLMo 2: normed after the branches alone
    return {"attention": (before, after, None), "feed_forward": (second, after_second, None)}


def _norm(facts: Facts, layer: Layer, *words: str) -> Norm | None:
    word = next((word for word in words if word in layer.weights), None)
    return None if word is None else norm_of(facts, layer.weights[word], layer.biases.get(word))


def norm_of(facts: Facts, gain: Weight, bias: Weight | None) -> Norm:
    """The norm of this gain and bias, of the kind that the architecture has."""
    values = gain.whole().ravel()
    if facts.hugging_face and facts.kind in PLUS_ONE:
        values = values + np.float32(1)
    layer_norm = bias is not None or (facts.get("rms_eps") is None and facts.get("eps") is not None)
    rms = not layer_norm or facts.kind in RMS
    eps = facts.number("rms_eps", facts.number("eps", 1e-5)) if rms else facts.number("eps", 1e-5)
    return Norm(values, None if bias is None else bias.whole().ravel(), rms, eps)


def _linear(facts: Facts, layer: Layer, word: str) -> Linear:
    if word not in layer.weights:
        raise UnsupportedError(f"layer {layer.number} has no {word} that is known")
    bias = layer.biases.get(word)
    transposed = facts.hugging_face and facts.kind in TRANSPOSED
    return Linear(layer.weights[word].flat(), None if bias is None else bias.whole().ravel(), transposed)


def _width(linear: Linear) -> int:
    """Inputs of a projection."""
    return linear.weight.rows if linear.transposed else linear.weight.columns


def _height(linear: Linear) -> int:
    """Outputs of a projection."""
    return linear.weight.columns if linear.transposed else linear.weight.rows


def _attention(facts: Facts, layer: Layer) -> Attention:
    output = _linear(facts, layer, "attn_output")
    sub_norm = _norm(facts, layer, "attn_sub_norm")
    if layer.has("attn_kv_a_mqa"):
        return _latent_attention(facts, layer, output)
    if layer.has("attn_v"):
        value = _linear(facts, layer, "attn_v")
        return Attention(value, output, _expansion(facts, layer, _height(value), _width(output)), sub_norm=sub_norm)
    fused = _linear(facts, layer, "attn_qkv")
    rows = _value_rows(facts, layer, fused, _width(output))
    value = _only(fused, rows)
    return Attention(value, output, _expansion(facts, layer, len(rows), _width(output)), sub_norm=sub_norm)


def _only(linear: Linear, rows: NDArray[np.intp]) -> Linear:
    """Some outputs of a projection; a run of them is read alone."""
    first, last = int(rows[0]), int(rows[-1]) + 1
    if linear.transposed or last - first != len(rows):
        return Linear(linear.weight, linear.bias, linear.transposed, rows)
    return Linear(linear.weight.span(first, last), None if linear.bias is None else linear.bias[rows])


def _heads(facts: Facts, layer: Layer) -> tuple[int, int]:
    heads = int(facts.number("heads", 0, layer.number))
    if not heads:
        raise UnsupportedError("the metadata does not say how many heads attention has")
    if facts.checkpoint.value(facts.stack.key("multi_query")) is True and not _new_falcon(facts):
        return heads, 1
    return heads, int(facts.number("kv_heads", heads, layer.number)) or heads


def _new_falcon(facts: Facts) -> bool:
    return facts.checkpoint.value(facts.stack.key("new_decoder_architecture")) is True


def _value_rows(facts: Facts, layer: Layer, fused: Linear, wide: int) -> NDArray[np.intp]:
    """Where in a fused projection the values are: `wide` outputs are queries, the rest is shared by keys and values."""
    _, groups = _heads(facts, layer)
    total = _height(fused)
    if (total - wide) % 2 or (total - wide) // 2 % groups:
        raise UnsupportedError(f"the fused projection of layer {layer.number} has {total} rows, which fit no layout")
    height = (total - wide) // 2 // groups  # of one head's values
    rows = np.arange(total)
    if _is_grouped(facts, groups):
        return rows.reshape(groups, -1)[:, -height:].ravel()
    return rows[total - groups * height :]


def _is_grouped(facts: Facts, groups: int) -> bool:
    if not facts.hugging_face:
        return False  # converters put all queries first, then all keys, then all values
    if facts.kind in ("falcon", "gpt_bigcode"):
        return groups > 1
    return facts.kind in GROUPED


def _expansion(facts: Facts, layer: Layer, values: int, inputs: int) -> NDArray[np.intp] | None:
    """Which value each input of the output projection gets, where heads share values."""
    if values == inputs:
        return None
    _, groups = _heads(facts, layer)
    if values % groups or inputs % values:
        raise UnsupportedError(f"the values of layer {layer.number} do not fit its output projection")
    return np.repeat(np.arange(values).reshape(groups, -1), inputs // values, axis=0).ravel()


def _latent_attention(facts: Facts, layer: Layer, output: Linear) -> Attention:
    """DeepSeek's: the values are made from a normalised latent, whose projection also gives the rotary key."""
    norm = _norm(facts, layer, "attn_kv_a_norm")
    if norm is None or norm.gain is None:
        raise UnsupportedError(f"layer {layer.number} has no norm of its latent")
    size = len(norm.gain)
    latent = _only(_linear(facts, layer, "attn_kv_a_mqa"), np.arange(size))
    if layer.has("attn_v_b"):
        return Attention(latent, output, norm=norm, latent=_linear(facts, layer, "attn_v_b"))
    both = _linear(facts, layer, "attn_kv_b")
    heads, _ = _heads(facts, layer)
    height = _width(output) // heads
    rows = np.arange(_height(both)).reshape(heads, -1)[:, -height:].ravel()
    return Attention(latent, output, norm=norm, latent=_only(both, rows))


def _activation(facts: Facts) -> Activation | None:
    """The stated activation, else the one the loader has; None where the usual one is meant."""
    stated = None if facts.kind in ("gpt_oss", "gpt-oss") else facts.get("act")
    proj = facts.checkpoint.value(facts.stack.key("feed_forward_proj"))  # T5: gated-gelu
    name = stated or (str(proj).removeprefix("gated-") if proj else None) or ACTIVATION.get(facts.kind)
    if name is not None and name not in ACTIVATIONS:
        raise UnsupportedError(f"its activation {shown(name)} is not known here")
    return None if name is None else ACTIVATIONS[name]


def _gated(facts: Facts, gate: Linear | None, up: Linear, down: Linear, sub_norm: Norm | None = None) -> FeedForward:
    if gate is None and _height(up) == 2 * _width(down):  # fused: the gate's half comes first
        half = np.arange(_height(up)).reshape(2, -1)
        gate, up = _only(up, half[0]), _only(up, half[1])
    act = _activation(facts) or ACTIVATIONS["gelu" if gate is None else "silu"]
    if facts.kind in ("gpt_oss", "gpt-oss"):
        return FeedForward(up, down, gate, act, sub_norm, limit=7.0, shift=1.0)
    return FeedForward(up, down, gate, act, sub_norm)


def _feed_forward(facts: Facts, layer: Layer) -> FeedForward | Experts:
    dense = layer.has("ffn_down")
    if dense and layer.has("ffn_down_exps"):
        raise UnsupportedError(f"layer {layer.number} has a feed-forward beside its experts")
    if not dense:
        return _experts(facts, layer)
    gate = _linear(facts, layer, "ffn_gate") if layer.has("ffn_gate") else None
    up, down = _linear(facts, layer, "ffn_up"), _linear(facts, layer, "ffn_down")
    return _gated(facts, gate, up, down, _norm(facts, layer, "ffn_sub_norm"))


def _experts(facts: Facts, layer: Layer) -> Experts:
    if not layer.has("ffn_down_exps") or not (layer.has("ffn_up_exps") or layer.has("ffn_gate_up_exps")):
        raise UnsupportedError(f"layer {layer.number} has no feed-forward that is known")
    used = int(facts.number("used", 0, layer.number))
    routed = layer.has("ffn_gate_inp") and used > 0
    bias = layer.weights.get("exp_probs_b")
    gating = facts.get("gating")
    stated = facts.get("normalise", layer.number)
    return Experts(
        router=_linear(facts, layer, "ffn_gate_inp") if routed else None,
        experts=_expert_list(facts, layer),
        used=max(1, used),
        normalise=bool(stated) if stated is not None else facts.kind not in NOT_NORMALISED,
        sigmoid=gating in (2, "sigmoid") or (gating is None and bias is not None),
        select_bias=None if bias is None else bias.whole().ravel(),
        scale=facts.number("scale", 1.0, layer.number),
        shared=_shared(facts, layer),
        shared_gate=_linear(facts, layer, "ffn_gate_inp_shexp") if layer.has("ffn_gate_inp_shexp") else None,
    )


def _shared(facts: Facts, layer: Layer) -> FeedForward | None:
    if not layer.has("ffn_down_shexp"):
        return None
    gate = _linear(facts, layer, "ffn_gate_shexp") if layer.has("ffn_gate_shexp") else None
    return _gated(facts, gate, _linear(facts, layer, "ffn_up_shexp"), _linear(facts, layer, "ffn_down_shexp"))


def _expert_list(facts: Facts, layer: Layer) -> tuple[FeedForward, ...]:
    downs = _each_expert(layer, "ffn_down_exps")
    ups = _each_expert(layer, "ffn_up_exps" if layer.has("ffn_up_exps") else "ffn_gate_up_exps")
    gates = _each_expert(layer, "ffn_gate_exps") if layer.has("ffn_gate_exps") else [None] * len(ups)
    if not len(downs) == len(ups) == len(gates):
        raise UnsupportedError(f"layer {layer.number} does not have the same experts in all of its tensors")
    width = layer.weights["ffn_gate_inp"].columns if layer.has("ffn_gate_inp") else downs[0][0].rows
    return tuple(_expert(facts, *trio, width) for trio in zip(gates, ups, downs, strict=True))


_Stored = tuple[Weight, Floats | None]  # a matrix and its bias


def _each_expert(layer: Layer, word: str) -> list[Any]:
    if word in layer.experts:
        return [(layer.experts[word][number], None) for number in sorted(layer.experts[word])]
    stack, bias = layer.weights[word], layer.biases.get(word)
    if len(stack.shape) != 3:
        raise UnsupportedError(f"the experts of layer {layer.number} are stored in a way that is not known")
    offsets = None if bias is None else bias.whole().reshape(stack.shape[0], -1)
    return [(stack.part(number), None if offsets is None else offsets[number]) for number in range(stack.shape[0])]


def _expert(facts: Facts, gate: _Stored | None, up: _Stored, down: _Stored, width: int) -> FeedForward:
    """One expert. Some loaders store (inputs, outputs): the first projection shows it by its shape."""
    transposed = up[0].columns != width
    first = None if gate is None else Linear(*gate, transposed)
    second = Linear(*up, transposed)
    if first is None and facts.kind in INTERLEAVED_EXPERTS:
        rows = np.arange(_height(second)).reshape(-1, 2)
        first, second = _only(second, rows[:, 0]), _only(second, rows[:, 1])
    return _gated(facts, first, second, Linear(*down, transposed))
