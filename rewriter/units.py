"""Sizes and counts for people: three digits are enough to compare."""

from __future__ import annotations


def size(nbytes: int) -> str:
    """Bytes for people: powers of 1000, as disks are sold."""
    amount = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5:
            return f"{amount:.3g} {unit}" if unit != "B" else f"{nbytes} B"
        amount /= 1000
    return f"{amount:.3g} TB"


def digits(value: float) -> str:
    """A score for people: 0.05315, 12.3 k."""
    if abs(value) < 10_000:
        return f"{value:.4g}"
    return f"{'-' if value < 0 else ''}{number(abs(value))}"


def number(count: float) -> str:
    """A count of parameters for people: 2.74 M."""
    amount = float(count)
    for unit in ("", " k", " M", " B"):
        if amount < 999.5:
            return f"{amount:.3g}{unit}"
        amount /= 1000
    return f"{amount:.3g} T"


def counted(count: int, word: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{count} {word}{'' if count == 1 else 's'}"
