"""Every error that this package raises on purpose, and how names from files are shown in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_COMPARED = 2000  # names that a hint is looked for among


class RewriterError(Exception):
    """The one root: something is wrong, nothing was written, the message is one line."""


class CheckpointError(RewriterError):
    """The input is malformed, or it contradicts itself."""


class RequestError(RewriterError):
    """What was asked for makes no sense for this input (a usage error)."""


class UnsupportedError(RewriterError):
    """The input is well formed, but no rule says how to keep its layers behaving as before."""


class OutputError(RewriterError):
    """The destination cannot be written, or must not be."""


def printable(text: object, limit: int = 40) -> str:
    """Return `text` safe to print on one line: escaped where a terminal would act on it, cut to `limit`.

    Names come from files that anyone may have made: control characters could move the cursor and
    bidirectional marks could disguise a path.
    """
    characters = str(text)[: limit + 1]
    if len(characters) > limit:
        characters = characters[: limit - 1] + "…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in characters)


def os_reason(error: OSError) -> str:
    """What the system says, to stand in a sentence of ours: `no space left on device`."""
    return (error.strerror or str(error)).lower()


def os_reason_with_path(error: OSError) -> str:
    """The same behind the file that it is about, where the error names one."""
    return f"{printable(error.filename, 200)}: {os_reason(error)}" if error.filename else os_reason(error)


def did_you_mean(name: str, known: Iterable[str], prefix: str = "", ending: str = "") -> str:
    """The question to put behind an error about `name`: `; did you mean X?`, "" where none of `known` is like it.

    `prefix` is what stands before it where it is written: `--stack `. That names have the same `ending` says nothing.
    """
    from difflib import get_close_matches  # only when something is wrong
    from itertools import islice

    def compared(each: str) -> str:
        return each.lower().removesuffix(ending.lower())

    spelled = {compared(each): each for each in islice(known, _MOST_COMPARED)}
    found = get_close_matches(compared(name)[:200], spelled, 1)
    return f"; did you mean {prefix}{printable(spelled[found[0]], 80)}?" if found else ""
