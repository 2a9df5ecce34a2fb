"""What choices of layers weigh: the sums are those of the plans, for every stack of every architecture."""

from __future__ import annotations

from random import Random

import pytest

from rewriter.architectures.lookup import Stack
from rewriter.checkpoint import Checkpoint
from rewriter.errors import RewriterError
from rewriter.planning.metadata.edits import with_list_defaults
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import Plan, make_plan
from rewriter.report.size_model import Fate, Weight, weights
from tests.support.named_stacks import IDS, STACKS


def stays(fate: Fate, kept: set[int]) -> bool:
    left = [user for user in fate.users if user in kept]
    users = not fate.users or (bool(left) and (left[0] == fate.users[0] or left[0] not in fate.own))
    return kept.issuperset(fate.needs) and users and not (fate.later and fate.needs[0] == min(kept))


def weighed(parts: dict[Fate, Weight], kept: set[int]) -> Weight:
    return sum((weight for fate, weight in parts.items() if stays(fate, kept)), Weight())


def planned(plan: Plan) -> Weight:
    return Weight(len(plan.tensors), plan.parameters, plan.nbytes)


@pytest.mark.parametrize(("checkpoint", "stack"), STACKS, ids=IDS)
def test_every_choice_weighs_what_its_plan_does(checkpoint: Checkpoint, stack: Stack):
    parts = weights(with_list_defaults(checkpoint, stack), stack)
    assert sum(parts.values(), Weight()).nbytes == sum(tensor.nbytes for tensor in checkpoint.tensors)
    chance = Random(stack.name)
    for _ in range(20):
        drop = chance.sample(range(stack.count), chance.randrange(1, stack.count))
        kept = [layer for layer in range(stack.count) if layer not in drop]
        try:
            plan = make_plan(
                checkpoint, kept, PlanOptions(stack=stack.name, force=True, drop_mtp=chance.random() < 0.5)
            )
        except RewriterError:
            continue
        assert weighed(parts, set(plan.layers.kept)) == planned(plan)
