"""Feed-forward networks, plain or gated, and mixtures of them with the router that chooses experts.

Shapes: the stream is (rows, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewriter.scoring.forward.primitives import Activation, Floats, Linear, Norm, sigmoid, softmax
from rewriter.system.threads import ThreadPool

_ROWS_AT_ONCE = 64  # of hidden units


@dataclass(frozen=True, slots=True)
class FeedForward:
    """down(act(gate x) * up x), or without a gate down(act(up x)).

    gpt-oss clips both at `limit` and adds `shift` to the second.
    """

    up: Linear
    down: Linear
    gate: Linear | None
    act: Activation
    sub_norm: Norm | None = None
    limit: float = np.inf
    shift: float = 0.0

    def hidden(self, up: NDArray[Any], gate: NDArray[Any] | None) -> NDArray[Any]:
        """The hidden units, from what the projections give."""
        if gate is None:
            return self.act(up)
        if self.limit < np.inf:
            gate, up = np.minimum(gate, self.limit), np.clip(up, -self.limit, self.limit)
        return self.act(gate) * (up + self.shift if self.shift else up)

    def __call__(self, x: Floats, team: ThreadPool, length: int | None = None) -> Floats:  # noqa: ARG002  # as Attention
        """What it adds to the stream."""
        h, gate = self.up(x, team), None if self.gate is None else self.gate(x, team)
        for first in range(0, len(x), _ROWS_AT_ONCE):  # in place: it is the largest thing there is
            rows = slice(first, first + _ROWS_AT_ONCE)
            h[rows] = self.hidden(h[rows], None if gate is None else gate[rows])
        return self.down(h if self.sub_norm is None else self.sub_norm(h), team)


@dataclass(frozen=True, slots=True)
class Router:
    """Which `used` experts a row goes to, and how much each of them counts.

    `score` makes scores of the logits. `select_bias` counts for the choice alone. Of `groups` of experts only the best
    `groups_used` are chosen from (DeepSeek): a group is as good as its `group_best` best experts together.
    `normalize`: the chosen weights sum to one, times `scale`. `jitter` is sparsemixer's (Phi-3.5-MoE), which takes one
    expert after the other. `inputs`: the weight is put on what an expert gets, not on what it gives (Llama 4).
    """

    linear: Linear
    used: int
    normalize: bool = True
    score: Activation = softmax
    select_bias: Floats | None = None
    scale: float = 1.0
    groups: int = 1
    groups_used: int = 1
    group_best: int = 2
    jitter: float | None = None
    inputs: bool = False

    def weights(self, x: Floats, team: ThreadPool) -> Floats:
        """How much each expert counts for each row, (rows, experts); most are 0."""
        logits = self.linear(x, team)
        if self.jitter is not None:
            return _sparsemixer(logits, self.used, self.jitter)
        scores = self.score(logits)
        choice = self._in_best_groups(scores if self.select_bias is None else scores + self.select_bias)
        first = np.argsort(-choice, axis=1, kind="stable")[:, : self.used]
        chosen = np.zeros_like(scores)
        np.put_along_axis(chosen, first, np.take_along_axis(scores, first, axis=1), axis=1)
        if self.normalize:
            chosen /= chosen.sum(axis=1, keepdims=True) + np.float32(1e-20)
        return chosen * np.float32(self.scale)

    def _in_best_groups(self, choice: Floats) -> Floats:
        if self.groups_used >= self.groups:
            return choice
        grouped = choice.reshape(len(choice), self.groups, -1)
        merit = np.sort(grouped, axis=2)[:, :, -self.group_best :].sum(axis=2)
        worst = np.argsort(-merit, axis=1, kind="stable")[:, self.groups_used :]
        grouped = grouped.copy()
        np.put_along_axis(grouped, worst[:, :, None], -np.inf, axis=1)
        return grouped.reshape(choice.shape)


def _sparsemixer(logits: Floats, used: int, jitter: float) -> Floats:
    """Sparsemixer (Liu et al. 2024): each expert's share is among those close to it that are not yet chosen."""
    chosen, left = np.zeros_like(logits), logits.copy()
    for _ in range(used):
        best = left.argmax(axis=1)[:, None]
        highest = np.take_along_axis(left, best, axis=1)
        far = (highest - logits) / np.maximum(np.abs(logits), highest) > 2 * jitter
        share = softmax(np.where(far, -np.inf, left))
        np.put_along_axis(chosen, best, np.take_along_axis(share, best, axis=1), axis=1)
        np.put_along_axis(left, best, -np.inf, axis=1)
    return chosen


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture: each row goes to the experts that the router chooses; `shared` sees every row.

    Without a router the mean of all experts counts. `scale` is put on all that is given.
    """

    router: Router | None
    experts: Sequence[FeedForward]
    shared: FeedForward | None = None
    shared_gate: Linear | None = None
    scale: float = 1.0

    def weights(self, x: Floats, team: ThreadPool) -> Floats:
        """How much each expert counts for each row, (rows, experts)."""
        if self.router is None:
            return np.full((len(x), len(self.experts)), 1 / len(self.experts), np.float32)
        return self.router.weights(x, team)

    def __call__(self, x: Floats, team: ThreadPool, length: int | None = None) -> Floats:  # noqa: ARG002  # as Attention
        """What it adds to the stream."""
        weights = self.weights(x, team)
        inputs = self.router is not None and self.router.inputs
        total = np.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = np.flatnonzero(weights[:, number])
            weight = weights[rows, number, None]
            if len(rows):
                total[rows] += expert(x[rows] * weight, team) if inputs else weight * expert(x[rows], team)
        total = total if self.shared is None else total + self._shared(self.shared, x, team)
        return total if self.scale == 1 else total * np.float32(self.scale)

    def _shared(self, shared: FeedForward, x: Floats, team: ThreadPool) -> Floats:
        given = shared(x, team)
        return given if self.shared_gate is None else given * sigmoid(self.shared_gate(x, team))
