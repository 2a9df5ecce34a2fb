"""From the tensors of a layer to its feed-forward: plain, gated, or a mixture of experts."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from rewriter.errors import UnsupportedError, printable
from rewriter.formats.dequantize import WeightMatrix
from rewriter.scoring.build.layer_tensors import LayerTensors
from rewriter.scoring.build.model_facts import ModelFacts
from rewriter.scoring.build.norms_and_projections import first_norm, projection, projection_if_there, vector
from rewriter.scoring.forward.activations import ACTIVATIONS, xielu
from rewriter.scoring.forward.feed_forward import Experts, FeedForward, Router
from rewriter.scoring.forward.primitives import Activation, Linear, Norm, sigmoid, softmax

_T5 = {"gated-gelu": "gelu_new", "gated-silu": "silu", "gated-relu": "relu"}  # as transformers reads them


def build_feed_forward(facts: ModelFacts, layer: LayerTensors) -> FeedForward | Experts:
    """The feed-forward of the layer. Raises UnsupportedError that names what is missing or unknown."""
    dense = layer.has("ffn_down")
    if dense and layer.has("ffn_down_exps"):
        raise UnsupportedError(f"layer {layer.number} has a feed-forward beside its experts")
    if not dense:
        return _experts(facts, layer)
    gate = projection_if_there(facts, layer, "ffn_gate")
    up = projection(facts, layer, "ffn_up" if layer.has("ffn_up") else "ffn_gate_up")
    return _feed_forward(
        facts, layer, gate, up, projection(facts, layer, "ffn_down"), first_norm(facts, layer, "ffn_sub_norm")
    )


def _feed_forward(
    facts: ModelFacts, layer: LayerTensors, gate: Linear | None, up: Linear, down: Linear, sub_norm: Norm | None = None
) -> FeedForward:
    if gate is None and up.shape[0] == 2 * down.shape[1]:  # fused: the gate's half comes first
        gate, up = (up.select(half) for half in np.arange(up.shape[0]).reshape(2, -1))
    activation = _activation(facts, layer, gate is not None)
    if facts.compute.clipped_gates:
        return FeedForward(up, down, gate, activation, sub_norm, limit=7.0, shift=1.0)
    return FeedForward(up, down, gate, activation, sub_norm)


def _activation(facts: ModelFacts, layer: LayerTensors, gated: bool) -> Activation:
    """The stated activation, else the architecture's, else the usual one."""
    numbers = _xielu(facts, layer)
    if numbers:
        return partial(xielu, **numbers)
    compute, stated = facts.compute, facts.stated("feed_forward_proj")  # T5: gated-gelu
    names = (
        _T5.get(str(stated), stated),
        None if compute.ignores_stated_activation else facts.get("act"),
        None if gated else compute.ungated_activation,
        compute.activation,
        "silu" if gated else "gelu",
    )
    name = next(filter(None, names))
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


def _experts(facts: ModelFacts, layer: LayerTensors) -> Experts:
    if not layer.has("ffn_down_exps") or not (layer.has("ffn_up_exps") or layer.has("ffn_gate_up_exps")):
        raise UnsupportedError(f"layer {layer.number} has no feed-forward that is known")
    return Experts(
        router=_router(facts, layer),
        experts=_expert_list(facts, layer),
        shared=_shared(facts, layer),
        scale=0.5 if facts.compute.mean_with_shared and layer.has("ffn_down_shexp") else 1.0,
        shared_gate=projection_if_there(facts, layer, "ffn_gate_inp_shexp"),
    )


def _router(facts: ModelFacts, layer: LayerTensors) -> Router | None:
    used = int(facts.number("used", 0, layer.number))
    if not layer.has("ffn_gate_inp") or used < 1:
        return None
    bias, stated = vector(layer.weights.get("exp_probs_b")), facts.get("normalize", layer.number)
    method = facts.compute.group_method
    grouped = not method or facts.stated("topk_method") == method
    return Router(
        projection(facts, layer, "ffn_gate_inp"),
        used,
        normalize=bool(stated) if stated is not None else facts.compute.normalize_experts,
        score=_score(facts, bias is not None),
        select_bias=bias,
        scale=facts.number("scale", 1.0),
        groups=(int(facts.number("groups", 1)) or 1) if grouped else 1,
        groups_used=int(facts.number("groups_used", 1)) or 1,
        group_best=1 if method else 2,
        jitter=facts.number("jitter", 0.01) if facts.compute.sparsemixer else None,
        inputs=facts.compute.router_scales_inputs,
    )


def _score(facts: ModelFacts, biased: bool) -> Activation:
    gating, usual = facts.get("gating"), facts.compute.expert_score
    if usual == "softmax":
        return softmax
    by_bias = gating is None and biased and usual != "softmax_unless_stated"
    return sigmoid if gating in (2, "sigmoid") or by_bias or facts.compute.router_scales_inputs else softmax


def _shared(facts: ModelFacts, layer: LayerTensors) -> FeedForward | None:
    """The shared expert, which sees every row."""
    if not layer.has("ffn_down_shexp"):
        return None
    gate = projection_if_there(facts, layer, "ffn_gate_shexp")
    up, down = projection(facts, layer, "ffn_up_shexp"), projection(facts, layer, "ffn_down_shexp")
    return _feed_forward(facts, layer, gate, up, down)


def _expert_list(facts: ModelFacts, layer: LayerTensors) -> tuple[FeedForward, ...]:
    downs = _each_expert(facts, layer, "ffn_down_exps")
    ups = _each_expert(facts, layer, "ffn_up_exps" if layer.has("ffn_up_exps") else "ffn_gate_up_exps")
    gates: list[Linear | None] = [None] * len(ups)
    if layer.has("ffn_gate_exps"):
        gates = [*_each_expert(facts, layer, "ffn_gate_exps")]
    elif facts.compute.interleaved_experts:
        halves = [np.arange(up.shape[0]).reshape(-1, 2) for up in ups]
        gates = [up.select(rows[:, 0]) for up, rows in zip(ups, halves, strict=True)]
        ups = [up.select(rows[:, 1]) for up, rows in zip(ups, halves, strict=True)]
    if not len(downs) == len(ups) == len(gates):
        raise UnsupportedError(f"layer {layer.number} does not have the same experts in all of its tensors")
    return tuple(_feed_forward(facts, layer, *each) for each in zip(gates, ups, downs, strict=True))


def _each_expert(facts: ModelFacts, layer: LayerTensors, word: str) -> list[Linear]:
    """The projection of every expert, from tensors of their own or from a stack of them."""
    if word in layer.experts:
        biases = layer.experts.get(word + ".bias", {})
        return [Linear(weight, vector(biases.get(number))) for number, weight in sorted(layer.experts[word].items())]
    stack, bias = _stacked(layer, word), layer.biases.get(word)
    transposed = not stack.outputs_first and word in facts.compute.transposed_experts
    offsets = [None] * stack.shape[0] if bias is None else list(bias.whole().reshape(stack.shape[0], -1))
    return [Linear(stack.part(number), offsets[number], transposed) for number in range(stack.shape[0])]


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
