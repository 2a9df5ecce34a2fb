"""From the tensors of a layer to its feed-forward: plain, gated, or a mixture of experts."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from rewriter.errors import UnsupportedError, printable
from rewriter.formats.dequantize import WeightMatrix
from rewriter.scoring.build.model_facts import (
    ACTIVATION,
    ACTIVATION_WITHOUT_GATE,
    CLIPPED_GATES,
    GROUPS_IF_SAID,
    HALVED_WITH_SHARED,
    INTERLEAVED_EXPERTS,
    NOT_AS_STATED,
    NOT_NORMALISED,
    SIGMOID_INPUTS,
    SOFTMAX_AND_BIAS,
    SOFTMAX_IN_GGUF,
    SPARSEMIXER,
    TRANSPOSED_EXPERTS,
    ModelFacts,
)
from rewriter.scoring.build.norms_and_projections import LayerTensors, inputs, linear, norm_in, only, outputs
from rewriter.scoring.forward.activations import ACTIVATIONS, xielu
from rewriter.scoring.forward.feed_forward import Experts, FeedForward, Router
from rewriter.scoring.forward.primitives import Activation, Floats, Linear, Norm, sigmoid, softmax


def feed_forward(facts: ModelFacts, layer: LayerTensors) -> FeedForward | Experts:
    """Raises UnsupportedError that names what is missing or unknown."""
    dense = layer.has("ffn_down")
    if dense and layer.has("ffn_down_exps"):
        raise UnsupportedError(f"layer {layer.number} has a feed-forward beside its experts")
    if not dense:
        return _experts(facts, layer)
    gate = linear(facts, layer, "ffn_gate") if layer.has("ffn_gate") else None
    up = linear(facts, layer, "ffn_up" if layer.has("ffn_up") else "ffn_gate_up")
    down = linear(facts, layer, "ffn_down")
    return _made(facts, layer, gate, up, down, norm_in(facts, layer, "ffn_sub_norm"))


def _activation(facts: ModelFacts, layer: LayerTensors, gated: bool) -> Activation:
    """The stated activation, else the one the loader has, else the usual one."""
    numbers = _xielu(facts, layer)
    if numbers:
        return partial(xielu, **numbers)
    stated = None if facts.kind in NOT_AS_STATED else facts.get("act")
    proj = facts.checkpoint.value(facts.stack.key("feed_forward_proj"))  # T5: gated-gelu
    loader = None if gated else ACTIVATION_WITHOUT_GATE.get(facts.kind)
    usual = ACTIVATION.get(facts.kind, "silu" if gated else "gelu")
    name = _T5.get(str(proj), proj) or stated or loader or usual
    if name not in ACTIVATIONS:
        raise UnsupportedError(f"its activation {printable(name)} is not known here")
    return ACTIVATIONS[str(name)]


def _xielu(facts: ModelFacts, layer: LayerTensors) -> dict[str, Any]:
    """The numbers of Apertus's activation: tensors of the layer, or in a GGUF lists."""
    found: dict[str, Any] = {}
    for name in ("alpha_p", "alpha_n", "beta", "eps"):
        listed = facts.checkpoint.value(f"xielu.{name}")
        if layer.has(f"xielu.{name}"):
            found[name] = float(layer.weights[f"xielu.{name}"].whole().ravel()[0])
        elif isinstance(listed, list | tuple):
            found[name] = float(listed[layer.number])
    return found


_T5 = {"gated-gelu": "gelu_new", "gated-silu": "silu", "gated-relu": "relu"}  # as transformers reads them


def _made(
    facts: ModelFacts, layer: LayerTensors, gate: Linear | None, up: Linear, down: Linear, sub_norm: Norm | None = None
) -> FeedForward:
    if gate is None and outputs(up) == 2 * inputs(down):  # fused: the gate's half comes first
        half = np.arange(outputs(up)).reshape(2, -1)
        gate, up = only(up, half[0]), only(up, half[1])
    act = _activation(facts, layer, gate is not None)
    if facts.kind in CLIPPED_GATES:
        return FeedForward(up, down, gate, act, sub_norm, limit=7.0, shift=1.0)
    return FeedForward(up, down, gate, act, sub_norm)


def _experts(facts: ModelFacts, layer: LayerTensors) -> Experts:
    if not layer.has("ffn_down_exps") or not (layer.has("ffn_up_exps") or layer.has("ffn_gate_up_exps")):
        raise UnsupportedError(f"layer {layer.number} has no feed-forward that is known")
    return Experts(
        router=_router(facts, layer),
        experts=_expert_list(facts, layer),
        shared=_shared(facts, layer),
        scale=0.5 if facts.kind in HALVED_WITH_SHARED and layer.has("ffn_down_shexp") else 1.0,
        shared_gate=linear(facts, layer, "ffn_gate_inp_shexp") if layer.has("ffn_gate_inp_shexp") else None,
    )


