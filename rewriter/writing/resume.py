"""What a run with `--resume` leaves for the next one: its finished files, and what they were made of.

Laws:
- A file is finished once the disk has it; only then a line with its stamp is written to `finished`, and synced.
- The first line says what is being made from what. With another plan or a source that has changed since, the change
  time included, which nothing can set back, the next run starts afresh.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, replace
from pathlib import Path

from rewriter.checkpoint import FileStamp
from rewriter.errors import CheckpointError, printable
from rewriter.formats import json_edit
from rewriter.layout.output import CopyRange, Output, OutputFile, RangeDigest, StridedRange
from rewriter.system.files import file_stamp
from rewriter.system.untrusted import NoFileError, read_whole
from rewriter.writing.commit import NEW
from rewriter.writing.staging import append, clear_directory, remove_tree, sync

_FINISHED = "finished"  # in the staging directory
_MOST_BYTES = 100_000_000  # of the record; a file takes some 100
ATTEMPTS = "attempts-"  # how folders there begin in which workers make files

Line = dict[str, object]


def reuse_finished(
    staging: Path, output: Output, resume: bool, notify: Callable[[str], None]
) -> tuple[OutputFile, ...]:
    """Return the files that an interrupted run with `--resume` finished; nothing else is left in `staging`.

    `notify(line)` is called with what a user should know. Raises OSError.
    """
    lines = _lines(staging)
    heading = _heading(output) if resume else None
    why = _difference(lines, heading)
    done = () if why else finished(staging, output)
    if done:
        notify(f"{_count(done, output)} are there from an interrupted run and stay")
        for attempts in staging.glob(f"{ATTEMPTS}*"):  # first: a worker of that run may still be about to finish one
            remove_tree(attempts)
        for file in output.files:
            if file not in done:
                (staging / NEW / file.name).unlink(missing_ok=True)
    else:
        if len(lines) > 1:
            notify(f"starts afresh, the files of an interrupted run are not used: {why or 'they have changed'}")
        clear_directory(staging)
    if heading:
        _begin(staging, [heading, *(_entry(staging, file) for file in done)])
    return done


def should_keep(staging: Path, output: Output, notify: Callable[[str], None]) -> bool:
    """Whether `staging` has a finished file that the next run can use; `notify` as above."""
    try:
        done = finished(staging, output)
    except OSError:
        return False
    if done:
        notify(
            f"{_count(done, output)} are kept in {printable(staging.name, 80)}: the same command with --resume goes on"
        )
    return bool(done)


@contextmanager
def report_nothing_kept(staging: Path, output: Output, resume: bool, notify: Callable[[str], None]) -> Iterator[None]:
    """Notify the user if a run with `resume` is stopped before any file was finished; `notify` as above."""
    through = False
    try:
        yield
        through = True
    finally:
        with suppress(OSError):
            if resume and not through and not finished(staging, output):
                notify("nothing is kept, for no file was finished: the same command begins anew")


def invalidate(staging: Path) -> None:
    """Nothing that was made there may be used again."""
    with suppress(FileNotFoundError):
        os.unlink(staging / _FINISHED)


def finished(staging: Path, output: Output) -> tuple[OutputFile, ...]:
    """The files of `output` that are in `staging` as they were when they were finished. Raises OSError."""
    stamps = {line.get("name"): line.get("stamp") for line in _lines(staging)[1:]}
    return tuple(file for file in output.files if _is_as(staging / NEW / file.name, stamps.get(file.name)))


def recorder(staging: Path, resume: bool) -> Callable[[OutputFile], None]:
    """What is to be called with each file that is finished, from any thread; without `resume` nothing comes of it."""
    lock = threading.Lock()

    def record(file: OutputFile) -> None:
        if not resume:
            return
        line = _line(_entry(staging, file))
        with lock:
            append(staging / _FINISHED, line)

    return record


def _begin(staging: Path, lines: list[Line]) -> None:
    """Write the record anew: its last line may have been cut off."""
    new = staging / f"{_FINISHED}.new"
    new.unlink(missing_ok=True)
    append(new, b"".join(map(_line, lines)))
    os.replace(new, staging / _FINISHED)
    sync(staging)


def _entry(staging: Path, file: OutputFile) -> Line:
    return {"name": file.name, "stamp": list(astuple(file_stamp(staging / NEW / file.name)))}


def _count(done: tuple[OutputFile, ...], output: Output) -> str:
    return f"{len(done)} of {len(output.files)} files"


def _lines(staging: Path) -> list[Line]:
    """The record, up to a line that a kill cut off."""
    lines: list[Line] = []
    with suppress(FileNotFoundError, NoFileError, UnicodeDecodeError, CheckpointError):
        for text in read_whole(staging / _FINISHED, _MOST_BYTES).decode().splitlines():
            line = json_edit.parse(text, _FINISHED)
            lines += [line] if isinstance(line, dict) else []
    return lines


def _line(value: Line) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _is_as(path: Path, recorded: object) -> bool:
    if not isinstance(recorded, list) or os.path.realpath(path) != str(path):  # no link leads elsewhere
        return False
    try:
        return list(astuple(file_stamp(path))) == recorded
    except CheckpointError:
        return False


def _heading(output: Output) -> Line:
    return {"sources": _digest(map(_source, output.sources)), "output": _digest(_contents(output))}


def _difference(lines: list[Line], heading: Line | None) -> str:
    """Why what is there cannot be used; nothing if it can."""
    if heading is None or not lines:
        return "this run is without --resume"
    if lines[0].get("sources") != heading["sources"]:
        return "the input has changed"
    return "" if lines[0].get("output") == heading["output"] else "they belong to another output"


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def _source(source: tuple[str, FileStamp]) -> str:
    path, found = source
    return f"{os.path.basename(path)} {astuple(found)} {os.stat(path).st_ctime_ns}"


def _contents(output: Output) -> Iterator[str]:
    """What every file is made of, its sources by their numbers: a path can be written in several ways."""
    numbers = {path: str(number) for number, (path, _) in enumerate(output.sources)}
    for file in output.files:
        yield file.name
        for piece in file.pieces:
            if isinstance(piece, CopyRange | StridedRange):
                piece = replace(piece, path=numbers[piece.path])  # noqa: PLW2901
            yield "digest" if isinstance(piece, RangeDigest) else repr(piece)
