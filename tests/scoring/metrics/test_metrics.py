"""Each metric: an example worked out by hand, and another way to compute it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log, pi, sqrt

import numpy as np
import pytest

import rewriter.formats.dequantize
import rewriter.scoring.metrics.sampled_text
from rewriter import open_checkpoint
from rewriter.errors import RequestError, UnsupportedError
from rewriter.formats.dequantize import WeightMatrix
from rewriter.scoring.forward.activations import ACTIVATIONS
from rewriter.scoring.forward.attention import Attention
from rewriter.scoring.forward.feed_forward import Experts, FeedForward, Router
from rewriter.scoring.forward.primitives import Linear, Norm, sigmoid, softmax
from rewriter.scoring.forward.residual_stream import ResidualStream
from rewriter.scoring.forward.transformer_layer import ResidualBranch, TransformerLayer
from rewriter.scoring.metrics import METRICS, find
from rewriter.scoring.metrics.influence import _attention_power, _feed_forward_power, _moments, influence
from rewriter.scoring.metrics.residual_stream import KAPPA, stream_influence, stream_removal
from rewriter.scoring.metrics.spectra import alpha, spectral_entropy, stable_rank
from rewriter.scoring.metrics.weight_statistics import (
    MAGNITUDES,
    lamp,
    magnitude_l1,
    magnitude_l2,
    magnitudes,
    neighbour_cosine,
    variance,
)
from rewriter.scoring.model import ScoringModel
from rewriter.scoring.score import score_layers
from rewriter.system.threads import ThreadPool
from tests.support.builders import FIXTURES

TEAM = ThreadPool(1)
MODEL = FIXTURES / "models" / "tiny-llama-12L"
OF_VALUES = [magnitude_l1, magnitude_l2, variance, lamp, stable_rank, spectral_entropy, alpha]


def weight(values: Sequence | np.ndarray, name: str = "w") -> WeightMatrix:
    array = np.array(values, np.float32)
    rows = array.reshape(-1, array.shape[-1])
    return WeightMatrix(name, array.shape, lambda start, stop: rows[start:stop].copy())


def model(*layers: dict[str, Sequence | np.ndarray], stream: ResidualStream | None = None) -> ScoringModel:
    return ScoringModel(
        tuple({name: weight(each, name) for name, each in layer.items()} for layer in layers), TEAM, stream
    )


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def layer(seed: int) -> dict[str, np.ndarray]:
    return {
        "up": random(24, 8, seed=seed),
        "gate": random(24, 8, seed=seed + 50),
        "down": random(8, 24, seed=seed + 99),
    }


# ---- single weights


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


# ---- spectra


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


# ---- symmetries


@pytest.mark.parametrize("metric", OF_VALUES)
def test_a_layer_twice_scores_twice_the_same(metric: Callable):
    assert len(set(metric(model(layer(1), layer(1), layer(1))))) == 1


@pytest.mark.parametrize("metric", OF_VALUES)
def test_the_order_of_hidden_units_does_not_matter(metric: Callable):
    order, plain = np.random.default_rng(5).permutation(24), layer(1)
    mixed = {"up": plain["up"][order], "gate": plain["gate"][order], "down": plain["down"][:, order]}
    assert metric(model(plain, layer(2))) == pytest.approx(metric(model(mixed, layer(2))), rel=1e-5)


@pytest.mark.parametrize("power", [-3, 2])
def test_what_scaling_a_layer_does(power: int):
    factor = 2.0**power
    plain = layer(1)
    scaled = {name: each * np.float32(factor) for name, each in plain.items()}
    two = model(plain, scaled)
    for metric, wanted in ((magnitude_l1, factor), (magnitude_l2, factor), (variance, factor**2)):
        first, second = metric(two)
        assert second == pytest.approx(wanted * first, rel=1e-5)
    for metric in (lamp, stable_rank, spectral_entropy, alpha):
        first, second = metric(two)
        assert second == pytest.approx(first, rel=1e-6)
    assert neighbour_cosine(two) == pytest.approx([0, 0], abs=1e-6)


# ---- the stream

RMS = Norm(None, None, rms=True, eps=0.0)
TURN = [[0, -1], [1, 0]]  # by a quarter
ZERO = FeedForward(Linear(weight(np.zeros((3, 2)))), Linear(weight(np.zeros((2, 3)))), None, ACTIVATIONS["relu"])


def attention(value: Sequence, output: Sequence) -> Attention:
    return Attention(Linear(weight(value)), Linear(weight(output)))


def stream(
    *layers: TransformerLayer, embedding: Sequence = ((1, 0), (0, 2)), head: Sequence | None = None
) -> ResidualStream:
    table = np.array(embedding, np.float32)
    logits = None if head is None else Linear(weight(head))
    return ResidualStream(lambda tokens: table[tokens.ravel()], len(table), layers, None, logits)


def turning(times: float = 1.0) -> TransformerLayer:
    return TransformerLayer(ResidualBranch(attention([[times, 0], [0, times]], TURN), RMS), ResidualBranch(ZERO, RMS))


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


def ordinary(seed: int) -> TransformerLayer:
    gains = [Norm(1 + 0.3 * random(8, seed=seed + number), None, rms=False, eps=1e-5) for number in (1, 2)]
    value = Attention(Linear(weight(random(8, 8, seed=seed + 3) / 3)), Linear(weight(random(8, 8, seed=seed + 4) / 3)))
    return TransformerLayer(ResidualBranch(value, gains[0]), ResidualBranch(gated(seed), gains[1]))


def gated(seed: int, width: int = 8, height: int = 24, bias: bool = False) -> FeedForward:
    up, gate = (random(height, width, seed=seed + each) / sqrt(width) for each in (5, 6))
    offsets = [random(height, seed=seed + each) / 2 if bias else None for each in (8, 9)]
    down = Linear(weight(random(width, height, seed=seed + 7) / sqrt(height)))
    return FeedForward(Linear(weight(up), offsets[0]), down, Linear(weight(gate), offsets[1]), ACTIVATIONS["silu"])


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


def test_a_row_sees_no_other_row():
    layer, x = ordinary(0), random(6, 8)
    apart = np.concatenate([layer(row[None], 1.0, TEAM) for row in x])
    assert np.allclose(layer(x, 1.0, TEAM), apart, atol=1e-5)


# ---- mixtures


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


# ---- the closed form


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


# ---- numbers that do not depend on the machine


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little text, so that it takes seconds."""
    monkeypatch.setattr(rewriter.scoring.metrics.sampled_text, "SEQUENCES", 2)
    monkeypatch.setattr(rewriter.scoring.metrics.sampled_text, "LENGTH", 8)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", METRICS)
