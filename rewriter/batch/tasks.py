"""The tasks of an executor before a job is written: inspect it, choose its layers, plan it. Values in, values out."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rewriter.batch.conflicts import JobFiles
from rewriter.batch.jobs import Job
from rewriter.batch.results import ResultLine, fingerprint, is_done
from rewriter.checkpoint import Checkpoint
from rewriter.errors import CheckpointError, RequestError, RewriterError, os_reason_with_path, printable
from rewriter.formats import open_checkpoint
from rewriter.layout.output import Output, WriteOptions
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import Plan, make_plan
from rewriter.planning.saved_plan import SavedPlan, from_plan, load_plan, replan
from rewriter.report.json_values import describe_plan
from rewriter.request import PruneRequest, replan_with_file_options
from rewriter.system.files import file_stamp
from rewriter.writing.execute import check_place, disk_needed, has_interrupted_commit
from rewriter.writing.staging import staging_path
from rewriter.writing.write import check_name, planned

_SUMMARY = ("stack", "layers", "parameters", "bytes", "disk_needed", "shareable", "files", "warnings")


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A job before it is written. `error` says why it cannot be; `done`: an earlier run has written it.

    `plan` is the JSON value that `plan --json` prints; unless it was asked for whole only its sizes and names. `kept`
    and `options` are what `make_plan` needs to make the plan again. `needed` and `work` are bytes: of disk, and to be
    moved or hashed. `notes` are for the user.
    """

    job: Job
    files: JobFiles
    fingerprint: str = ""
    done: bool = False
    plan: Mapping[str, Any] | None = None
    kept: tuple[int, ...] = ()
    options: PlanOptions = field(default_factory=PlanOptions)
    needed: int = 0
    work: int = 0
    notes: tuple[str, ...] = ()
    error: str = ""

    def make_plan(self) -> Plan:
        """The plan once more, from the source as it is now. Raises CheckpointError if a file has changed since."""
        checkpoint = open_checkpoint(self.job.source)
        if fingerprint(self.job, checkpoint, map(file_stamp, _other_files(self.job))) != self.fingerprint:
            raise CheckpointError(f"{printable(checkpoint.name, 80)} has changed since it was planned")
        return make_plan(checkpoint, self.kept, self.options)


@dataclass(frozen=True, slots=True)
class ChosenLayers:
    """Layers chosen on one file for others, as a plan for that file."""

    saved: SavedPlan | None = None
    notes: tuple[str, ...] = ()
    error: str = ""


def inspect_job(job: Job, line: ResultLine | None, whole: bool) -> PlannedJob:
    """`job` with the files that it reads, and with its plan unless it is done or its layers are chosen elsewhere.

    `line` is the last result line about it. `whole` plans hold everything that `plan --json` prints.
    """
    try:
        for path in job.read:
            if not os.path.exists(path):
                raise CheckpointError(f"{printable(path, 200)} is not there{_machine()}")
        checkpoint, others = open_checkpoint(job.source), _other_files(job)
        found = fingerprint(job, checkpoint, map(file_stamp, others))
    except RewriterError as error:
        return PlannedJob(job, job.files, error=str(error))
    reads = {os.path.realpath(path) for path in (*job.read, *others, *(file.path for file in checkpoint.files))}
    files = replace(job.files, reads=tuple(reads))
    if line is not None and is_done(job, line, found):
        names = [file["name"] for file in line["files"]]
        return PlannedJob(job, _with_output(files, names, os.path.isdir(job.output)), found, done=True)
    inspected = PlannedJob(job, files, found)
    return inspected if job.choose_on else plan_job(inspected, None, whole, checkpoint)


def choose_layers(path: str, request: PruneRequest) -> ChosenLayers:
    """The layers that `request` keeps of the file at `path`."""
    name, notes = os.path.basename(path), list[str]()
    try:
        plan = request.plan(open_checkpoint(path), name, notes.append)
    except RewriterError as error:
        return ChosenLayers(error=f"{printable(name, 80)}: {error}")
    return ChosenLayers(from_plan(plan), (f"chosen on {printable(name, 80)}", *notes))


def plan_job(
    inspected: PlannedJob, chosen: ChosenLayers | None, whole: bool, checkpoint: Checkpoint | None = None
) -> PlannedJob:
    """`inspected` with its plan, which keeps the layers `chosen` on another file if there are such."""
    job, files, write_options = inspected.job, inspected.files, inspected.job.settings.write_options
    notes = list(chosen.notes) if chosen else []
    try:
        if chosen and chosen.error:
            raise CheckpointError(chosen.error)
        plan = _plan(job, checkpoint or open_checkpoint(job.source), chosen, notes.append)
        output = planned(plan, job.output, write_options)
        files = _with_output(files, [file.name for file in output.files], output.directory)
        files = replace(files, others="" if output.directory else output.owned_names)
        check_name(plan, job.output)
        _check_place(output, Path(job.output), write_options)
        needed = disk_needed(output, existing_folder(job.output), write_options)
    except RewriterError as error:
        return replace(inspected, files=files, error=str(error))
    except OSError as error:
        return replace(inspected, files=files, error=os_reason_with_path(error))
    described = describe_plan(plan, output)
    return replace(
        inspected,
        files=files,
        plan=described if whole else {name: described[name] for name in _SUMMARY},
        kept=plan.layers.kept,
        options=plan.options,
        needed=needed,
        work=output.nbytes + output.hashed,
        notes=tuple(notes),
    )


def _plan(job: Job, checkpoint: Checkpoint, chosen: ChosenLayers | None, notify: Callable[[str], None]) -> Plan:
    request = job.settings.request
    if job.settings.plan is not None:
        if chosen:
            raise RequestError("plan says which layers stay: it cannot be combined with choose-on")
        return replan_with_file_options(load_plan(job.settings.plan), checkpoint, request)[0]
    if chosen and chosen.saved:
        return replan(chosen.saved, checkpoint)[0]
    return request.plan(checkpoint, os.path.basename(job.output), notify)


def _check_place(output: Output, destination: Path, write_options: WriteOptions) -> None:
    """Raise OutputError for an output that must not go there; folders that do not exist are made later."""
    if os.path.lexists(destination.parent) and not has_interrupted_commit(destination):
        check_place(output, destination, write_options)


def _machine() -> str:
    """On a cluster it matters which machine misses a file."""
    return f", seen from {printable(platform.node())}" if "distributed.worker" in sys.modules else ""


def _other_files(job: Job) -> list[str]:
    """The files that are read beside the source."""
    plan, path = job.settings.plan, job.choose_on
    return [*([plan] if plan else []), *(shard.path for shard in (open_checkpoint(path).shards if path else ()))]


def _with_output(files: JobFiles, names: Iterable[str], directory: bool) -> JobFiles:
    """`files` with those of the output and where they are made."""
    output = Path(files.writes[0])
    made = () if directory else (output.with_name(name) for name in names)
    return replace(files, writes=tuple(map(str, (output, *made, staging_path(output)))))


def existing_folder(path: str) -> Path:
    """The folder that an output at `path` will be in, or the nearest one above it that exists."""
    return next(folder for folder in Path(path).parents if folder.is_dir())
