"""Attention: values and their output projection, and where it is known the weights that queries and keys give.

Shapes: the stream is (rows, width). Rows are tokens, those of a sequence one after the other; in a row the heads stand
one after the other. A projection's matrix is (outputs, inputs).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rewriter.scoring.forward.primitives import Floats, Linear, Norm, softmax
from rewriter.scoring.forward.rotary import Rotary
from rewriter.system.threads import ThreadPool


def alibi_slopes(heads: int) -> Floats:
    """ALiBi (Press et al. 2022): powers of 2^(-8 / n) for n heads; if n is no power of two, every other one of 2 n."""
    whole = 2 ** int(np.floor(np.log2(heads)))
    first = 2.0 ** (-8.0 * np.arange(1, whole + 1) / whole)
    more = 2.0 ** (-4.0 * np.arange(1, 2 * (heads - whole) + 1, 2) / whole)
    return np.concatenate((first, more)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class QueryKeyAttention:
    """The attention weights: softmax(q k^T * scale), with what models add to it.

    `groups` is the number of key heads, each for heads / groups query heads. The norms are those of queries and keys,
    over a head or over all of them, as their gains say. `slopes`: ALiBi's, one for each head. `sinks`: logits of a
    position that has no value, one for each head. `clip` bounds queries and keys; with `norm_last` they are normalized
    after the rotation.
    """

    query: Linear
    key: Linear
    heads: int
    groups: int
    scale: float
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    rotary: Rotary | None = None
    slopes: Floats | None = None
    sinks: Floats | None = None
    softcap: float = 0.0
    causal: bool = True
    clip: float = np.inf
    norm_last: bool = False

    def average(self, x: Floats, values: Floats, length: int, team: ThreadPool) -> Floats:
        """`values`, (rows, heads * size), averaged over each sequence of `length` tokens; attention reads `x`."""
        v = values.reshape(-1, length, self.heads, values.shape[1] // self.heads)
        q = self._positioned(self.query(x, team), self.query_norm, self.heads, length)
        k = self._positioned(self.key(x, team), self.key_norm, self.groups, length)
        weights = self._weights(q, np.repeat(k, self.heads // self.groups, axis=2))
        return np.einsum("shqk,skhd->sqhd", weights, v, optimize=True).reshape(values.shape)

    def _positioned(self, x: Floats, norm: Norm | None, heads: int, length: int) -> Floats:
        """Queries or keys, normalized and turned, (sequences, length, heads, size)."""
        if norm is not None and norm.gain is not None and norm.gain.shape == (x.shape[1],) and heads > 1:
            x, norm = norm(x), None
        x = x if self.clip == np.inf else np.clip(x, -self.clip, self.clip)
        x = x.reshape(-1, length, heads, x.shape[1] // heads)
        if norm is not None and not self.norm_last:
            x, norm = norm(x), None
        x = x if self.rotary is None else self.rotary(x)
        return x if norm is None else norm(x)

    def _weights(self, q: Floats, k: Floats) -> Floats:
        """How much each query attends to each key: (sequences, heads, queries, keys)."""
        logits = np.einsum("sqhd,skhd->shqk", q, k, optimize=True) * np.float32(self.scale)
        if self.softcap:
            logits = np.tanh(logits / self.softcap) * np.float32(self.softcap)
        positions = np.arange(logits.shape[2])
        ahead = positions[None, :] - positions[:, None]  # of the key, from the query
        if self.slopes is not None:
            logits = logits - self.slopes[:, None, None] * np.abs(ahead).astype(np.float32)
        if self.causal:
            logits = np.where(ahead > 0, np.float32(-np.inf), logits)
        if self.sinks is None:
            return softmax(logits)
        sink = np.broadcast_to(self.sinks[None, :, None, None], (*logits.shape[:3], 1))
        return softmax(np.concatenate((logits, sink), axis=-1))[..., :-1]


@dataclass(frozen=True, slots=True)
class Attention:
    """Values, averaged by the attention weights, through the output projection.

    Values are multiplied by `scale` and kept within `clip`. `expand` repeats the values of a group for each of its
    heads. With `latent` (multi-head latent attention, DeepSeek-V2) `value` gives the latent, `norm` normalizes it, and
    `latent` makes values of it. `sub_norm` comes before the output projection. `weights` is None if they are unknown.
    """

    value: Linear
    output: Linear
    expand: NDArray[np.intp] | None = None
    norm: Norm | None = None
    latent: Linear | None = None
    sub_norm: Norm | None = None
    scale: float = 1.0
    clip: float = np.inf
    weights: QueryKeyAttention | None = None

    def values(self, x: Floats, team: ThreadPool) -> Floats:
        """The values of each row, one for every head, (rows, inputs of the output projection)."""
        v = self.value(x, team)
        if self.latent is not None:
            v = self.latent(v if self.norm is None else self.norm(v), team)
        if self.clip < np.inf:
            v = np.clip(v, -self.clip, self.clip)
        return (v if self.expand is None else v[:, self.expand]) * np.float32(self.scale)

    def __call__(self, x: Floats, team: ThreadPool, length: int | None = None) -> Floats:
        """What attention adds to the stream, over sequences of `length` tokens.

        Without a length, or without known weights, every token attends to itself alone.
        """
        v = self.values(x, team)
        if length is not None and self.weights is not None:
            v = self.weights.average(x, v, length, team)
        return self.output(v if self.sub_norm is None else self.sub_norm(v), team)
