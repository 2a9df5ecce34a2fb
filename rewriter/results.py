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

from rewriter.batch import LONGEST_PATH, Job
from rewriter.checkpoint import Checkpoint, Document, Shard, SideFile, Stamp
from rewriter.errors import CheckpointError, OutputError, shown
from rewriter.formats import json_text
from rewriter.formats.files import named, stamp
from rewriter.staging import append, sync
from rewriter.system import read_whole

SCHEMA = 1
_LIMIT, _MOST_LINES, _MOST_FILES = 64 << 20, 100_000, 200_000  # bytes, lines, outputs' files; ten times a large batch's
DONE, SKIPPED, FAILED, STOPPED, RUNNING = "done", "skipped", "failed", "stopped", "running"

Line = dict[str, Any]


class Results:
    """The file of results at `path`; `lines` has the last line about every output, by its absolute path."""

    def __init__(self, path: Path) -> None:
        """Read what is there, up to lines that a power cut has damaged. Raises OutputError."""
        self.path = path = Path(os.path.abspath(path))
        self._new = path.with_name(f".{path.name}.new")
        self._lock = threading.Lock()
        self.lines: dict[str, Line] = {}
        if not path.parent.is_dir():
            raise OutputError(f"the folder {shown(path.parent)} does not exist; make it first")
        try:
            raw = read_whole(path, _LIMIT) if os.path.lexists(path) else b""
        except OSError as error:
            raise OutputError(f"cannot read {named(path)}: {(error.strerror or str(error)).lower()}") from None
        texts = raw.decode(errors="replace").splitlines() if raw.count(b"\n") <= _MOST_LINES else ()
        self._whole = [self._read(text) for text in texts].count(False) == 0
        known = sum(len(line["files"]) for line in self.lines.values() if isinstance(line.get("files"), list))
        if (raw and not self.lines) or known > _MOST_FILES:
            raise OutputError(f"{named(path)} is no file of results: --results names another")

    @property
    def outputs(self) -> list[str]:
        """The paths of all files that were made: they are nobody's source."""
        made = ((output, line["files"]) for output, line in self.lines.items() if line.get("files"))
        return [path for output, files in made for path in (output, *_paths(output, files))]

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
            line = json_text.parse(text, self.path.name)
            output = line.get("output") if isinstance(line, dict) and line.get("schema") == SCHEMA else None
            if isinstance(output, str) and len(output) <= LONGEST_PATH:
                self.lines[os.path.normpath(self.path.parent / output)] = line
                return True
        return False

    def _relative(self, path: str) -> str:
        """Relative to the file of results, so that the whole may be moved; other places as they are."""
        folder = str(self.path.parent)
        return os.path.relpath(path, folder) if path.startswith(folder.rstrip("/") + "/") else path


def _text(line: Line) -> bytes:
    return json.dumps(line).encode() + b"\n"


def fingerprint(job: Job, checkpoint: Checkpoint, others: Iterable[Stamp]) -> str:
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
    try:
        now = stamps(job, [file["name"] for file in line["files"]])
        if line.get("status") != RUNNING:
            return bool(now == line["files"])
        sizes = [file["bytes"] for file in line["files"]]
        return bool(now != line["before"] and [file and file["bytes"] for file in now] == sizes)
    except (KeyError, TypeError):
        return False


def stamps(job: Job, names: Iterable[str]) -> list[Line | None]:
    """Size and modification time of the output's files of these names; None for one that is not there."""
    return [_stamp(job, name) for name in names]


def _stamp(job: Job, name: str) -> Line | None:
    try:
        found = stamp(os.path.join(_folder(job.output), name))
    except CheckpointError:
        return None
    return {"name": name, "bytes": found.size, "mtime_ns": found.mtime_ns}


def _folder(output: str) -> str:
    """A directory's files are in it, the others beside each other."""
    return output if os.path.isdir(output) else os.path.dirname(output)


def _paths(output: str, files: Any) -> list[str]:
    names = [file.get("name") for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    folder = _folder(output)
    return [os.path.join(folder, name) for name in names if isinstance(name, str) and len(name) <= LONGEST_PATH]
