"""Statistics of single weights: sums over a layer, whatever the layer computes.

A metric is a function `metric(model)` that gives one number for each layer: its importance, the lowest goes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rewriter.formats.dequantize import WeightMatrix
from rewriter.scoring.forward.primitives import Floats
from rewriter.scoring.model import ScoringModel

MAGNITUDES = 1 << 15  # different magnitudes in bfloat16: a float32 without its sign and its lower half
_INFINITE = 0x7F80  # the first of them that is no finite number


def magnitude_l1(model: ScoringModel) -> list[float]:
    """Sum of |w| over all tensors of the layer (Shortened LLaMA's Mag, Kim et al. 2024)."""
    return _sums(model, lambda part: float(np.abs(part, out=part).sum()))


def magnitude_l2(model: ScoringModel) -> list[float]:
    """Root of the sum of w^2 over all tensors of the layer."""
    return [float(np.sqrt(total)) for total in _sums(model, _square_sum)]


def _square_sum(part: Floats) -> float:
    flat = part.ravel()
    return float(np.dot(flat, flat))


def _sums(model: ScoringModel, statistic: Callable[[Floats], float]) -> list[float]:
    """Add up a statistic of the chunks of every layer's weights."""
    return [_total(model, model.layers[number].values(), statistic) for number in model.numbers()]


def _total(model: ScoringModel, weights: Iterable[WeightMatrix], statistic: Callable[[Floats], float]) -> float:
    jobs = [(weight, span) for weight in weights for span in weight.chunks()]
    return float(sum(model.team.map(lambda job: statistic(job[0].read(*job[1])), jobs)))


def variance(model: ScoringModel) -> list[float]:
    """Variance of the weights of the layer's matrices, all together (Sajjad et al. 2023 rank by variance)."""
    return [_variance(model, layer) for layer in model.numbers()]


def _variance(model: ScoringModel, layer: int) -> float:
    matrices = model.matrices(layer)
    count = sum(weight.size for weight in matrices)
    if not count:
        return 0.0
    mean = _total(model, matrices, lambda part: float(part.sum(dtype=np.float64))) / count
    return (
        _total(model, matrices, lambda part: float(np.square(part, out=part).sum(dtype=np.float64))) / count - mean**2
    )


def lamp(model: ScoringModel, sparsity: float = 0.8) -> list[float]:
    """Share of the layer's weights that survive LAMP at --sparsity (Lee et al. 2021): heavy tails score high.

    A weight's LAMP score is w^2 over the sum of v^2 of all v in its matrix that are not smaller; one threshold for all
    layers. Magnitudes are rounded to bfloat16.
    """
    tallies = [[_tally(model, weight) for weight in model.matrices(layer)] for layer in model.numbers()]
    every = [tally for layer in tallies for tally in layer]
    total = sum(int(count.sum()) for _, count in every)
    threshold = _threshold(every, round((1 - sparsity) * total))
    return [_share(layer, threshold) for layer in tallies]


Tally = tuple[NDArray[np.float64], NDArray[np.int64]]  # squares, descending, nan first; how many weights have each


def _tally(model: ScoringModel, weight: WeightMatrix) -> Tally:
    """How often each magnitude occurs: all that LAMP needs of a matrix, in little memory."""
    counts = sum(model.team.map(lambda span: magnitudes(weight.read(*span)), weight.chunks()))
    there = np.flatnonzero(counts)[::-1]
    return np.where(there < _INFINITE, magnitude_values()[there] ** 2, np.nan), np.asarray(counts)[there]


def magnitude_values() -> NDArray[np.float64]:
    """The magnitudes themselves; those that are not finite count as 0."""
    values = (np.arange(MAGNITUDES, dtype=np.uint32) << 16).view(np.float32)
    return np.where(np.isfinite(values), values, 0).astype(np.float64)


def magnitudes(part: Floats) -> NDArray[np.int64]:
    """How many of the weights have each magnitude, rounded to bfloat16; the last ones are no numbers."""
    bits = (part.ravel().view(np.uint32) & 0x7FFFFFFF) + 0x8000 >> 16
    return np.bincount(np.minimum(bits, MAGNITUDES - 1, out=bits), minlength=MAGNITUDES)


def _survivors(tally: Tally, threshold: float) -> int:
    """How many weights of a matrix have a score of at least `threshold`.

    Of n equal weights of square q, with a sum T of all larger ones, the j-th has the score q / (T + j q): it survives
    while j <= 1 / threshold - T / q.
    """
    squares, counts = tally
    before = np.concatenate(([0.0], np.nancumsum(squares * counts)[:-1]))
    there = squares > 0
    room = 1 / threshold - before[there] / squares[there]
    return int(np.clip(np.floor(room), 0, counts[there]).sum())


def _threshold(tallies: list[Tally], wanted: int) -> float:
    """The score that `wanted` weights reach: found by halving, since the share falls as it rises."""
    low, high = -200.0, 1.0  # of the logarithm
    for _ in range(80):
        middle = (low + high) / 2
        if sum(_survivors(tally, np.exp(middle)) for tally in tallies) > wanted:
            low = middle
        else:
            high = middle
    return float(np.exp(high))


def _share(tallies: list[Tally], threshold: float) -> float:
    if any(np.isnan(squares).any() for squares, _ in tallies):
        return np.nan
    total = sum(int(counts.sum()) for _, counts in tallies)
    return sum(_survivors(tally, threshold) for tally in tallies) / total if total else 0.0


def neighbour_cosine(model: ScoringModel) -> list[float]:
    """One minus the cosine of the layer's matrices with those of the layer before: near copies go first.

    The first layer is compared with the second. Matrices are compared by name, where their shapes agree.
    """
    between = [_cosine(model, *pair) for pair in pairwise(model.numbers())]
    return [1 - cosine for cosine in (between[:1] + between if between else [0.0])]


def _cosine(model: ScoringModel, one: int, other: int) -> float:
    pairs = [
        (weight, twin)
        for name, weight in model.layers[one].items()
        if len(weight.shape) > 1 and (twin := model.layers[other].get(name)) is not None and twin.shape == weight.shape
    ]
    jobs = [(*pair, span) for pair in pairs for span in pair[0].chunks()]
    parts = model.team.map(lambda job: _products(job[0].read(*job[2]), job[1].read(*job[2])), jobs)
    both, first, second = np.sum(parts, axis=0) if parts else (0.0, 0.0, 0.0)
    return 0.0 if first * second == 0 else float(both / np.sqrt(first * second))


def _products(a: Floats, b: Floats) -> tuple[float, float, float]:
    return float((a * b).sum()), float((a * a).sum()), float((b * b).sum())
