"""Which tensors go into one file: those of one file of the source, all, or as many as fit a size. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from rewriter.checkpoint import TensorInfo
from rewriter.layout.output import max_padding
from rewriter.planning.plan import Plan
from rewriter.planning.tensor_renaming import TensorCopy

Group = Sequence[TensorCopy]


def by_source(plan: Plan) -> Iterator[tuple[int, Group]]:
    """Number of a file of the source -> what stays of it. A file that is left without tensors goes."""
    shards = plan.checkpoint.shards
    copies: list[list[TensorCopy]] = [[] for _ in shards]
    for copy in plan.tensors:
        copies[copy.tensor.shard].append(copy)
    had = {tensor.shard for tensor in plan.checkpoint.tensors}
    yield from ((index, copies[index]) for index in range(len(shards)) if copies[index] or index not in had)


def by_size(plan: Plan, size_of: Callable[[TensorCopy], int], head: Callable[[int], int]) -> Sequence[Group]:
    """All tensors together, or in files of at most the size that was asked for, each of which takes what comes next.

    `size_of` gives the bytes that a tensor and its record take, `head(number)` those of all else in a file. A tensor
    is never parted: one that is larger than the limit gets a file of its own.
    """
    limit = plan.options.max_size
    if limit is None:
        return [plan.tensors]
    groups: list[list[TensorCopy]] = [[]]
    limit -= max_padding(limit)
    room = limit - head(0)
    for copy in plan.tensors:
        size = size_of(copy)
        if size > room and groups[-1]:
            groups.append([])
            room = limit - head(len(groups) - 1)
        groups[-1].append(copy)
        room -= size
    return groups


def is_unchanged(copies: Group, tensors: Iterable[TensorInfo]) -> bool:
    """Whether `copies` are exactly `tensors`, under their old names."""
    tensors = tuple(tensors)
    return len(copies) == len(tensors) and all(
        copy.tensor is tensor and copy.name == tensor.name for copy, tensor in zip(copies, tensors, strict=True)
    )


def tensors_by_shard(plan: Plan) -> list[list[TensorInfo]]:
    """The tensors of every file of the source."""
    found: list[list[TensorInfo]] = [[] for _ in plan.checkpoint.shards]
    for tensor in plan.checkpoint.tensors:
        found[tensor.shard].append(tensor)
    return found
