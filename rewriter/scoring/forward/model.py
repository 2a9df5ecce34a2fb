"""What a metric sees of a checkpoint: the weights of each layer, and where it is known, the stream through them.

Shapes: the stream is (rows, width).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rewriter.errors import UnsupportedError
from rewriter.formats.dequantize import WeightMatrix
from rewriter.scoring.forward.layers import Attention, Block
from rewriter.scoring.forward.primitives import Floats, Linear, Norm
from rewriter.scoring.threads import Team


def evenly(count: int, vocabulary: int) -> NDArray[np.intp]:
    """`count` tokens of the vocabulary, or all of it, evenly spaced."""
    count = min(count, vocabulary)
    return np.asarray((np.arange(count) * vocabulary) // count + vocabulary // (2 * count))


@dataclass(frozen=True, slots=True)
class Stream:
    """The residual stream of a stack: what enters, what each layer does, and how it is read at the end.

    `enter(tokens)` gives the rows that enter the first layer for tokens below `vocabulary`, (sequences, length), at the
    first positions. `head` turns normalised rows into logits, after
    `narrowed` has made them as wide as the embedding (OPT-350m).
    """

    enter: Callable[[NDArray[np.intp]], Floats]
    vocabulary: int
    blocks: tuple[Block, ...]
    norm: Norm | None
    head: Linear | None
    narrowed: Linear | None = None
    softcap: float = 0.0
    logit_scale: float = 1.0

    @property
    def looks(self) -> bool:
        """Whether it is known in every layer where tokens look."""
        bodies = [block.attention.body for block in self.blocks]
        return all(isinstance(body, Attention) and body.look is not None for body in bodies)

    @property
    def causal(self) -> bool:
        """Whether tokens see only those before them, so that text can go on."""
        body = self.blocks[0].attention.body
        return self.head is not None and isinstance(body, Attention) and body.look is not None and body.look.causal

    @property
    def embedding_power(self) -> float:
        """Mean square of the embedding as it enters."""
        rows = self.start(4096)
        return float(np.einsum("ij,ij->", rows, rows, dtype=np.float64) / rows.size)

    def start(self, count: int) -> Floats:
        """Rows of the embedding, evenly spaced over the vocabulary, as one sequence."""
        return self.enter(evenly(count, self.vocabulary)[None, :])

    def logits(self, x: Floats, team: Team) -> Floats:
        """What the model would say, (rows, vocabulary); without a head the normalised rows."""
        x = x if self.norm is None else self.norm(x)
        if self.head is None:
            return x
        y = self.head(x if self.narrowed is None else self.narrowed(x, team), team)
        y *= np.float32(self.logit_scale)  # in its place: with a large vocabulary it is the largest thing there is
        if self.softcap:
            y /= self.softcap
            np.tanh(y, out=y)
            y *= np.float32(self.softcap)
        return y


@dataclass(frozen=True, slots=True)
class Model:
    """The layers of one stack. `layers`: for each what follows its number in the names -> the weight.

    `stream` is None where nobody has described what these layers compute, and `why` says what is in the way.
    `told(share)` hears how much of the work is done.
    """

    layers: tuple[Mapping[str, WeightMatrix], ...]
    team: Team
    stream: Stream | None = None
    why: str = ""
    told: Callable[[float], None] = lambda share: None

    def steps(self, count: float) -> Callable[[], None]:
        """What is to be called after each of about `count` steps that take equally long."""
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            self.told(min(1.0, done / count))

        return step

    def numbers(self) -> Iterator[int]:
        """The layers' numbers, one after the other: a metric has done with one when it asks for the next."""
        step = self.steps(len(self.layers))
        for number in range(len(self.layers)):
            yield number
            step()

    def described(self) -> Stream:
        """The stream. Raises UnsupportedError where there is none."""
        if self.stream is None:
            raise UnsupportedError(f"this metric follows the residual stream, and here it cannot: {self.why}")
        return self.stream

    def matrices(self, layer: int) -> list[WeightMatrix]:
        """The layer's weights with two axes or more, each matrix of a stack on its own, in the order of the file."""
        found: list[WeightMatrix] = []
        for weight in self.layers[layer].values():
            if len(weight.shape) == 2 and min(weight.shape) > 1:
                found.append(weight)
            elif len(weight.shape) == 3 and min(weight.shape[1:]) > 1:
                found += [weight.part(index) for index in range(weight.shape[0])]
        return found
