"""What has become of the jobs of a batch: one JSON object on each line of a file, for programs and for the next run.

Laws:
- A line is written when a job begins, and one when it ends; the last one about an output holds. At the end of a run
  the file is replaced by one with one line for each output.
- A job is done if its fingerprint, of all that it is made from, is the same and its files are as they were written. A
  run that was killed between an output's appearing and its line is noticed: the files are others than before it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rewriter.batch.jobs import LONGEST_PATH, Job
from rewriter.checkpoint import Checkpoint, Document, FileStamp, Shard, SideFile
from rewriter.errors import CheckpointError, OutputError, os_reason, printable
from rewriter.formats import json_edit
from rewriter.system.files import file_stamp, printable_name
from rewriter.system.untrusted import read_whole
from rewriter.writing.staging import append, sync

SCHEMA = 1
_LIMIT, _MOST_LINES, _MOST_FILES = 64 << 20, 100_000, 200_000  # bytes, lines, outputs' files; ten times a large batch's
DONE, SKIPPED, FAILED, STOPPED, RUNNING = "done", "skipped", "failed", "stopped", "running"

_START = b'{"schema": 1, "source": '  # every line begins so

Line = dict[str, Any]


# The shape of a line. A shape is a question to a value, a list of one shape, some shapes of which one fits, or members.


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_whole(value: object) -> bool:
    return type(value) is int and abs(value) < 1 << 63


def _is_seconds(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e12  # type: ignore[operator]


def _is_path(value: object) -> bool:
    """Whether a system could have a file of that name."""
    try:
        return isinstance(value, str) and 0 < len(value) <= LONGEST_PATH and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


_BOTH = {"before": _is_whole, "after": _is_whole}
_SIZED = {"name": _is_path, "bytes": _is_whole}
_STAMPED = {**_SIZED, "mtime_ns": _is_whole}
_SUMMARY = {
    "stack": _is_text,
    "layers": {**_BOTH, "kept": [_is_whole], "dropped": [_is_whole]},
    "parameters": _BOTH,
    "bytes": _BOTH,
    "disk": _is_whole,
    "warnings": [_is_text],
}
_MEMBERS = {
    "schema": lambda value: _is_whole(value) and value == SCHEMA,
    "source": _is_path,
    "output": _is_path,
    "status": lambda value: _is_text(value) and value in _NEEDED,
    "error": _is_text,
    "fingerprint": _is_text,
    **_SUMMARY,
    "told": [_is_text],
    "seconds": _is_seconds,
    "files": [(_STAMPED, _SIZED)],
    "before": [(_STAMPED, lambda value: value is None)],
}
_ALWAYS = {"schema", "source", "output", "status"}
_MADE = {"fingerprint", "files"}
_TOGETHER = (_MADE, {*_SUMMARY})  # all of them or none
_NEEDED: dict[str, set[str]] = {
    DONE: {*_ALWAYS, *_MADE, *_SUMMARY, "told", "seconds"},
    RUNNING: {*_ALWAYS, *_MADE, *_SUMMARY, "before"},
    SKIPPED: {*_ALWAYS, *_MADE},
    FAILED: {*_ALWAYS, "error"},
    STOPPED: _ALWAYS,
}


def is_line(value: Any) -> bool:
    """Whether a JSON value is a line as we write it, so that it can be used without another look."""
    if not isinstance(value, dict) or not _ALWAYS <= value.keys() <= _MEMBERS.keys():
        return False
    whole = all(value.keys() & names in (set(), names) for names in _TOGETHER)
    return whole and _fits(value, {name: _MEMBERS[name] for name in value}) and _NEEDED[value["status"]] <= value.keys()


def _fits(value: Any, shape: Any) -> bool:
    if isinstance(shape, dict):
        same = isinstance(value, dict) and value.keys() == shape.keys()
        return same and all(_fits(value[name], member) for name, member in shape.items())
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(each, shape[0]) for each in value)
    if isinstance(shape, tuple):
        return any(_fits(value, each) for each in shape)
    return bool(shape(value))


class Results:
    """The file of results at `path`; `lines` has the last line about every output, by its absolute path."""

    def __init__(self, path: Path) -> None:
        """Read what is there, but for lines that are not as we write them: their jobs are done again.

        Raises OutputError.
        """
        self.path = path = Path(os.path.abspath(path))
        self._new = path.with_name(f".{path.name}.new")
        self._lock = threading.Lock()
        self.lines: dict[str, Line] = {}
        if not path.parent.is_dir():
            raise OutputError(f"the folder {printable(path.parent)} does not exist; make it first")
        try:
            raw = read_whole(path, _LIMIT) if os.path.lexists(path) else b""
        except OSError as error:
            raise OutputError(f"cannot read {printable_name(path)}: {os_reason(error)}") from None
        foreign = bool(raw) and (_START not in raw or raw.count(b"\n") > _MOST_LINES)
        texts = () if foreign else raw.decode(errors="replace").splitlines()
        self._whole = [self._read(text) for text in texts].count(False) == 0
        if foreign or sum(len(line.get("files", ())) for line in self.lines.values()) > _MOST_FILES:
            raise OutputError(f"{printable_name(path)} is no file of results: --results names another")

    @property
    def outputs(self) -> list[str]:
        """The paths of all files that were made: they are nobody's source."""
        made = {output: [file["name"] for file in line.get("files", ())] for output, line in self.lines.items()}
        return [
            path for output, names in made.items() if names
            for path in (output, *(os.path.join(_folder(output), name) for name in names))
        ]  # fmt: skip

    @property
    def kept(self) -> tuple[str, ...]:
        """Where results are written: nobody's source, and no output."""
        return str(self.path), str(self._new)

    def add(self, job: Job, line: Line) -> Line:
        """Write a line about `job`, from any thread. Raises OSError."""
        line = {"schema": SCHEMA, "source": self._relative(job.source), "output": self._relative(job.output), **line}
        with self._lock:
            if not self._whole:  # a line must not continue a damaged one
                self.replace(())
            append(self.path, _text(line))
            self.lines[job.output] = line
        return line

    def replace(self, jobs: Iterable[Job]) -> None:
        """Write the file anew: `jobs` first, in their order, then other outputs that are still there."""
        first = [job.output for job in jobs if job.output in self.lines]
        rest = [output for output in self.lines if output not in set(first) and os.path.lexists(output)]
        self._new.unlink(missing_ok=True)
        append(self._new, b"".join(_text(self.lines[output]) for output in (first + rest if first else self.lines)))
        os.replace(self._new, self.path)
        sync(self.path.parent)
        self._whole = True

    def _read(self, text: str) -> bool:
        with suppress(CheckpointError):
            line = json_edit.parse(text, self.path.name)
            if is_line(line):
                self.lines[os.path.normpath(self.path.parent / line["output"])] = line
                return True
        return False

    def _relative(self, path: str) -> str:
        """Relative to the file of results, so that the whole may be moved; other places as they are."""
        folder = str(self.path.parent)
        return os.path.relpath(path, folder) if path.startswith(folder.rstrip("/") + "/") else path


