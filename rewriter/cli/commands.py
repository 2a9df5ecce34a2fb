"""The commands, put together. Each is imported when it is used: `--version` and Ctrl-C should not wait for all."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer
from typer.core import TyperGroup
from typer.main import get_command

from rewriter.version import VERSION

# name -> (module, what in it is the command or the group of commands)
COMMANDS = {
    "inspect": ("inspect", "inspect"),
    "plan": ("plan", "plan"),
    "prune": ("prune", "prune"),
    "apply": ("apply", "apply"),
    "verify": ("verify", "verify"),
    "checksums": ("checksums", "checksums"),
    "score": ("score", "score"),
    "report": ("report", "report"),
    "batch": ("batch", "batch"),
    "list": ("listing", "listing"),
}


class _Commands(TyperGroup):
    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str):  # type: ignore[no-untyped-def,override]  # noqa: ANN202
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        found = getattr(import_module(f"rewriter.cli.{module}"), name)
        if not isinstance(found, typer.Typer):
            single = typer.Typer(add_completion=False, rich_markup_mode="markdown")
            single.command(cmd_name)(found)
            found = single
        command = get_command(found)
        command.name = cmd_name
        return command


app = typer.Typer(
    name="rewriter",
    cls=_Commands,
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
