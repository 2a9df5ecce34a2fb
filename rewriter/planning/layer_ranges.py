"""The one syntax for layers, `3,7-9,-1`: read and written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from rewriter.errors import RequestError, printable
from rewriter.planning.selection.strategies import Layers

_ITEM = re.compile(r"(?P<one>-?(?:0|[1-9][0-9]*))|(?P<low>0|[1-9][0-9]*)-(?P<high>0|[1-9][0-9]*)")


def parse_layers(text: str, count: int, mtp_layers: int = 0) -> tuple[int, ...]:
    """Return the layers that `text` names (`3,7-9,-1`), ascending, each once, for a stack of `count`.

    MTP layers come after the main ones and may be named by their number; negative numbers count main layers
    only. Blanks beside commas are harmless. Raises RequestError. Bounds are checked before a range is expanded:
    `0-99999999999` must not fill memory.
    """
    chosen = bytearray(count + mtp_layers)  # a million ranges of thousands of layers take no time
    for item in (part.strip(" ") for part in text.split(",")):
        match = _ITEM.fullmatch(item)
        if match is None or item == "-0" or len(item) > 40:
            raise RequestError(
                f"{printable(item)!r} is not a layer: write numbers from 0 and ranges, such as 3,7-9,-1 (-1 is "
                "the last)"
            )
        low, high = match["low"] or match["one"], match["high"] or match["one"]
        span = _span(int(low), int(high), item, count, mtp_layers)
        chosen[span.start : span.stop] = b"\1" * len(span)
    return tuple(number for number, one in enumerate(chosen) if one)


def _span(low: int, high: int, item: str, count: int, mtp_layers: int) -> range:
    total = count + mtp_layers
    if not -count <= low < total or not -count <= high < total:
        more = f", and {count}-{total - 1} for prediction" if mtp_layers else ""
        raise RequestError(
            f"layer {printable(item)} is out of range: the stack has {count} layers, 0-{count - 1} or -{count} "
            f"to -1{more}"
        )
    if low > high:
        raise RequestError(f"the range {printable(item)} runs backwards: write {high}-{low}")
    return range(low % count if low < 0 else low, (high % count if high < 0 else high) + 1)


def format_layers(layers: tuple[int, ...]) -> str:
    """The shortest way to write `layers` (ascending) in the same syntax: `0-3,5`."""
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs(layers))


def moves(numbers: Mapping[int, int]) -> list[tuple[Layers, Layers]]:
    """Old and new numbers of layers that stay neighbours: 4-6 become 3-5."""
    found: list[tuple[Layers, Layers]] = []
    for old, new in numbers.items():
        if found and old == found[-1][0][-1] + 1 and new == found[-1][1][-1] + 1:
            found[-1] = ((*found[-1][0], old), (*found[-1][1], new))
        else:
            found.append(((old,), (new,)))
    return found


def runs(layers: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """The first and last number of every run of `layers` (ascending) without a gap."""
    start = 0
    for index in range(1, len(layers) + 1):
        if index == len(layers) or layers[index] != layers[index - 1] + 1:
            yield layers[start], layers[index - 1]
            start = index
