"""What each job of a batch reads and writes, as values: none may write what another one writes or reads.

Paths are real ones: folders' links are followed. Whoever has a path has all that lies below it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from rewriter.errors import RequestError, printable

# What the names of one output's files end in; only names that are alike before it are asked whether they would go.
_TAIL = re.compile(r"(-[0-9]+-of-[0-9]+)?([.]gguf|[.]safetensors)?([.](config|rewriter)[.]json)?\Z")
_SPLIT = "make that two batches"
_OWN = "which is this batch's own file: give another output, or other --results"


@dataclass(frozen=True, slots=True)
class Claim:
    """What job `number` reads and writes; 0 is the batch itself, with the files that it keeps.

    Beside the first path that it writes, files go whose names match the regular expression `others`.
    """

    number: int
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    others: str = ""


def real(path: str) -> str:
    """The path with its folder's links followed, but not its own: that is what is replaced."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def check(claims: Collection[Claim]) -> None:
    """Raise RequestError where two jobs would write one file, or one what another reads."""
    writers = _writers(claims)
    readers = {path: claim for claim in claims for path in claim.reads}
    for path, claim in writers.items():
        would = f"job {claim.number} would write {printable(path, 200)}"
        if reader := next((readers[each] for each in (path, *_above(path)) if each in readers), None):
            raise RequestError(f"{would}, {_read_by(reader)}")
        outer = next((each for each in _above(path) if writers.get(each, claim) is not claim), None)
        if outer is not None:
            where = f"{printable(outer, 200)}, the output of job {writers[outer].number}"
            raise RequestError(f"job {claim.number} would write into {where}")
    for path, claim in readers.items():
        if writer := next((writers[each] for each in _above(path) if each in writers), None):
            raise RequestError(f"job {writer.number} would write where {printable(path, 200)} is, {_read_by(claim)}")
    _check_others(claims, writers, readers)


def _writers(claims: Iterable[Claim]) -> dict[str, Claim]:
    writers: dict[str, Claim] = {}
    for claim in claims:
        for path in claim.writes:
            if (other := writers.setdefault(path, claim)) is not claim:
                numbers = sorted({other.number, claim.number})
                both = f"job{'s' * (len(numbers) > 1)} {' and '.join(map(str, numbers))}"
                hint = "name in output what differs, such as {stem}-{ratio}"
                raise RequestError(f"{both} would write {printable(path, 200)} twice; {hint}")
    return writers


def _check_others(claims: Iterable[Claim], writers: Mapping[str, Claim], readers: Mapping[str, Claim]) -> None:
    """An output that replaces an earlier one takes the files away that belonged to that alone."""
    near: dict[tuple[str, str], list[tuple[str, Claim]]] = {}
    for path, claim in chain(writers.items(), readers.items()):
        near.setdefault(_stem(path), []).append((os.path.basename(path), claim))
    for claim in claims:
        matches: Callable[[str], object] = re.compile(claim.others or "(?!)", re.DOTALL).fullmatch
        for name, other in near.get(_stem(claim.writes[0]), ()) if claim.others else ():
            if other is not claim and matches(name):
                whose = f"which job {other.number} writes or reads: {_SPLIT}" if other.number else _OWN
                raise RequestError(f"job {claim.number} may remove {printable(name, 200)}, {whose}")


def _stem(path: str) -> tuple[str, str]:
    folder, name = os.path.split(path)
    match = _TAIL.search(name)
    return folder, name[: match.start()] if match else name


def _read_by(reader: Claim) -> str:
    return f"which job {reader.number} reads: {_SPLIT}" if reader.number else _OWN


def _above(path: str) -> Iterator[str]:
    return map(str, Path(path).parents)
