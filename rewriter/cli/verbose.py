"""What is said beside the result: what `--verbose` asks for, and how far the scoring is."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rewriter.checkpoint import Checkpoint
from rewriter.cli import console
from rewriter.cli.state import OutputLevel
from rewriter.errors import printable
from rewriter.formats import open_checkpoint
from rewriter.layout.output import Output, WriteOptions
from rewriter.planning.plan import Plan
from rewriter.writing.copy import supports_reflink

if TYPE_CHECKING:
    from rewriter.scoring.score import ScoringProgress

_LOOK, _LONG = 20, 300  # seconds after which it is said that scoring will take long, and what is long
_QUICK = "influence"  # the metric that reads every weight once


def open_verbosely(source: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint, and say which files it is made of."""
    began = time.monotonic()
    checkpoint = open_checkpoint(source)
    if OutputLevel.verbose:
        parts = [(shard.path, f"{shard.stamp.size:,} bytes, for its header") for shard in checkpoint.shards]
        parts += [(document.path, "whole") for document in checkpoint.documents]
        for path, what in parts:
            console.detail(f"read: {printable(path, 200)} ({what})")
        more = console.counted(len(checkpoint.side_files), "file")
        count = f"{console.counted(len(checkpoint.tensors), 'tensor')}, {more} beside them"
        console.detail(f"opened: {checkpoint.format}, {count}, {time.monotonic() - began:.3f} s")
    return checkpoint


def log_plan(plan: Plan) -> None:
    """Say by which rules a plan was made."""
    if not OutputLevel.verbose:
        return
    if not plan.checkpoint.companion:
        entry = plan.model.architecture
        there = ", ".join(f"{stack.name} ({stack.count} layers)" for stack in plan.model.stacks)
        console.detail(f"rules: {entry.format}/{printable(entry.name)}, {_why(plan)}")
        console.detail(f"stacks: {printable(there, 400)}; layers go from {printable(plan.layers.stack)}")
    for edit in plan.edits:
        console.detail(f"field: {printable(edit.key, 80)} follows by the rule {edit.rule}")
    renamed = sum(copy.name != copy.tensor.name for copy in plan.tensors)
    console.detail(f"tensors: {len(plan.tensors)} stay, {renamed} of them renamed, {len(plan.dropped)} go")


def _why(plan: Plan) -> str:
    if plan.options.architecture is not None:
        return "as --architecture says"
    name = printable(plan.checkpoint.architecture or "nothing")
    if plan.options.generic:
        return f"the metadata says {name}: --generic goes by tensor names and counts where the tables know no more"
    return f"the metadata says {name}" if plan.checkpoint.architecture else "as the tensors' names show"


def log_write(output: Output, destination: str, write_options: WriteOptions, seconds: float) -> None:
    """Say how the bytes of `output` got to `destination`."""
    if not OutputLevel.verbose:
        return
    folder = Path(os.path.abspath(destination)).parent
    shares = write_options.share and bool(output.sources) and supports_reflink(output.sources[0][0], folder)
    for file in output.files:
        same = ", the same as in the source" if file.unchanged else ""
        console.detail(f"wrote: {printable(file.name, 200)}, {file.nbytes:,} bytes{same}")
    shared = f"up to {output.shareable:,} bytes share blocks with the source, the rest is copied inside the kernel"
    asked = "the filesystem shares no blocks" if write_options.share else "--no-share"
    console.detail(f"bytes: {shared if shares else f'copied inside the kernel ({asked})'}")
    waited = "waited for the disk" if write_options.sync else "did not wait for the disk"
    checked = "every byte compared" if write_options.verify_bytes else "structure checked"
    console.detail(f"done: {checked}, {waited}, {seconds:.3f} s")


@contextmanager
def scoring() -> Iterator[ScoringProgress]:
    """A bar on a terminal while layers are scored, and a word of warning everywhere where that takes long."""
    with ExitStack() as ends:
        yield (lambda metric, share: None) if OutputLevel.quiet else _Scoring(ends)


class _Scoring:
    """Hears how far the scoring is; the bar ends with `ends`."""

    def __init__(self, ends: ExitStack) -> None:
        self._ends = ends
        self._bar: ScoringProgress | None = None
        self._first = 0.0, 0.0  # when a metric was first heard of, and how far it was then
        self._warned = False

    def __call__(self, metric: str, share: float) -> None:
        self._bar = self._bar or _bar(metric, self._ends)
        self._bar(metric, share)
        when, before = self._first
        if not when or share <= before:
            self._first = time.monotonic(), share
        elif not self._warned and metric != _QUICK and time.monotonic() - when > _LOOK:
            self._warned = True
            left = (1 - share) * (time.monotonic() - when) / (share - before)
            if left > _LONG:
                with suppress(OSError):  # nobody listens
                    console.note(_warning(metric, left))


def _warning(metric: str, seconds: float) -> str:
    return f"{metric} will take about {seconds / 60:.0f} minutes more here; {_QUICK} reads every weight only once"


def _bar(metric: str, ends: ExitStack) -> ScoringProgress:
    if not sys.stderr.isatty():
        return lambda metric, share: None
    from rich import progress as rich  # slow to import, and nobody looks elsewhere

    columns = (rich.TextColumn("scoring by {task.description}", markup=False), rich.BarColumn(),
               rich.TaskProgressColumn(), rich.TimeRemainingColumn())  # fmt: skip
    made = rich.Progress(*columns, console=console.console(error=True), transient=True, speed_estimate_period=600)
    task = made.add_task(metric, total=1.0)
    ends.enter_context(made)
    return lambda metric, share: made.update(task, description=metric, completed=share)
