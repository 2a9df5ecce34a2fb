"""Metrics of singular values: by hand, and by those of numpy."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest

from rewriter.scoring.metrics.spectra import alpha, spectral_entropy, stable_rank
from tests.support.scoring_models import (
    layer,
    model,
)


def test_spectra_by_hand():
    diagonal = model({"a": [[2, 0], [0, 1]]}, {"a": [[1, 0], [0, 1]]}, {"a": [[1, 0], [0, 0]]}, {"a": np.zeros((2, 2))})
    assert stable_rank(diagonal) == pytest.approx([5 / 4, 2, 1, 0])
    first = -(0.8 * log(0.8) + 0.2 * log(0.2)) / log(2)
    assert spectral_entropy(diagonal) == pytest.approx([first, 1, 0, 0])


def test_alpha_by_hand():
    """The larger two of four eigenvalues are the tail."""
    found = alpha(model({"a": np.diag([exp(each / 2) for each in (0, 1, 1.5, 2)])}))
    assert found == pytest.approx([-(1 + 2 / (1.5 + 2 - 2 * 1.5))], rel=1e-4)


def test_spectra_are_those_of_the_singular_values():
    layers = [layer(seed) for seed in range(3)]
    values = [
        [np.linalg.svd(each.astype(np.float64), compute_uv=False) ** 2 for each in one.values()] for one in layers
    ]
    found = model(*layers)
    assert stable_rank(found) == pytest.approx([np.mean([each.sum() / each[0] for each in one]) for one in values])
    assert spectral_entropy(found) == pytest.approx([np.mean([entropy(each) for each in one]) for one in values])
    assert alpha(found) == pytest.approx([-np.mean([hill(each) for each in one]) for one in values])


def entropy(squares: np.ndarray) -> float:
    share = squares / squares.sum()
    return -sum(each * log(each) for each in share) / log(len(share))


def hill(squares: np.ndarray) -> float:
    tail = np.sort(squares)[len(squares) // 2 :]
    return 1 + len(tail) / np.log(tail / tail.min()).sum()
