"""Scores for the layers of a stack, from their weights alone.

A score is importance, whatever the metric: the lowest goes first. It is a prior, not a measurement: what dropping a
layer really costs only a forward pass over real text can say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import isclose, isfinite

import numpy as np

from rewriter.architectures.lookup import Stack
from rewriter.checkpoint import Checkpoint
from rewriter.errors import UnsupportedError, printable
from rewriter.formats.dequantize import WeightMatrix, open_weights, workers
from rewriter.planning.model import Model
from rewriter.planning.open_model import open_model
from rewriter.planning.options import PlanOptions
from rewriter.scoring.build.residual_stream import build_residual_stream
from rewriter.scoring.metrics import find_metric
from rewriter.scoring.model import ScoringModel
from rewriter.scoring.threads import scoring_threads
from rewriter.system.threads import ThreadPool

# The metrics to take where none is asked for: the first one that applies. docs/metrics.md has the measurements.
DEFAULTS = ("sampled-greedy", "influence", "magnitude-l1")


ScoringProgress = Callable[[str, float], None]  # called with the metric and the share of its work done, 0 to 1


@dataclass(frozen=True, slots=True)
class LayerScore:
    """`score` is importance; `rank` counts from 1 for the lowest, which goes first."""

    layer: int
    score: float
    rank: int


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of every layer of a stack, in order.

    `why` says why the first default was not used, if so, and whether all scores are the same.
    """

    metric: str
    stack: str
    layers: tuple[LayerScore, ...]
    why: str = ""

    @property
    def values(self) -> tuple[float, ...]:
        """The scores alone."""
        return tuple(each.score for each in self.layers)


def score_layers(
    checkpoint: Checkpoint,
    metric: str | None = None,
    options: PlanOptions | None = None,
    sparsity: float | None = None,
    threads: int | None = None,
    on_progress: ScoringProgress = lambda metric, share: None,
) -> Scores:
    """Score every layer of the stack that `options` name with `metric`, or with the default.

    Raises RequestError for an unknown metric and for a sparsity that it does not take, UnsupportedError where it
    does not apply or the weights cannot be decoded, CheckpointError for a damaged file. The scores do not depend on
    `threads`. `on_progress(metric, share)` is called with the share of the work done, from 0 to 1.
    """
    return score_model(open_model(checkpoint, options), metric, sparsity, threads, on_progress)


def score_model(
    model: Model,
    metric: str | None = None,
    sparsity: float | None = None,
    threads: int | None = None,
    on_progress: ScoringProgress = lambda metric, share: None,
) -> Scores:
    """As score_layers, for a model that is open already: the layers of its stack."""
    chosen = [metric] if metric is not None else list(DEFAULTS)
    functions = [find_metric(name, sparsity) for name in chosen]
    with _opened(model, threads or workers()) as scoring:
        why = ""
        for name, function in zip(chosen, functions, strict=True):
            try:
                with np.errstate(all="ignore"), _fitting():  # what is not finite is said below
                    values = function(replace(scoring, on_progress=partial(on_progress, name)))
            except UnsupportedError as error:
                if name == chosen[-1]:
                    raise
                why = why or f"{name} does not apply: {scoring.why or error}"
                continue
            return _scores(name, model.stack, values, why)
    raise AssertionError("the last one returns or raises")  # pragma: no cover


@contextmanager
def _opened(model: Model, threads: int) -> Iterator[ScoringModel]:
    with open_weights(model.checkpoint) as weights, scoring_threads(threads) as team:
        yield _described(model, weights, team)


@contextmanager
def _fitting() -> Iterator[None]:
    """numpy raises ValueError where arrays do not fit: here, where shapes are not those of the architecture."""
    try:
        yield
    except ValueError as error:
        raise UnsupportedError(f"the shapes of the weights do not fit together: {printable(error)}") from None


def _described(model: Model, weights: Mapping[str, WeightMatrix], team: ThreadPool) -> ScoringModel:
    stack = model.stack
    layers: list[dict[str, WeightMatrix]] = [{} for _ in range(stack.count)]
    for name, weight in weights.items():
        number = stack.layer_of(name)
        if number is not None and number < stack.count:
            layers[number][stack.after(name, number)[1:]] = weight
    try:
        with _fitting():
            return ScoringModel(tuple(layers), team, build_residual_stream(model, weights))
    except UnsupportedError as error:
        return ScoringModel(tuple(layers), team, None, str(error))


def _scores(metric: str, stack: Stack, values: Sequence[float], why: str) -> Scores:
    strange = [layer for layer, value in enumerate(values) if not isfinite(value)]
    if strange:  # one layer spoils the scores of others where a metric compares them
        which = f"layer {strange[0]}" if len(strange) == 1 else f"{len(strange)} of {len(values)} layers"
        raise UnsupportedError(
            f"{metric} gives no number for {which}: there are weights that are infinite, not numbers, or far too large"
        )
    if len(values) > 1 and isclose(min(values), max(values)):
        why = "; ".join(filter(None, (why, f"all scores are equal: {metric} cannot tell these layers apart")))
    order = sorted(range(len(values)), key=lambda layer: (values[layer], layer))
    ranks = {layer: rank for rank, layer in enumerate(order, 1)}
    layers = tuple(LayerScore(layer, float(value), ranks[layer]) for layer, value in enumerate(values))
    return Scores(metric, stack.name, layers, why)
