"""Rotary position embedding (Su et al. 2021), and how its frequencies are stretched for long contexts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rewriter.scoring.forward.primitives import Floats

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rotary:
    """Pairs of a head's first components turn with the position.

    `frequencies` are the angles per position, one for each pair. With `interleaved` a pair is two neighbours, else
    component i and the one half of the turned components further (GPT-NeoX, most of transformers). `factor` is YaRN's.
    """

    frequencies: Floats
    interleaved: bool = False
    factor: float = 1.0

    def __call__(self, x: Floats) -> Floats:
        """Turn (sequences, length, heads, size), at the first positions."""
        half = len(self.frequencies)
        angles = np.arange(x.shape[1], dtype=np.float32)[:, None] * self.frequencies
        cos, sin = (wave(angles)[:, None, :] * np.float32(self.factor) for wave in (np.cos, np.sin))
        turned, rest = x[..., : 2 * half], x[..., 2 * half :]
        if self.interleaved:
            one, other = turned[..., 0::2], turned[..., 1::2]
        else:
            one, other = turned[..., :half], turned[..., half:]
        parts = one * cos - other * sin, other * cos + one * sin
        joined = np.stack(parts, axis=-1).reshape(turned.shape) if self.interleaved else np.concatenate(parts, axis=-1)
        return np.concatenate((joined, rest), axis=-1) if rest.shape[-1] else joined


def stretch(frequencies: Doubles, base: float, scaling: Mapping[str, object]) -> tuple[Doubles, float]:
    """The stretched frequencies and the factor of cosines and sines: Llama 3's, YaRN's, linear; else as they are."""
    kind, number = scaling.get("rope_type", scaling.get("type")), partial(_number, scaling)
    factor, context = number("factor", 1.0), number("original_max_position_embeddings", 8192.0)
    turns = context * frequencies / (2 * np.pi)  # over the context that the model was first trained on
    if kind == "linear":
        return frequencies / factor, 1.0
    if kind == "llama3":
        low, high = number("low_freq_factor", 1.0), number("high_freq_factor", 4.0)
        kept = np.clip((turns - low) / (high - low), 0, 1)
        return frequencies * (kept + (1 - kept) / factor), 1.0
    if kind == "yarn":
        return _yarn(frequencies, base, scaling, context)
    return frequencies, 1.0


def _yarn(frequencies: Doubles, base: float, scaling: Mapping[str, object], context: float) -> tuple[Doubles, float]:
    """Peng et al. 2023: fast components stay, slow ones are stretched, between two of them a ramp."""
    number, pairs = partial(_number, scaling), len(frequencies)
    factor = number("factor", 1.0)
    fast, slow = (
        pairs * np.log(context / (turns * 2 * np.pi)) / np.log(base)
        for turns in (number("beta_fast", 32.0), number("beta_slow", 1.0))
    )
    if scaling.get("truncate", True):
        fast, slow = np.floor(fast), np.ceil(slow)
    fast, slow = max(fast, 0.0), min(slow, 2.0 * pairs - 1)
    stretched = np.clip((np.arange(pairs) - fast) / max(slow - fast, 0.001), 0, 1)
    usual = 0.1 * np.log(factor) + 1 if factor > 1 else 1.0
    return frequencies * (1 - stretched + stretched / factor), number("attention_factor", float(usual))


def _number(scaling: Mapping[str, object], key: str, default: float) -> float:
    found = scaling.get(key)
    return float(found) if isinstance(found, int | float) else default
