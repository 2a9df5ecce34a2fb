"""Lets any `concurrent.futures.Executor` write the files of an output: threads, processes, machines of a cluster.

Laws:
- A task is a value that holds all that is to be done: nothing is planned where it is carried out, and every path in it
  is absolute. What locks, checks and commits stays where the run was started.
- A task may be carried out twice at once: a worker that was given up may go on writing. So every attempt writes a file
  of its own name, in a folder of this run alone, and gives it its place with a rename that replaces nothing. Once the
  folder is gone nothing can get a place any more, and who still writes notices it.
- A task whose worker is lost is given out once more, and is then done here.
"""

from __future__ import annotations

import os
import platform
import shutil
import uuid
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rewriter.checkpoint import FileStamp
from rewriter.errors import CheckpointError, OutputError, RewriterError, printable
from rewriter.layout.output import CopyRange, OutputFile, StridedRange, WriteOptions
from rewriter.system.files import file_stamp, printable_name
from rewriter.system.rename import rename_new
from rewriter.system.signals import STOP, StoppedError
from rewriter.version import VERSION
from rewriter.writing.commit import NEW
from rewriter.writing.copy import Finished, ProgressCallback, write_file
from rewriter.writing.resume import ATTEMPTS

_LOOK = 0.2  # seconds between two looks at how far the workers are
_CHANCES = 2  # how often a task is given out


class _AbandonedError(Exception):
    """The run that this task belongs to has ended: nobody waits for it."""


@dataclass(frozen=True, slots=True)
class Task:
    """One file to write: `file` into `folder`, from `sources` as they were when they were opened, as `how` says.

    `attempts` is where it is made; `version` is the program's that planned it.
    """

    file: OutputFile
    folder: str
    attempts: str
    sources: tuple[tuple[str, FileStamp], ...]
    how: WriteOptions
    version: str = VERSION


def write_task(task: Task) -> None:
    """Carry out `task`, wherever this runs. Raises CheckpointError, OutputError or OSError."""
    place = Path(task.folder, task.file.name)
    attempt = f"{task.attempts}/{uuid.uuid4().hex}"
    _check_here(task)
    if os.path.lexists(place):  # a lost worker had come to the end
        return
    try:
        write_file(task.file, attempt, lambda nbytes: _go_on(attempt), task.how)
        _check_sources(task)
        rename_new(Path(attempt), place)
    except FileExistsError:
        pass  # another attempt was faster
    except FileNotFoundError:
        _go_on(task.attempts)
        raise
    finally:
        with suppress(FileNotFoundError):
            os.unlink(attempt)


def _go_on(path: str) -> None:
    try:
        os.lstat(path)
    except FileNotFoundError:
        raise _AbandonedError("its folder has gone") from None


def _check_here(task: Task) -> None:
    """Whether the task can be carried out on this machine at all."""
    if task.version != VERSION:
        raise OutputError(f"{_here()} has rewriter {VERSION}, the run was started by {task.version}: install the same")
    if not os.path.isdir(task.attempts):
        raise OutputError(
            f"{_here()} does not see {printable(os.path.dirname(task.attempts), 200)}: workers need the same "
            f"filesystem "
            "under the same path"
        )
    for path, _ in task.sources:
        if not os.path.exists(path):
            raise OutputError(f"{_here()} does not see {printable(path, 200)}: workers need it under the same path")
    _check_sources(task)


def _check_sources(task: Task) -> None:
    for path, before in task.sources:
        if file_stamp(path) != before:
            raise CheckpointError(f"{printable_name(path)} has changed, or {_here()} sees another; nothing was written")


def _here() -> str:
    return f"the worker on {printable(platform.node())}"


