"""What choices of layers weigh: the sums are those of the plans, for every stack of every architecture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from math import prod
from random import Random

import pytest

from rewriter.architectures.lookup import Stack, entries
from rewriter.checkpoint import Checkpoint
from rewriter.errors import RewriterError
from rewriter.planning.metadata.edits import with_list_defaults
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import Plan, make_plan, open_stacks
from rewriter.report.size_model import Fate, Weight, weights
from tests.house.test_house import checkpoint_from, named_fixtures
from tests.support.checkpoints import t5


def told_apart(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with a size of its own for every tensor: a mixed-up one shows."""
    sizes = (2 * 4**at % 1009 for at in count(1))
    tensors = (each._replace(nbytes=prod(each.shape) * size) for each, size in zip(checkpoint.tensors, sizes))  # noqa: B905
    return replace(checkpoint, tensors=tuple(tensors))


def all_stacks() -> Iterator[tuple[Checkpoint, Stack]]:
    for entry in entries():
        for file in named_fixtures(entry):
            checkpoint = told_apart(checkpoint_from(entry, file))
            yield from ((checkpoint, stack) for stack in open_stacks(checkpoint, PlanOptions())[1] if stack.count > 1)


STORED_TWICE = told_apart(replace(t5(bias=(0, 2)), name="t5-stored-twice"))
STACKS = [*all_stacks(), *((STORED_TWICE, stack) for stack in open_stacks(STORED_TWICE, PlanOptions())[1])]
IDS = [f"{each[0].format}-{each[0].name}-{each[1].name}" for each in STACKS]


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
