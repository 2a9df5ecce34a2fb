"""Queries, keys and values that stand in one matrix: which rows are whose."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rewriter.errors import UnsupportedError
from rewriter.scoring.build.model_facts import GROUPED, GROUPED_IF_MANY, PARTITIONED, ModelFacts
from rewriter.scoring.build.norms_and_projections import LayerTensors, inputs, linear, only, outputs
from rewriter.scoring.forward.primitives import Linear

QUERIES, KEYS, VALUES = range(3)


def head_size(facts: ModelFacts, layer: LayerTensors, wide: int) -> int:
    """How many of `wide` components are one head's."""
    heads = int(facts.number("heads", 0, layer.number))
    if not heads:
        raise UnsupportedError("the metadata does not say how many heads attention has")
    if wide % heads:
        raise UnsupportedError(f"the output projection of layer {layer.number} does not fit {heads} heads")
    return wide // heads


def fused(facts: ModelFacts, layer: LayerTensors, which: int) -> Linear:
    """One of the three projections in a fused one: the output projection has as many inputs as there are queries."""
    both, wide = linear(facts, layer, "attn_qkv"), inputs(linear(facts, layer, "attn_output"))
    size, rest = head_size(facts, layer, wide), outputs(both) - wide
    if rest <= 0 or rest % (2 * size):
        raise UnsupportedError(
            f"the fused projection of layer {layer.number} has {outputs(both)} rows, which fit no layout"
        )
    return only(both, _rows(facts, np.arange(outputs(both)), rest // 2, size, which))


def _rows(facts: ModelFacts, rows: NDArray[np.intp], values: int, size: int, which: int) -> NDArray[np.intp]:
    """Converters put all queries first, then all keys, then all values. Some loaders do otherwise."""
    groups = values // size
    if facts.hugging_face and facts.kind in PARTITIONED:
        parts, order = PARTITIONED[facts.kind]
        return rows.reshape(parts, 3, -1)[:, order[which]].ravel()
    grouped = facts.kind in GROUPED or (facts.kind in GROUPED_IF_MANY and groups > 1)
    lines = rows.reshape(groups if facts.hugging_face and grouped else 1, -1)
    each = values // len(lines)
    return np.split(lines, (-2 * each, -each), axis=1)[which].ravel()
