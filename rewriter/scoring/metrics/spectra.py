"""Statistics of the singular values of a layer's matrices. Each matrix costs a decomposition: slow on large models."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from rewriter.errors import UnsupportedError, printable
from rewriter.formats.dequantize import WeightMatrix
from rewriter.scoring.forward.primitives import Linear
from rewriter.scoring.model import ScoringModel

Spectrum = NDArray[np.float64]  # eigenvalues of W^T W (squares of the singular values), ascending
_AT_ONCE = 512  # rows or columns
_ZERO = 1e-12  # of the largest eigenvalue: below this there is rounding alone


def stable_rank(model: ScoringModel) -> list[float]:
    """Mean over the matrices of ||W||_F^2 / ||W||_2^2: layers that use few directions go first."""
    return _means(model, lambda spectrum: float(spectrum.sum() / spectrum[-1]))


def spectral_entropy(model: ScoringModel) -> list[float]:
    """Mean over the matrices of the entropy of the squared singular values, 1 where all are equal."""
    return _means(model, _entropy)


def alpha(model: ScoringModel) -> list[float]:
    """Minus the mean power-law exponent of the matrices' spectra: heavy tails stay (AlphaPruning, Lu et al. 2024)."""
    return _means(model, lambda spectrum: -_alpha(spectrum))


def _means(model: ScoringModel, statistic: Callable[[Spectrum], float]) -> list[float]:
    return [_mean(model, layer, statistic) for layer in model.numbers()]


def _mean(model: ScoringModel, layer: int, statistic: Callable[[Spectrum], float]) -> float:
    values = []
    for matrix in model.matrices(layer):  # one after the other, each in a thread: LAPACK cannot be interrupted
        (spectrum,) = model.team.map(eigenvalues, [matrix])
        values.append(statistic(spectrum) if spectrum[-1] > 0 else 0.0)
    return float(np.mean(values)) if values else 0.0


def eigenvalues(weight: WeightMatrix) -> Spectrum:
    """Of the smaller of W^T W and W W^T, in float64: squaring halves the digits that are left."""
    rows, columns = weight.shape
    wide, gram = rows <= columns, np.zeros((min(rows, columns),) * 2)
    for panel in _panels(weight, wide):
        gram += panel @ panel.T
    if not np.isfinite(gram).all():
        raise UnsupportedError(f"{printable(weight.name, 120)} has values that are infinite or not numbers")
    return np.clip(np.linalg.eigvalsh(gram), 0, None)


def _panels(weight: WeightMatrix, wide: bool) -> Iterator[Spectrum]:
    """W if it is wide, else W^T, some of its columns at a time."""
    whole = Linear(weight).matrix() if wide else None
    for first in range(0, weight.columns if wide else weight.rows, _AT_ONCE):
        if whole is None:
            yield weight.read(first, min(first + _AT_ONCE, weight.rows)).astype(np.float64).T
        else:
            yield whole[:, first : first + _AT_ONCE].astype(np.float64)


def _entropy(spectrum: Spectrum) -> float:
    share = spectrum / spectrum.sum()
    share = share[share > 0]
    return float(-(share * np.log(share)).sum() / np.log(len(spectrum))) if len(spectrum) > 1 else 0.0


def _alpha(spectrum: Spectrum) -> float:
    """The Hill estimate over the upper half of the eigenvalues: alpha = 1 + n / (sum of ln e_i - n ln e_min).

    AlphaPruning's `alpha_mid`. With its `alpha_peak`, which starts at the peak of a histogram, a Q8_0 file does not
    rank as its source: the peak jumps.
    """
    logs = np.log(spectrum[spectrum > _ZERO * spectrum[-1]])
    tail = logs[len(logs) // 2 :]
    spread = float(tail.sum() - len(tail) * tail[0])
    return 1 + len(tail) / spread if spread > 0 else float(len(tail))
