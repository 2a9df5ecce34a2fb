"""rewriter verify"""

from __future__ import annotations

from typing import Annotated

import typer

from rewriter.cli import show
from rewriter.errors import shown
from rewriter.selection import Options
from rewriter.verify import verify as problems_of


def verify(
    destination: Annotated[str, typer.Argument(metavar="DST", help="The checkpoint to check.")],
    source: Annotated[
        str | None, typer.Option(metavar="SRC", help="What it was made from: compares every byte that stayed.")
    ] = None,
    generic: Annotated[
        bool, typer.Option("--generic", help="It was made with --generic and carries no record of it.")
    ] = False,
) -> None:
    """Check a checkpoint against itself, and against the one it was made from.

    Example: `rewriter verify smaller.gguf --source model.gguf`
    """
    problems = problems_of(destination, source, Options(generic=True) if generic else None)
    for problem in problems:
        typer.echo(str(problem))
    if problems:
        raise typer.Exit(1)
    against = "itself" if source is None else f"itself and {shown(source, 200)}"
    show.console().print(f"ok: {shown(destination, 200)} agrees with {against}")