def _text(line: Line) -> bytes:
    return json.dumps(line).encode() + b"\n"


def fingerprint(job: Job, checkpoint: Checkpoint, others: Iterable[FileStamp]) -> str:
    """A hash of all that the output of `job` follows from; `others` are the stamps of what else is read."""
    files: tuple[Shard | Document | SideFile, ...] = (
        *checkpoint.shards, *checkpoint.documents, *checkpoint.side_files,
    )  # fmt: skip
    stamps = sorted((file.name, file.stamp.size, file.stamp.mtime_ns) for file in files)
    read = [(each.size, each.mtime_ns) for each in others]
    asked = (job.settings.request, job.settings.how.checksums)
    text = repr((checkpoint.header_sha256, stamps, read, asked))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def is_done(job: Job, line: Mapping[str, Any] | None, found: str) -> bool:
    """Whether what `line` says was made is there, from what has the fingerprint `found`."""
    if line is None or line.get("fingerprint") != found or not line.get("files"):
        return False
    now = stamps(job, [file["name"] for file in line["files"]])
    if line["status"] != RUNNING:
        return bool(now == line["files"])
    sizes = [file["bytes"] for file in line["files"]]
    return bool(now != line["before"] and [file and file["bytes"] for file in now] == sizes)


def stamps(job: Job, names: Iterable[str]) -> list[Line | None]:
    """Size and modification time of the output's files of these names; None for one that is not there."""
    return [_stamp(job, name) for name in names]


def _stamp(job: Job, name: str) -> Line | None:
    try:
        found = file_stamp(os.path.join(_folder(job.output), name))
    except CheckpointError:
        return None
    return {"name": name, "bytes": found.size, "mtime_ns": found.mtime_ns}


def _folder(output: str) -> str:
    """A directory's files are in it, the others beside each other."""
    return output if os.path.isdir(output) else os.path.dirname(output)
