"""Queries, keys and values that are stored as one matrix: which rows belong to which."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rewriter.errors import UnsupportedError
from rewriter.scoring.build.layer_tensors import LayerTensors
from rewriter.scoring.build.model_facts import ModelFacts
from rewriter.scoring.build.norms_and_projections import projection
from rewriter.scoring.forward.primitives import Linear

QUERIES, KEYS, VALUES = range(3)
_PARTITIONS, _IN_PARTITION = 4, (0, 2, 1)  # CodeGen: parts for as many TPU cores, each of queries, values, keys


def head_size(facts: ModelFacts, layer: LayerTensors, wide: int) -> int:
    """How many of `wide` components belong to one head. Raises UnsupportedError if the heads do not fit."""
    heads = int(facts.number("heads", 0, layer.number))
    if not heads:
        raise UnsupportedError("the metadata does not say how many heads attention has")
    if wide % heads:
        raise UnsupportedError(f"the output projection of layer {layer.number} does not fit {heads} heads")
    return wide // heads


def split_qkv(facts: ModelFacts, layer: LayerTensors, which: int) -> Linear:
    """One of the three projections in a fused one: the output projection has as many inputs as there are queries.

    Raises UnsupportedError if the rows fit no layout.
    """
    fused, wide = projection(facts, layer, "attn_qkv"), projection(facts, layer, "attn_output").shape[1]
    count = fused.shape[0]
    size, rest = head_size(facts, layer, wide), count - wide
    if rest <= 0 or rest % (2 * size):
        raise UnsupportedError(f"the fused projection of layer {layer.number} has {count} rows, which fit no layout")
    return fused.select(_rows(facts.compute.fused_qkv, np.arange(count), rest // 2, size, which))


def _rows(layout: str, rows: NDArray[np.intp], values: int, size: int, which: int) -> NDArray[np.intp]:
    """Converters put all queries first, then all keys, then all values. Some loaders do otherwise."""
    if layout == "partitioned":
        return rows.reshape(_PARTITIONS, 3, -1)[:, _IN_PARTITION[which]].ravel()
    groups = values // size
    grouped = layout == "grouped" or (layout == "grouped_if_many" and groups > 1)
    lines = rows.reshape(groups if grouped else 1, -1)
    each = values // len(lines)
    return np.split(lines, (-2 * each, -each), axis=1)[which].ravel()
