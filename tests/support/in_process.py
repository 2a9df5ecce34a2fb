"""The program as a user calls it, but in this process, which saves its start each time."""

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from rewriter.cli.program import _run


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended: its exit status and what it printed."""

    status: int
    output: str
    errors: str


def call(*args: str | Path) -> Done:
    """`rewriter ARGS`, as the program runs it, but for the signal handlers."""
    output, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        patch("sys.argv", ["rewriter", *map(str, args)]),
        patch.dict(os.environ, {"COLUMNS": "1000"}),
    ):
        try:
            _run()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Done(status, output.getvalue(), errors.getvalue())


def run(*args: str | Path) -> str:
    """Run `rewriter ARGS` and return what it printed; a failure carries its stderr."""
    done = call(*args)
    assert done.status == 0, f"{args} returned {done.status}\n{done.output}{done.errors}"
    return done.output


def prune(source: Path, target: Path, drop: str, stack: str = "", *more: str) -> str:
    """`rewriter prune`; an empty stack leaves the choice to the tool's default."""
    # `--drop=`: a list that begins with a minus, such as -1, must not be read as an option.
    return run("prune", source, target, f"--drop={drop}", *(("--stack", stack) if stack else ()), *more)


def refused(source: Path, target: Path, drop: str, *more: str) -> str:
    """`rewriter prune` must refuse: one line on stderr, which is returned, and nothing written."""
    there = set(target.parent.iterdir())
    done = call("prune", source, target, f"--drop={drop}", *more)
    assert done.status == 1, done
    assert done.errors.startswith("rewriter: ")
    assert done.errors.count("\n") == 1, done.errors
    assert done.output == ""
    assert set(target.parent.iterdir()) == there
    return done.errors
