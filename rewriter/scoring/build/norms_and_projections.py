"""The pieces that all layers are made of: norms and projections, from their tensors."""

from __future__ import annotations

import numpy as np

from rewriter.errors import UnsupportedError
from rewriter.formats.dequantize import WeightMatrix
from rewriter.scoring.build.layer_tensors import LayerTensors
from rewriter.scoring.build.model_facts import ModelFacts
from rewriter.scoring.forward.primitives import Linear, Norm


def first_norm(facts: ModelFacts, layer: LayerTensors, *words: str) -> Norm | None:
    """The first of the norms called `words` that the layer has."""
    word = next((word for word in words if word in layer.weights), None)
    return None if word is None else make_norm(facts, layer.weights[word], layer.biases.get(word))


def make_norm(facts: ModelFacts, gain: WeightMatrix, bias: WeightMatrix | None) -> Norm:
    """The norm of this gain and bias, of the kind that the architecture has."""
    values = gain.whole().ravel()
    if facts.compute.gain_offset:
        values = values + np.float32(facts.compute.gain_offset)
    layer_norm = facts.compute.norm == "layer" or (facts.get("rms_eps") is None and facts.get("eps") is not None)
    rms = facts.compute.norm == "rms" or not (bias is not None or layer_norm)
    return Norm(values, vector(bias), rms, _eps(facts, rms))


def weightless_norm(facts: ModelFacts) -> Norm | None:
    """The norm without weights, if the architecture has that one alone."""
    if not facts.compute.weightless_norm:
        return None
    rms = facts.compute.weightless_norm == "rms"
    return Norm(None, None, rms, _eps(facts, rms))


def _eps(facts: ModelFacts, rms: bool) -> float:
    if facts.compute.norm_eps is not None:
        return facts.compute.norm_eps
    first, second = ("rms_eps", "eps") if rms else ("eps", "rms_eps")
    return facts.number(first, facts.number(second, 1e-5))


def projection(facts: ModelFacts, layer: LayerTensors, word: str) -> Linear:
    """The projection called `word`. Raises UnsupportedError if the layer has none."""
    if word not in layer.weights:
        raise UnsupportedError(f"layer {layer.number} has no {word} that is known")
    return Linear(layer.weights[word].flat(), vector(layer.biases.get(word)), facts.compute.transposed)


def projection_if_there(facts: ModelFacts, layer: LayerTensors, word: str) -> Linear | None:
    """The projection called `word`, None if the layer has none."""
    return projection(facts, layer, word) if layer.has(word) else None


def vector(weight: WeightMatrix | None) -> np.ndarray | None:
    """All values of a bias or the like, in one row."""
    return None if weight is None else weight.whole().ravel()
