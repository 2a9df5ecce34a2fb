"""What was asked for, and how it becomes a plan."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rewriter.checkpoint import Checkpoint
from rewriter.errors import RequestError
from rewriter.layout import make_output
from rewriter.planning.model import Model
from rewriter.planning.open_model import open_model
from rewriter.planning.option import options_of
from rewriter.planning.options import LayerSelection, PlanOptions
from rewriter.planning.plan import Plan, plan_model
from rewriter.planning.saved_plan import SavedPlan, replan
from rewriter.planning.selection.choose import check_request, choose
from rewriter.planning.selection.strategies import COUNTS_KEPT
from rewriter.scoring.suggest import Suggestion, check_strategy, strategy_for, suggest

if TYPE_CHECKING:
    from rewriter.scoring.score import ScoringProgress


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """What was asked for: which layers, and what else matters for the plan."""

    selection: LayerSelection
    options: PlanOptions

    def plan(
        self,
        checkpoint: Checkpoint,
        name: str,
        notify: Callable[[str], None] = lambda text: None,
        on_progress: ScoringProgress = lambda metric, share: None,
    ) -> Plan:
        """The plan for `checkpoint`; `name` is what the output will be called.

        `notify(line)` is called with what a user should know, `on_progress(metric, share)` during the scoring.
        """
        model = open_model(checkpoint, self.options)
        stack = model.stack
        if self.options.reshards and self.selection == LayerSelection():  # nothing goes, only the files are others
            return plan_model(model, range(stack.count))
        self.check()
        strategy, scores = strategy_for(self.selection, model, on_progress)
        if scores is not None:
            notify(f"scored by {scores.metric}" + (f" ({scores.why})" if scores.why else ""))
        size_of = output_size(model, name)
        kept = choose(self.selection, stack.count, size_of, stack.mtp_layers, strategy)
        gone = stack.count - sum(layer < stack.count for layer in kept)
        if 2 * gone > stack.count and self.selection.strategy not in COUNTS_KEPT:  # a draft model is to be small
            notify(f"note: {gone} of {stack.count} layers go: more than half; expect the model to need training")
        dropped = stack.mtp_layers and kept[-1] < stack.count and self.selection.drop is not None
        chosen_by = scores.metric if scores is not None else self.selection.strategy or ""
        model = model.with_options(chosen_by=chosen_by, drop_mtp=bool(dropped) or model.options.drop_mtp)
        return plan_model(model, kept)

    def check(self) -> None:
        """Raise RequestError for what is wrong whatever it is asked of."""
        if self.options.reshards and self.selection == LayerSelection():
            return
        check_request(self.selection)
        check_strategy(self.selection)

    def file_layout_options(self) -> dict[str, Any]:
        """The options on the output's files: they may be given beside a saved plan. Raises RequestError for others."""
        given = {
            each: getattr(part, each.field)
            for part in (self.selection, self.options)
            for each in options_of(type(part))
            if getattr(part, each.field) != each.default
        }
        others = [each.flag() for each in given if not each.beside_plan]
        if others:
            raise RequestError(
                f"--plan says which layers stay and by which rules: {', '.join(others)} cannot be combined with it, "
                "plan again with it"
            )
        return {each.field: value for each, value in given.items()}

    def suggestion(
        self, model: Model, name: str, on_progress: ScoringProgress = lambda metric, share: None
    ) -> Suggestion:
        """The scores of the layers and what to drop, a quarter unless an amount was asked for."""
        if self.selection.drop is not None or self.selection.keep is not None:
            raise RequestError("score suggests layers: --drop and --keep name them already")
        return suggest(model, self.selection, output_size(model, name), on_progress)


def output_size(model: Model, name: str) -> Callable[[tuple[int, ...]], int]:
    """A function from the kept layers to the exact size of the output called `name`, in bytes."""
    return functools.cache(lambda kept: make_output(plan_model(model, kept), name).nbytes)


def replan_with_file_options(saved: SavedPlan, checkpoint: Checkpoint, request: PruneRequest) -> tuple[Plan, bool]:
    """`replan`, where `request` may say how the files shall look. Raises RequestError where it says more."""
    layout_options = request.file_layout_options()
    plan, same = replan(saved, checkpoint)
    if not layout_options:
        return plan, same
    if request.options.reshards:  # one way to put tensors into files takes the place of the other
        layout_options = {
            **layout_options,
            "max_size": request.options.max_size,
            "single_file": request.options.single_file,
        }
    return plan_model(plan.model.with_options(**layout_options), saved.kept), same
