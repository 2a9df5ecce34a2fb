"""The commands, put together. Each is imported when it is used: `--version` and Ctrl-C should not wait for all."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from rewriter.cli.state import Voice
from rewriter.errors import RequestError
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
    "list": ("list", "listing"),
}


EXITS = {
    "": "0 done · 1 bad input or refused · 2 wrong usage · 128+N stopped by signal N",
    "verify": "0 it agrees · 1 it does not, or cannot be read · 2 wrong usage · 128+N stopped by signal N",
    "batch": "0 all is done · 1 a job failed, bad input or refused · 2 wrong usage · 128+N stopped by signal N",
}


def _heard(param: typer.CallbackParam, value: bool) -> None:
    if value:
        setattr(Voice, param.name or "", True)
    if Voice.quiet and Voice.verbose:
        raise RequestError("--quiet and --verbose cannot be combined: give one")


def _flag(short: str, name: str, help: str) -> Any:
    return typer.Option(short, name, help=help, callback=_heard, expose_value=False)


def _voice(
    quiet: Annotated[bool, _flag("-q", "--quiet", "Print nothing but errors (and --json).")] = False,
    verbose: Annotated[bool, _flag("-v", "--verbose", "Say on stderr what is being done.")] = False,
) -> None:
    """The options that every command has, before its name and behind it."""


def _refuse_rehearsal(wanted: bool) -> None:
    if wanted:
        raise RequestError("prune has no --dry-run; did you mean rewriter plan? It takes the same options, and no DST")


def _rehearsal(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", hidden=True, callback=_refuse_rehearsal, expose_value=False, is_eager=True)
    ] = False,
) -> None:
    """What others' programs call it: no option of `prune`, but the way to what is meant."""


def _single(name: str, function: Callable[..., None]) -> typer.Typer:
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    app.command(name)(function)
    return app


def _dressed(command: Any, name: str = "") -> Any:
    """Give a command, and those below it, what all share: the options of `_voice`, the exit codes in the help."""
    for each in (command, *(getattr(command, "commands", None) or {}).values()):
        each.params += get_command(_single("voice", _voice)).params
        each.params += get_command(_single("rehearsal", _rehearsal)).params if name == "prune" else []
        each.get_params = _plainly(each.get_params)
        each.epilog = f"Exit codes: {EXITS.get(name, EXITS[''])}"
    return command


def _unconverted(param: Any) -> None:
    """Text, and what was not given, need no conversion: typer would load pydantic for them, 40 % of a short run."""
    described: Any = getattr(param, "type_descriptor", None)  # typer on click has none: it converts everything, quickly
    kind = getattr(described, "annotation", None)
    convert = param.process_value

    def processed(ctx: typer.Context, value: Any) -> Any:
        if kind == list[str] and isinstance(value, list | tuple):
            value = list(value)
        elif value is None and not param.required:
            value = () if param.multiple else None
        elif kind is int and isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value) and not described.is_ranged:
            value = int(value)
        elif not (kind is str and isinstance(value, str)):
            return convert(ctx, value)
        return value if param.callback is None else param.callback(ctx, param, value)

    param.process_value = processed


def _plain(param: Any) -> Any:
    """Quick to read; in the help, flags without a type and arguments by name, as typer has not always shown them."""
    if "process_value" not in vars(param):
        _unconverted(param)
    if param.param_type_name == "argument":
        param.get_usage_pieces = lambda ctx: [param.metavar or param.name.upper()]
        param.display_type_rich = lambda ctx: None
    elif getattr(param, "is_flag", False):
        param.metavar = ""
    return param


def _plainly(params: Callable[..., Any]) -> Callable[..., Any]:
    return lambda ctx: [_plain(each) for each in params(ctx)]


class _Commands(TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        _dressed(self)
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]  # for what is near a name that is none

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return list(COMMANDS)

    def resolve_command(self, ctx: typer.Context, args: list[str]):  # type: ignore[no-untyped-def,override]  # noqa: ANN202
        """`rewriter help COMMAND` is `rewriter COMMAND --help`."""
        if args[0] != "help":
            return super().resolve_command(ctx, args)
        if ctx.resilient_parsing:  # a shell asks what can follow: the names of the commands, and what follows those
            return super().resolve_command(ctx, args[1:]) if args[1:] else (None, None, [])
        if len(args) == 1:
            typer.echo(ctx.get_help())
            raise typer.Exit
        return super().resolve_command(ctx, [*args[1:], "--help"])

    def get_command(self, ctx: typer.Context, cmd_name: str):  # type: ignore[no-untyped-def,override]  # noqa: ANN202
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        found = getattr(import_module(f"rewriter.cli.{module}"), name)
        if not isinstance(found, typer.Typer):
            found = _single(cmd_name, found)
        command = get_command(found)
        command.name = cmd_name
        return _dressed(command, cmd_name)


app = typer.Typer(
    name="rewriter",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Drop whole layers from safetensors and GGUF checkpoints: renumber the rest, patch what depends on them. "
    "No GPU, no framework: bytes move from file to file."
    "\n\nExample: `rewriter prune model.gguf smaller.gguf --drop 20-23`",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(ctx: typer.Context, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        typer.echo(f"rewriter {VERSION}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
