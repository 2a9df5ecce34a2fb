"""The results of a batch's jobs: one JSON object on each line of a file, for programs and for the next run.

Laws:
- A line is written when a job begins, and one when it ends; the last one about an output holds. At the end of a run
  the file is replaced by one with one line for each output.
- A job is done if its fingerprint, a hash of everything that it is made from, is the same and its files are as they
  were written. A run that was killed after an output appeared and before its line was written is noticed: the files
  are others than before it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, ValidationError, convert

from rewriter.batch.jobs import LONGEST_PATH, Job
from rewriter.checkpoint import Checkpoint, FileStamp
from rewriter.errors import CheckpointError, OutputError, os_reason, printable
from rewriter.formats import json_edit
from rewriter.system.files import file_stamp, printable_name
from rewriter.system.untrusted import read_whole
from rewriter.writing.staging import append, sync

SCHEMA = 1
_LIMIT, _MOST_LINES, _MOST_FILES = 64 << 20, 100_000, 200_000  # bytes, lines, outputs' files; ten times a large batch's
DONE, SKIPPED, FAILED, STOPPED, RUNNING = "done", "skipped", "failed", "stopped", "running"

_START = b'{"schema": 1, "source": '  # every line begins so

ResultLine = dict[str, Any]  # docs/json.md has its members

_Whole = Annotated[int, Meta(ge=1 - (1 << 63), le=(1 << 63) - 1)]
_Seconds = Annotated[float, Meta(ge=0, lt=1e12)]
_FilePath = Annotated[
    str, Meta(min_length=1, max_length=LONGEST_PATH, pattern="\\A[^\0\ud800-\udc7f\udd00-\udfff]*\\Z")
]


class _Shape(Struct, forbid_unknown_fields=True, kw_only=True):
    """Members that a JSON object may have, and no others."""


class _BeforeAfter(_Shape):
    before: _Whole
    after: _Whole


class _Layers(_BeforeAfter):
    kept: list[_Whole]
    dropped: list[_Whole]


class _File(_Shape):
    name: _FilePath
    bytes: _Whole
    mtime_ns: _Whole | UnsetType = UNSET


class _StampedFile(_File):
    mtime_ns: _Whole


_MADE = {"fingerprint", "files"}
_SUMMARY = {"stack", "layers", "parameters", "bytes", "disk", "warnings"}
_NEEDED = {
    DONE: {*_MADE, *_SUMMARY, "told", "seconds"},
    RUNNING: {*_MADE, *_SUMMARY, "before"},
    SKIPPED: _MADE,
    FAILED: {"error"},
    STOPPED: set[str](),
}


class _ResultLine(_Shape):
    """A line as we write it, so that the rest of the program can use its members without checks."""

    schema: Literal[1]
    source: _FilePath
    output: _FilePath
    status: Literal["done", "skipped", "failed", "stopped", "running"]
    error: str | UnsetType = UNSET
    fingerprint: str | UnsetType = UNSET
    stack: str | UnsetType = UNSET
    layers: _Layers | UnsetType = UNSET
    parameters: _BeforeAfter | UnsetType = UNSET
    bytes: _BeforeAfter | UnsetType = UNSET
    disk: _Whole | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET
    told: list[str] | UnsetType = UNSET
    seconds: _Seconds | UnsetType = UNSET
    files: list[_File] | UnsetType = UNSET
    before: list[_StampedFile | None] | UnsetType = UNSET

    def __post_init__(self) -> None:
        given = {name for name in self.__struct_fields__ if getattr(self, name) is not UNSET}
        incomplete = any(given & together not in (set(), together) for together in (_MADE, _SUMMARY))
        if incomplete or not given >= _NEEDED[self.status]:
            raise ValueError("members are missing")


class Results:
    """The file of results at `path`; `lines` has the last line about every output, by its absolute path."""

    def __init__(self, path: Path) -> None:
        """Read the file, except lines that are not as we write them: their jobs are done again.

        Raises OutputError.
        """
        self.path = path = Path(os.path.abspath(path))
        self._new = path.with_name(f".{path.name}.new")
        self._lock = threading.Lock()
        self.lines: dict[str, ResultLine] = {}
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
        """The paths of all files that were made: no job takes them as a source."""
        return [
            path for output, line in self.lines.items() if line.get("files")
            for path in (output, *(os.path.join(_folder(output), file["name"]) for file in line["files"]))
        ]  # fmt: skip

    @property
    def kept(self) -> tuple[str, ...]:
        """The paths that results are written to: no source, and no output."""
        return str(self.path), str(self._new)

    def add(self, job: Job, line: ResultLine) -> ResultLine:
        """Write a line about `job`, from any thread. Raises OSError."""
        line = {"schema": SCHEMA, "source": self._relative(job.source), "output": self._relative(job.output), **line}
        with self._lock:
            if not self._whole:  # a line must not continue a damaged one
                self.replace(())
            append(self.path, _text(line))
            self.lines[job.output] = line
        return line

    def replace(self, jobs: Iterable[Job]) -> None:
        """Write the file anew: `jobs` first, in their order, then other outputs that still exist. Raises OSError."""
        first = [job.output for job in jobs if job.output in self.lines]
        rest = [output for output in self.lines if output not in set(first) and os.path.lexists(output)]
        self._new.unlink(missing_ok=True)
        append(self._new, b"".join(_text(self.lines[output]) for output in (first + rest if first else self.lines)))
        os.replace(self._new, self.path)
        sync(self.path.parent)
        self._whole = True

    def _read(self, text: str) -> bool:
        with suppress(CheckpointError, ValidationError, UnicodeError):
            line = json_edit.parse(text, self.path.name)
            convert(line, _ResultLine)
            self.lines[os.path.normpath(self.path.parent / line["output"])] = line
            return True
        return False

    def _relative(self, path: str) -> str:
        """Relative to the file of results, so that both may be moved together; paths elsewhere stay as they are."""
        folder = str(self.path.parent)
        return os.path.relpath(path, folder) if path.startswith(folder.rstrip("/") + "/") else path


def _text(line: ResultLine) -> bytes:
    return json.dumps(line).encode() + b"\n"


def fingerprint(job: Job, checkpoint: Checkpoint, others: Iterable[FileStamp]) -> str:
    """A hash of everything that the output of `job` follows from; `others` are the stamps of other files it reads."""
    stamps = sorted((file.name, file.stamp.size, file.stamp.mtime_ns) for file in checkpoint.files)
    read = [(each.size, each.mtime_ns) for each in others]
    asked = (job.settings.request, job.settings.write_options.checksums)
    text = repr((checkpoint.header_sha256, stamps, read, asked))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def is_done(job: Job, line: Mapping[str, Any] | None, found: str) -> bool:
    """Whether the files that `line` names exist as they were made, from sources of the fingerprint `found`."""
    if line is None or line.get("fingerprint") != found or not line.get("files"):
        return False
    now = stamps(job, [file["name"] for file in line["files"]])
    if line["status"] != RUNNING:
        return bool(now == line["files"])
    sizes = [file["bytes"] for file in line["files"]]
    return bool(now != line["before"] and [file and file["bytes"] for file in now] == sizes)


def stamps(job: Job, names: Iterable[str]) -> list[ResultLine | None]:
    """Size and modification time of the output's files of these names; None for one that does not exist."""
    return [_stamp(job, name) for name in names]


def _stamp(job: Job, name: str) -> ResultLine | None:
    try:
        found = file_stamp(os.path.join(_folder(job.output), name))
    except CheckpointError:
        return None
    return {"name": name, "bytes": found.size, "mtime_ns": found.mtime_ns}


def _folder(output: str) -> str:
    """A directory's files are in it, the others beside each other."""
    return output if os.path.isdir(output) else os.path.dirname(output)
