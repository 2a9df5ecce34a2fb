"""Layer importance from weights alone: one function each. Its docstring is its help text and its row in the docs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rewriter.errors import RequestError, did_you_mean, printable
from rewriter.planning.selection.strategies import STRATEGIES, scoreless
from rewriter.scoring.metrics.influence import influence
from rewriter.scoring.metrics.residual_stream import stream_influence, stream_removal
from rewriter.scoring.metrics.sampled_text import sampled_greedy, sampled_removal
from rewriter.scoring.metrics.spectra import alpha, spectral_entropy, stable_rank
from rewriter.scoring.metrics.weight_statistics import lamp, magnitude_l1, magnitude_l2, neighbour_cosine, variance
from rewriter.scoring.model import ScoringModel

Metric = Callable[[ScoringModel], list[float]]

METRICS: dict[str, Callable[..., list[float]]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        sampled_greedy, sampled_removal, stream_influence, stream_removal, influence, magnitude_l1, magnitude_l2,
        variance, lamp, stable_rank, spectral_entropy, alpha, neighbour_cosine,
    )
}  # fmt: skip


def find_metric(name: str, sparsity: float | None = None) -> Metric:
    """The metric called `name`. Raises RequestError naming the others."""
    if name in STRATEGIES:
        raise scoreless(name)
    if name not in METRICS:
        hint = did_you_mean(name, [*METRICS, *STRATEGIES])
        raise RequestError(
            f"nothing to choose by is called '{printable(name)}'; there are the metrics {', '.join(METRICS)}, by "
            f"position "
            f"{', '.join(STRATEGIES)}, and recipe:NAME{hint}"
        )
    if sparsity is None:
        return METRICS[name]
    if name != "lamp":
        raise RequestError("--sparsity goes with --metric lamp")
    if not 0 < sparsity < 1:
        raise RequestError(f"--sparsity {sparsity:g}: write a number between 0 and 1, such as 0.8")
    return partial(lamp, sparsity=sparsity)
