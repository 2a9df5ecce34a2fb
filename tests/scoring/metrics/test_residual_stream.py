"""Metrics of the residual stream: by hand, and by running without each layer."""

from __future__ import annotations

from math import exp, log, sqrt

import numpy as np
import pytest

from rewriter.errors import UnsupportedError
from rewriter.scoring.forward.residual_stream import ResidualStream
from rewriter.scoring.metrics.residual_stream import KAPPA, stream_influence, stream_removal
from rewriter.scoring.model import ScoringModel
from tests.support.scoring_models import (
    TEAM,
    model,
    ordinary,
    random,
    stream,
    turning,
)


def test_stream_influence_by_hand():
    """A row of length r becomes sqrt(2) long, is turned by a quarter, and is added to itself with the root of KAPPA."""
    found = stream_influence(model({}, {}, stream=stream(turning(), turning(0.0))))
    cosines = [each / sqrt(each**2 + 2 * KAPPA) for each in (1, 2)]
    assert found == pytest.approx([1 - sum(cosines) / 2, 0], abs=1e-6)


def test_stream_removal_by_hand():
    """Without a layer that adds nothing nothing changes; without the other the softmax is that of the embedding."""
    head = [[1, 0], [0, 1]]
    found = stream_removal(model({}, {}, stream=stream(turning(), turning(0.0), embedding=[[1, 0]], head=head)))
    moved = sqrt(2 * KAPPA)
    p, q = (exp(1) / (exp(1) + exp(moved)), exp(1) / (exp(1) + 1))
    assert found == pytest.approx([p * log(p / q) + (1 - p) * log((1 - p) / (1 - q)), 0], abs=1e-6)


def test_stream_removal_is_that_of_running_without_each_layer():
    described = stream(*(ordinary(seed) for seed in range(5)), embedding=random(40, 8), head=random(20, 8, seed=3))
    found = stream_removal(model(*[{}] * 5, stream=described))
    full = final(described, ())
    wanted = [divergence(full, final(described, (without,))) for without in range(5)]
    assert found == pytest.approx(wanted, rel=1e-4)


def final(described: ResidualStream, without: tuple[int, ...]) -> np.ndarray:
    x = described.start(32)
    for number, layer in enumerate(described.layers):
        if number not in without:
            x = layer(x, sqrt(KAPPA), TEAM)
    return described.logits(x, TEAM).astype(np.float64)


def divergence(one: np.ndarray, other: np.ndarray) -> float:
    p, q = (np.exp(each) / np.exp(each).sum(axis=1, keepdims=True) for each in (one, other))
    return float((p * np.log(p / q)).sum(axis=1).mean())


def test_a_stream_metric_says_why_it_does_not_apply():
    with pytest.raises(UnsupportedError, match="cannot: so it is"):
        stream_influence(ScoringModel(({},), TEAM, None, "so it is"))
