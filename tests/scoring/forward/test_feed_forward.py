"""Routers and mixtures of experts, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rewriter.scoring.forward.feed_forward import Experts, Router
from rewriter.scoring.forward.primitives import Linear, sigmoid, softmax
from tests.support.scoring_models import (
    TEAM,
    gated,
    random,
    weight,
)


def identity_router(**others: object) -> Router:
    return Router(Linear(weight(np.eye(4))), 2, **others)  # type: ignore[arg-type]


def test_routers_by_hand():
    logits = np.log(np.array([[1, 2, 3, 4]], np.float32))
    assert identity_router().weights(logits, TEAM) == pytest.approx(np.array([[0, 0, 3 / 7, 4 / 7]]))
    assert identity_router(normalize=False).weights(logits, TEAM) == pytest.approx(np.array([[0, 0, 0.3, 0.4]]))
    sigmoids = identity_router(normalize=False, score=sigmoid, scale=2.0).weights(logits, TEAM)
    assert sigmoids == pytest.approx(np.array([[0, 0, 2 * 3 / 4, 2 * 4 / 5]]))
    biased = identity_router(normalize=False, select_bias=np.array([1, 0, 0, 0], np.float32)).weights(logits, TEAM)
    assert biased == pytest.approx(np.array([[0.1, 0, 0, 0.4]]))


def test_groups_of_experts_by_hand():
    """Of the groups (5, 1) and (4, 3) the second has the better two, the first the better one."""
    logits = np.log(np.array([[5, 1, 4, 3]], np.float32))
    best_two = identity_router(normalize=False, groups=2, groups_used=1).weights(logits, TEAM)
    assert best_two == pytest.approx(np.array([[0, 0, 4 / 13, 3 / 13]]))
    best = identity_router(normalize=False, groups=2, groups_used=1, group_best=1).weights(logits, TEAM)
    assert best == pytest.approx(np.array([[5 / 13, 1 / 13, 0, 0]]))


def test_a_mixture_is_the_weighted_sum_of_its_experts():
    experts = [gated(seed) for seed in range(4)]
    router = Router(Linear(weight(random(4, 8, seed=77))), 2)
    x = random(10, 8, seed=78)
    mixture = Experts(router, experts, gated(9), Linear(weight(random(1, 8, seed=79))))
    shares = softmax(x @ random(4, 8, seed=77).T)
    wanted = gated(9)(x, TEAM) / (1 + np.exp(-x @ random(1, 8, seed=79).T))
    for row, share in enumerate(shares):
        first = np.argsort(share)[-2:]
        for number in first:
            wanted[row] += share[number] / share[first].sum() * experts[number](x[row : row + 1], TEAM)[0]
    assert np.allclose(mixture(x, TEAM), wanted, atol=1e-5)
    mean = np.mean([expert(x, TEAM) for expert in experts], axis=0)
    assert np.allclose(Experts(None, experts)(x, TEAM), mean, atol=1e-5)
