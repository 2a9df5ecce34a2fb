"""Puts what was written into its place: a loader sees the earlier output, the whole new one, or none.

Laws:
- One file replaces one file, and one directory another, in a single rename.
- A set of files moves one after the other: first the earlier ones go aside, the one that a loader opens first before
  all others; then the new ones come, that one at last. A list of all moves is on the disk before the first of them: a
  failure takes them back, and after a kill the next run does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rewriter.errors import CheckpointError
from rewriter.formats import json_edit
from rewriter.system.rename import exchange, rename_new
from rewriter.system.untrusted import NoFileError, convert, read_whole
from rewriter.writing.staging import append, remove_tree, sync

_MOST_BYTES = 100_000_000  # of the list; a file takes some 50
NEW, _OLD, _MOVES = "new", "old", "moves"  # in the staging directory: the output, what it replaces, the list


@dataclass(frozen=True, slots=True)
class _Move:
    """A file that gets another path; its inode tells later whether it did."""

    source: Path
    target: Path
    inode: int


def commit_directory(staging: Path, destination: Path) -> None:
    """Let the directory appear, or change places with the earlier one. Raises OSError, and then nothing has moved."""
    if os.path.lexists(destination):
        exchange(staging / NEW, destination)
    else:
        rename_new(staging / NEW, destination)


def commit_files(staging: Path, targets: list[Path], earlier: list[Path], wait: bool = True) -> None:
    """Let files appear at `targets` instead of the `earlier` ones. Raises OSError, and then nothing has moved.

    With `wait` the disk has the list of moves before the first of them.
    """
    if len(targets) == 1 and earlier in ([], targets):
        put = os.replace if earlier else rename_new
        put(staging / NEW / targets[0].name, targets[0])
        return
    inodes = {path.name: os.lstat(path).st_ino for path in sorted(earlier, key=lambda path: path != targets[0])}
    new = {target.name: os.lstat(staging / NEW / target.name).st_ino for target in reversed(targets)}
    append(staging / _MOVES, json.dumps([inodes, new]).encode(), wait)
    os.mkdir(staging / _OLD)
    if wait:
        sync(staging)
    moves, complete = _moves(staging, inodes, new), False
    try:
        for move in moves:
            rename_new(move.source, move.target)
        complete = True
    finally:
        if not complete:
            _take_back(moves)


def roll_back(staging: Path) -> None:
    """Take back the moves of a killed run that did not come to its last one. Raises OSError."""
    moves = _listed(staging)
    if moves and not _is_done(moves[-1]):
        _take_back(moves)
    (staging / _MOVES).unlink(missing_ok=True)
    if os.path.lexists(staging / _OLD):
        remove_tree(staging / _OLD)


def _listed(staging: Path) -> list[_Move]:
    """Nothing where no set was moved, or the run was killed while it wrote the list."""
    try:
        value = json_edit.parse(read_whole(staging / _MOVES, _MOST_BYTES).decode(), _MOVES)
        return _moves(staging, *convert(value, tuple[dict[str, int], dict[str, int]]))
    except (FileNotFoundError, NoFileError, CheckpointError, UnicodeDecodeError):
        return []


def _moves(staging: Path, earlier: dict[str, int], new: dict[str, int]) -> list[_Move]:
    """Out of the folder of the destination, then into it."""
    aside = _between(staging.parent, staging / _OLD, earlier.items())
    return aside + _between(staging / NEW, staging.parent, new.items())


def _between(source: Path, target: Path, inodes: Iterable[tuple[str, int]]) -> list[_Move]:
    names = ((os.path.basename(name), inode) for name, inode in inodes)
    return [_Move(source / name, target / name, inode) for name, inode in names]


def _is_done(move: _Move) -> bool:
    with suppress(FileNotFoundError):
        return os.lstat(move.target).st_ino == move.inode
    return False


def _take_back(moves: list[_Move]) -> None:
    """As much as can be; what somebody else has put there meanwhile stays."""
    for move in reversed(moves):
        with suppress(OSError):
            if _is_done(move):
                rename_new(move.target, move.source)
