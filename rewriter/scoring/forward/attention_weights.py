"""Where tokens look: the scores of attention over short sequences, as the model computes them.

Shapes: rows are tokens, those of a sequence one after the other; in a row the heads stand one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rewriter.scoring.forward.primitives import Floats, Linear, Norm, softmax
from rewriter.scoring.threads import Team


@dataclass(frozen=True, slots=True)
class Text:
    """How rows make sequences: `length` tokens each, at the first positions."""

    length: int


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary position embedding (Su et al. 2021): pairs of a head's first components turn with the position.

    `rates` are the angles per position, one for each pair. Pairs are neighbours if `interleaved`, else component i goes
    with the one half of the turned components further (GPT-NeoX, most of transformers). `factor` is YaRN's.
    """

    rates: Floats
    interleaved: bool = False
    factor: float = 1.0

    def __call__(self, x: Floats) -> Floats:
        """Turn (sequences, length, heads, size), at the first positions."""
        half = len(self.rates)
        angles = np.arange(x.shape[1], dtype=np.float32)[:, None] * self.rates
        cos, sin = (wave(angles)[:, None, :] * np.float32(self.factor) for wave in (np.cos, np.sin))
        turned, rest = x[..., : 2 * half], x[..., 2 * half :]
        if self.interleaved:
            one, other = turned[..., 0::2], turned[..., 1::2]
        else:
            one, other = turned[..., :half], turned[..., half:]
        parts = one * cos - other * sin, other * cos + one * sin
        joined = np.stack(parts, axis=-1).reshape(turned.shape) if self.interleaved else np.concatenate(parts, axis=-1)
        return np.concatenate((joined, rest), axis=-1) if rest.shape[-1] else joined


@dataclass(frozen=True, slots=True)
class Look:
    """Queries and keys of attention.

    `groups` is the number of key heads, each for heads / groups query heads. The norms are those of queries and keys,
    over a head or over all of them, as their gains say. `slopes`: ALiBi's, one for each head. `sinks`: logits of a
    place that gives nothing, one for each head. `clip` bounds queries and keys; `norm_last`: they are
    normed after they were turned.
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

    def mixed(self, x: Floats, values: Floats, text: Text, team: Team) -> Floats:
        """The values (rows, heads * size) averaged as tokens look at each other; `x` is what attention reads."""
        v = values.reshape(-1, text.length, self.heads, values.shape[1] // self.heads)
        q = self._placed(self.query(x, team), self.query_norm, self.heads, text)
        k = self._placed(self.key(x, team), self.key_norm, self.groups, text)
        shares = self._shares(q, np.repeat(k, self.heads // self.groups, axis=2))
        return np.einsum("shqk,skhd->sqhd", shares, v, optimize=True).reshape(values.shape)

    def _placed(self, x: Floats, norm: Norm | None, heads: int, text: Text) -> Floats:
        """Queries or keys, normed and turned, (sequences, length, heads, size)."""
        whole = norm is not None and norm.gain is not None and norm.gain.shape == (x.shape[1],) and heads > 1
        if norm is not None and whole:
            x = norm(x)
        x = x if self.clip == np.inf else np.clip(x, -self.clip, self.clip)
        x = x.reshape(-1, text.length, heads, x.shape[1] // heads)
        each = None if whole else norm
        if each is not None and not self.norm_last:
            x = each(x)
        x = x if self.rotary is None else self.rotary(x)
        return each(x) if each is not None and self.norm_last else x

    def _shares(self, q: Floats, k: Floats) -> Floats:
        """How much each token looks at each other: (sequences, heads, queries, keys)."""
        logits = np.einsum("sqhd,skhd->shqk", q, k, optimize=True) * np.float32(self.scale)
        if self.softcap:
            logits = np.tanh(logits / self.softcap) * np.float32(self.softcap)
        places = np.arange(logits.shape[2])
        ahead = places[None, :] - places[:, None]  # of the key, from the query
        if self.slopes is not None:
            logits = logits - self.slopes[:, None, None] * np.abs(ahead).astype(np.float32)
        if self.causal:
            logits = np.where(ahead > 0, np.float32(-np.inf), logits)
        if self.sinks is None:
            return softmax(logits)
        sink = np.broadcast_to(self.sinks[None, :, None, None], (*logits.shape[:3], 1))
        return softmax(np.concatenate((logits, sink), axis=-1))[..., :-1]