def spread(
    files: Collection[OutputFile],
    sources: tuple[tuple[str, FileStamp], ...],
    staging: Path,
    progress: ProgressCallback,
    finished: Finished,
    how: WriteOptions,
    executor: Executor,
) -> None:
    """Have `executor` write `files` into the directory of the new output in `staging`.

    `finished(file)` is called after each, `progress(nbytes)` often, by the calling thread. Raises CheckpointError,
    OutputError or OSError: what the first task that failed has raised.
    """
    attempts = staging / f"{ATTEMPTS}{uuid.uuid4().hex}"
    attempts.mkdir()
    stamps = {os.path.abspath(path): found for path, found in sources}
    ordered = sorted(files, key=lambda file: -file.nbytes)
    tasks = [_task(file, str(staging / NEW), str(attempts), stamps, how) for file in ordered]
    try:
        _Given(executor, finished, _Meter(attempts, progress)).run(tasks)
    finally:
        with suppress(OSError):  # under another name nobody can make anything in it while it is removed
            attempts = attempts.rename(attempts.with_name(f"{ATTEMPTS}ended"))
        with suppress(OSError):  # even so it raises where a directory cannot be closed: see staging.removed
            shutil.rmtree(attempts, ignore_errors=True)


def _task(file: OutputFile, folder: str, attempts: str, stamps: dict[str, FileStamp], how: WriteOptions) -> Task:
    pieces = tuple(
        replace(piece, path=os.path.abspath(piece.path)) if isinstance(piece, CopyRange | StridedRange) else piece
        for piece in file.pieces
    )
    used = dict.fromkeys(piece.path for piece in pieces if isinstance(piece, CopyRange | StridedRange))
    file = replace(file, pieces=pieces)
    return Task(file, folder, attempts, tuple((path, stamps[path]) for path in used), how)


class _Meter:
    """Says how far the workers are, by the sizes of what they write."""

    def __init__(self, attempts: Path, progress: ProgressCallback) -> None:
        self._attempts, self._progress = attempts, progress
        self._finished = self._said = 0

    def look(self) -> None:
        under_way = 0
        for entry in os.scandir(self._attempts):
            with suppress(FileNotFoundError):
                under_way += entry.stat(follow_symlinks=False).st_size
        self._say(self._finished + under_way)

    def finish(self, file: OutputFile) -> None:
        self._finished += file.nbytes

    def end(self) -> None:
        self._said, before = self._finished, self._said
        self._progress(self._finished - before)

    def _say(self, nbytes: int) -> None:
        more = max(0, nbytes - self._said)
        self._said += more
        self._progress(more)


class _Given:
    """Tasks that were given to an executor."""

    def __init__(self, executor: Executor, finished: Callable[[OutputFile], None], meter: _Meter) -> None:
        self._executor, self._finished, self._meter = executor, finished, meter
        self._waiting: dict[Future[None], tuple[Task, int]] = {}

    def run(self, tasks: list[Task]) -> None:
        """Wait until all are done. Whatever happens, nothing is given out any more afterwards."""
        try:
            for task in tasks:
                self._give(task, 1)
            while self._waiting:
                STOP.check()
                done, _ = wait(self._waiting, _LOOK, FIRST_COMPLETED)
                for future in done:
                    self._take(future)
                self._meter.look()
            self._meter.end()
        finally:
            for future in self._waiting:
                future.cancel()

    def _give(self, task: Task, chance: int) -> None:
        if chance <= _CHANCES:
            with suppress(BrokenExecutor):
                self._waiting[self._executor.submit(write_task, task)] = task, chance
                return
        write_task(task)
        self._end(task)

    def _take(self, future: Future[None]) -> None:
        task, chance = self._waiting.pop(future)
        error = failure(future)
        if isinstance(error, BrokenExecutor):
            self._give(task, chance + 1)
        elif error is not None:
            raise as_ours(error, task.file.name)
        else:
            self._end(task)

    def _end(self, task: Task) -> None:
        self._meter.finish(task.file)
        self._finished(task.file)


def failure(future: Future[Any]) -> BaseException | None:
    """What a future that is done has raised; that it was cancelled counts."""
    return CancelledError() if future.cancelled() else future.exception()


def as_ours(error: BaseException, name: str) -> Exception:
    """The error to raise for what a worker raised: its own where it is one of ours."""
    if isinstance(error, RewriterError | OSError | StoppedError):
        return error
    if isinstance(error, CancelledError):
        return OutputError(f"{printable(name, 80)} was not written: the cluster has given it up")
    reason = printable(f"{type(error).__name__}: {error}".partition("\n")[0], 200)
    return OutputError(f"{printable(name, 80)} could not be written by a worker: {reason}")
