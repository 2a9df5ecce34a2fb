"""From the tensors beside the layers to what enters the first layer: token embeddings, positions, their norm."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rewriter.formats.dequantize import WeightMatrix
from rewriter.scoring.build.model_facts import ModelFacts
from rewriter.scoring.build.norms_and_projections import make_norm, weightless_norm
from rewriter.scoring.forward.primitives import Floats, Norm


def embed(facts: ModelFacts, outer: Mapping[str, WeightMatrix], tokens: NDArray[np.intp]) -> Floats:
    """The rows of `tokens`, (sequences, length), at the first positions, as they enter the first layer.

    `outer` are the tensors beside the layers by their words.
    """
    table = outer["token_embd"]
    x = np.concatenate([table.read(number, number + 1) for number in tokens.ravel().tolist()])
    x = x * np.float32(_scale(facts, table.columns))
    x = _project(outer, x) if facts.compute.projects_before_positions else x
    x = x + np.tile(_positions(facts, outer, tokens.shape[1], x.shape[1]), (tokens.shape[0], 1))
    if (types := outer.get("token_types")) is not None and types.columns == x.shape[1]:
        x = x + types.read(0, 1)
    norm = _first_norm(facts, outer)
    x = x if norm is None else norm(x)
    return x if facts.compute.projects_before_positions else _project(outer, x)


def _scale(facts: ModelFacts, width: int) -> float:
    if facts.compute.embedding_times_sqrt_width or facts.stated("scale_embedding") is True:
        return width**0.5
    return facts.number("embedding", facts.compute.embedding_scale)


def _project(outer: Mapping[str, WeightMatrix], x: Floats) -> Floats:
    """Narrow embeddings made as wide as the layers (ELECTRA, OPT-350m)."""
    matrix, bias = outer.get("token_embd_project"), outer.get("token_embd_project_bias")
    x = x if matrix is None else x @ matrix.whole().T
    return x if bias is None else x + bias.whole()


def _first_norm(facts: ModelFacts, outer: Mapping[str, WeightMatrix]) -> Norm | None:
    gain = outer.get("token_embd_norm")
    if gain is not None:
        return make_norm(facts, gain, outer.get("token_embd_norm_bias"))
    return weightless_norm(facts) if facts.compute.normed_embedding else None


def _positions(facts: ModelFacts, outer: Mapping[str, WeightMatrix], count: int, width: int) -> Floats:
    """What the first `count` positions add; zeros if positions do not enter the stream."""
    positions, first = np.arange(count), facts.compute.first_position
    if first is None:
        padding = facts.stated("pad_token_id")
        first = 1 + (padding if isinstance(padding, int) else 1)
    if facts.compute.sinusoids is not None:
        return _sinusoids(positions + first, width, facts.compute.sinusoids)
    table = outer.get("position_embd")
    if table is None or table.columns != width:
        return np.zeros((count, width), np.float32)
    return table.read(first, table.rows)[positions % (table.rows - first)]


def _sinusoids(positions: NDArray[np.intp], width: int, less: int) -> Floats:
    """All sines, then all cosines."""
    half = width // 2
    angles = positions[:, None] * np.exp(np.arange(half) * -(np.log(10000) / (half - less)))
    return np.concatenate((np.sin(angles), np.cos(angles)), axis=1).astype(np.float32)
