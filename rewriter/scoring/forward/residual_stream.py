"""The residual stream of a transformer: embedding, layers, final norm, output head.

Shapes: the stream is (rows, width), logits are (rows, vocabulary).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rewriter.scoring.forward.attention import Attention, QueryKeyAttention
from rewriter.scoring.forward.primitives import Floats, Linear, Norm
from rewriter.scoring.forward.transformer_layer import TransformerLayer
from rewriter.system.threads import ThreadPool


@dataclass(frozen=True, slots=True)
class ResidualStream:
    """The residual stream of a stack: what enters, what each layer does, and how it is read at the end.

    `embed(tokens)` gives the rows that enter the first layer for tokens below `vocabulary`, (sequences, length), at the
    first positions. `head` turns normalized rows into logits, after `output_projection` has made them as wide as the
    embedding (OPT-350m).
    """

    embed: Callable[[NDArray[np.intp]], Floats]
    vocabulary: int
    layers: tuple[TransformerLayer, ...]
    norm: Norm | None
    head: Linear | None
    output_projection: Linear | None = None
    softcap: float = 0.0
    logit_scale: float = 1.0

    @property
    def attention_weights(self) -> tuple[QueryKeyAttention | None, ...]:
        """The attention weights of each layer, None if they are unknown."""
        bodies = [layer.attention.body for layer in self.layers]
        return tuple(body.weights if isinstance(body, Attention) else None for body in bodies)

    @property
    def causal(self) -> bool:
        """Whether tokens attend to earlier ones only, so that the model can continue a text."""
        first = self.attention_weights[0]
        return self.head is not None and first is not None and first.causal

    @property
    def embedding_power(self) -> float:
        """Mean square of the embedding as it enters."""
        rows = self.start(4096)
        return float(np.einsum("ij,ij->", rows, rows, dtype=np.float64) / rows.size)

    def start(self, count: int) -> Floats:
        """Rows of the embedding, at most `count`, evenly spaced over the vocabulary, as one sequence."""
        count = min(count, self.vocabulary)
        tokens = (np.arange(count) * self.vocabulary) // count + self.vocabulary // (2 * count)
        return self.embed(np.asarray(tokens)[None, :])

    def logits(self, x: Floats, team: ThreadPool) -> Floats:
        """What the model predicts, (rows, vocabulary); without a head the normalized rows."""
        x = x if self.norm is None else self.norm(x)
        if self.head is None:
            return x
        y = self.head(x if self.output_projection is None else self.output_projection(x, team), team)
        y *= np.float32(self.logit_scale)  # in place: with a large vocabulary it is the largest array there is
        if self.softcap:
            y /= self.softcap
            np.tanh(y, out=y)
            y *= np.float32(self.softcap)
        return y
