"""Norms, projections and the functions that everything else in a layer is made of.

Shapes: the stream is (rows, width), a projection's matrix (outputs, inputs).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriter.formats.dequantize import WeightMatrix
from rewriter.system.threads import ThreadPool

Floats = NDArray[Any]  # float32
Activation = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Norm:
    """LayerNorm, or with `rms` RMSNorm; `gain` and `bias` are as applied (Gemma's 1 + weight is added already)."""

    gain: Floats | None
    bias: Floats | None
    rms: bool
    eps: float

    def __call__(self, x: Floats) -> Floats:
        """Normalise each row."""
        if not self.rms:
            x = x - x.mean(axis=-1, keepdims=True)
        y = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + self.eps)
        if self.gain is not None:
            y *= self.gain
        if self.bias is not None:
            y += self.bias
        return y


@dataclass(frozen=True, slots=True)
class Linear:
    """A projection. `transposed`: stored as (inputs, outputs), as GPT-2's Conv1D. `rows`: only these outputs."""

    weight: WeightMatrix
    bias: Floats | None = None
    transposed: bool = False
    rows: NDArray[np.intp] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)"""
        stored = self.weight.rows, self.weight.columns
        outputs, inputs = stored[::-1] if self.transposed else stored
        return outputs if self.rows is None else len(self.rows), inputs

    def matrix(self) -> Floats:
        """The whole matrix, (outputs, inputs)."""
        whole = np.empty(self.shape, np.float32)
        for outputs, inputs in self.tiles():
            whole[outputs, inputs] = self.tile(outputs, inputs)
        return whole

    def tiles(self) -> list[tuple[slice, slice]]:
        """The matrix in pieces that can be read one after the other: which outputs, which inputs."""
        outputs, inputs = self.shape
        if self.transposed:
            return [(slice(0, outputs), slice(*span)) for span in self.weight.chunks()]
        step = next((stop for _, stop in self.weight.chunks()), 1)
        return [(slice(first, min(first + step, outputs)), slice(0, inputs)) for first in range(0, outputs, step)]

    def tile(self, outputs: slice, inputs: slice) -> Floats:
        """A piece of the matrix, (outputs, inputs)."""
        if self.transposed:
            part = self.weight.read(inputs.start, inputs.stop).T
            return part[outputs if self.rows is None else self.rows[outputs]]
        if self.rows is None:
            return self.weight.read(outputs.start, outputs.stop)[:, inputs]
        rows = self.rows[outputs]
        first = int(rows.min())
        return self.weight.read(first, int(rows.max()) + 1)[rows - first, inputs]

    def select(self, rows: NDArray[np.intp]) -> Linear:
        """Only these outputs; a run of them is read alone."""
        first, last = int(rows[0]), int(rows[-1]) + 1
        if self.transposed or not np.array_equal(rows, np.arange(first, last)):
            return Linear(self.weight, self.bias, self.transposed, rows)
        return Linear(self.weight.span(first, last), None if self.bias is None else self.bias[rows])

    @property
    def offsets(self) -> Floats | None:
        """The bias of the outputs that count."""
        return self.bias if self.bias is None or self.rows is None else self.bias[self.rows]

    def __call__(self, x: Floats, team: ThreadPool) -> Floats:
        """Project each row of `x`, (rows, inputs) -> (rows, outputs). Only some rows of the matrix are in memory."""
        weight, chunks = self.weight, list(self.weight.chunks())
        if self.transposed:
            parts = team.map(lambda span: x[:, span[0] : span[1]] @ weight.read(*span), chunks)
            y = np.add.reduce(parts, dtype=x.dtype)
        else:
            y = np.empty((len(x), weight.rows), x.dtype)
            columns = np.ascontiguousarray(x.T)  # a quarter faster than to turn each piece round

            def project(span: tuple[int, int]) -> None:
                y[:, slice(*span)] = (weight.read(*span) @ columns).T

            team.map(project, chunks)
        y = y if self.rows is None else y[:, self.rows]
        if self.offsets is not None:
            y += self.offsets
        return y


def softmax(logits: Floats) -> Floats:
    """Along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def sigmoid(x: Floats) -> Floats:
    """Of each value, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))
