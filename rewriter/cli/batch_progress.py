"""The progress of a batch: one display for all its jobs on a terminal, a line for each job elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from rewriter.batch.results import DONE, FAILED, SKIPPED, STOPPED, ResultLine
from rewriter.batch.runner import BatchListener, BatchRun
from rewriter.batch.tasks import PlannedJob
from rewriter.cli import console
from rewriter.cli.state import OutputLevel
from rewriter.errors import printable

WORDS = {DONE: "done", SKIPPED: "done before", FAILED: "failed", STOPPED: "stopped"}
Started = Callable[[Sequence[PlannedJob]], None]


@contextmanager
def show_progress(run: BatchRun) -> Iterator[Started]:
    """Show the progress of `run`. The function that is given takes the jobs once they are planned."""
    if sys.stderr.isatty() and not OutputLevel.quiet:
        with _display(run) as started:
            yield started
    else:
        lines = _Lines()
        run.listener = BatchListener(ended=lines.ended)
        yield lines.begin


class _Lines:
    """A line on stderr for each job that ends."""

    def __init__(self) -> None:
        self._ended = self._total = 0

    def begin(self, jobs: Sequence[PlannedJob]) -> None:
        self._total = len(jobs)

    def ended(self, line: ResultLine) -> None:
        self._ended += 1
        with suppress(OSError):  # a closed stderr does not end the run
            console.note(f"{self._ended}/{self._total} {job_line(line)}")


def job_line(line: ResultLine) -> str:
    """The state of a job, on one line."""
    error = f": {printable(line['error'], 400)}" if "error" in line else ""
    return f"{WORDS[line['status']]} {printable(line['output'], 200)}{error}"


@contextmanager
def _display(run: BatchRun) -> Iterator[Started]:
    """A bar for all bytes, and one for every job under way."""
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}", markup=False), rich.BarColumn(), rich.DownloadColumn(),
        rich.TransferSpeedColumn(), rich.TimeRemainingColumn(),
    )  # fmt: skip
    with rich.Progress(*columns, console=console.console(error=True), transient=True) as bar:
        whole = bar.add_task("looking", total=None)
        rows: dict[str, rich.TaskID] = {}
        lock = threading.Lock()  # each job calls from a thread of its own

        def planned(done: int, of: int) -> None:
            bar.update(whole, description=f"planning, {done} of {of}")

        def begin(jobs: Sequence[PlannedJob]) -> None:
            bar.update(whole, description=f"all {len(jobs)} jobs", total=sum(each.work for each in jobs if each.plan))

        def started(each: PlannedJob) -> None:
            with lock:
                rows[each.job.output] = bar.add_task(printable(each.job.output.rpartition("/")[2], 30), total=each.work)

        def moved(each: PlannedJob, nbytes: int) -> None:
            bar.advance(rows[each.job.output], nbytes)
            bar.advance(whole, nbytes)

        def ended(line: ResultLine) -> None:
            if line["status"] == FAILED:
                bar.print(job_line(line))

        def left(each: PlannedJob) -> None:
            with lock:
                bar.remove_task(rows.pop(each.job.output))

        run.listener = BatchListener(planned, started, moved, left, ended)
        yield begin
