"""A layer computes each row for itself."""

from __future__ import annotations

import numpy as np

from tests.support.scoring_models import (
    TEAM,
    ordinary,
    random,
)


def test_a_row_sees_no_other_row():
    layer, x = ordinary(0), random(6, 8)
    apart = np.concatenate([layer(row[None], 1.0, TEAM) for row in x])
    assert np.allclose(layer(x, 1.0, TEAM), apart, atol=1e-5)
