"""What a metric sees of a checkpoint: the weights of each layer, and where it is known, what a layer computes.

Everything here is numpy arrays and functions of them. Shapes: the stream is (rows, width), a projection's matrix
(outputs, inputs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rewriter.errors import UnsupportedError
from rewriter.formats.decode import Weight

Floats = NDArray[Any]  # float32
Activation = Callable[[NDArray[Any]], NDArray[Any]]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Team:
    """Threads that share work. Results come in the order of the items: they do not depend on the number of threads."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers) if workers > 1 else None

    def map(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """`function` of every item."""
        return list(map(function, items) if self._pool is None else self._pool.map(function, items))

    def close(self) -> None:
        """Let the threads go."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


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

    weight: Weight
    bias: Floats | None = None
    transposed: bool = False
    rows: NDArray[np.intp] | None = None

    def matrix(self) -> Floats:
        """The whole matrix, (outputs, inputs)."""
        whole = self.weight.whole()
        whole = whole.T if self.transposed else whole
        return whole if self.rows is None else whole[self.rows]

    @property
    def offsets(self) -> Floats | None:
        """The bias of the outputs that count."""
        return self.bias if self.bias is None or self.rows is None else self.bias[self.rows]

    def __call__(self, x: Floats, team: Team) -> Floats:
        """Project each row of `x`, (rows, inputs) -> (rows, outputs). Only some rows of the matrix are in memory."""
        weight, chunks = self.weight, list(self.weight.chunks())
        if self.transposed:
            parts = team.map(lambda span: x[:, span[0] : span[1]] @ weight.read(*span), chunks)
            y = np.add.reduce(parts, dtype=np.float32)
        else:
            y = np.concatenate(team.map(lambda span: x @ weight.read(*span).T, chunks), axis=1)
        y = y if self.rows is None else y[:, self.rows]
        offsets = self.offsets
        return y if offsets is None else y + offsets


@dataclass(frozen=True, slots=True)
class Attention:
    """The value path of attention: what a token's own value adds. Scores, positions and masks are left out.

    `expand` repeats the values of a group for each of its heads. With `latent` (multi-head latent attention) `value`
    gives the latent, `norm` normalises it, and `latent` makes values of it.
    """

    value: Linear
    output: Linear
    expand: NDArray[np.intp] | None = None
    norm: Norm | None = None
    latent: Linear | None = None
    sub_norm: Norm | None = None

    def values(self, x: Floats, team: Team) -> Floats:
        """The values of each row, one for every head, (rows, inputs of the output projection)."""
        v = self.value(x, team)
        if self.latent is not None:
            v = self.latent(v if self.norm is None else self.norm(v), team)
        return v if self.expand is None else v[:, self.expand]

    def __call__(self, x: Floats, team: Team) -> Floats:
        """What attention adds to the stream if every token attends to itself."""
        v = self.values(x, team)
        return self.output(v if self.sub_norm is None else self.sub_norm(v), team)


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

    def __call__(self, x: Floats, team: Team) -> Floats:
        """What it adds to the stream."""
        h = self.hidden(self.up(x, team), None if self.gate is None else self.gate(x, team))
        h = h.astype(np.float32, copy=False)
        return self.down(h if self.sub_norm is None else self.sub_norm(h), team)


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture: each row goes to the `used` experts that the router scores highest; `shared` sees every row.

    `sigmoid`: scores are sigmoids, else a softmax. `select_bias` counts for the choice alone. `normalise`: the chosen
    weights sum to one, times `scale`. Without a router the mean of all experts counts. Groups of experts are left out.
    """

    router: Linear | None
    experts: Sequence[FeedForward]
    used: int
    normalise: bool = True
    sigmoid: bool = False
    select_bias: Floats | None = None
    scale: float = 1.0
    shared: FeedForward | None = None
    shared_gate: Linear | None = None

    def weights(self, x: Floats, team: Team) -> Floats:
        """How much each expert counts for each row, (rows, experts); most are 0."""
        if self.router is None:
            return np.full((len(x), len(self.experts)), 1 / len(self.experts), np.float32)
        logits = self.router(x, team)
        scores = 1 / (1 + np.exp(-logits)) if self.sigmoid else softmax(logits)
        choice = scores if self.select_bias is None else scores + self.select_bias
        first = np.argsort(-choice, axis=1, kind="stable")[:, : self.used]
        chosen = np.zeros_like(scores)
        np.put_along_axis(chosen, first, np.take_along_axis(scores, first, axis=1), axis=1)
        if self.normalise:
            chosen /= chosen.sum(axis=1, keepdims=True) + 1e-20
        return chosen * np.float32(self.scale)

    def __call__(self, x: Floats, team: Team) -> Floats:
        """What it adds to the stream."""
        weights = self.weights(x, team)
        total = np.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = np.flatnonzero(weights[:, number])
            if len(rows):
                total[rows] += weights[rows, number, None] * expert(x[rows], team)
        if self.shared is not None:
            more = self.shared(x, team)
            if self.shared_gate is not None:
                more = more / (1 + np.exp(-self.shared_gate(x, team)))
            total += more
        return total


@dataclass(frozen=True, slots=True)
class Branch:
    """One thing that a layer adds: normalised before, or after, or both; `closing` norms the stream after it (BERT)."""

    body: Attention | FeedForward | Experts
    before: Norm | None = None
    after: Norm | None = None
    closing: Norm | None = None

    def __call__(self, x: Floats, share: float, multiplier: float, team: Team) -> Floats:
        """The stream with this added; `share` scales what the body gives before it is normalised."""
        update = self.update(x, share, multiplier, team)
        return x + update if self.closing is None else self.closing(x + update)

    def update(self, x: Floats, share: float, multiplier: float, team: Team) -> Floats:
        """What is added."""
        given = self.body(x if self.before is None else self.before(x), team) * np.float32(share)
        return (given if self.after is None else self.after(given)) * np.float32(multiplier)


@dataclass(frozen=True, slots=True)
class Block:
    """What a layer computes: attention, then feed-forward, or both at once (`parallel`)."""

    attention: Branch
    feed_forward: Branch
    parallel: bool = False
    multiplier: float = 1.0

    def __call__(self, x: Floats, share: float, team: Team) -> Floats:
        """The stream after the layer. `share` is what is left of a value once many tokens have been averaged."""
        if self.parallel:
            added = self.attention.update(x, share, self.multiplier, team)
            return x + added + self.feed_forward.update(x, 1, self.multiplier, team)
        x = self.attention(x, share, self.multiplier, team)
        return self.feed_forward(x, 1, self.multiplier, team)


@dataclass(frozen=True, slots=True)
class Stream:
    """The residual stream of a stack: what enters, what each layer does, and how it is read at the end.

    `start(count)` gives `count` rows of what enters the first layer. `head` turns normalised rows into logits.
    """

    start: Callable[[int], Floats]
    blocks: tuple[Block, ...]
    norm: Norm | None
    head: Linear | None
    softcap: float = 0.0
    logit_scale: float = 1.0
    embedding_power: Callable[[], float] = lambda: 1.0  # mean square of the whole embedding, as it enters

    def logits(self, x: Floats, team: Team) -> Floats:
        """What the model would say, (rows, vocabulary); without a head the normalised rows."""
        x = x if self.norm is None else self.norm(x)
        if self.head is None:
            return x
        y = self.head(x, team) * np.float32(self.logit_scale)
        return np.tanh(y / self.softcap) * np.float32(self.softcap) if self.softcap else y


@dataclass(frozen=True, slots=True)
class Model:
    """The layers of one stack. `layers`: for each what follows its number in the names -> the weight.

    `stream` is None where nobody has described what these layers compute, and `why` says what is in the way.
    """

    layers: tuple[Mapping[str, Weight], ...]
    team: Team
    stream: Stream | None = None
    why: str = ""

    def described(self) -> Stream:
        """The stream. Raises UnsupportedError where there is none."""
        if self.stream is None:
            raise UnsupportedError(f"this metric follows the residual stream, and here it cannot: {self.why}")
        return self.stream

    def matrices(self, layer: int) -> list[Weight]:
        """The layer's weights with two axes or more, each matrix of a stack on its own, in the order of the file."""
        found: list[Weight] = []
        for weight in self.layers[layer].values():
            if len(weight.shape) == 2 and min(weight.shape) > 1:
                found.append(weight)
            elif len(weight.shape) == 3 and min(weight.shape[1:]) > 1:
                found += [weight.part(index) for index in range(weight.shape[0])]
        return found


def softmax(logits: Floats) -> Floats:
    """Along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return shares
