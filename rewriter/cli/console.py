"""How things look on a terminal: sizes, bars, tables. Names from files are escaped before they get here."""

from __future__ import annotations

import json
import os
import shlex
import sys
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rewriter import units
from rewriter.cli.state import OutputLevel
from rewriter.errors import printable
from rewriter.planning.layer_ranges import format_layers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions
    from rich.table import Table

number, size, counted = units.format_count, units.format_bytes, units.pluralize
_ENDLESS = 1_000_000  # characters of a line where nobody looks at a screen
_BAR, _BESIDE = 24, 54  # characters of the longest bar, and of what stands beside one on a line


def console(error: bool = False) -> Console:
    """A console that takes no markup from names and does not break their lines; in a log not even those of tables."""
    from rich.console import Console

    screen = (sys.stderr if error else sys.stdout).isatty() or os.environ.get("COLUMNS")
    return Console(
        stderr=error, width=None if screen else _ENDLESS,
        markup=False, highlight=False, emoji=False, soft_wrap=True, quiet=OutputLevel.quiet,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
    )  # fmt: skip


def note(text: str) -> None:
    """Say something on the side, where it does not disturb what a program reads."""
    if not OutputLevel.quiet:
        sys.stderr.write(text + "\n")


def detail(text: str) -> None:
    """Say what is being done, to those who want to know."""
    if OutputLevel.verbose:
        sys.stderr.write(text + "\n")


def say(text: str) -> None:
    """Print plain text as it is: rich would take longer to load than a small run takes."""
    if not OutputLevel.quiet:
        sys.stdout.write(text + "\n")


def failure(text: str) -> None:
    """Say that a part has failed; this is not silenced."""
    (sys.stderr if OutputLevel.quiet else sys.stdout).write(text + "\n")


def table(title: str, caption: str = "") -> Table:
    """A table as all of ours look: no blanks fill its lines up."""
    from rich import box
    from rich.segment import Segment
    from rich.table import Table

    class Bare(Table):
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
            for line in Segment.split_lines(super().__rich_console__(console, options)):  # type: ignore[arg-type]
                while line and not line[-1].text.strip():
                    line.pop()
                *before, last = line or [Segment("")]
                yield from (*before, Segment(last.text.rstrip(), last.style), Segment.line())

    return Bare(
        title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False,
        caption=caption or None, caption_justify="left",
    )  # fmt: skip


def bar(value: float, largest: float) -> str:
    """A bar in eighths of a character, shorter where the terminal is narrow."""
    from shutil import get_terminal_size

    width = max(4, min(_BAR, get_terminal_size().columns - _BESIDE))
    eighths = round(value / largest * width * 8) if largest else 0
    return "█" * (eighths // 8) + ("▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else "")


def layers(numbers: list[int] | tuple[int, ...]) -> str:
    """Layer numbers in the syntax of --keep."""
    return format_layers(tuple(numbers)) or "none"


def value(item: object, limit: int = 60) -> str:
    """A metadata value on one line; a long list as its runs, since its beginning alone would hide what changes."""
    text = "absent" if item is None else json.dumps(item, ensure_ascii=False)
    if len(text) <= limit or not isinstance(item, list | tuple):
        return printable(text, limit)
    parts = ((len(tuple(group)), json.dumps(each, ensure_ascii=False)) for each, group in groupby(item))
    runs = ", ".join(printable(each) if times == 1 else f"{times} x {printable(each)}" for times, each in parts)
    return f"{len(item)} entries: {printable(runs, 3 * limit)}"


def print_json(data: Any) -> None:
    """Print a JSON value for programs."""
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def command(*words: object) -> str:
    """A command line that can be pasted. What a terminal would act on is written as $'\\x1b' in the shell's way."""
    return " ".join(map(_quoted, ["rewriter", *map(str, words)]))


def as_path(path: str) -> str:
    """A path that no command takes for an option."""
    return f"./{path}" if path.startswith("-") else path


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    raw = os.fsencode(word)
    return "$'" + "".join(chr(b) if 32 <= b < 127 and b not in b"\\'" else f"\\x{b:02x}" for b in raw) + "'"
