"""A transformer layer: attention and feed-forward, each with its norms, added to the residual stream.

Shapes: the stream is (rows, width).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rewriter.scoring.forward.attention import Attention
from rewriter.scoring.forward.feed_forward import Experts, FeedForward
from rewriter.scoring.forward.primitives import Floats, Norm
from rewriter.system.threads import ThreadPool


@dataclass(frozen=True, slots=True)
class ResidualBranch:
    """One thing that a layer adds to the stream: body(before(x)), then `after`.

    `closing` normalizes the stream itself once it is added (post-norm, as in BERT).
    """

    body: Attention | FeedForward | Experts
    before: Norm | None = None
    after: Norm | None = None
    closing: Norm | None = None

    def __call__(
        self, x: Floats, share: float, multiplier: float, team: ThreadPool, length: int | None = None
    ) -> Floats:
        """The stream with this added; `share` scales what the body gives before it is normalized."""
        update = self.update(x, share, multiplier, team, length)
        return x + update if self.closing is None else self.closing(x + update)

    def update(self, x: Floats, share: float, multiplier: float, team: ThreadPool, length: int | None = None) -> Floats:
        """What is added."""
        given = self.body(x if self.before is None else self.before(x), team, length) * np.float32(share)
        return (given if self.after is None else self.after(given)) * np.float32(multiplier)


@dataclass(frozen=True, slots=True)
class TransformerLayer:
    """Attention, then feed-forward, or both from the same stream (`parallel`, as GPT-J)."""

    attention: ResidualBranch
    feed_forward: ResidualBranch
    parallel: bool = False
    multiplier: float = 1.0

    def __call__(self, x: Floats, share: float, team: ThreadPool, length: int | None = None) -> Floats:
        """The stream after the layer. `share` is what is left of a value once many tokens have been averaged.

        With a `length` the rows are sequences of so many tokens, which attend to each other if that is known.
        """
        if self.parallel:
            added = self.attention.update(x, share, self.multiplier, team, length)
            return x + added + self.feed_forward.update(x, 1, self.multiplier, team)
        x = self.attention(x, share, self.multiplier, team, length)
        return self.feed_forward(x, 1, self.multiplier, team)
