"""Which layers to drop by their scores: the least important ones that the architecture lets go together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rewriter.errors import RequestError, UnsupportedError
from rewriter.planning.constraints.allowed_layers import selection_constraints
from rewriter.planning.constraints.constraint import Constraint
from rewriter.planning.constraints.search import cheapest_allowed
from rewriter.planning.metadata.layer_patterns import common_period
from rewriter.planning.model import Model
from rewriter.planning.options import RECIPE, LayerSelection
from rewriter.planning.plan import plan_model
from rewriter.planning.selection.choose import choose, protection
from rewriter.planning.selection.published_orders import RECIPES, find_recipe, strategy_of
from rewriter.planning.selection.strategies import STRATEGIES, Layers, Strategy, scoreless

if TYPE_CHECKING:
    from rewriter.scoring.score import Scores, ScoringProgress

_SHARE = 0.25  # of the layers, to suggest where no amount was asked for
_TRIED = 16  # selections that break no constraint, before it is said that none works


def by_scores(model: Model, scores: Scores, contiguous: bool = False) -> Strategy:
    """A strategy that drops the layers of the lowest scores, as far as `plan_model` lets them go together.

    With `contiguous` they form one block. It raises UnsupportedError where no `count` of the candidates can go.
    """
    model = model.with_options(align=False)  # what is suggested works as it is
    every = tuple(range(model.stack.count))

    def strategy(candidates: Layers, count: int) -> Layers:
        if not count:
            return ()
        refusal: UnsupportedError | None = None
        for kept in _by_cost(candidates, count):
            try:
                made = plan_model(model, kept)
            except UnsupportedError as error:
                refusal = refusal or error
                continue
            return tuple(layer for layer in made.layers.dropped if layer < model.stack.count)
        raise UnsupportedError(f"no {count} of the layers that may go can be dropped together" + _because(refusal))

    def _by_cost(candidates: Layers, count: int) -> Iterator[Layers]:
        if contiguous:
            yield from _blocks(every, candidates, count, scores.values)
            return
        stay = Constraint("", stay=frozenset(every) - frozenset(candidates))
        constraints = (stay, *selection_constraints(model))
        yield from cheapest_allowed(constraints, scores.values, count, _TRIED)
        sure = Constraint("", period=common_period(model))  # where a pattern cannot be said for every selection
        if sure.period > 1:
            yield from cheapest_allowed((*constraints, sure), scores.values, count, _TRIED)

    return strategy


def _because(refusal: UnsupportedError | None) -> str:
    return f": {refusal}" if refusal else ""


def _blocks(every: Layers, candidates: Layers, count: int, costs: tuple[float, ...]) -> list[Layers]:
    """What is kept without each block of `count` candidates in a row, the cheapest block first."""
    there = set(candidates)
    blocks = [range(first, first + count) for first in candidates if there.issuperset(range(first, first + count))]
    ordered = sorted(blocks, key=lambda block: (sum(costs[layer] for layer in block), block[0]))
    return [tuple(layer for layer in every if layer not in block) for block in ordered]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The layers to drop by their scores, and those that were never considered. `refusal` says why none are dropped."""

    scores: Scores
    protected: Layers
    dropped: Layers
    refusal: str = ""

    def shared(self, strategy: str) -> int:
        """How many of the suggested layers a strategy by position would drop as well, under the same protection."""
        candidates = tuple(each.layer for each in self.scores.layers if each.layer not in self.protected)
        try:
            return len(set(STRATEGIES[strategy](candidates, len(self.dropped))) & set(self.dropped))
        except RequestError:
            return 0


def suggest(
    model: Model,
    selection: LayerSelection,
    size_of: Callable[[Layers], int],
    on_progress: ScoringProgress = lambda metric, share: None,
) -> Suggestion:
    """Score the layers and choose among them what `selection` asks for, a quarter where it names no amount.

    Raises as `choose` and `score_model` do; where no amount was asked for, what `choose` says is the `refusal`.
    """
    asked, selection = selection, selection if selection.sized else replace(selection, ratio=_SHARE)
    strategy, scores = strategy_for(selection, model, on_progress)
    if scores is None:
        raise scoreless(selection.strategy or "")
    count = len(scores.layers)
    kept, refusal = tuple(range(count)), ""
    try:
        kept = choose(selection, count, size_of, strategy=strategy)
    except (RequestError, UnsupportedError) as error:
        if asked.sized:
            raise
        refusal = str(error)
    first, last = protection(selection, count)
    ends = tuple(layer for layer in range(count) if layer < first or layer >= count - last)
    return Suggestion(scores, ends, tuple(layer for layer in range(count) if layer not in set(kept)), refusal)


def check_strategy(selection: LayerSelection) -> None:
    """Raise RequestError if `selection` names nothing that chooses layers, or gives a sparsity that does not apply."""
    name = selection.strategy or ""
    if selection.sparsity is not None and not (name and selection.scored):
        raise RequestError("--sparsity is about layers chosen by the metric lamp: --strategy lamp")
    if name.startswith(RECIPE):
        find_recipe(name)
    elif name and selection.scored:
        if name in RECIPES:
            raise RequestError(f"a published order is named with {RECIPE}; did you mean {RECIPE}{name}?")
        from rewriter.scoring.metrics import find_metric  # numpy takes time, and only scores need it

        find_metric(name, selection.sparsity)


def strategy_for(
    selection: LayerSelection,
    model: Model,
    on_progress: ScoringProgress = lambda metric, share: None,
) -> tuple[Strategy | None, Scores | None]:
    """What chooses the layers where position alone does not: a published order, or scores; with the scores.

    A strategy that is neither by position nor a recipe is the name of a metric.
    """
    if (selection.strategy or "").startswith(RECIPE):
        return strategy_of(find_recipe(selection.strategy or ""), model.checkpoint, model.stack.count), None
    if not selection.scored:
        return None, None
    from rewriter.scoring.score import score_model  # numpy takes time, and only scores need it

    scores = score_model(model, selection.strategy, selection.sparsity, on_progress=on_progress)
    return by_scores(model, scores, selection.contiguous), scores
