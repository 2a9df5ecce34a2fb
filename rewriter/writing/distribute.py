"""Lets any `concurrent.futures.Executor` write the files of an output: threads, processes, machines of a cluster.

Laws:
- A task is a value that holds everything that its worker needs: workers plan nothing, and every path in it is absolute.
  The process that started the run locks, checks and commits.
- A task may be carried out twice at once: a worker that was given up may go on writing. So every attempt writes a file
  of its own name, in a folder of this run alone, and moves it to its place with a rename that replaces nothing. Once
  the folder is gone no file can get a place, and a worker that still writes notices it.
- A task whose worker is lost is submitted once more, and is then done here.
"""

from __future__ import annotations

import os
import platform
import shutil
import uuid
from collections.abc import Collection
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

_INTERVAL = 0.2  # seconds between two reports of progress
_CHANCES = 2  # how often a task is submitted


class _AbandonedError(Exception):
    """The run that this task belongs to has ended: nobody waits for it."""


@dataclass(frozen=True, slots=True)
class Task:
    """One file to write: `file` into `folder`, from `sources` as they were when they were opened.

    `attempts` is where it is made; `version` is the program's that planned it.
    """

    file: OutputFile
    folder: str
    attempts: str
    sources: tuple[tuple[str, FileStamp], ...]
    write_options: WriteOptions
    version: str = VERSION


def write_task(task: Task) -> None:
    """Carry out `task`, wherever this runs. Raises CheckpointError, OutputError or OSError."""
    place = Path(task.folder, task.file.name)
    attempt = f"{task.attempts}/{uuid.uuid4().hex}"
    _check_here(task)
    if os.path.lexists(place):  # a lost worker had come to the end
        return
    try:
        write_file(task.file, attempt, lambda nbytes: _go_on(attempt), task.write_options)
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
    write_options: WriteOptions,
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
    tasks = [_task(file, str(staging / NEW), str(attempts), stamps, write_options) for file in ordered]
    try:
        _Distribution(executor, attempts, progress, finished).run(tasks)
    finally:
        with suppress(OSError):  # under another name nobody can make anything in it while it is removed
            attempts = attempts.rename(attempts.with_name(f"{ATTEMPTS}ended"))
        with suppress(OSError):  # even so it raises if a directory cannot be closed: see staging.remove_tree
            shutil.rmtree(attempts, ignore_errors=True)


def _task(
    file: OutputFile, folder: str, attempts: str, stamps: dict[str, FileStamp], write_options: WriteOptions
) -> Task:
    pieces = tuple(
        replace(piece, path=os.path.abspath(piece.path)) if isinstance(piece, CopyRange | StridedRange) else piece
        for piece in file.pieces
    )
    used = dict.fromkeys(piece.path for piece in pieces if isinstance(piece, CopyRange | StridedRange))
    file = replace(file, pieces=pieces)
    return Task(file, folder, attempts, tuple((path, stamps[path]) for path in used), write_options)


class _Distribution:
    """Tasks that an executor carries out, and their progress: the sizes of the files that the workers write."""

    def __init__(self, executor: Executor, attempts: Path, progress: ProgressCallback, finished: Finished) -> None:
        self._executor, self._attempts, self._progress, self._finished = executor, attempts, progress, finished
        self._waiting: dict[Future[None], tuple[Task, int]] = {}
        self._complete = self._reported = 0  # bytes

    def run(self, tasks: list[Task]) -> None:
        """Wait until all are done. However it ends, no task starts afterwards."""
        try:
            for task in tasks:
                self._submit(task, 1)
            while self._waiting:
                STOP.check()
                done, _ = wait(self._waiting, _INTERVAL, FIRST_COMPLETED)
                for future in done:
                    self._take(future)
                self._report(max(self._reported, self._complete + self._under_way()))
            self._report(self._complete)
        finally:
            for future in self._waiting:
                future.cancel()

    def _submit(self, task: Task, chance: int) -> None:
        if chance <= _CHANCES:
            with suppress(BrokenExecutor):
                self._waiting[self._executor.submit(write_task, task)] = task, chance
                return
        write_task(task)
        self._end(task)

    def _take(self, future: Future[None]) -> None:
        task, chance = self._waiting.pop(future)
        error = future_error(future)
        if isinstance(error, BrokenExecutor):
            self._submit(task, chance + 1)
        elif error is not None:
            raise to_rewriter_error(error, task.file.name)
        else:
            self._end(task)

    def _end(self, task: Task) -> None:
        self._complete += task.file.nbytes
        self._finished(task.file)

    def _under_way(self) -> int:
        total = 0
        for entry in os.scandir(self._attempts):
            with suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_size
        return total

    def _report(self, nbytes: int) -> None:
        more, self._reported = nbytes - self._reported, nbytes
        self._progress(more)


def future_error(future: Future[Any]) -> BaseException | None:
    """The exception of a future that is done, CancelledError for one that was cancelled, None if it has a result."""
    return CancelledError() if future.cancelled() else future.exception()


def to_rewriter_error(error: BaseException, name: str) -> Exception:
    """The error to raise for one that a worker raised: the same if it is one of ours or the system's."""
    if isinstance(error, RewriterError | OSError | StoppedError):
        return error
    if isinstance(error, CancelledError):
        return OutputError(f"{printable(name, 80)} was not written: the cluster has given it up")
    reason = printable(f"{type(error).__name__}: {error}".partition("\n")[0], 200)
    return OutputError(f"{printable(name, 80)} could not be written by a worker: {reason}")
