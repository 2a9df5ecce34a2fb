"""What the page says, as JSON values: the model, its stacks with their scores, its components."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from rewriter.architectures.lookup import Stack
from rewriter.checkpoint import Checkpoint
from rewriter.errors import RequestError, UnsupportedError, printable
from rewriter.layout import make_output
from rewriter.planning.model import Model
from rewriter.planning.open_model import open_model
from rewriter.planning.options import PlanOptions
from rewriter.planning.selection.published_orders import PREFIX, RECIPES, Recipe, strategy_of
from rewriter.planning.selection.strategies import STRATEGIES, Strategy
from rewriter.report.choices import choices
from rewriter.report.json_values import describe, describe_component
from rewriter.report.plot import about_bars, bar_lengths
from rewriter.scoring.components import component_sizes, components
from rewriter.scoring.metrics import METRICS, find_metric
from rewriter.scoring.score import DEFAULTS, Scores, ScoringProgress, score_model
from rewriter.scoring.suggest import by_scores

_LONGEST = 1000  # characters of a text that is shown
Commands = Callable[[tuple[str, ...]], dict[str, str]]


def describe_report(
    checkpoint: Checkpoint,
    name: str,
    metrics: Sequence[str] | None,
    options: PlanOptions,
    commands: Commands,
    on_progress: ScoringProgress = lambda metric, share: None,
) -> dict[str, Any]:
    """Everything that the page shows. `name` is what an output would be called.

    metrics: those to compute; none at all where empty, where None those of `DEFAULTS` that apply.
    commands(words): the commands with `words` among their arguments, ready to be pasted.
    on_progress(metric, share): called during the scoring with the share done, from 0 to 1.

    Raises RequestError for an unknown metric, CheckpointError for a damaged file.
    """
    for metric in metrics or ():
        find_metric(metric)
    model, why = _opened(checkpoint, options)
    described = describe(checkpoint, model.architecture if model else None)
    rows = described["stacks"]
    if model is None:
        described["stacks"] = [{**row, "choices": None, "why": why, "metrics": [], "unscored": []} for row in rows]
    else:
        described["stacks"] = [
            {
                **row,
                **_stack(each, name, DEFAULTS if metrics is None else metrics, on_progress),
                "commands": commands(() if each.is_main else ("--stack", each.stack.name)),
            }
            for row, each in zip(rows, map(model.of, model.stacks), strict=True)
        ]
    described["components"], described["unmeasured"] = _components(checkpoint, model, metrics != ())
    return {key: _safe(value) for key, value in described.items() if key != "provenance"}


def _opened(checkpoint: Checkpoint, options: PlanOptions) -> tuple[Model | None, str]:
    """The model, or why nothing can be dropped."""
    try:
        return open_model(checkpoint, options), ""
    except UnsupportedError as error:
        return None, str(error)


def _stack(model: Model, name: str, metrics: Sequence[str], on_progress: ScoringProgress) -> dict[str, Any]:
    """The scores of the stack, and what decides about its layers."""
    checkpoint, stack = model.checkpoint, model.stack
    recipes, scored, unscored = _recipes(checkpoint, stack), [], []
    strategies: dict[str, Strategy | None] = dict.fromkeys(STRATEGIES)
    strategies |= {PREFIX + each.name: strategy_of(each, checkpoint, stack.count) for each in recipes}
    for metric in dict.fromkeys(metrics):
        try:
            scores = score_model(model, metric, on_progress=on_progress)
        except UnsupportedError as error:
            unscored.append({"name": metric, "why": str(error)})
            continue
        scored.append(_scored(scores))
        strategies[metric] = by_scores(model, scores)
    decided = choices(model, strategies, lambda plan: make_output(plan, name).nbytes)
    return {
        "choices": decided,
        "why": decided["refused"],
        "recipes": [
            {"name": PREFIX + each.name, "about": f"{each.paper}, for {each.model}", "order": each.order}
            for each in recipes
        ],
        "metrics": scored,
        "unscored": unscored,
    }


def _recipes(checkpoint: Checkpoint, stack: Stack) -> list[Recipe]:
    """The published orders for a model of this shape."""
    found = []
    for recipe in RECIPES.values():
        with suppress(RequestError):
            strategy_of(recipe, checkpoint, stack.count)
            found.append(recipe)
    return found


def _scored(scores: Scores) -> dict[str, Any]:
    values = list(scores.values)
    return {
        "name": scores.metric,
        "about": _about(METRICS[scores.metric]),
        "scores": values,
        "ranks": [each.rank for each in scores.layers],
        "bars": about_bars(values).removeprefix("bars: "),
        "lengths": [round(length, 4) for length in bar_lengths(values)],
    }


def _about(function: Callable[..., object]) -> str:
    """The first line of a docstring: what a strategy or a metric does."""
    return (function.__doc__ or "").strip().partition("\n")[0].replace("`", "")


def strategies() -> list[dict[str, str]]:
    """The strategies by position."""
    return [{"name": name, "about": _about(function)} for name, function in STRATEGIES.items()]


def _components(checkpoint: Checkpoint, model: Model | None, measured: bool) -> tuple[list[dict[str, Any]], str]:
    """The components with how large their weights are, or only their sizes and why."""
    stacks = model.stacks if model else ()
    if measured and model:
        try:
            return [describe_component(each) for each in components(model)], ""
        except UnsupportedError as error:
            return [describe_component(each) for each in component_sizes(checkpoint, stacks)], str(error)
    return [describe_component(each) for each in component_sizes(checkpoint, stacks)], ""


def _safe(value: Any) -> Any:
    """The same with every text safe to show: a name from a file could hide what stands beside it."""
    if isinstance(value, str):
        return printable(value, _LONGEST)
    if isinstance(value, dict):  # commands are quoted, and must stay as they are
        return {key: item if key == "commands" else _safe(item) for key, item in value.items()}
    return [_safe(item) for item in value] if isinstance(value, list | tuple) else value
