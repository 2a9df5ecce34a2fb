"""How far a batch is: one display for all its jobs on a terminal, a line for each job elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from rewriter.batch.results import DONE, FAILED, SKIPPED, STOPPED, Line
from rewriter.batch.runner import Prepared, Run, Watcher
from rewriter.cli import console
from rewriter.cli.state import OutputLevel
from rewriter.errors import printable

WORDS = {DONE: "done", SKIPPED: "done before", FAILED: "failed", STOPPED: "stopped"}
Started = Callable[[Sequence[Prepared]], None]


@contextmanager
def watched(run: Run) -> Iterator[Started]:
    """Show how far `run` is; what is given is to be called with the jobs once they are planned."""
    if sys.stderr.isatty() and not OutputLevel.quiet:
        with _display(run) as started:
            yield started
    else:
        lines = _Lines()
        run.watcher = Watcher(ended=lines.ended)
        yield lines.begin


class _Lines:
    """A line on stderr for each job that ends."""

    def __init__(self) -> None:
        self._ended = self._total = 0

    def begin(self, jobs: Sequence[Prepared]) -> None:
        self._total = len(jobs)

    def ended(self, line: Line) -> None:
        self._ended += 1
        with suppress(OSError):  # nobody listens: the run goes on
            console.note(f"{self._ended}/{self._total} {said(line)}")


def said(line: Line) -> str:
    """What has become of a job, on one line."""
    error = f": {printable(line['error'], 400)}" if "error" in line else ""
    return f"{WORDS[line['status']]} {printable(line['output'], 200)}{error}"


@contextmanager
def _display(run: Run) -> Iterator[Started]:
    """A bar for all bytes, and one for every job under way."""
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}", markup=False), rich.BarColumn(), rich.DownloadColumn(),
        rich.TransferSpeedColumn(), rich.TimeRemainingColumn(),
    )  # fmt: skip
    with rich.Progress(*columns, console=console.console(error=True), transient=True) as bar:
        whole = bar.add_task("looking", total=None)
        rows: dict[str, rich.TaskID] = {}
        lock = threading.Lock()  # jobs tell from threads of their own

        def planned(done: int, of: int) -> None:
            bar.update(whole, description=f"planning, {done} of {of}")

        def begin(jobs: Sequence[Prepared]) -> None:
            bar.update(whole, description=f"all {len(jobs)} jobs", total=sum(each.work for each in jobs if each.plan))

        def started(each: Prepared) -> None:
            with lock:
                rows[each.job.output] = bar.add_task(printable(each.job.output.rpartition("/")[2], 30), total=each.work)

        def moved(each: Prepared, nbytes: int) -> None:
            bar.advance(rows[each.job.output], nbytes)
            bar.advance(whole, nbytes)

        def ended(line: Line) -> None:
            if line["status"] == FAILED:
                bar.print(said(line))

        def left(each: Prepared) -> None:
            with lock:
                bar.remove_task(rows.pop(each.job.output))

        run.watcher = Watcher(planned, started, moved, left, ended)
        yield begin
