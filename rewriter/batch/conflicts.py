"""The files that each job of a batch reads and writes: no job may write a file that another one writes or reads.

Paths are real ones: folders' links are followed. A path includes all that lies below it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from rewriter.errors import RequestError, printable

# The endings of the names of one output's files; only names that are alike before it are compared.
_TAIL = re.compile(r"(-[0-9]+-of-[0-9]+)?([.]gguf|[.]safetensors)?([.](config|rewriter)[.]json)?\Z")
_SPLIT = "make that two batches"
_OWN = "which is this batch's own file: give another output, or other --results"


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The files that job `number` reads and writes; 0 is the batch itself, with the files that it keeps.

    Files beside the first path that it writes are removed if their names match the regular expression `others`.
    """

    number: int
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    others: str = ""


def real_path(path: str) -> str:
    """The path with its folder's links followed, but not its own: a rename replaces the link itself."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def check_conflicts(jobs: Collection[JobFiles]) -> None:
    """Raise RequestError if two jobs would write one file, or one would write a file that another reads."""
    writers = _writers(jobs)
    readers = {path: job for job in jobs for path in job.reads}
    for path, job in writers.items():
        would = f"job {job.number} would write {printable(path, 200)}"
        if reader := next((readers[each] for each in (path, *_above(path)) if each in readers), None):
            raise RequestError(f"{would}, {_read_by(reader)}")
        outer = next((each for each in _above(path) if writers.get(each, job) is not job), None)
        if outer is not None:
            where = f"{printable(outer, 200)}, the output of job {writers[outer].number}"
            raise RequestError(f"job {job.number} would write into {where}")
    for path, job in readers.items():
        if writer := next((writers[each] for each in _above(path) if each in writers), None):
            raise RequestError(f"job {writer.number} would write where {printable(path, 200)} is, {_read_by(job)}")
    _check_others(jobs, writers, readers)


def _writers(jobs: Iterable[JobFiles]) -> dict[str, JobFiles]:
    writers: dict[str, JobFiles] = {}
    for job in jobs:
        for path in job.writes:
            if (other := writers.setdefault(path, job)) is not job:
                numbers = sorted({other.number, job.number})
                both = f"job{'s' * (len(numbers) > 1)} {' and '.join(map(str, numbers))}"
                hint = "name in output what differs, such as {stem}-{ratio}"
                raise RequestError(f"{both} would write {printable(path, 200)} twice; {hint}")
    return writers


def _check_others(jobs: Iterable[JobFiles], writers: Mapping[str, JobFiles], readers: Mapping[str, JobFiles]) -> None:
    """An output that replaces an earlier one removes the files that belonged to that alone."""
    near: dict[tuple[str, str], list[tuple[str, JobFiles]]] = {}
    for path, job in chain(writers.items(), readers.items()):
        near.setdefault(_stem(path), []).append((os.path.basename(path), job))
    for job in jobs:
        matches: Callable[[str], object] = re.compile(job.others or "(?!)", re.DOTALL).fullmatch
        for name, other in near.get(_stem(job.writes[0]), ()) if job.others else ():
            if other is not job and matches(name):
                whose = f"which job {other.number} writes or reads: {_SPLIT}" if other.number else _OWN
                raise RequestError(f"job {job.number} may remove {printable(name, 200)}, {whose}")


def _stem(path: str) -> tuple[str, str]:
    folder, name = os.path.split(path)
    match = _TAIL.search(name)
    return folder, name[: match.start()] if match else name


def _read_by(reader: JobFiles) -> str:
    return f"which job {reader.number} reads: {_SPLIT}" if reader.number else _OWN


def _above(path: str) -> Iterator[str]:
    return map(str, Path(path).parents)
