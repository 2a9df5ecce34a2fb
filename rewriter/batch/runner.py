"""Runs the jobs of a batch: looks which are done, plans the others, and carries them out side by side.

Laws:
- An executor looks, scores and plans, and writes the files; the locks, the checks and the commit are here.
- What was planned is what is carried out: it is planned again from the layers that it keeps, and must say the same.
- A job that fails takes no other with it. At a signal those under way end as `prune` does.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from rewriter.batch.conflicts import Claim, check
from rewriter.batch.jobs import Batch, Job, claim
from rewriter.batch.results import DONE, FAILED, RUNNING, SKIPPED, STOPPED, Line, Results, fingerprint, is_done, stamps
from rewriter.errors import CheckpointError, RequestError, RewriterError, os_reason_with_path, printable
from rewriter.formats import json_edit, open_checkpoint
from rewriter.layout.output import Output, WriteOptions
from rewriter.planning.plan import Plan
from rewriter.planning.saved_plan import SavedPlan, load_plan, plan_again, saved_plan
from rewriter.report.json_values import describe_plan
from rewriter.request import PruneRequest, replan_with_file_options
from rewriter.system.calls import free_bytes
from rewriter.system.files import file_stamp
from rewriter.system.signals import STOP, StoppedError
from rewriter.writing.distribute import as_ours, failure
from rewriter.writing.execute import check_place, clear_killed, disk_needed, was_killed
from rewriter.writing.staging import staging_path
from rewriter.writing.write import check_name, planned, write

_LOOK = 0.2  # seconds between two looks at whether to stop

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that was looked at: `error` says why it cannot be done, `done` that it is, else `plan` what it will do.

    `plan` is the JSON value that `plan --json` prints. `needed` and `work` are bytes: of disk, and to be moved or
    hashed. `told` is what a user should know. `claim` is what it reads and writes, as far as that is known.
    """

    job: Job
    claim: Claim
    fingerprint: str = ""
    done: bool = False
    plan: Mapping[str, Any] | None = None
    needed: int = 0
    work: int = 0
    told: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who is told how far a batch is, by any thread."""

    planned: Callable[[int, int], None] = lambda done, of: None
    started: Callable[[Prepared], None] = lambda prepared: None
    moved: Callable[[Prepared, int], None] = lambda prepared, nbytes: None
    left: Callable[[Prepared], None] = lambda prepared: None
    ended: Callable[[Line], None] = lambda line: None


@dataclass(frozen=True, slots=True)
class Choice:
    """Layers chosen on one file for others, and how."""

    saved: SavedPlan | None = None
    told: tuple[str, ...] = ()
    error: str = ""


# Tasks: values in, values out, wherever they are carried out


def _seen_from() -> str:
    """On a cluster it matters which machine misses a file."""
    return f", seen from {printable(platform.node())}" if "distributed.worker" in sys.modules else ""


def look(job: Job, line: Line | None) -> Prepared:
    """What `job` is made from, and whether it is done already."""
    try:
        for path in job.read:
            if not os.path.exists(path):
                raise CheckpointError(f"{printable(path, 200)} is not there{_seen_from()}")
        checkpoint, others = open_checkpoint(job.source), _others(job)
        found = fingerprint(job, checkpoint, map(file_stamp, others))
    except RewriterError as error:
        return Prepared(job, claim(job), error=str(error))
    files = [file.path for part in (checkpoint.shards, checkpoint.documents, checkpoint.side_files) for file in part]
    reads = {os.path.realpath(path) for path in (*job.read, *others, *files)}
    claimed = replace(claim(job), reads=tuple(reads))
    if line is None or not is_done(job, line, found):
        return Prepared(job, claimed, found)
    made = _writing(claimed, [file["name"] for file in line["files"]], os.path.isdir(job.output))
    return Prepared(job, made, found, True)


def _others(job: Job) -> list[str]:
    """The files that are read beside the source."""
    plan, path = job.settings.plan, job.choose_on
    return [*([plan] if plan else []), *(each.path for each in (open_checkpoint(path).shards if path else ()))]


def _writing(claimed: Claim, names: Iterable[str], directory: bool) -> Claim:
    """`claimed` with the files of the output and where they are made."""
    output = Path(claimed.writes[0])
    files = () if directory else (output.with_name(name) for name in names)
    return replace(claimed, writes=tuple(map(str, (output, *files, staging_path(output)))))


def choose(path: str, request: PruneRequest) -> Choice:
    """The layers that `request` keeps of the file at `path`."""
    told: list[str] = []
    try:
        name = os.path.basename(path)
        plan = request.plan(open_checkpoint(path), name, told.append)
        return Choice(_saved(describe_plan(plan, Output((), False, ()))), (f"chosen on {printable(name, 80)}", *told))
    except RewriterError as error:
        return Choice(error=f"{printable(os.path.basename(path), 80)}: {error}")


def prepare(prepared: Prepared, choice: Choice | None) -> Prepared:
    """`prepared` with its plan."""
    told: list[str] = list(choice.told) if choice else []
    job, claimed = prepared.job, prepared.claim
    try:
        if choice and choice.error:
            raise CheckpointError(choice.error)
        plan = _plan(job, choice, told.append)
        output = planned(plan, job.output, job.settings.how)
        claimed = _writing(claimed, [file.name for file in output.files], output.directory)
        claimed = replace(claimed, others="" if output.directory else output.owned_names)
        check_name(plan, job.output)
        _check_place(output, Path(job.output), job.settings.how)
        needed = disk_needed(output, existing_folder(job.output), job.settings.how)
    except RewriterError as error:
        return replace(prepared, claim=claimed, error=str(error))
    except OSError as error:
        return replace(prepared, claim=claimed, error=os_reason_with_path(error))
    described = json_edit.json_roundtrip(describe_plan(plan, output))
    work = output.nbytes + output.hashed
    return replace(prepared, claim=claimed, plan=described, needed=needed, work=work, told=tuple(told))


def _check_place(output: Output, destination: Path, how: WriteOptions) -> None:
    """Raise OutputError for an output that must not go there; folders that are not there yet are made later."""
    if os.path.lexists(destination.parent) and not was_killed(destination):
        check_place(output, destination, how)


def _plan(job: Job, choice: Choice | None, told: Callable[[str], None]) -> Plan:
    checkpoint, request = open_checkpoint(job.source), job.settings.request
    if job.settings.plan is not None:
        if choice:
            raise RequestError("plan says which layers stay: it cannot be combined with choose-on")
        return replan_with_file_options(load_plan(job.settings.plan), checkpoint, request)[0]
    if choice and choice.saved:
        return plan_again(choice.saved, checkpoint)[0]
    return request.plan(checkpoint, os.path.basename(job.output), told)


def _saved(described: Mapping[str, Any]) -> SavedPlan:
    return saved_plan(json_edit.json_roundtrip(described), "the plan")


def existing_folder(path: str) -> Path:
    """The folder that an output at `path` will be in, or the nearest one above it that is there."""
    return next(folder for folder in Path(path).parents if folder.is_dir())


# The batch


@dataclass(slots=True)
class Run:
    """A batch on its way: who works, what is written down, and who is told."""

    executor: Executor
    results: Results
    watcher: Watcher = field(default_factory=Watcher)
    broken: bool = False  # what is done can no longer be written down
    words: Callable[[str], str] = str  # how errors are said to whoever asked

    def prepared(self, batch: Batch) -> list[Prepared]:
        """Look at all jobs and plan those that are not done.

        Raises StoppedError; RequestError where what one writes is another's as well.
        """
        looked = self._asked(look, [(job, self.results.lines.get(job.output)) for job in batch.jobs])
        found = [_answer(future, Prepared(job, claim(job))) for future, job in zip(looked, batch.jobs, strict=True)]
        left = [each for each in found if not each.done and not each.error]
        jobs = [each.job for each in left if each.job.choose_on]
        wanted = {_key(job): (job.choose_on, job.settings.request) for job in jobs}
        futures = self._asked(choose, list(wanted.values()))
        choices = {key: _answer(future, Choice()) for key, future in zip(wanted, futures, strict=True)}
        plans = self._asked(prepare, [(each, choices.get(_key(each.job))) for each in left])
        made = {each.job.output: _answer(future, each) for future, each in zip(plans, left, strict=True)}
        told = [made.get(each.job.output, each) for each in found]
        check([batch.own, *(each.claim for each in told)])
        return [replace(each, error=self.words(each.error)) for each in told]

    def _asked(self, task: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[Future[T]]:
        """Have all done by the executor; what is lost with its worker once more."""
        futures = [self.executor.submit(task, *each) for each in arguments]
        self._wait_for(futures)
        lost = [number for number, each in enumerate(futures) if isinstance(failure(each), BrokenExecutor)]
        again = {number: self.executor.submit(task, *arguments[number]) for number in lost}
        self._wait_for(list(again.values()))
        return [again.get(number, future) for number, future in enumerate(futures)]

    def _wait_for(self, futures: Sequence[Future[Any]]) -> None:
        waiting = set(futures)
        while waiting:
            waiting = wait(waiting, _LOOK, FIRST_COMPLETED).not_done
            self.watcher.planned(len(futures) - len(waiting), len(futures))
            if STOP.is_set():
                for future in waiting:
                    future.cancel()
                raise StoppedError

    def carry_out(self, batch: Iterable[Prepared], at_once: int) -> list[Line]:
        """Carry out what was prepared, `at_once` jobs side by side, and return the line of each, in their order."""
        ordered = list(batch)
        earlier, lines = dict(self.results.lines), {}
        with ThreadPoolExecutor(at_once) as threads:
            futures = {threads.submit(self._one, each): each for each in ordered}
            try:
                for future in as_completed(futures):
                    each = futures[future]
                    line = {**_still_there(earlier.get(each.job.output)), **_outcome(future)}
                    line |= {"error": self.words(line["error"])} if "error" in line else {}
                    lines[each.job.output] = self.results.add(each.job, line)
                    self.watcher.ended(lines[each.job.output])
            except OSError:
                self.broken = True
                raise
        self.results.replace(each.job for each in ordered)
        return [lines[each.job.output] for each in ordered]

    def _one(self, each: Prepared) -> Line:
        """The line about a job that has ended well."""
        if each.done:
            return self._skipped(each)
        if each.error:
            raise CheckpointError(each.error)
        self._go_on()
        began = time.monotonic()
        told = list(each.told)
        self.watcher.started(each)
        try:
            output = self._write(each, told.append)
        finally:
            self.watcher.left(each)
        files = stamps(each.job, [file.name for file in output.files])
        seconds = round(time.monotonic() - began, 3)
        return {"status": DONE, **summary(each), "told": told, "seconds": seconds, "files": files}

    def _skipped(self, each: Prepared) -> Line:
        clear_killed(Path(each.job.output))
        line = self.results.lines[each.job.output]
        known = {name: value for name, value in line.items() if name not in ("before", "error", "source", "output")}
        return {**known, "status": SKIPPED, "files": stamps(each.job, [file["name"] for file in line["files"]])}

    def _write(self, each: Prepared, told: Callable[[str], None]) -> Output:
        job, checkpoint = each.job, open_checkpoint(each.job.source)
        plan, same = plan_again(_saved(each.plan or {}), checkpoint)
        if not same or fingerprint(job, checkpoint, map(file_stamp, _others(job))) != each.fingerprint:
            raise CheckpointError(f"{printable(checkpoint.name, 80)} has changed since it was planned")
        files = [{"name": file["name"], "bytes": file["bytes"]} for file in (each.plan or {})["files"]]
        before = stamps(job, [file["name"] for file in files])
        os.makedirs(os.path.dirname(job.output), exist_ok=True)
        self.results.add(job, {"status": RUNNING, **summary(each), "files": files, "before": before})

        def progress(nbytes: int) -> None:
            self._go_on()
            self.watcher.moved(each, nbytes)

        return write(plan, job.output, job.settings.how, progress=progress, told=told, executor=self.executor)

    def _go_on(self) -> None:
        STOP.check()
        if self.broken:
            raise StoppedError


def _key(job: Job) -> tuple[str | None, str]:
    return job.choose_on, repr(job.settings.request)


def _answer(future: Future[T], otherwise: T) -> T:
    """What a task has answered, or `otherwise` with the error of one that came to no answer."""
    error = failure(future)
    if error is None:
        return future.result()
    return replace(otherwise, error=_reason(error))  # type: ignore[type-var]


def _outcome(future: Future[Line]) -> Line:
    error = failure(future)
    if error is None:
        return future.result()
    if isinstance(error, StoppedError):
        return {"status": STOPPED}
    return {"status": FAILED, "error": _reason(error)}


def _reason(error: BaseException) -> str:
    if isinstance(error, BrokenExecutor):
        return "its worker process was killed"
    if isinstance(error, OSError):
        return os_reason_with_path(error)
    return str(as_ours(error, "the plan"))


def summary(each: Prepared) -> Line:
    """What a line says of a plan."""
    plan = each.plan or {}
    layers = plan["layers"]
    return {
        "fingerprint": each.fingerprint,
        "stack": plan["stack"],
        "layers": {name: layers[name] for name in ("before", "after", "kept", "dropped")},
        "parameters": plan["parameters"],
        "bytes": plan["bytes"],
        "disk": plan["disk_needed"],
        "warnings": plan["warnings"],
    }


def _still_there(line: Line | None) -> Line:
    """What a line about a job that failed goes on to say: an earlier output is still what it was."""
    if line is None or line.get("status") == RUNNING or "files" not in line:
        return {}
    return {name: line[name] for name in ("fingerprint", "files")}


@dataclass(frozen=True, slots=True)
class Disk:
    """A filesystem that outputs go to: a folder on it, and bytes."""

    folder: str
    needed: int
    free: int


def disks(batch: Iterable[Prepared]) -> list[Disk]:
    """What the jobs that are to be done need, for each filesystem. Raises OSError."""
    found: dict[int, Disk] = {}
    for each in (each for each in batch if each.plan is not None):
        folder = existing_folder(each.job.output)
        new = Disk(str(folder), 0, free_bytes(folder))
        disk = found.get(device := os.stat(folder).st_dev, new)
        found[device] = replace(disk, needed=disk.needed + each.needed)
    return list(found.values())


def as_far_as_it_fits(batch: Iterable[Prepared]) -> list[Prepared]:
    """`batch` with an error in each job for which its disk has no room after those before it."""
    taken: dict[int, int] = {}
    result = []
    for each in batch:
        if each.plan is not None:
            (disk,) = disks([each])
            device = os.stat(disk.folder).st_dev
            room = disk.free - taken.get(device, 0)
            if each.needed > room:
                each = replace(each, plan=None, error=f"needs {each.needed} bytes, {max(0, room)} are left")  # noqa: PLW2901
            else:
                taken[device] = taken.get(device, 0) + each.needed
        result.append(each)
    return result
