"""Makes an output appear complete or not at all.

Laws:
- Everything is written into `.NAME.rewriter-tmp` beside the destination, a directory of that fixed name: a
  killed run leaves at most it, and the next run takes it over. A lock on it keeps two runs apart.
- Files are synced before they are renamed into place, directories after. Nothing is replaced that was not asked
  for, and no source is ever opened for writing.
- Before the first of several files is renamed, a list of them is left in the staging directory: the next run then
  knows the ones that a killed run had already put into place.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from rewriter.copying import Progress, can_link, can_share, write_files
from rewriter.errors import CheckpointError, OutputError, shown
from rewriter.formats.files import named, stamp
from rewriter.output import Output, Writing
from rewriter.renaming import exchange, rename_new
from rewriter.staging import staged, staging_path, sync, uninterrupted

OURS = "rewriter.json"  # a directory that holds it was written by this program
_LIST = ".files"  # in the staging directory: name -> inode of what is being renamed into place


def execute(
    output: Output,
    destination: Path,
    how: Writing,
    *,
    progress: Progress = lambda nbytes: None,
    check: Callable[[Path], None] = lambda written: None,
    committed: Callable[[], None] = lambda: None,
) -> None:
    """Write `output` so that it appears at `destination`, a file (or set of files) or a directory.

    `check(written)` may raise before anything appears; `written` is the directory, or the file to open first.
    `progress(nbytes)` is called as bytes are written, `committed()` when the output has appeared. Raises OutputError
    for the destination, CheckpointError when a source changes meanwhile.
    """
    destination = _absolute(destination)
    if not os.path.lexists(staging_path(destination)):  # no killed run to be undone first
        check_destination(output, destination, how)
    _refuse_source(output, destination)
    try:
        with staged(destination) as staging:
            _undo_killed(staging, output, destination)
            check_destination(output, destination, how)
            _fill(output, staging, how, progress)
            check(staging if output.directory else staging / output.files[0].name)
            _check_sources(output)
            with uninterrupted():
                _commit(output, staging, destination, how)
                committed()
    except OSError as error:
        raise OutputError(f"cannot write {named(destination)}: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _absolute(destination: Path) -> Path:
    """The destination with its parent's links followed, but not its own."""
    path = Path(os.path.abspath(destination))
    if not path.name:
        raise OutputError(f"{shown(destination)} cannot be an output")
    try:
        parent = path.parent.resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        raise OutputError(f"the folder {shown(path.parent)} does not exist; make it first") from None
    if not parent.is_dir():
        raise OutputError(f"{shown(path.parent)} is not a folder")
    return parent / path.name


def check_destination(output: Output, destination: Path, how: Writing) -> None:
    """Raise OutputError if `output` must not go to `destination`, or does not fit there."""
    destination = _absolute(destination)
    _refuse_source(output, destination)
    _refuse_existing(output, destination, how.overwrite)
    free = os.statvfs(destination.parent)
    room = free.f_bavail * free.f_frsize
    if room < output.nbytes and room < (need := _need(output, destination.parent, how)):
        raise OutputError(f"{named(destination)} needs {need} bytes, the disk has {room} free: {need - room} too few")


def _need(output: Output, folder: Path, how: Writing) -> int:
    """How many bytes the output takes on a disk: holes stay holes, shared blocks and links take nothing."""
    if how.share and output.sources and can_share(output.sources[0][0], folder):
        return output.nbytes - output.shareable
    saved = sum(file.nbytes for file in output.files if how.hardlink and can_link(file, folder))
    for path, _ in output.sources:
        status = os.stat(path)
        saved += max(0, status.st_size - status.st_blocks * 512)
    return max(0, output.nbytes - saved)


def _refuse_existing(output: Output, destination: Path, overwrite: bool) -> None:
    for path in _existing(output, destination):
        _check_replaceable(path, output.directory)
        if not overwrite:
            raise OutputError(f"{named(path)} exists already; --overwrite replaces it")


def _targets(output: Output, destination: Path) -> list[Path]:
    return [destination] if output.directory else [destination.parent / file.name for file in output.files]


def _existing(output: Output, destination: Path) -> list[Path]:
    """What stands where the output goes, or belongs to another output of that name."""
    there = [path for path in _targets(output, destination) if os.path.lexists(path)]
    if output.claims:
        siblings = (path for path in sorted(destination.parent.iterdir()) if path not in there)
        there += [path for path in siblings if re.fullmatch(output.claims, path.name, re.DOTALL)]
    return there


