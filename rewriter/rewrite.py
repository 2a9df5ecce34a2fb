"""Makes an output appear complete or not at all.

Laws:
- Everything is written into `.NAME.rewriter-tmp` beside the destination, a directory of that fixed name: a
  killed run leaves at most it, and the next run takes it over. A lock on it keeps two runs apart.
- Files are synced before they are renamed into place, directories after. Nothing is replaced that was not asked
  for, and no source is ever opened for writing.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rewriter.copying import Progress, write_file
from rewriter.errors import CheckpointError, OutputError, shown
from rewriter.formats.files import named, stamp
from rewriter.output import Output
from rewriter.renaming import exchange, rename_new

OURS = "rewriter.json"  # a directory that holds it was written by this program
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def execute(
    output: Output,
    destination: Path,
    *,
    overwrite: bool = False,
    progress: Progress = lambda nbytes: None,
    check: Callable[[Path], None] = lambda staged: None,
) -> None:
    """Write `output` so that it appears at `destination`, a file (or set of files) or a directory.

    `check(staged)` may raise before anything appears; `staged` is the directory, or the file to open first.
    `progress(nbytes)` is called as bytes are written. Raises OutputError for the destination, CheckpointError
    when a source changes meanwhile.
    """
    destination = _absolute(destination)
    check_destination(output, destination, overwrite)
    try:
        with _staging(destination) as staging:
            _fill(output, staging, progress)
            check(staging if output.directory else staging / output.files[0].name)
            _check_sources(output)
            with _uninterrupted():
                _commit(output, staging, destination, overwrite)
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


def check_destination(output: Output, destination: Path, overwrite: bool) -> None:
    """Raise OutputError if `output` must not go to `destination`, or does not fit there."""
    destination = _absolute(destination)
    _refuse_source(output, destination)
    for path in _existing(output, destination):
        _check_replaceable(path, output.directory)
        if not overwrite:
            raise OutputError(f"{named(path)} exists already; --overwrite replaces it")
    free = os.statvfs(destination.parent)
    room = free.f_bavail * free.f_frsize
    if room < output.nbytes:
        raise OutputError(
            f"{named(destination)} needs {output.nbytes} bytes, the disk has {room} free: "
            f"{output.nbytes - room} too few"
        )


def _targets(output: Output, destination: Path) -> list[Path]:
    return [destination] if output.directory else [destination.parent / file.name for file in output.files]


def _existing(output: Output, destination: Path) -> list[Path]:
    """What stands where the output goes, or claims to be the same set."""
    there = [path for path in _targets(output, destination) if os.path.lexists(path)]
    if output.claims:
        siblings = (path for path in sorted(destination.parent.iterdir()) if path not in there)
        there += [path for path in siblings if re.fullmatch(output.claims, path.name)]
    return there


def _refuse_source(output: Output, destination: Path) -> None:
    """The input is never replaced, nor written into, whatever it is called."""
    sources = [Path(path) for path, _ in output.sources]
    for target in _existing(output, destination):
        if any(_same(target, source) or (_same(target, source.parent) and output.directory) for source in sources):
            raise OutputError(f"{named(target)} is the input itself; give another destination")
    if output.directory:
        folders = {source.parent.resolve() for source in sources}
        if any(folder in destination.parents or destination in folder.parents for folder in folders):
            raise OutputError(f"{named(destination)} lies inside the input, or the input in it; give another place")


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


@contextmanager
def _staging(destination: Path) -> Iterator[Path]:
    """Give an empty, locked directory beside `destination`, and remove what is left of it afterwards."""
    path = destination.with_name(_staging_name(destination.name))
    lock = _locked(path)
    try:
        _empty(path)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)


def _staging_name(name: str) -> str:
    """File names end at 255 bytes: a long one is stood for by its hash."""
    short = name if len(os.fsencode(name)) < 200 else hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{short}.rewriter-tmp"


def _locked(path: Path) -> int:
    """Make `path`, or take it over, and lock it. Raises OutputError while another run holds it."""
    while True:
        with suppress(FileExistsError):
            path.mkdir()
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another run has just finished and removed it
        except OSError:
            raise OutputError(f"{named(path)} is in the way: it is not a directory") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_ino == os.stat(path).st_ino:
                return lock
        except BlockingIOError:
            os.close(lock)
            raise OutputError(f"another run is writing {shown(path.name)} at this moment") from None
        except FileNotFoundError:
            pass
        os.close(lock)


def _empty(path: Path) -> None:
    """Remove what a killed run left."""
    for entry in os.scandir(path):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def _fill(output: Output, staging: Path, progress: Progress) -> None:
    folders = {staging}
    for file in output.files:
        target = staging / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        folders.update(folder for folder in target.parents if staging in folder.parents)
        write_file(file, str(target), progress)
    for folder in folders:
        _sync(folder)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some filesystems cannot sync a directory
            raise
    finally:
        os.close(descriptor)


def _check_sources(output: Output) -> None:
    for path, before in output.sources:
        if stamp(path) != before:
            raise CheckpointError(f"{named(path)} has changed while it was read; nothing was written")


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold signals back: between the first rename and the last there is no good moment to stop."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _commit(output: Output, staging: Path, destination: Path, overwrite: bool) -> None:
    if output.directory:
        if os.path.lexists(destination):
            check_destination(output, destination, overwrite)
            exchange(staging, destination)  # the old one is now the staging directory, which goes
        else:
            rename_new(staging, destination)
    else:
        _commit_files(output, staging, destination, overwrite)
    _sync(destination.parent)


def _commit_files(output: Output, staging: Path, destination: Path, overwrite: bool) -> None:
    """Rename the files into place, the one that a loader opens first at last: until then nobody sees a set."""
    old = _existing(output, destination) if overwrite else []
    targets = _targets(output, destination)
    if len(targets) > 1 and targets[0] in old:
        os.unlink(targets[0])
    done: list[Path] = []
    try:
        for target in reversed(targets):
            move = os.replace if overwrite else rename_new
            move(staging / target.name, target)
            done.append(target)
    except OSError:
        for target in done:
            os.unlink(target)
        raise
    for path in old:
        if path not in targets:
            os.unlink(path)
