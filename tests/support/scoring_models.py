"""Small models for scores: matrices, streams and layers of literal numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

from rewriter.formats.dequantize import WeightMatrix
from rewriter.scoring.forward.activations import ACTIVATIONS
from rewriter.scoring.forward.attention import Attention
from rewriter.scoring.forward.feed_forward import FeedForward
from rewriter.scoring.forward.primitives import Linear, Norm
from rewriter.scoring.forward.residual_stream import ResidualStream
from rewriter.scoring.forward.transformer_layer import ResidualBranch, TransformerLayer
from rewriter.scoring.model import ScoringModel
from rewriter.system.threads import ThreadPool

TEAM = ThreadPool(1)


def weight(values: Sequence | np.ndarray, name: str = "w") -> WeightMatrix:
    array = np.array(values, np.float32)
    rows = array.reshape(-1, array.shape[-1])
    return WeightMatrix(name, array.shape, lambda start, stop: rows[start:stop].copy())


def model(*layers: dict[str, Sequence | np.ndarray], stream: ResidualStream | None = None) -> ScoringModel:
    return ScoringModel(
        tuple({name: weight(each, name) for name, each in layer.items()} for layer in layers), TEAM, stream
    )


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def layer(seed: int) -> dict[str, np.ndarray]:
    return {
        "up": random(24, 8, seed=seed),
        "gate": random(24, 8, seed=seed + 50),
        "down": random(8, 24, seed=seed + 99),
    }


RMS = Norm(None, None, rms=True, eps=0.0)


TURN = [[0, -1], [1, 0]]  # by a quarter


ZERO = FeedForward(Linear(weight(np.zeros((3, 2)))), Linear(weight(np.zeros((2, 3)))), None, ACTIVATIONS["relu"])


def attention(value: Sequence, output: Sequence) -> Attention:
    return Attention(Linear(weight(value)), Linear(weight(output)))


def stream(
    *layers: TransformerLayer, embedding: Sequence = ((1, 0), (0, 2)), head: Sequence | None = None
) -> ResidualStream:
    table = np.array(embedding, np.float32)
    logits = None if head is None else Linear(weight(head))
    return ResidualStream(lambda tokens: table[tokens.ravel()], len(table), layers, None, logits)


def turning(times: float = 1.0) -> TransformerLayer:
    return TransformerLayer(ResidualBranch(attention([[times, 0], [0, times]], TURN), RMS), ResidualBranch(ZERO, RMS))


def ordinary(seed: int) -> TransformerLayer:
    gains = [Norm(1 + 0.3 * random(8, seed=seed + number), None, rms=False, eps=1e-5) for number in (1, 2)]
    value = Attention(Linear(weight(random(8, 8, seed=seed + 3) / 3)), Linear(weight(random(8, 8, seed=seed + 4) / 3)))
    return TransformerLayer(ResidualBranch(value, gains[0]), ResidualBranch(gated(seed), gains[1]))


def gated(seed: int, width: int = 8, height: int = 24, bias: bool = False) -> FeedForward:
    up, gate = (random(height, width, seed=seed + each) / sqrt(width) for each in (5, 6))
    offsets = [random(height, seed=seed + each) / 2 if bias else None for each in (8, 9)]
    down = Linear(weight(random(width, height, seed=seed + 7) / sqrt(height)))
    return FeedForward(Linear(weight(up), offsets[0]), down, Linear(weight(gate), offsets[1]), ACTIVATIONS["silu"])
