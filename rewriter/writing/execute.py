"""Makes an output appear complete or not at all.

Laws:
- Everything is written into `.NAME.rewriter-tmp` beside the destination, a directory of that fixed name: a
  killed run leaves at most it, and the next run takes it over. A lock on it keeps two runs apart.
- Files are synced before they are renamed into place, directories after. Nothing is replaced that was not asked
  for, and no source is ever opened for writing.
- A signal stops the run while the bytes are written and checked, and at no other moment: see system/signals.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rewriter.errors import CheckpointError, OutputError, os_reason, printable
from rewriter.layout.output import Output, OutputFile, WriteOptions
from rewriter.system import calls
from rewriter.system.files import file_stamp, printable_name
from rewriter.system.signals import STOP
from rewriter.writing import resume
from rewriter.writing.commit import NEW, commit_directory, commit_files, roll_back
from rewriter.writing.copy import ProgressCallback, can_link, supports_reflink, write_files
from rewriter.writing.hashing import filled
from rewriter.writing.staging import staging_directory, staging_path, sync

if TYPE_CHECKING:
    from concurrent.futures import Executor

OURS = "rewriter.json"  # a directory that holds it was written by this program


def execute(  # noqa: PLR0913
    output: Output,
    destination: Path,
    write_options: WriteOptions,
    *,
    progress: ProgressCallback = lambda nbytes: None,
    check: Callable[[Path], None] = lambda written: None,
    on_commit: Callable[[], None] = lambda: None,
    notify: Callable[[str], None] = lambda line: None,
    executor: Executor | None = None,
) -> None:
    """Write `output` so that it appears at `destination`, a file (or set of files) or a directory.

    `check(written)` may raise before anything appears; `written` is the directory, or the file to open first.
    `progress(nbytes)` is called as bytes are written, `on_commit()` when the output has appeared, `notify(line)`
    with what a user should know. `executor` writes the files, else threads of our own do. Raises OutputError for the
    destination, CheckpointError when a source changes.
    """
    # Only files that have reached the disk can be reused by a later run.
    write_options = replace(write_options, sync=write_options.sync or write_options.resume)
    try:
        destination = _absolute(destination)
        if not has_interrupted_commit(destination):
            check_destination(output, destination, write_options)
        _refuse_source(output, destination)
        keep = (
            partial(resume.should_keep, output=output, notify=notify) if write_options.resume else lambda staging: False
        )
        with staging_directory(destination, keep) as staging:
            roll_back(staging)
            done = resume.reuse_finished(staging, output, write_options.resume, notify)
            check_destination(output, destination, write_options, sum(file.nbytes for file in done))
            kept = resume.report_nothing_kept(staging, output, write_options.resume, notify)
            with kept, _spoilt_by_bad_data(staging):
                _fill(output, staging, done, write_options, progress, executor)
                check(staging / NEW if output.directory else staging / NEW / output.files[0].name)
                _check_sources(output)
                STOP.check()  # the last moment to stop
            _commit(output, staging, destination, write_options)
            on_commit()
            if write_options.sync:
                _settle(destination)
    except OSError as error:
        raise OutputError(f"cannot write {printable_name(destination)}: {os_reason(error)}") from None


@contextmanager
def _spoilt_by_bad_data(staging: Path) -> Iterator[None]:
    """A source that has changed, or an output that is wrong, is nothing to go on from."""
    try:
        yield
    except CheckpointError:
        resume.invalidate(staging)
        raise


def _settle(destination: Path) -> None:
    """Wait until the disk knows the new names."""
    try:
        sync(destination.parent)
    except OSError as error:
        raise OutputError(
            f"{printable_name(destination)} is complete, but the disk may lose it: {os_reason(error)}"
        ) from None


def _absolute(destination: Path) -> Path:
    """The destination with its parent's links followed, but not its own."""
    path = Path(os.path.abspath(destination))
    if not path.name:
        raise OutputError(f"{printable(destination)} cannot be an output")
    try:
        parent = path.parent.resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        raise OutputError(f"the folder {printable(path.parent)} does not exist; make it first") from None
    if not parent.is_dir():
        raise OutputError(f"{printable(path.parent)} is not a folder")
    return parent / path.name


def check_destination(output: Output, destination: Path, write_options: WriteOptions, there: int = 0) -> None:
    """Raise OutputError if `output` must not go to `destination`, or does not fit there.

    `there` of its bytes are written already.
    """
    check_place(output, destination, write_options)
    destination = _absolute(destination)
    room = calls.free_bytes(destination.parent)
    if room < output.nbytes - there and room < (need := disk_needed(output, destination.parent, write_options) - there):
        raise OutputError(
            f"{printable_name(destination)} needs {need} bytes, the disk has {room} free: {need - room} too few"
        )


def check_place(output: Output, destination: Path, write_options: WriteOptions) -> None:
    """Raise OutputError if `output` must not go to `destination`, whatever room there is."""
    destination = _absolute(destination)
    _refuse_source(output, destination)
    _refuse_existing(output, destination, write_options.overwrite)


def has_interrupted_commit(destination: Path) -> bool:
    """Whether a killed run left a staging directory: its commit may be incomplete, and is then rolled back."""
    return os.path.lexists(staging_path(destination))


