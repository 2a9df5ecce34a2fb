"""Runs the jobs of a batch: finds which are done, plans the others, and carries them out side by side.

Laws:
- An executor inspects, scores and plans, and writes the files; the locks, the checks and the commit are here.
- Nothing is written before all jobs are planned: no two may want one file, and their outputs must fit together.
- A job is planned again from the layers that it keeps just before it is written; its sources must be as they were.
- A job that fails takes no other with it. At a signal those under way end as `prune` does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from rewriter.batch.conflicts import check_conflicts
from rewriter.batch.jobs import Batch
from rewriter.batch.results import DONE, FAILED, RUNNING, SKIPPED, STOPPED, ResultLine, Results, stamps
from rewriter.batch.tasks import ChosenLayers, PlannedJob, choose_layers, existing_folder, inspect_job, plan_job
from rewriter.errors import CheckpointError, os_reason_with_path
from rewriter.system.calls import free_bytes
from rewriter.system.signals import STOP, StoppedError
from rewriter.writing.distribute import future_error, to_rewriter_error
from rewriter.writing.execute import roll_back_and_clear
from rewriter.writing.write import write

_INTERVAL = 0.2  # seconds between two checks whether to stop

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BatchListener:
    """Functions that a batch calls as it goes on, from any thread."""

    planned: Callable[[int, int], None] = lambda done, of: None
    started: Callable[[PlannedJob], None] = lambda planned: None
    moved: Callable[[PlannedJob, int], None] = lambda planned, nbytes: None
    left: Callable[[PlannedJob], None] = lambda planned: None
    ended: Callable[[ResultLine], None] = lambda line: None


@dataclass(slots=True)
class BatchRun:
    """One run of a batch: its executor, its results and its listener."""

    executor: Executor
    results: Results
    listener: BatchListener = field(default_factory=BatchListener)
    broken: bool = False  # results can no longer be written
    words: Callable[[str], str] = str  # how errors name options

    def plan(self, batch: Batch, whole: bool = False) -> list[PlannedJob]:
        """Inspect all jobs and plan those that are not done; `whole` plans hold everything that `plan --json` prints.

        Raises StoppedError; RequestError if one job writes a file of another.
        """
        lines = self.results.lines
        answers = self._submit(inspect_job, [(job, lines.get(job.output), whole) for job in batch.jobs])
        jobs = [_result(answer, PlannedJob(job, job.files)) for answer, job in zip(answers, batch.jobs, strict=True)]
        waiting = [each for each in jobs if not (each.plan or each.done or each.error)]
        wanted = {_choice(each): (each.job.choose_on, each.job.settings.request) for each in waiting}
        choices = {
            key: _result(answer, ChosenLayers())
            for key, answer in zip(wanted, self._submit(choose_layers, list(wanted.values())), strict=True)
        }
        answers = self._submit(plan_job, [(each, choices[_choice(each)], whole) for each in waiting])
        chosen = {each.job.output: _result(answer, each) for answer, each in zip(answers, waiting, strict=True)}
        jobs = [chosen.get(each.job.output, each) for each in jobs]
        check_conflicts([batch.own, *(each.files for each in jobs)])
        return [replace(each, error=self.words(each.error)) for each in jobs]

    def _submit(self, task: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[Future[T]]:
        """Have the executor do all of it; a task whose worker is lost is submitted once more."""
        futures = [self.executor.submit(task, *each) for each in arguments]
        self._wait_for(futures)
        lost = [number for number, each in enumerate(futures) if isinstance(future_error(each), BrokenExecutor)]
        for number in lost:
            futures[number] = self.executor.submit(task, *arguments[number])
        self._wait_for(futures)
        return futures

    def _wait_for(self, futures: Sequence[Future[Any]]) -> None:
        waiting = set(futures)
        while waiting:
            waiting = wait(waiting, _INTERVAL, FIRST_COMPLETED).not_done
            self.listener.planned(len(futures) - len(waiting), len(futures))
            if STOP.is_set():
                for future in waiting:
                    future.cancel()
                raise StoppedError

    def carry_out(self, jobs: Sequence[PlannedJob], at_once: int) -> list[ResultLine]:
        """Carry out planned jobs, `at_once` of them side by side, and return the line of each, in their order."""
        earlier, lines = dict(self.results.lines), {}
        with ThreadPoolExecutor(at_once) as threads:
            futures = {threads.submit(self._carry_out, each): each for each in jobs}
            try:
                for future in as_completed(futures):
                    job = futures[future].job
                    line = {**_earlier_output(earlier.get(job.output)), **_last_line(future)}
                    line |= {"error": self.words(line["error"])} if "error" in line else {}
                    lines[job.output] = self.results.add(job, line)
                    self.listener.ended(lines[job.output])
            except OSError:
                self.broken = True
                raise
        self.results.replace(each.job for each in jobs)
        return [lines[each.job.output] for each in jobs]

    def _carry_out(self, planned: PlannedJob) -> ResultLine:
        """The line about a job that has ended well."""
        if planned.done:
            return self._skip(planned)
        if planned.error:
            raise CheckpointError(planned.error)
        self._check_stop()
        began, notes = time.monotonic(), list(planned.notes)
        self.listener.started(planned)
        try:
            names = self._write(planned, notes.append)
        finally:
            self.listener.left(planned)
        seconds = round(time.monotonic() - began, 3)
        files = stamps(planned.job, names)
        return {"status": DONE, **_summary(planned), "told": notes, "seconds": seconds, "files": files}

    def _skip(self, planned: PlannedJob) -> ResultLine:
        roll_back_and_clear(Path(planned.job.output))
        line = self.results.lines[planned.job.output]
        known = {name: value for name, value in line.items() if name not in ("before", "error", "source", "output")}
        return {**known, "status": SKIPPED, "files": stamps(planned.job, [file["name"] for file in line["files"]])}

    def _write(self, planned: PlannedJob, notify: Callable[[str], None]) -> list[str]:
        """Write the output, and return the names of its files."""
        job, plan = planned.job, planned.make_plan()
        files = [{"name": file["name"], "bytes": file["bytes"]} for file in (planned.plan or {})["files"]]
        names = [file["name"] for file in files]
        os.makedirs(os.path.dirname(job.output), exist_ok=True)
        before = stamps(job, names)
        self.results.add(job, {"status": RUNNING, **_summary(planned), "files": files, "before": before})

        def progress(nbytes: int) -> None:
            self._check_stop()
            self.listener.moved(planned, nbytes)

        write(plan, job.output, job.settings.write_options, progress=progress, notify=notify, executor=self.executor)
        return names

    def _check_stop(self) -> None:
        STOP.check()
        if self.broken:
            raise StoppedError


def _choice(planned: PlannedJob) -> tuple[str | None, str]:
    """Jobs with the same one get the same layers."""
    return planned.job.choose_on, repr(planned.job.settings.request)


def _result(future: Future[T], otherwise: T) -> T:
    """The result of a task, or `otherwise` with the error of one that has none."""
    error = future_error(future)
    return future.result() if error is None else replace(otherwise, error=_reason(error))  # type: ignore[type-var]


def _last_line(future: Future[ResultLine]) -> ResultLine:
    error = future_error(future)
    if error is None:
        return future.result()
    return {"status": STOPPED} if isinstance(error, StoppedError) else {"status": FAILED, "error": _reason(error)}


def _reason(error: BaseException) -> str:
    if isinstance(error, BrokenExecutor):
        return "its worker process was killed"
    if isinstance(error, OSError):
        return os_reason_with_path(error)
    return str(to_rewriter_error(error, "the plan"))


def _summary(planned: PlannedJob) -> ResultLine:
    """The members of a line that follow from the plan."""
    plan = planned.plan or {}
    return {
        "fingerprint": planned.fingerprint,
        "stack": plan["stack"],
        "layers": {name: plan["layers"][name] for name in ("before", "after", "kept", "dropped")},
        "parameters": plan["parameters"],
        "bytes": plan["bytes"],
        "disk": plan["disk_needed"],
        "warnings": plan["warnings"],
    }


def _earlier_output(line: ResultLine | None) -> ResultLine:
    """The members of an earlier line that hold although the job has failed now: its output is as it was."""
    if line is None or line.get("status") == RUNNING or "files" not in line:
        return {}
    return {name: line[name] for name in ("fingerprint", "files")}


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """A filesystem that outputs go to: a folder on it, and bytes."""

    folder: str
    needed: int
    free: int


def disk_usage(jobs: Iterable[PlannedJob]) -> list[DiskUsage]:
    """The bytes that the jobs that are to be done need, on each filesystem. Raises OSError."""
    found: dict[int, DiskUsage] = {}
    for each in jobs:
        if each.plan is not None:
            folder = existing_folder(each.job.output)
            device = os.stat(folder).st_dev
            disk = found[device] if device in found else DiskUsage(str(folder), 0, free_bytes(folder))
            found[device] = replace(disk, needed=disk.needed + each.needed)
    return list(found.values())


def limit_to_free_space(jobs: Iterable[PlannedJob]) -> list[PlannedJob]:
    """`jobs` with an error in each for which its disk has no room after those before it. Raises OSError."""
    taken: dict[int, int] = {}
    result = []
    for each in jobs:
        if each.plan is not None:
            folder = existing_folder(each.job.output)
            device = os.stat(folder).st_dev
            room = free_bytes(folder) - taken.get(device, 0)
            if each.needed > room:
                each = replace(each, plan=None, error=f"needs {each.needed} bytes, {max(0, room)} are left")  # noqa: PLW2901
            else:
                taken[device] = taken.get(device, 0) + each.needed
        result.append(each)
    return result
