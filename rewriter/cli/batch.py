"""rewriter batch"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rewriter.batch.jobs import Batch, read_batch
from rewriter.batch.results import DONE, FAILED, SKIPPED, Results
from rewriter.batch.runner import BatchRun, DiskUsage, disk_usage, limit_to_free_space
from rewriter.batch.tasks import PlannedJob
from rewriter.cli import console
from rewriter.cli.batch_keys import KEYS, as_keys, settings
from rewriter.cli.batch_progress import WORDS, job_line, show_progress
from rewriter.cli.options import Json
from rewriter.cli.state import RunState
from rewriter.errors import CheckpointError, OutputError, os_reason, printable
from rewriter.system.calls import READING, lock
from rewriter.system.files import printable_name
from rewriter.system.signals import STOP, StoppedError
from rewriter.writing.executors import DEFAULT_WORKERS, workers

_MOST_AT_ONCE = 64  # jobs that one coordinator carries out on a cluster


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
    with _only_run(jobs_file), workers(executor or f"processes={jobs or DEFAULT_WORKERS}") as pool:
        written = Results(results or jobs_file.parent / "results.jsonl")
        found = read_batch(jobs_file, KEYS, settings, written.outputs, written.kept)
        run = BatchRun(pool.executor, written, words=as_keys)
        if dry_run:
            failed = _show_plans(found, run.plan(found, whole=json), json)
        else:
            failed = _carry_out(found, run, jobs or min(pool.count, _MOST_AT_ONCE), partial, json)
    if failed:
        raise typer.Exit(1)


@contextmanager
def _only_run(path: Path) -> Iterator[None]:
    """Lock the batch: two runs would write one file of results. Raises OutputError while another one runs."""
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


def _carry_out(found: Batch, run: BatchRun, at_once: int, partial: bool, json: bool) -> bool:
    """Carry the batch out and print the results; whether a job has failed."""
    with show_progress(run) as started:
        jobs = run.plan(found)
        if partial:
            jobs = limit_to_free_space(jobs)
        else:
            _check_room(disk_usage(jobs))
        started(jobs)
        lines = run.carry_out(jobs, at_once)
    counts = Counter(line["status"] for line in lines)
    if json:
        console.print_json({"schema": 1, "jobs": lines, "left_out": list(found.left_out)})
    else:
        seconds = [f"{line['seconds']:.2f}" if "seconds" in line else "" for line in lines]
        rows = [(line["output"], WORDS[line["status"]], line, last) for line, last in zip(lines, seconds, strict=True)]
        _print_table("seconds", "right", rows, [job_line(line) for line in lines if "error" in line])
        parts = [f"{counts[status]} {word}" for status, word in WORDS.items() if counts[status]]
        console.say(", ".join(parts) + _left_out(found))
    if STOP.is_set():
        complete = counts[DONE] + counts[SKIPPED]
        RunState.message = f"{complete} of {len(lines)} jobs are done; the same command goes on"
        raise StoppedError
    return counts[FAILED] > 0


def _check_room(disks: Sequence[DiskUsage]) -> None:
    for disk in disks:
        if disk.needed > disk.free:
            raise OutputError(
                f"all outputs together need {disk.needed} bytes on the disk of {printable(disk.folder, 200)}, "
                f"which has {disk.free} free: {disk.needed - disk.free} too few; nothing was started, "
                "--partial writes what fits"
            )


def _left_out(found: Batch) -> str:
    count = len(found.left_out)
    return f"; {count} matched file{'s are outputs' if count > 1 else ' is an output'}, not used" if count else ""


def _show_plans(found: Batch, jobs: Sequence[PlannedJob], json: bool) -> bool:
    """Print what the batch would do; whether that cannot be done for some job."""
    disks = disk_usage(jobs)
    if json:
        described = [_describe(each) for each in jobs]
        usage = [{"folder": disk.folder, "needed": disk.needed, "free": disk.free} for disk in disks]
        console.print_json({"schema": 1, "jobs": described, "disks": usage, "left_out": list(found.left_out)})
    else:
        rows, errors = [], []
        for each in jobs:
            output = os.path.relpath(each.job.output)
            dropped = console.layers(each.plan["layers"]["dropped"]) if each.plan else ""
            rows.append((output, WORDS.get(_status(each), "planned"), each.plan or {}, dropped))
            if each.error:
                errors.append(f"failed {printable(output, 200)}: {printable(each.error, 400)}")
        _print_table("drop", "left", rows, errors)
        for disk in disks:
            fits = "" if disk.needed <= disk.free else f": {console.size(disk.needed - disk.free)} too few"
            console.say(
                f"disk of {printable(disk.folder, 200)}: {console.size(disk.needed)} needed, "
                f"{console.size(disk.free)} free{fits}"
            )
        shareable = sum(each.plan["shareable"] for each in jobs if each.plan)
        shared = f"{console.size(shareable)} of the outputs can share blocks with their sources (XFS, btrfs)"
        console.say(shared + _left_out(found))
    return any(each.error for each in jobs) or any(disk.needed > disk.free for disk in disks)


def _status(planned: PlannedJob) -> str:
    return FAILED if planned.error else SKIPPED if planned.done else "planned"


def _describe(planned: PlannedJob) -> dict[str, Any]:
    named = {"source": planned.job.source, "output": planned.job.output, "status": _status(planned)}
    rest = {"error": planned.error, "needed": planned.needed, "plan": planned.plan, "told": list(planned.notes)}
    return {**named, **rest}


def _print_table(
    last: str,
    side: Literal["left", "right"],
    rows: Iterable[tuple[str, str, Mapping[str, Any], str]],
    errors: list[str],
) -> None:
    """A row for each job: output, state, layers and size of the plan as far as there is one, and a `last` column."""
    table = console.table("")
    for name in ("output", "", "layers", "size"):
        table.add_column(name, justify="right" if name in ("layers", "size") else "left", overflow="fold")
    table.add_column(last, justify=side, overflow="fold")
    for output, state, plan, text in rows:
        layers, size = "", ""
        if "layers" in plan:
            layers = f"{plan['layers']['before']} -> {plan['layers']['after']}"
            size = console.size(plan["bytes"]["after"])
        table.add_row(printable(output, 200), state, layers, size, text)
    console.console().print(table)
    for error in errors:
        console.failure(error)
