"""Metrics of single weights: by hand, and by another way to compute them."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from rewriter.scoring.metrics.weight_statistics import (
    MAGNITUDES,
    lamp,
    magnitude_l1,
    magnitude_l2,
    magnitudes,
    neighbour_cosine,
    variance,
)
from tests.support.scoring_models import (
    layer,
    model,
    random,
)


def test_magnitudes_and_variance_by_hand():
    one = model({"a": [[1, -2], [3, -4]], "norm": [0.5, -0.5]})
    assert magnitude_l1(one) == [1 + 2 + 3 + 4 + 0.5 + 0.5]
    assert magnitude_l2(one) == [pytest.approx(sqrt(1 + 4 + 9 + 16 + 0.25 + 0.25))]
    assert variance(one) == [(1 + 4 + 9 + 16) / 4 - (-2 / 4) ** 2]  # of the matrix alone


def test_variance_is_that_of_numpy():
    layers = [layer(seed) for seed in range(3)]
    every = [np.concatenate([each.ravel() for each in one.values()]) for one in layers]
    assert variance(model(*layers)) == pytest.approx([float(np.var(each.astype(np.float64))) for each in every])


def test_lamp_by_hand():
    """Scores 9/9 and 1/10 in one layer, 1/1 and 1/2 in the other: of four weights, 1/10 goes first, then 1/2."""
    two = model({"a": [[3, 1], [0, 0]]}, {"a": [[1, -1], [0, 0]]})
    assert lamp(two, sparsity=1 - 4 / 8) == [2 / 4, 2 / 4]
    assert lamp(two, sparsity=1 - 3 / 8) == [1 / 4, 2 / 4]
    assert lamp(two, sparsity=1 - 2 / 8) == [1 / 4, 1 / 4]


def bfloat(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8, 0.95])
def test_lamp_is_what_sorting_all_weights_gives(sparsity: float):
    layers = [
        {"a": bfloat(random(9, 7, seed=seed) ** 3), "b": bfloat(random(5, 11, seed=seed + 9))} for seed in range(4)
    ]
    scores = [[paper_lamp(matrix) for matrix in each.values()] for each in layers]
    every = np.sort(np.concatenate([score for each in scores for score in each]))[::-1]
    threshold = every[round((1 - sparsity) * len(every)) - 1]
    wanted = [np.concatenate(each) >= threshold for each in scores]
    assert lamp(model(*layers), sparsity) == pytest.approx([float(each.mean()) for each in wanted], abs=1e-9)


def paper_lamp(matrix: np.ndarray) -> np.ndarray:
    squares = np.sort(matrix.astype(np.float64).ravel() ** 2)
    return squares / np.cumsum(squares[::-1])[::-1]


def test_neighbour_cosine_by_hand():
    same, opposite = [[1, 2], [3, 4]], [[-1, -2], [-3, -4]]
    assert neighbour_cosine(model({"a": same}, {"a": same}, {"a": opposite})) == pytest.approx([0, 0, 2])
    assert neighbour_cosine(model({"a": [[1, 0], [0, 0]]}, {"a": [[1, 1], [0, 0]]}))[1] == pytest.approx(1 - sqrt(0.5))
    assert neighbour_cosine(model({"a": same})) == [1.0]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_layer_whose_weights_are_no_numbers_has_no_score(bad):
    layers = [layer(seed) for seed in range(4)]
    layers[2]["up"][3, 5] = bad
    for metric, without in ((lamp, [2]), (neighbour_cosine, [2, 3])):  # it compares each with the one before
        assert np.flatnonzero(np.isnan(metric(model(*layers)))).tolist() == without


def test_every_pattern_of_bits_has_a_magnitude():
    bits = np.array([0, 1, 0x3F800000, 0x7F7FFFFF, 0x7F800000, 0x7FFF7FFF, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32)
    counts = magnitudes(bits.view(np.float32))
    assert (len(counts), counts.sum()) == (MAGNITUDES, len(bits))
    assert counts[-1] == 3