def roll_back_and_clear(destination: Path) -> None:
    """Roll back the commit of a killed run and remove its staging directory, unless another run uses it."""
    if has_interrupted_commit(destination):
        with (
            suppress(OSError, OutputError),
            staging_directory(_absolute(destination), lambda staging: False) as staging,
        ):
            roll_back(staging)


def disk_needed(output: Output, folder: Path, write_options: WriteOptions) -> int:
    """How many bytes the output takes on the disk of `folder`: holes stay holes, what is shared takes nothing."""
    if write_options.share and output.sources and supports_reflink(output.sources[0][0], folder):
        return output.nbytes - output.shareable
    saved = sum(file.nbytes for file in output.files if write_options.hardlink and can_link(file, folder))
    saved += sum(calls.sparse_bytes(os.stat(path)) for path, _ in output.sources)
    return max(0, output.nbytes - saved)


def _refuse_existing(output: Output, destination: Path, overwrite: bool) -> None:
    for path in _existing(output, destination):
        _check_replaceable(path, output)
        if not overwrite:
            raise OutputError(f"{printable_name(path)} exists already; --overwrite replaces it")


def _targets(output: Output, destination: Path) -> list[Path]:
    return [destination] if output.directory else [destination.parent / file.name for file in output.files]


def _existing(output: Output, destination: Path) -> list[Path]:
    """What stands where the output goes, or belongs to another output of that name."""
    there = [path for path in _targets(output, destination) if os.path.lexists(path)]
    if output.owned_names and not output.directory:
        siblings = (path for path in sorted(destination.parent.iterdir()) if path not in there)
        there += [path for path in siblings if re.fullmatch(output.owned_names, path.name, re.DOTALL)]
    return there


def _refuse_source(output: Output, destination: Path) -> None:
    """The input is never replaced, nor written into, whatever it is called and wherever its links lead."""
    sources = [Path(path) for path, _ in output.sources]
    for target in _existing(output, destination):
        first = target.name == output.files[0].name
        if any(_same(target, source) and (first or _one_name(target, source)) for source in sources):
            raise OutputError(f"{printable_name(target)} is the input itself; give another destination")
    if not output.directory:
        return
    folders = {source.parent.resolve() for source in sources}
    if destination.resolve() in folders:
        raise OutputError(f"{printable_name(destination)} is the input itself; give another destination")
    inside = any(folder in destination.parents or destination in folder.parents for folder in folders)
    if inside or any(destination in source.resolve().parents for source in sources):
        raise OutputError(
            f"{printable_name(destination)} lies inside the input, or the input in it; give another place"
        )


def _one_name(one: Path, other: Path) -> bool:
    """Whether two paths of one file are the same name of it: a second name may go, the file stays."""
    real, other = one.resolve(), other.resolve()
    return os.stat(real).st_nlink == 1 or (_same(real.parent, other.parent) and real.name == other.name)


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except FileNotFoundError:
        return False


def _check_replaceable(path: Path, output: Output) -> None:
    if path.is_symlink():
        raise OutputError(f"{printable_name(path)} is a link; it is not replaced")
    if output.directory:
        if not path.is_dir() or not ((path / OURS).is_file() or not any(path.iterdir())):
            raise OutputError(
                f"{printable_name(path)} is not replaced: neither empty nor a directory that holds our {OURS}"
            )
        lost = _added(path, output)
        if lost:
            names = ", ".join(printable(name) for name in lost[:3]) + (f" and {len(lost) - 3} more" if lost[3:] else "")
            raise OutputError(
                f"{printable_name(path)} is not replaced, that would lose {names}: move what you added elsewhere"
            )
        return
    if not path.is_file():
        raise OutputError(f"{printable_name(path)} is not a regular file; give the name of a file")


def _added(folder: Path, output: Output) -> list[str]:
    """The files in an earlier output that the new one neither has nor claims: somebody has put them there."""
    ours = {OURS, *(file.name for file in output.files)}
    there = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = sorted(path.relative_to(folder).as_posix() for path in there)
    return [name for name in names if name not in ours and not re.fullmatch(output.owned_names, name, re.DOTALL)]


def _fill(
    output: Output,
    staging: Path,
    done: tuple[OutputFile, ...],
    write_options: WriteOptions,
    progress: ProgressCallback,
    executor: Executor | None,
) -> None:
    """Write all files that are not `done`."""
    folders = {staging, staging / NEW}
    for file in output.files:
        target = staging / NEW / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        folders.update(above for above in target.parents if staging in above.parents)
    for file in done:
        progress(file.nbytes)
    left = filled([file for file in output.files if file not in done], progress)
    record = resume.recorder(staging, write_options.resume)
    if executor is None:
        write_files(left, staging / NEW, progress, record, write_options)
    else:
        from rewriter.writing.distribute import spread  # here: executors are slow to import

        spread(left, output.sources, staging, progress, record, write_options, executor)
    for folder in folders if write_options.sync else ():
        sync(folder)


def _check_sources(output: Output) -> None:
    for path, before in output.sources:
        if file_stamp(path) != before:
            raise CheckpointError(f"{printable_name(path)} has changed while it was read; nothing was written")


def _commit(output: Output, staging: Path, destination: Path, write_options: WriteOptions) -> None:
    _refuse_existing(output, destination, write_options.overwrite)
    if output.directory:
        commit_directory(staging, destination)
    else:
        earlier = _existing(output, destination) if write_options.overwrite else []
        commit_files(staging, _targets(output, destination), earlier, write_options.sync)
