"""The change of the residual stream in each layer, followed with token embeddings alone: no data, no tokenizer.

The stream starts with evenly spaced rows of the embedding. Attention is reduced to what every token's own value adds,
times the root of `KAPPA`: in a real context many tokens' values are averaged, which leaves less of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rewriter.scoring.forward.primitives import Floats, softmax
from rewriter.scoring.forward.residual_stream import ResidualStream
from rewriter.scoring.model import ScoringModel

ROWS = 64  # rows of the embedding that are followed
KAPPA = 0.1  # share of the values' power that is left once they are averaged over a context: see docs/metrics.md
_LOGITS_AT_ONCE = 1 << 20  # in float64, and several times
_REMOVAL_ROWS = 32  # rows for each of the variants of stream_removal


def stream_influence(model: ScoringModel) -> list[float]:
    """One minus the mean cosine of the stream before and after the layer, from embedding rows (ours)."""
    stream, scores = model.known_stream(), []
    x = stream.start(ROWS)
    for number in model.numbers():
        y = stream.layers[number](x, KAPPA**0.5, model.team)
        scores.append(1 - float(_cosines(x, y).mean()))
        x = y
    return scores


def _cosines(x: Floats, y: Floats) -> NDArray[np.float64]:
    a, b = x.astype(np.float64), y.astype(np.float64)
    lengths = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.asarray((a * b).sum(axis=1) / np.maximum(lengths, 1e-300))


def stream_removal(model: ScoringModel) -> list[float]:
    """How much the prediction from embedding rows changes without the layer: the divergence of the head's (ours).

    Without a head, one minus the cosine of the final states.
    """
    stream = model.known_stream()
    final = _without_each(model, stream, stream.start(_REMOVAL_ROWS))
    full = final[-1]
    reference = stream.logits(full, model.team)
    return [distance(stream, reference, stream.logits(each, model.team)) for each in final[:-1]]


def _without_each(model: ScoringModel, stream: ResidualStream, x: Floats) -> list[Floats]:
    """The final stream without layer 0, without layer 1, ..., and with all of them.

    All variants pass a layer together, so that its weights are read once; a variant splits off where it skips.
    """
    count = len(x)
    together = x  # the full stream is its last `count` rows
    for number in model.numbers():
        skipped = together[-count:]
        moved = stream.layers[number](together, KAPPA**0.5, model.team)
        together = np.concatenate((moved[:-count], skipped, moved[-count:]))
    return [together[start : start + count] for start in range(0, len(together), count)]


def distance(stream: ResidualStream, reference: Floats, other: Floats) -> float:
    """How far one prediction is from another: the mean divergence of what the head says, or one minus the cosine."""
    if stream.head is None:
        return 1 - float(_cosines(reference, other).mean())
    step = max(1, _LOGITS_AT_ONCE // reference.shape[1])
    parts = [slice(first, first + step) for first in range(0, len(reference), step)]
    return float(np.concatenate([_divergences(reference[part], other[part]) for part in parts]).mean())


def _divergences(reference: Floats, other: Floats) -> NDArray[np.float64]:
    p, q = softmax(reference.astype(np.float64)), softmax(other.astype(np.float64))
    return np.asarray((p * (np.log(p + 1e-300) - np.log(q + 1e-300))).sum(axis=1))
