"""Sizes and counts for people: three digits are enough to compare."""

from __future__ import annotations

import re
from fractions import Fraction

from rewriter.errors import RequestError, printable


def format_bytes(nbytes: int) -> str:
    """Bytes for people: powers of 1000, as disks are sold."""
    return f"{nbytes} B" if nbytes < 1000 else _scaled(nbytes, (" B", " kB", " MB", " GB", " TB"))


def format_score(value: float) -> str:
    """A score for people: 0.05315, 12.3 k."""
    if abs(value) < 10_000:
        return f"{value:.4g}"
    return f"{'-' if value < 0 else ''}{format_count(abs(value))}"


def format_count(count: float) -> str:
    """A count of parameters for people: 2.74 M."""
    return _scaled(count, ("", " k", " M", " B", " T"))


def _scaled(amount: float, units: tuple[str, ...]) -> str:
    """Three digits and the unit that fits; each is 1000 of the one before."""
    *smaller, largest = units
    for unit in smaller:
        if amount < 999.5:
            return f"{amount:.3g}{unit}"
        amount /= 1000
    return f"{amount:.3g}{largest}"


def pluralize(count: int, word: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{count} {word}{'' if count == 1 else 's'}"


_SIZE = re.compile(
    r"(?P<number>[0-9]{1,15}(?:[.][0-9]{1,9})?) ?(?:(?P<scale>[KMGT])(?P<binary>i)?)?B?", re.IGNORECASE | re.ASCII
)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str) -> int:
    """Bytes in `4GiB` (powers of 1024), `4GB` or `4G` (powers of 1000) or `4000000`. Raises RequestError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise RequestError(f"{printable(text)!r} is not a size: write it as 4GiB, 4.5GB or 4000000000")
    base = 1024 if match["binary"] else 1000
    return int(Fraction(match["number"]) * base ** _POWER[(match["scale"] or "").lower()])
