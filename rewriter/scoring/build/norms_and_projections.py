"""The tensors of one layer by what they do, and the pieces that all layers are made of: norms, projections."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rewriter.errors import UnsupportedError
from rewriter.formats.dequantize import WeightMatrix
from rewriter.scoring.build.model_facts import EPS, LAYER_NORM, PLUS_ONE, RMS, RMS_IN_GGUF, TRANSPOSED, ModelFacts
from rewriter.scoring.forward.primitives import Linear, Norm


@dataclass(slots=True)
class LayerTensors:
    """The tensors of one layer by what they do."""

    number: int
    weights: dict[str, WeightMatrix] = field(default_factory=dict)
    biases: dict[str, WeightMatrix] = field(default_factory=dict)
    experts: dict[str, dict[int, WeightMatrix]] = field(default_factory=dict)  # one tensor for each expert

    def has(self, *words: str) -> bool:
        """Whether there are tensors for all of `words`."""
        return all(word in self.weights or word in self.experts for word in words)


def norm_in(facts: ModelFacts, layer: LayerTensors, *words: str) -> Norm | None:
    """The first of the norms called `words` that the layer has."""
    word = next((word for word in words if word in layer.weights), None)
    return None if word is None else norm_of(facts, layer.weights[word], layer.biases.get(word))


def norm_of(facts: ModelFacts, gain: WeightMatrix, bias: WeightMatrix | None) -> Norm:
    """The norm of this gain and bias, of the kind that the architecture has."""
    values = gain.whole().ravel()
    if facts.hugging_face and facts.kind in PLUS_ONE:
        values = values + np.float32(1)
    stated = facts.get("rms_eps") is None and facts.get("eps") is not None
    known = facts.kind in RMS or (not facts.hugging_face and facts.kind in RMS_IN_GGUF)
    rms = known or not (bias is not None or stated or facts.kind in LAYER_NORM)
    return Norm(values, None if bias is None else bias.whole().ravel(), rms, eps_of(facts, rms))


def eps_of(facts: ModelFacts, rms: bool) -> float:
    """What a norm adds to the variance."""
    if facts.hugging_face and facts.kind in EPS:
        return EPS[facts.kind]
    first, second = ("rms_eps", "eps") if rms else ("eps", "rms_eps")
    return facts.number(first, facts.number(second, 1e-5))


def linear(facts: ModelFacts, layer: LayerTensors, word: str) -> Linear:
    """The projection called `word`. Raises UnsupportedError where the layer has none."""
    if word not in layer.weights:
        raise UnsupportedError(f"layer {layer.number} has no {word} that is known")
    bias = layer.biases.get(word)
    transposed = facts.hugging_face and facts.kind in TRANSPOSED
    return Linear(layer.weights[word].flat(), None if bias is None else bias.whole().ravel(), transposed)


def inputs(projection: Linear) -> int:
    """How many inputs a projection has."""
    return projection.weight.rows if projection.transposed else projection.weight.columns


def outputs(projection: Linear) -> int:
    """How many outputs the stored matrix of a projection has."""
    return projection.weight.columns if projection.transposed else projection.weight.rows


def height(projection: Linear) -> int:
    """How many of its outputs count."""
    return outputs(projection) if projection.rows is None else len(projection.rows)


def only(projection: Linear, rows: NDArray[np.intp]) -> Linear:
    """Some outputs of a projection; a run of them is read alone."""
    first, last = int(rows[0]), int(rows[-1]) + 1
    if projection.transposed or not np.array_equal(rows, np.arange(first, last)):
        return Linear(projection.weight, projection.bias, projection.transposed, rows)
    return Linear(projection.weight.span(first, last), None if projection.bias is None else projection.bias[rows])
