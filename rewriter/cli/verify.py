"""rewriter verify"""

from __future__ import annotations

from typing import Annotated

import typer

from rewriter.cli import console, verbose
from rewriter.cli.options import with_options
from rewriter.errors import printable
from rewriter.planning.options import PlanOptions
from rewriter.writing.verify import verify as problems_of


@with_options(
    generic="It was made with --generic.",
    architecture="It was made with --architecture FILE.",
    keep_fields="It was made with --keep-field KEY.",
    per_layer_fields="It was made with --per-layer-field KEY.",
)
def verify(
    destination: Annotated[str, typer.Argument(metavar="DST", help="The checkpoint to check.")],
    options: PlanOptions,
    source: Annotated[
        str | None, typer.Option(metavar="SRC", help="What it was made from: compares every byte that stayed.")
    ] = None,
    checksums: Annotated[
        bool, typer.Option("--checksums", help="Check the hashes that `prune --checksums` recorded.")
    ] = False,
) -> None:
    """Check a checkpoint against itself, and against the one it was made from.

    How it was made is read from its record; an output without one needs to be told by the options.

    Example: `rewriter verify smaller.gguf --source model.gguf`
    """
    problems = problems_of(
        destination, source, None if options == PlanOptions() else options, checksums, verbose.open_verbosely
    )
    for problem in problems:
        typer.echo(str(problem))
    if problems:
        raise typer.Exit(1)
    against = "itself and its checksums" if checksums else "itself"
    if source is not None:
        against += f" and {printable(source, 200)}"
    console.say(f"ok: {printable(destination, 200)} agrees with {against}")
