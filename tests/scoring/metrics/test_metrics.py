"""Each metric: an example worked out by hand, and another way to compute it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import rewriter.formats.dequantize
import rewriter.scoring.metrics.sampled_text
from rewriter import open_checkpoint
from rewriter.errors import RequestError
from rewriter.scoring.metrics import METRICS, find_metric
from rewriter.scoring.metrics.spectra import alpha, spectral_entropy, stable_rank
from rewriter.scoring.metrics.weight_statistics import (
    lamp,
    magnitude_l1,
    magnitude_l2,
    neighbour_cosine,
    variance,
)
from rewriter.scoring.score import score_layers
from tests.support.builders import FIXTURES
from tests.support.scoring_models import (
    layer,
    model,
)

MODEL = FIXTURES / "models" / "tiny-llama-12L"
OF_VALUES = [magnitude_l1, magnitude_l2, variance, lamp, stable_rank, spectral_entropy, alpha]


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


# ---- numbers that do not depend on the machine


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little text, so that it takes seconds."""
    monkeypatch.setattr(rewriter.scoring.metrics.sampled_text, "SEQUENCES", 2)
    monkeypatch.setattr(rewriter.scoring.metrics.sampled_text, "LENGTH", 8)


@pytest.mark.slow
@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", METRICS)
def test_any_number_of_threads_gives_the_same_numbers(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rewriter.formats.dequantize, "_CHUNK", 1 << 14)  # several pieces of every matrix
    checkpoint = open_checkpoint(MODEL)
    found = [score_layers(checkpoint, name, threads=threads).values for threads in (1, 2, 5, 8)]
    assert found[0] == found[1] == found[2] == found[3]
    assert len(set(found[0])) > 8


@pytest.mark.slow
@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", METRICS)
def test_the_size_of_the_pieces_hardly_matters(name: str, monkeypatch: pytest.MonkeyPatch):
    checkpoint = open_checkpoint(MODEL)
    whole = score_layers(checkpoint, name, threads=2).values
    monkeypatch.setattr(rewriter.formats.dequantize, "_CHUNK", 1 << 14)
    assert score_layers(checkpoint, name, threads=2).values == pytest.approx(whole, rel=1e-4)


def test_a_strategy_by_position_has_no_scores():
    with pytest.raises(RequestError, match=r"^middle has no scores; name a metric"):
        find_metric("middle")


def test_names_of_metrics():
    assert find_metric("lamp", 0.5)(model(layer(1), layer(2)))
    for name, sparsity, word in (("nothing", None, "magnitude-l1"), ("lamp", 1.5, "between"), ("alpha", 0.5, "lamp")):
        with pytest.raises(RequestError, match=word):
            find_metric(name, sparsity)
