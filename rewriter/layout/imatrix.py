"""The file of a pruned importance matrix in its old form. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from rewriter.checkpoint import Shard
from rewriter.layout.output import CopyRange, Literal, Output, OutputFile, Piece, coalesce, whole_file
from rewriter.layout.sharding import is_unchanged
from rewriter.planning.plan import Plan


def layout(plan: Plan, name: str) -> Output:
    """The file of the pruned matrix: entries of kept layers under their new names, and the ending as it is."""
    (shard,) = plan.checkpoint.shards
    sources = ((shard.path, shard.stamp),)
    if is_unchanged(plan.tensors, plan.checkpoint.tensors):
        return Output((whole_file(name, shard.path, shard.stamp.size),), False, sources)
    return Output((OutputFile(name, coalesce(_pieces(plan, shard))),), False, sources)


def _pieces(plan: Plan, shard: Shard) -> Iterator[Piece]:
    yield Literal(struct.pack("<i", len(plan.tensors)))
    for copy in plan.tensors:
        raw = copy.name.encode("utf-8", "surrogateescape")
        calls = (copy.tensor.extra or {})["calls"]
        yield Literal(struct.pack("<i", len(raw)) + raw + struct.pack("<ii", calls, copy.tensor.shape[0]))
        yield CopyRange(shard.path, copy.tensor.offset, copy.tensor.nbytes)
    for field in shard.fields or ():
        yield CopyRange(shard.path, field.offset, field.nbytes)
