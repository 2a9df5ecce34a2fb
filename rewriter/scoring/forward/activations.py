"""Activation functions under the names that a config.json has for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriter.scoring.forward.primitives import Activation, sigmoid

_Floats = NDArray[Any]


def _silu(x: _Floats) -> _Floats:
    return x * sigmoid(x)


def _erf(x: _Floats) -> _Floats:
    """Abramowitz and Stegun 7.1.26, exact to 1.5e-7: numpy has none."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(x) * (1 - series * np.exp(-x * x))


def _gelu(x: _Floats) -> _Floats:
    return 0.5 * x * (1 + _erf(x / np.sqrt(2)))


def _gelu_tanh(x: _Floats) -> _Floats:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _gelu_quick(x: _Floats) -> _Floats:
    return x * sigmoid(1.702 * x)


def _relu(x: _Floats) -> _Floats:
    return np.maximum(x, 0)


def _relu_squared(x: _Floats) -> _Floats:
    return np.square(np.maximum(x, 0))


def xielu(x: _Floats, alpha_p: float, alpha_n: float, beta: float, eps: float) -> _Floats:
    """Apertus's, with weights of its own (Huang and Schlag 2024): they go through a softplus."""
    above, below = np.logaddexp(0, alpha_p), beta + np.logaddexp(0, alpha_n)
    negative = (np.expm1(np.minimum(x, eps)) - x) * below
    return np.where(x > 0, above * x * x, negative) + beta * x


ACTIVATIONS: dict[str, Activation] = {
    "silu": _silu, "swish": _silu, "gelu": _gelu, "gelu_python": _gelu,
    "gelu_new": _gelu_tanh, "gelu_pytorch_tanh": _gelu_tanh, "gelu_fast": _gelu_tanh, "gelu_accurate": _gelu_tanh,
    "quick_gelu": _gelu_quick, "relu": _relu, "relu2": _relu_squared, "relu_squared": _relu_squared,
    "tanh": np.tanh,
}  # fmt: skip
