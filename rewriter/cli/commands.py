"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from rewriter.cli.inspect import inspect
from rewriter.cli.listing import listing
from rewriter.cli.plan import plan
from rewriter.cli.prune import prune
from rewriter.cli.verify import verify
from rewriter.version import VERSION

app = typer.Typer(
    name="rewriter",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Drop whole layers from safetensors and GGUF checkpoints: renumber the rest, patch what depends on them. "
    "No GPU, no framework: bytes move from file to file.",
    epilog="Exit codes: 0 done · 1 bad input or refused · 2 wrong usage · 128+N stopped by signal N",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rewriter {VERSION}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command()(inspect)
app.command()(plan)
app.command()(prune)
app.command()(verify)
app.add_typer(listing, name="list")