def _router(facts: ModelFacts, layer: LayerTensors) -> Router | None:
    used = int(facts.number("used", 0, layer.number))
    if not layer.has("ffn_gate_inp") or used < 1:
        return None
    bias, stated = layer.weights.get("exp_probs_b"), facts.get("normalise", layer.number)
    return Router(
        linear(facts, layer, "ffn_gate_inp"),
        used,
        normalize=bool(stated) if stated is not None else facts.kind not in NOT_NORMALISED,
        score=_scoring(facts, bias is not None),
        select_bias=None if bias is None else bias.whole().ravel(),
        scale=facts.number("scale", 1.0),
        groups=_groups(facts),
        groups_used=int(facts.number("groups_used", 1)) or 1,
        group_best=1 if facts.kind in GROUPS_IF_SAID else 2,
        jitter=facts.number("jitter", 0.01) if facts.hugging_face and facts.kind in SPARSEMIXER else None,
        inputs=facts.kind in SIGMOID_INPUTS,
    )


def _groups(facts: ModelFacts) -> int:
    said = GROUPS_IF_SAID.get(facts.kind)
    counted = said is None or facts.checkpoint.value(facts.stack.key("topk_method")) == said
    return (int(facts.number("groups", 1)) or 1) if counted else 1


def _scoring(facts: ModelFacts, biased: bool) -> Activation:
    gating = facts.get("gating")
    if not facts.hugging_face and facts.kind in SOFTMAX_IN_GGUF:
        return softmax
    by_bias = gating is None and biased and facts.kind not in SOFTMAX_AND_BIAS
    return sigmoid if gating in (2, "sigmoid") or by_bias or facts.kind in SIGMOID_INPUTS else softmax


def _shared(facts: ModelFacts, layer: LayerTensors) -> FeedForward | None:
    if not layer.has("ffn_down_shexp"):
        return None
    gate = linear(facts, layer, "ffn_gate_shexp") if layer.has("ffn_gate_shexp") else None
    up, down = linear(facts, layer, "ffn_up_shexp"), linear(facts, layer, "ffn_down_shexp")
    return _made(facts, layer, gate, up, down)


_Stored = tuple[WeightMatrix, Floats | None, bool]  # a matrix and its bias; whether it is stored as (inputs, outputs)


def _expert_list(facts: ModelFacts, layer: LayerTensors) -> tuple[FeedForward, ...]:
    downs = _each_expert(facts, layer, "ffn_down_exps")
    ups = _each_expert(facts, layer, "ffn_up_exps" if layer.has("ffn_up_exps") else "ffn_gate_up_exps")
    gates = _each_expert(facts, layer, "ffn_gate_exps") if layer.has("ffn_gate_exps") else [None] * len(ups)
    if not len(downs) == len(ups) == len(gates):
        raise UnsupportedError(f"layer {layer.number} does not have the same experts in all of its tensors")
    return tuple(_expert(facts, layer, *trio) for trio in zip(gates, ups, downs, strict=True))


def _each_expert(facts: ModelFacts, layer: LayerTensors, word: str) -> list[Any]:
    if word in layer.experts:
        biases = layer.experts.get(word + ".bias", {})
        return [
            (weight, biases[number].whole().ravel() if number in biases else None, False)
            for number, weight in sorted(layer.experts[word].items())
        ]
    stack, bias = _stacked(layer, word), layer.biases.get(word)
    transposed = facts.hugging_face and not stack.outputs_first and word in TRANSPOSED_EXPERTS.get(facts.kind, ())
    offsets = [None] * stack.shape[0] if bias is None else list(bias.whole().reshape(stack.shape[0], -1))
    return [(stack.part(number), offsets[number], transposed) for number in range(stack.shape[0])]


def _stacked(layer: LayerTensors, word: str) -> WeightMatrix:
    """The experts' matrices as a stack: some files have them one below the other, as one matrix."""
    stack = layer.weights[word]
    if len(stack.shape) == 2 and layer.has("ffn_gate_inp"):
        count = layer.weights["ffn_gate_inp"].rows
        if stack.rows % count == 0:
            return WeightMatrix(stack.name, (count, stack.rows // count, stack.columns), stack.read)
    if len(stack.shape) != 3:
        raise UnsupportedError(f"the experts of layer {layer.number} are stored in a way that is not known")
    return stack


def _expert(facts: ModelFacts, layer: LayerTensors, gate: _Stored | None, up: _Stored, down: _Stored) -> FeedForward:
    first, second = None if gate is None else Linear(*gate), Linear(*up)
    if first is None and facts.kind in INTERLEAVED_EXPERTS:
        rows = np.arange(outputs(second)).reshape(-1, 2)
        first, second = only(second, rows[:, 0]), only(second, rows[:, 1])
    return _made(facts, layer, first, second, Linear(*down))
