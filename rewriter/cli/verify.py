"""rewriter verify"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rewriter.architectures.custom import load_architecture
from rewriter.cli import console, verbose
from rewriter.errors import printable
from rewriter.planning.options import PlanOptions
from rewriter.writing.verify import verify as problems_of


def verify(
    destination: Annotated[str, typer.Argument(metavar="DST", help="The checkpoint to check.")],
    source: Annotated[
        str | None, typer.Option(metavar="SRC", help="What it was made from: compares every byte that stayed.")
    ] = None,
    checksums: Annotated[
        bool, typer.Option("--checksums", help="Check the hashes that `prune --checksums` recorded.")
    ] = False,
    generic: Annotated[bool, typer.Option("--generic", help="It was made with --generic.")] = False,
    architecture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="It was made with --architecture FILE.")
    ] = None,
    keep_field: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="It was made with --keep-field KEY.")
    ] = None,
    per_layer_field: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="It was made with --per-layer-field KEY.")
    ] = None,
) -> None:
    """Check a checkpoint against itself, and against the one it was made from.

    How it was made is read from its record; an output without one needs to be told by the options.

    Example: `rewriter verify smaller.gguf --source model.gguf`
    """
    options = PlanOptions(
        architecture=load_architecture(architecture) if architecture else None,
        generic=generic,
        keep_fields=tuple(keep_field or ()),
        per_layer_fields=tuple(per_layer_field or ()),
    )
    problems = problems_of(
        destination, source, None if options == PlanOptions() else options, checksums, verbose.opened
    )
    for problem in problems:
        typer.echo(str(problem))
    if problems:
        raise typer.Exit(1)
    against = "itself and its checksums" if checksums else "itself"
    if source is not None:
        against += f" and {printable(source, 200)}"
    console.say(f"ok: {printable(destination, 200)} agrees with {against}")