def _refuse_source(output: Output, destination: Path) -> None:
    """The input is never replaced, nor written into, whatever it is called and wherever its links lead."""
    sources = [Path(path) for path, _ in output.sources]
    for target in _existing(output, destination):
        first = target.name == output.files[0].name
        if any(_same(target, source) and (first or _one_name(target, source)) for source in sources):
            raise OutputError(f"{named(target)} is the input itself; give another destination")
    if not output.directory:
        return
    folders = {source.parent.resolve() for source in sources}
    if destination.resolve() in folders:
        raise OutputError(f"{named(destination)} is the input itself; give another destination")
    inside = any(folder in destination.parents or destination in folder.parents for folder in folders)
    if inside or any(destination in source.resolve().parents for source in sources):
        raise OutputError(f"{named(destination)} lies inside the input, or the input in it; give another place")


def _one_name(one: Path, other: Path) -> bool:
    """Whether two paths of one file are the same name of it: a second name may go, the file stays."""
    real, other = one.resolve(), other.resolve()
    return os.stat(real).st_nlink == 1 or (_same(real.parent, other.parent) and real.name == other.name)


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _check_replaceable(path: Path, directory: bool) -> None:
    if path.is_symlink():
        raise OutputError(f"{named(path)} is a link; it is not replaced")
    if directory:
        if path.is_dir() and ((path / OURS).is_file() or not any(path.iterdir())):
            return
        raise OutputError(f"{named(path)} is not replaced: neither empty nor a directory that holds our {OURS}")
    if not path.is_file():
        raise OutputError(f"{named(path)} is not a regular file; give the name of a file")


def _fill(output: Output, staging: Path, how: Writing, progress: Progress) -> None:
    folders = {staging}
    for file in output.files:
        target = staging / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        folders.update(folder for folder in target.parents if staging in folder.parents)
    write_files(output.files, staging, progress, how)
    for folder in folders if how.sync else ():
        sync(folder)


def _check_sources(output: Output) -> None:
    for path, before in output.sources:
        if stamp(path) != before:
            raise CheckpointError(f"{named(path)} has changed while it was read; nothing was written")


def _commit(output: Output, staging: Path, destination: Path, how: Writing) -> None:
    if not output.directory:
        _commit_files(output, staging, destination, how)
    elif os.path.lexists(destination):
        _refuse_existing(output, destination, how.overwrite)
        exchange(staging, destination)  # what was there is now the staging directory
        shutil.rmtree(staging)
    else:
        rename_new(staging, destination)
    if how.sync:
        sync(destination.parent)


def _commit_files(output: Output, staging: Path, destination: Path, how: Writing) -> None:
    """Rename the files into place, the one that a loader opens first at last: until then nobody sees a set."""
    old = _existing(output, destination) if how.overwrite else []
    targets = _targets(output, destination)
    if len(targets) > 1:
        _list_files(staging, targets, how)
        if targets[0] in old:
            os.unlink(targets[0])
    done: list[Path] = []
    try:
        for target in reversed(targets):
            move = os.replace if how.overwrite else rename_new
            move(staging / target.name, target)
            done.append(target)
    except OSError:
        for target in done:
            os.unlink(target)
        raise
    for path in old:
        if path not in targets:
            os.unlink(path)


def _list_files(staging: Path, targets: list[Path], how: Writing) -> None:
    inodes = {target.name: os.stat(staging / target.name).st_ino for target in targets}
    (staging / _LIST).write_text(json.dumps(inodes))
    if how.sync:
        sync(staging)


def _undo_killed(staging: Path, output: Output, destination: Path) -> None:
    """Empty the staging directory, and take back the files of a set that a killed run could not finish."""
    for name, inode in _listed(staging).items():
        target = destination.parent / os.path.basename(name)
        started = output.files[0].name != name and os.path.lexists(target) and os.lstat(target).st_ino == inode
        if started and not os.path.lexists(destination.parent / output.files[0].name):
            os.unlink(target)
    for entry in os.scandir(staging):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def _listed(staging: Path) -> dict[str, int]:
    """What a killed run listed; nothing where it was killed while it wrote the list."""
    try:
        value = json.loads((staging / _LIST).read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
