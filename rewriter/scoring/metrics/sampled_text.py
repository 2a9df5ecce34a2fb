"""How much the predictions on text that the model generates itself change without a layer: no data is needed.

Half of the sequences are tokens from all over the vocabulary. The other half are short pieces of generated text: each
token is drawn from the prediction after the one before, seen alone (self-generated calibration text: Williams et al.
2024, "Self-calibration for language model quantization and pruning"). Both are read with the model's real attention.
Bidirectional models cannot continue a text: they read tokens from all over the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from rewriter.errors import UnsupportedError
from rewriter.scoring.forward.primitives import Floats, softmax
from rewriter.scoring.forward.residual_stream import ResidualStream
from rewriter.scoring.metrics.residual_stream import KAPPA, distance
from rewriter.scoring.model import ScoringModel

SEQUENCES, LENGTH = 16, 32  # how much is read: docs/metrics.md has what less gives
_PIECE = 8  # tokens of the model's own in a piece
_BURN_IN = 4  # tokens drawn and forgotten before a piece: the first ones are not typical of the model
_SHORTLIST = 4  # layers that are tried in each step of sampled_greedy: those that cost least in the step before
_GOLDEN = (5**0.5 - 1) / 2
_REST = 0.7  # of the layers come after the first that is gone, as a rule: only to say how long it takes
_GREEDY_SHARE = 3 / 8  # of the layers that sampled_greedy takes out one by one; the others follow by their single cost


def sampled_removal(model: ScoringModel) -> list[float]:
    """How much the prediction of text sampled from the model changes without the layer (ours)."""
    reading = _Reading(model)
    return [reading.cost((layer,)) for layer in range(len(model.layers))]


def sampled_greedy(model: ScoringModel) -> list[float]:
    """As sampled-removal, for layers together: they go one by one, each time the one that then changes it least (ours).

    The score is what the prediction has changed by when the layer goes. The first eighth, the last two, which are
    protected by default, and those beyond three eighths, come after all others, by what each costs alone.
    """
    count = len(model.layers)
    tries = _GREEDY_SHARE * count * (_SHORTLIST + 1)
    reading = _Reading(model, tries * _REST * count)
    alone = [reading.cost((layer,)) for layer in range(count)]
    adds = dict(list(enumerate(alone))[-(-count // 8) : count - 2])  # layer -> what it added when it was last tried
    reached: dict[int, float] = {}
    total = 0.0
    while adds and len(reached) < _GREEDY_SHARE * count:
        if reached:
            _try_again(reading, adds, tuple(reached), total)
        best = min(adds, key=adds.__getitem__)
        total += max(0.0, adds.pop(best))
        reached[best] = total
    return [reached.get(layer, total + cost) for layer, cost in enumerate(alone)]


def _try_again(reading: _Reading, adds: dict[int, float], gone: tuple[int, ...], total: float) -> None:
    """Bring up to date what layers add now: a few, and as many as it takes until the least is one of them."""
    fresh: set[int] = set()
    while len(fresh) < len(adds):
        least = min(adds, key=adds.__getitem__)
        if least in fresh and len(fresh) >= _SHORTLIST:
            return
        layer = min((each for each in adds if each not in fresh), key=adds.__getitem__)
        adds[layer] = reading.cost((*gone, layer)) - total
        fresh.add(layer)


class _Reading:
    """The sampled text, and the prediction of the whole model on it."""

    def __init__(self, model: ScoringModel, more: float = 0.0) -> None:
        """`more` is how many layers will be computed besides those that it takes to leave out each layer once."""
        stream, count = model.known_stream(), len(model.layers)
        if None in stream.attention_weights:
            raise UnsupportedError("this metric reads text, and where these layers look is not known")
        self._model, self._stream = model, stream
        tokens = sampled_tokens(model, stream)
        self._length = tokens.shape[1]
        self._passed = model.steps(count * (count + 1) / 2 + more)
        self._states = [stream.embed(tokens)]  # before each layer of the whole model, and after the last
        for number in range(count):
            self._states.append(self._past(number, self._states[-1]))
        self._reference = stream.logits(self._states[-1], model.team)

    def cost(self, gone: Iterable[int]) -> float:
        """How far the prediction without the layers `gone` is from that of the whole model."""
        gone = set(gone)
        x = self._states[min(gone)]
        for number in range(min(gone) + 1, len(self._stream.layers)):
            if number not in gone:
                x = self._past(number, x)
        return distance(self._stream, self._reference, self._stream.logits(x, self._model.team))

    def _past(self, number: int, x: Floats) -> Floats:
        """The stream after a layer."""
        y = self._stream.layers[number](x, 1.0, self._model.team, self._length)
        self._passed()
        return y


def sampled_tokens(model: ScoringModel, stream: ResidualStream) -> NDArray[np.intp]:
    """The tokens that are read, (sequences, length)."""
    if not stream.causal:
        return _spread(stream, SEQUENCES * LENGTH).reshape(SEQUENCES, LENGTH)
    half = SEQUENCES // 2 * LENGTH
    return np.concatenate((_spread(stream, half), _generated(model, stream, half))).reshape(SEQUENCES, LENGTH)


def _generated(model: ScoringModel, stream: ResidualStream, count: int) -> NDArray[np.intp]:
    """`count` tokens of the model's own text: pieces, drawn at the same time, one after the other."""
    last = _spread(stream, count // _PIECE)
    drawn = [last]
    for step in range(_BURN_IN + _PIECE - 1):
        x = stream.embed(last[:, None]).astype(np.float64)  # so that no other processor draws another text
        for layer in stream.layers:
            x = layer(x, KAPPA**0.5, model.team)
        last = _drawn(stream.logits(x, model.team), step)
        drawn.append(last)
    return np.stack(drawn[_BURN_IN:], axis=1).ravel()


def _drawn(logits: Floats, step: int) -> NDArray[np.intp]:
    """A token for each row. The numbers that decide are a golden-ratio sequence: the same on any machine."""
    at = _evenly(len(logits) * step, len(logits))
    found = [(softmax(row.astype(np.float64)).cumsum() < place).sum() for row, place in zip(logits, at, strict=True)]
    return np.minimum(found, logits.shape[1] - 1)


def _spread(stream: ResidualStream, count: int) -> NDArray[np.intp]:
    """Tokens from all over the vocabulary, no two neighbours alike."""
    return (_evenly(0, count) * stream.vocabulary).astype(np.intp)


def _evenly(first: int, count: int) -> NDArray[np.float64]:
    """Numbers from 0 to 1 of the golden-ratio sequence, from the one at `first`: any run of them lies evenly."""
    return np.asarray((np.arange(count) + first + 0.5) * _GOLDEN % 1)
