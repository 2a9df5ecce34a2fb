"""A picture of the scores, drawn with matplotlib: the extra `plot`."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import Any

from rewriter.errors import RequestError, printable

_KINDS = (".png", ".svg")
_COLOURS = {"drop": "#d1495b", "kept": "#30638e", "protected": "#b8c4cc"}
_SHORTEST = 0.05  # of the longest bar, where bars show a range
_DECADES = 50  # ratio of the largest score to the smallest from which scores are drawn by their logarithm


def spans_decades(values: list[float]) -> bool:
    """Whether the values differ so much that only their logarithms can be compared by eye."""
    return min(values) > 0 and max(values) / min(values) > _DECADES


def bar_lengths(values: list[float]) -> list[float]:
    """How long the bars of `values` are, as parts of the longest: from 0, as long as none is below.

    Where they span decades, or some are negative, from the lowest to the highest: the bars are steps then.
    """
    if spans_decades(values):
        values = [math.log(each) for each in values]
    elif min(values) >= 0:
        return [each / (max(values) or 1.0) for each in values]
    low, high = min(values), max(values)
    return [_SHORTEST + (1 - _SHORTEST) * ((each - low) / (high - low) if high > low else 1) for each in values]


def about_bars(values: list[float]) -> str:
    """What has to be known to read the bars of `bar_lengths`; nothing where they start at 0."""
    if spans_decades(values):
        return "bars: logarithm of the score"
    return "" if min(values) >= 0 else "bars: from the lowest score to the highest"


def picture_kind(path: Path) -> str:
    """The kind of picture that `path` is to be. Raises RequestError for one that is not drawn."""
    if path.suffix.lower() not in _KINDS:
        raise RequestError(f"{printable(path.name)}: a picture is a {' or '.join(_KINDS)}")
    return path.suffix.lower()[1:]


def plot_scores(described: dict[str, Any], name: str, kind: str) -> bytes:
    """What `score --json` says as a picture, one bar for each layer. Raises RequestError without matplotlib."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError:
        raise RequestError("--plot needs matplotlib: pip install 'rewriter[plot]'") from None
    rows = described["scores"]
    kinds = {**dict.fromkeys(described["protected"], "protected"), **dict.fromkeys(described["suggested"], "drop")}
    colours = [_COLOURS[kinds.get(row["layer"], "kept")] for row in rows]
    figure = Figure(figsize=(max(6.4, 0.22 * len(rows)), 4.0), layout="constrained")
    axes = figure.subplots()
    axes.bar([row["layer"] for row in rows], [row["score"] for row in rows], color=colours, width=0.8)
    values = [row["score"] for row in rows]
    logarithmic = spans_decades(values)
    if logarithmic:
        axes.set_yscale("log")
    elif min(values) >= 0:
        axes.set_ylim(bottom=0)
    axes.set_title(f"{printable(name, 60)}: stack {described['stack']}, {described['metric']}", loc="left")
    axes.set_xlabel("layer")
    axes.set_ylabel(f"importance (the lowest goes first{'; logarithmic' if logarithmic else ''})")
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        handles=[Patch(color=colour, label=label) for label, colour in _COLOURS.items()],
        loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False,
    )  # fmt: skip
    picture = BytesIO()
    figure.savefig(picture, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return picture.getvalue()
