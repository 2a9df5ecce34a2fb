"""What was asked for, and how it becomes a plan."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rewriter.architectures.lookup import select
from rewriter.checkpoint import Checkpoint
from rewriter.errors import RequestError
from rewriter.layout import make_output
from rewriter.planning.option import options_of
from rewriter.planning.options import LayerSelection, PlanOptions
from rewriter.planning.plan import Plan, make_plan, open_stacks
from rewriter.planning.saved_plan import SavedPlan, plan_again
from rewriter.planning.selection.choose import check_request, choose
from rewriter.planning.selection.strategies import COUNTS_KEPT
from rewriter.scoring.suggest import Suggestion, check_strategy, strategy_for, suggest

if TYPE_CHECKING:
    from rewriter.scoring.score import Watch


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """What was asked for: which layers, and what else matters for the plan."""

    selection: LayerSelection
    options: PlanOptions

    def plan(
        self,
        checkpoint: Checkpoint,
        name: str,
        told: Callable[[str], None] = lambda text: None,
        watch: Watch = lambda metric, share: None,
    ) -> Plan:
        """The plan for `checkpoint`; `name` is what the output will be called.

        `told` hears how layers were scored, and `watch` how far that is.
        """
        stack = select(open_stacks(checkpoint, self.options)[1], self.options.stack)
        if self.options.reshards and self.selection == LayerSelection():  # nothing goes, only the files are others
            return make_plan(checkpoint, range(stack.count), self.options)
        self.check()
        strategy, scores = strategy_for(self.selection, checkpoint, self.options, watch)
        if scores is not None:
            told(f"scored by {scores.metric}" + (f" ({scores.why})" if scores.why else ""))
        size_of = self._sizes(checkpoint, name)
        kept = choose(self.selection, stack.count, size_of, stack.mtp_layers, strategy)
        gone = stack.count - sum(layer < stack.count for layer in kept)
        if 2 * gone > stack.count and self.selection.strategy not in COUNTS_KEPT:  # a draft model is to be small
            told(f"note: {gone} of {stack.count} layers go: more than half; expect the model to need training")
        dropped = stack.mtp_layers and kept[-1] < stack.count and self.selection.drop is not None
        chosen_by = scores.metric if scores is not None else self.selection.strategy or ""
        options = replace(self.options, chosen_by=chosen_by)
        return make_plan(checkpoint, kept, replace(options, drop_mtp=True) if dropped else options)

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

    def suggestion(self, checkpoint: Checkpoint, name: str, watch: Watch = lambda metric, share: None) -> Suggestion:
        """The scores of the layers and what to drop, a quarter unless an amount was asked for."""
        if self.selection.drop is not None or self.selection.keep is not None:
            raise RequestError("score suggests layers: --drop and --keep name them already")
        return suggest(checkpoint, self.selection, self.options, self._sizes(checkpoint, name), watch)

    def _sizes(self, checkpoint: Checkpoint, name: str) -> Callable[[tuple[int, ...]], int]:
        """How large an output would be: exact, so that a target size is met to the byte."""
        return functools.cache(lambda kept: make_output(make_plan(checkpoint, kept, self.options), name).nbytes)


def replan_with_file_options(saved: SavedPlan, checkpoint: Checkpoint, request: PruneRequest) -> tuple[Plan, bool]:
    """`plan_again`, where `request` may say how the files shall look. Raises RequestError where it says more."""
    layout_options = request.file_layout_options()
    plan, same = plan_again(saved, checkpoint)
    if not layout_options:
        return plan, same
    if request.options.reshards:  # one way to put tensors into files takes the place of the other
        layout_options = {
            **layout_options,
            "max_size": request.options.max_size,
            "single_file": request.options.single_file,
        }
    return make_plan(checkpoint, saved.kept, replace(plan.options, **layout_options)), same
