"""What `--verbose` says: which files are opened, which rules hold and why, how bytes get there, how long it takes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rewriter.checkpoint import Checkpoint
from rewriter.cli import show
from rewriter.cli.app import Voice
from rewriter.copying import can_share
from rewriter.errors import shown
from rewriter.formats import open_checkpoint
from rewriter.output import Output, Writing
from rewriter.plan import Plan, open_stacks


def opened(source: str) -> Checkpoint:
    """Open a checkpoint, and say which files it is made of."""
    began = time.monotonic()
    checkpoint = open_checkpoint(source)
    if Voice.verbose:
        parts = [(shard.path, f"{shard.stamp.size:,} bytes, for its header") for shard in checkpoint.shards]
        parts += [(document.path, "whole") for document in checkpoint.documents]
        for path, what in parts:
            show.detail(f"read: {shown(path, 200)} ({what})")
        count = f"{len(checkpoint.tensors)} tensors, {len(checkpoint.side_files)} files that go along"
        show.detail(f"opened: {checkpoint.format}, {count}, {time.monotonic() - began:.3f} s")
    return checkpoint


def planned(plan: Plan) -> None:
    """Say by which rules a plan was made."""
    if not Voice.verbose:
        return
    if not plan.checkpoint.companion:
        entry, stacks = open_stacks(plan.checkpoint, plan.options)
        there = ", ".join(f"{stack.name} ({stack.count} layers)" for stack in stacks)
        show.detail(f"rules: {entry.format}/{shown(entry.name)}, {_why(plan)}")
        show.detail(f"stacks: {shown(there, 400)}; layers go from {shown(plan.layers.stack)}")
    for edit in plan.edits:
        show.detail(f"field: {shown(edit.key, 80)} follows by the rule {edit.rule}")
    renamed = sum(copy.name != copy.tensor.name for copy in plan.tensors)
    show.detail(f"tensors: {len(plan.tensors)} stay, {renamed} of them renamed, {len(plan.dropped)} go")


def _why(plan: Plan) -> str:
    if plan.options.architecture is not None:
        return "as --architecture says"
    said = shown(plan.checkpoint.architecture or "nothing")
    if plan.options.generic:
        return f"the metadata says {said}: --generic goes by tensor names and counts where the tables know no more"
    return f"the metadata says {said}" if plan.checkpoint.architecture else "as the tensors' names show"


def written(output: Output, destination: str, how: Writing, seconds: float) -> None:
    """Say how the bytes of `output` got to `destination`."""
    if not Voice.verbose:
        return
    folder = Path(os.path.abspath(destination)).parent
    shares = how.share and bool(output.sources) and can_share(output.sources[0][0], folder)
    for file in output.files:
        same = ", the same as in the source" if file.unchanged else ""
        show.detail(f"wrote: {shown(file.name, 200)}, {file.nbytes:,} bytes{same}")
    shared = f"up to {output.shareable:,} bytes share blocks with the source, the rest is copied inside the kernel"
    asked = "the filesystem shares no blocks" if how.share else "--no-share"
    show.detail(f"bytes: {shared if shares else f'copied inside the kernel ({asked})'}")
    waited = "waited for the disk" if how.sync else "did not wait for the disk"
    checked = "every byte compared" if how.verify_bytes else "structure checked"
    show.detail(f"done: {checked}, {waited}, {seconds:.3f} s")
