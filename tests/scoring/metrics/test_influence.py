"""The closed form of influence: by hand, and by samples."""

from __future__ import annotations

from math import pi, sqrt

import numpy as np
import pytest

from rewriter.scoring.forward.activations import ACTIVATIONS
from rewriter.scoring.forward.attention import Attention
from rewriter.scoring.forward.feed_forward import FeedForward
from rewriter.scoring.forward.primitives import Linear, Norm
from rewriter.scoring.forward.transformer_layer import ResidualBranch, TransformerLayer
from rewriter.scoring.metrics.influence import _attention_power, _feed_forward_power, _moments, influence
from rewriter.scoring.metrics.residual_stream import KAPPA
from tests.support.scoring_models import (
    RMS,
    TEAM,
    TURN,
    ZERO,
    attention,
    gated,
    model,
    random,
    stream,
    weight,
)


def test_influence_by_hand():
    """Attention that copies adds KAPPA to the power 2.5 of the embedding, and the feed-forward nothing."""
    copying = TransformerLayer(ResidualBranch(attention(np.eye(2), np.eye(2)), RMS), ResidualBranch(ZERO, RMS))
    found = influence(model({}, {}, stream=stream(copying, copying)))
    power = (1 + 4) / 4
    wanted = [1 - sqrt((power + number * KAPPA) / (power + (number + 1) * KAPPA)) for number in range(2)]
    assert found == pytest.approx(wanted, rel=1e-6)


def test_a_norm_at_the_end_says_the_power():
    after = Norm(np.array([1, 3], np.float32), None, rms=True, eps=1e-6)
    closed = TransformerLayer(
        ResidualBranch(attention(TURN, TURN), RMS, after), ResidualBranch(ZERO, RMS, after), multiplier=0.5
    )
    power = (1 + 4) / 4
    added = 2 * (1 + 9) / 2 * 0.5**2
    assert influence(model({}, stream=stream(closed))) == [pytest.approx(1 - sqrt(power / (power + added)))]


def samples(width: int, norm: Norm | None, count: int = 60000) -> np.ndarray:
    z = random(count, width, seed=123)
    if norm is None:
        return z
    return z * norm.gain + (0 if norm.bias is None else norm.bias)


NORMS = [
    None, Norm(1 + 0.5 * random(16, seed=31), None, rms=True, eps=0.0),
    Norm(1 + 0.5 * random(16, seed=31), 0.3 * random(16, seed=32), rms=False, eps=0.0),
]  # fmt: skip


def plain(bias: bool, name: str) -> FeedForward:
    offsets = random(24, seed=8) / 2 if bias else None
    up = Linear(weight(random(24, 16, seed=5) / 2), offsets)
    return FeedForward(up, Linear(weight(random(16, 24, seed=7))), None, ACTIVATIONS[name])


BODIES = [gated(0, 16, bias=bias) for bias in (False, True)]


BODIES += [plain(bias, name) for bias in (False, True) for name in ("relu", "gelu", "relu2")]


@pytest.mark.parametrize("norm", NORMS, ids=["no norm", "gain", "gain and bias"])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: "gated" if body.gate else "plain")
def test_hidden_units_are_as_sampled(body: FeedForward, norm: Norm | None):
    x = samples(16, norm)
    hidden = body.hidden(body.up(x, TEAM), None if body.gate is None else body.gate(x, TEAM)).astype(np.float64)
    mean, spread = _moments(body, norm, TEAM)
    scale = hidden.std(axis=0)
    assert np.abs(mean - hidden.mean(axis=0)).max() < 0.03 * scale.max()
    assert np.allclose(spread, hidden.var(axis=0), rtol=0.08)


@pytest.mark.parametrize("norm", NORMS, ids=["no norm", "gain", "gain and bias"])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: "gated" if body.gate else "plain")
def test_the_power_of_a_feed_forward_is_about_as_sampled(body: FeedForward, norm: Norm | None):
    """About: hidden units are taken for independent."""
    given = body(samples(16, norm), TEAM).astype(np.float64)
    assert _feed_forward_power(body, norm, TEAM) == pytest.approx(float(np.square(given).mean()), rel=0.35)


def test_the_power_of_independent_hidden_units_is_as_sampled():
    """Rows of an orthogonal matrix see independent parts of the stream."""
    up = np.linalg.qr(random(16, 16).astype(np.float64))[0]
    body = FeedForward(Linear(weight(2 * up)), Linear(weight(random(16, 16, seed=1))), None, ACTIVATIONS["gelu"])
    given = body(samples(16, None), TEAM).astype(np.float64)
    assert _feed_forward_power(body, None, TEAM) == pytest.approx(float(np.square(given).mean()), rel=0.02)


def test_the_moments_of_relu_are_known():
    body = FeedForward(Linear(weight([[3.0, 4.0]])), Linear(weight([[1.0], [1.0]])), None, ACTIVATIONS["relu"])
    mean, spread = _moments(body, None, TEAM)  # of relu(5 z)
    assert mean[0] == pytest.approx(5 / sqrt(2 * pi), rel=0.02)
    assert spread[0] == pytest.approx(25 * (0.5 - 1 / (2 * pi)), rel=0.02)


@pytest.mark.parametrize("norm", NORMS[:2], ids=["no norm", "gain"])
def test_the_power_of_attention_is_as_sampled(norm: Norm | None):
    expand = np.repeat(np.arange(8).reshape(2, 4), 2, axis=0).ravel()
    body = Attention(Linear(weight(random(8, 16))), Linear(weight(random(16, 16, seed=1))), expand)
    given = body(samples(16, norm), TEAM).astype(np.float64)
    assert _attention_power(body, norm, TEAM) == pytest.approx(float(np.square(given).mean()), rel=0.02)
