"""Rotary positions: what a query and a key give depends on their distance alone; stretched frequencies."""

import numpy as np
import pytest

from rewriter.scoring.forward.rotary import Rotary, stretch

FREQUENCIES = 10000.0 ** (-np.arange(0, 8, 2, dtype=np.float64) / 8)


@pytest.mark.parametrize("interleaved", [False, True])
def test_products_depend_on_the_distance_alone(interleaved):
    random = np.random.default_rng(0)
    rotary = Rotary(FREQUENCIES.astype(np.float32), interleaved)
    query, key = (np.tile(random.normal(size=(1, 1, 1, 10)), (1, 6, 1, 1)) for _ in range(2))  # 2 are not turned
    q, k = rotary(query)[0, :, 0], rotary(key)[0, :, 0]
    assert q[1] @ k[3] == pytest.approx(q[3] @ k[5], rel=1e-5)
    assert abs(q[1] @ k[3] - q[1] @ k[4]) > 1e-3


def test_pairs_are_halves_or_neighbors():
    x = np.zeros((1, 2, 1, 4), np.float32)
    x[..., 0] = 1
    one = np.array([1.0, 0.5], np.float32)
    assert Rotary(one)(x)[0, 1, 0] == pytest.approx([np.cos(1), 0, np.sin(1), 0], abs=1e-6)
    assert Rotary(one, interleaved=True)(x)[0, 1, 0] == pytest.approx([np.cos(1), np.sin(1), 0, 0], abs=1e-6)


def test_stretching():
    as_they_are, factor = stretch(FREQUENCIES, 10000.0, {})
    assert np.array_equal(as_they_are, FREQUENCIES)
    assert factor == 1
    assert stretch(FREQUENCIES, 10000.0, {"type": "linear", "factor": 4.0})[0] == pytest.approx(FREQUENCIES / 4)
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    fast, *_, slow = stretch(FREQUENCIES, 10000.0, llama3 | {"original_max_position_embeddings": 1000.0})[0]
    assert (fast, slow) == (FREQUENCIES[0], pytest.approx(FREQUENCIES[-1] / 8))
    fast, *_, slow = stretch(FREQUENCIES, 10000.0, {"rope_type": "yarn", "factor": 4.0})[0]
    assert (fast, slow) == (FREQUENCIES[0], pytest.approx(FREQUENCIES[-1] / 4, rel=1))
    assert stretch(FREQUENCIES, 10000.0, {"rope_type": "yarn", "factor": 4.0})[1] == pytest.approx(1 + 0.1 * np.log(4))
