"""The layers that a metric scores: their weights, and their residual stream if it is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rewriter.errors import UnsupportedError
from rewriter.formats.dequantize import WeightMatrix
from rewriter.scoring.forward.residual_stream import ResidualStream
from rewriter.system.signals import STOP
from rewriter.system.threads import ThreadPool


@dataclass(frozen=True, slots=True)
class ScoringModel:
    """The layers of one stack. `layers`: for each what follows its number in the names -> the weight.

    `stream` is None if it is not known what these layers compute, and `why` is the reason. `on_progress(share)` is
    called with the share of the work that is done.
    """

    layers: tuple[Mapping[str, WeightMatrix], ...]
    team: ThreadPool
    stream: ResidualStream | None = None
    why: str = ""
    on_progress: Callable[[float], None] = lambda share: None

    def steps(self, count: float) -> Callable[[], None]:
        """A function to call after each of about `count` steps that take equally long."""
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            STOP.check()
            self.on_progress(min(1.0, done / count))

        return step

    def numbers(self) -> Iterator[int]:
        """The layers' numbers, one after the other: a metric has done with one when it asks for the next."""
        step = self.steps(len(self.layers))
        for number in range(len(self.layers)):
            yield number
            step()

    def known_stream(self) -> ResidualStream:
        """The stream. Raises UnsupportedError if there is none."""
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