def test_any_number_of_threads_gives_the_same_numbers(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rewriter.formats.dequantize, "_CHUNK", 1 << 14)  # several pieces of every matrix
    checkpoint = open_checkpoint(MODEL)
    found = [score_layers(checkpoint, name, threads=threads).values for threads in (1, 2, 5, 8)]
    assert found[0] == found[1] == found[2] == found[3]
    assert len(set(found[0])) > 8


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", METRICS)
def test_the_size_of_the_pieces_hardly_matters(name: str, monkeypatch: pytest.MonkeyPatch):
    checkpoint = open_checkpoint(MODEL)
    whole = score_layers(checkpoint, name, threads=2).values
    monkeypatch.setattr(rewriter.formats.dequantize, "_CHUNK", 1 << 14)
    assert score_layers(checkpoint, name, threads=2).values == pytest.approx(whole, rel=1e-4)


def test_a_strategy_by_position_has_no_scores():
    with pytest.raises(RequestError, match=r"^middle has no scores; name a metric"):
        find("middle")


def test_names_of_metrics():
    assert find("lamp", 0.5)(model(layer(1), layer(2)))
    for name, sparsity, word in (("nothing", None, "magnitude-l1"), ("lamp", 1.5, "between"), ("alpha", 0.5, "lamp")):
        with pytest.raises(RequestError, match=word):
            find(name, sparsity)


def test_every_pattern_of_bits_has_a_magnitude():
    bits = np.array([0, 1, 0x3F800000, 0x7F7FFFFF, 0x7F800000, 0x7FFF7FFF, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32)
    counts = magnitudes(bits.view(np.float32))
    assert (len(counts), counts.sum()) == (MAGNITUDES, len(bits))
    assert counts[-1] == 3
