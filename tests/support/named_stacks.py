"""Every stack of every fixture with real tensor names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from math import prod

from rewriter.architectures.lookup import Stack, entries
from rewriter.checkpoint import Checkpoint
from rewriter.planning.open_model import open_model
from tests.support.checkpoints import t5
from tests.support.named_fixtures import checkpoint_from, named_fixtures


def told_apart(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with a size of its own for every tensor: a mixed-up one shows."""
    sizes = (2 * 4**at % 1009 for at in count(1))
    tensors = (each._replace(nbytes=prod(each.shape) * size) for each, size in zip(checkpoint.tensors, sizes))  # noqa: B905
    return replace(checkpoint, tensors=tuple(tensors))


def all_stacks() -> Iterator[tuple[Checkpoint, Stack]]:
    for entry in entries():
        for file in named_fixtures(entry):
            checkpoint = told_apart(checkpoint_from(entry, file))
            yield from ((checkpoint, stack) for stack in open_model(checkpoint).stacks if stack.count > 1)


STORED_TWICE = told_apart(replace(t5(bias=(0, 2)), name="t5-stored-twice"))


STACKS = [*all_stacks(), *((STORED_TWICE, stack) for stack in open_model(STORED_TWICE).stacks)]


IDS = [f"{each[0].format}-{each[0].name}-{each[1].name}" for each in STACKS]
