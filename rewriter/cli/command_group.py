"""The commands, put together. Each is imported when it is used: `--version` and Ctrl-C should not wait for all."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from rewriter.cli.signatures import with_output_level
from rewriter.errors import RequestError
from rewriter.version import VERSION

COMMANDS = ("inspect", "plan", "prune", "apply", "verify", "checksums", "score", "report", "batch", "list")
_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # typer exports only this one of its usage errors
EXITS = {
    "": "0 done · 1 bad input or refused · 2 wrong usage · 128+N stopped by signal N",
    "verify": "0 it agrees · 1 it does not, or cannot be read · 2 wrong usage · 128+N stopped by signal N",
    "batch": "0 all is done · 1 a job failed, bad input or refused · 2 wrong usage · 128+N stopped by signal N",
}


def _group(name: str, **settings: Any) -> typer.Typer:
    exits = f"Exit codes: {EXITS.get(name, EXITS[''])}"
    return typer.Typer(name=name, epilog=exits, rich_markup_mode="markdown", no_args_is_help=True, **settings)


def _command(name: str) -> Any:
    """The command `name`: the function of that name in its module, or a group of the several that stand there."""
    module = import_module(f"rewriter.cli.{name}")
    functions = getattr(module, "COMMANDS", None)
    group = _group(name, help=module.HELP if functions else None, add_completion=False)
    for function in functions or [getattr(module, name)]:
        group.command(epilog=f"Exit codes: {EXITS.get(name, EXITS[''])}")(with_output_level(function))
    if functions:
        group.callback()(with_output_level(lambda: None))
    return get_command(group)


class _LazyGroup(TyperGroup):
    """A group whose commands are those of COMMANDS."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "commands": dict.fromkeys(COMMANDS)})  # their names, for typing errors

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        return _command(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        """`rewriter help COMMAND` is `rewriter COMMAND --help`."""
        if args[0] != "help":
            return super().resolve_command(ctx, args)
        if ctx.resilient_parsing:  # a shell asks what can follow: the names of the commands, and what follows those
            return super().resolve_command(ctx, args[1:]) if args[1:] else (None, None, [])
        if len(args) == 1:
            typer.echo(ctx.get_help())
            raise typer.Exit
        return super().resolve_command(ctx, [*args[1:], "--help"])


app = _group(
    "rewriter",
    cls=_LazyGroup,
    pretty_exceptions_enable=False,
    help="Drop whole layers from safetensors and GGUF checkpoints: renumber the rest, patch what depends on them. "
    "No GPU, no framework: bytes move from file to file."
    "\n\nExample: `rewriter prune model.gguf smaller.gguf --drop 20-23`",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(ctx: typer.Context, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        typer.echo(f"rewriter {VERSION}")
        raise typer.Exit


@app.callback()
@with_output_level
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def run() -> int:
    """Run the program; its exit code. Raises RequestError for wrong usage, with the help to read."""
    try:
        return int(app(prog_name="rewriter", standalone_mode=False) or 0)
    except _USAGE_ERROR as error:
        text = " ".join(error.format_message().split()).rstrip(".")
        if not text:  # no arguments: the help is shown already
            return 2
        command = error.ctx.command_path if error.ctx else "rewriter"
        raise RequestError(f"{text[:1].lower()}{text[1:]} (see {command} --help)") from None
