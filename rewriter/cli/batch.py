"""rewriter batch"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rewriter.batch.jobs import Batch, read_batch
from rewriter.batch.results import DONE, FAILED, SKIPPED, Line, Results
from rewriter.batch.runner import Prepared, Run, as_far_as_it_fits, disks
from rewriter.cli import console
from rewriter.cli.batch_keys import KEYS, as_keys, settings
from rewriter.cli.batch_progress import WORDS, said, watched
from rewriter.cli.options import Json
from rewriter.cli.state import Progress
from rewriter.errors import CheckpointError, OutputError, os_reason, printable
from rewriter.system.calls import READING, lock
from rewriter.system.files import printable_name
from rewriter.system.signals import STOP, StoppedError
from rewriter.writing.executors import DEFAULT_WORKERS, workers

if TYPE_CHECKING:
    from rich.table import Table

_MOST_AT_ONCE = 64  # jobs that one coordinator looks after on a cluster


def batch(
    jobs_file: Annotated[Path, typer.Argument(metavar="JOBS.toml", help="The jobs: see docs/batch.md.")],
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=256, help=f"Jobs at once, each with a worker process ({DEFAULT_WORKERS} here)."
        ),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(metavar="WHO", help="Who works instead: dask=tcp://HOST:PORT, processes=N or threads=N."),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where results go, else results.jsonl beside JOBS.toml.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show all plans and the disk needed; do nothing.")] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Start although not all outputs fit on the disk: write those that do.")
    ] = False,
    json: Json = False,
) -> None:
    """Make many outputs: the jobs of a TOML file, several at once. Run again, it does what is not done yet.

    Example: `rewriter batch jobs.toml`

    Example, what it would do: `rewriter batch jobs.toml --dry-run`
    """
    gc.enable()  # this may run for long
    with _alone(jobs_file), workers(executor or f"processes={jobs or DEFAULT_WORKERS}") as crew:
        written = Results(results or jobs_file.parent / "results.jsonl")
        found = read_batch(jobs_file, KEYS, settings, written.outputs, written.kept)
        run = Run(crew.executor, written, words=as_keys)
        if dry_run:
            failed = _shown(found, run.prepared(found), json)
        else:
            failed = _done(found, run, jobs or min(crew.count, _MOST_AT_ONCE), partial, json)
    if failed:
        raise typer.Exit(1)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two runs of one batch would write one file of results. Raises OutputError while another one runs."""
    try:
        descriptor = os.open(path, READING)
    except OSError as error:
        raise CheckpointError(f"cannot read {printable_name(path)}: {os_reason(error)}") from None
    try:
        lock(descriptor)
        yield
    except BlockingIOError:
        raise OutputError(f"another run of {printable_name(path)} is under way") from None
    finally:
        os.close(descriptor)


def _done(found: Batch, run: Run, at_once: int, partial: bool, json: bool) -> bool:
    """Carry the batch out and say what has become of it; whether a job has failed."""
    with watched(run) as started:
        prepared = run.prepared(found)
        prepared = as_far_as_it_fits(prepared) if partial else prepared
        if not partial:
            _check_room(prepared)
        started(prepared)
        lines = run.carry_out(prepared, at_once)
    counts = Counter(line["status"] for line in lines)
    if json:
        console.print_json({"schema": 1, "jobs": lines, "left_out": list(found.left_out)})
    else:
        console.console().print(_table(lines))
        for line in lines:
            if "error" in line:
                console.failure(said(line))
        console.say(_counted(counts, found))
    if STOP.is_set():
        complete = counts[DONE] + counts[SKIPPED]
        Progress.said = f"{complete} of {len(lines)} jobs are done; the same command goes on"
        raise StoppedError
    return counts[FAILED] > 0


def _check_room(prepared: Sequence[Prepared]) -> None:
    for disk in disks(prepared):
        if disk.needed > disk.free:
            raise OutputError(
                f"all outputs together need {disk.needed} bytes on the disk of {printable(disk.folder, 200)}, "
                f"which has "
                f"{disk.free} free: {disk.needed - disk.free} too few; nothing was started, --partial writes what fits"
            )


def _counted(counts: Counter[str], found: Batch) -> str:
    parts = [f"{counts[status]} {word}" for status, word in WORDS.items() if counts[status]]
    return ", ".join(parts) + _left_out(found)


def _left_out(found: Batch) -> str:
    count = len(found.left_out)
    return f"; {count} matched file{'s are outputs' if count > 1 else ' is an output'}, not used" if count else ""


def _table(lines: Sequence[Line]) -> Table:
    """What has become of every job, and why where it has failed."""
    table = _columns("output", "", "layers", "size", "seconds")
    for line in lines:
        seconds = f"{line['seconds']:.2f}" if "seconds" in line else ""
        table.add_row(printable(line["output"], 200), WORDS[line["status"]], *_amounts(line), seconds)
    return table


def _plans(prepared: Sequence[Prepared]) -> Table:
    table = _columns("output", "", "layers", "size", "drop")
    for each in prepared:
        plan = each.plan or {}
        word = "failed" if each.error else "done before" if each.done else "planned"
        drop = console.layers(plan["layers"]["dropped"]) if plan else ""
        table.add_row(printable(os.path.relpath(each.job.output), 200), word, *_amounts(plan), drop)
    return table


def _columns(*names: str) -> Table:
    table = console.table("")
    for name in names:
        side: Literal["left", "right"] = "left" if name in ("output", "", "drop") else "right"
        table.add_column(name, justify=side, overflow="fold")
    return table


def _amounts(planned: Mapping[str, Any]) -> tuple[str, str]:
    """Layers before and after, and the size; nothing where there is no plan."""
    if "layers" not in planned:
        return "", ""
    layers = planned["layers"]
    return f"{layers['before']} -> {layers['after']}", console.size(planned["bytes"]["after"])


def _shown(found: Batch, prepared: Sequence[Prepared], json: bool) -> bool:
    """Print what would be done; whether that cannot be done for some."""
    room = disks(prepared)
    if json:
        console.print_json({
            "schema": 1,
            "jobs": [_planned(each) for each in prepared],
            "disks": [{"folder": disk.folder, "needed": disk.needed, "free": disk.free} for disk in room],
            "left_out": list(found.left_out),
        })  # fmt: skip
    else:
        console.console().print(_plans(prepared))
        for each in prepared:
            if each.error:
                console.failure(
                    f"failed {printable(os.path.relpath(each.job.output), 200)}: {printable(each.error, 400)}"
                )
        for disk in room:
            fits = "" if disk.needed <= disk.free else f": {console.size(disk.needed - disk.free)} too few"
            console.say(
                f"disk of {printable(disk.folder, 200)}: {console.size(disk.needed)} needed, "
                f"{console.size(disk.free)} free{fits}"
            )
        shareable = sum(each.plan["shareable"] for each in prepared if each.plan)
        console.say(
            f"{console.size(shareable)} of the outputs can share blocks with their sources (XFS, btrfs)"
            + _left_out(found)
        )
    return any(each.error for each in prepared) or any(disk.needed > disk.free for disk in room)


def _planned(each: Prepared) -> dict[str, Any]:
    status = FAILED if each.error else SKIPPED if each.done else "planned"
    described = {"source": each.job.source, "output": each.job.output, "status": status}
    return {**described, "error": each.error, "needed": each.needed, "plan": each.plan, "told": list(each.told)}
