"""The options that commands share: the declared fields as parameters that typer reads, and how they become values."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rewriter.cli import completion
from rewriter.cli.signatures import Command, joined, parameters_of
from rewriter.errors import RequestError, printable
from rewriter.layout.output import WriteOptions
from rewriter.planning.option import Option, arguments, from_written, options_of
from rewriter.planning.options import LayerSelection, PlanOptions
from rewriter.request import PruneRequest

Source = Annotated[
    str,
    typer.Argument(
        metavar="SRC",
        help="A GGUF file (the first of a split set), a safetensors file, or a Hugging Face directory.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print it for programs.")]

PLANNING = tuple(each for each in options_of(LayerSelection, PlanOptions) if each.help)
WRITING = options_of(WriteOptions)
RULES = tuple(each.field for each in PLANNING if each.is_rule)
_CHOOSING = options_of(LayerSelection)
_COMPLETIONS = {"strategies": completion.strategies, "stacks": completion.stacks}


def request_of(written: Mapping[str, Any]) -> PruneRequest:
    """The request that is written in options, by field. Raises RequestError or CheckpointError."""
    options = from_written(PlanOptions, written)
    if options.max_size is not None and options.single_file:
        raise RequestError("--shard-size and --single-file cannot be combined: give one")
    return PruneRequest(from_written(LayerSelection, written), options)


def with_plan_options(command: Command) -> Command:
    """`command` with the options of LayerSelection and PlanOptions: they become its argument `request`."""
    return _with(command, "request", PLANNING, request_of)


def with_write_options(*names: str) -> Callable[[Command], Command]:
    """A command with options of WriteOptions, all unless named: they become its argument `write_options`."""
    chosen = [each for each in WRITING if not names or each.field in names]
    return lambda command: _with(command, "write_options", chosen, functools.partial(from_written, WriteOptions))


def with_options(*names: str, **helps: str) -> Callable[[Command], Command]:
    """A command with some options of PlanOptions: they become its argument `options`. `helps` are texts of its own."""
    chosen = [each for each in PLANNING if each.field in (*names, *helps)]
    return lambda command: _with(command, "options", chosen, functools.partial(from_written, PlanOptions), helps)


def _with(
    command: Command,
    argument: str,
    declared: Iterable[Option],
    make: Callable[[Mapping[str, Any]], Any],
    helps: Mapping[str, str] | None = None,
) -> Command:
    """`command` with a parameter for each option in the place of `argument`, which is made of their values."""
    own = parameters_of(command)
    del own[argument]
    shared = {each.field: _parameter(each, (helps or {}).get(each.field, each.help)) for each in declared}

    @functools.wraps(command)
    def run(**given: object) -> None:
        written = {name: given.pop(name) for name in shared}
        command(**given, **{argument: make(written)})

    return joined(run, (*own.values(), *shared.values()))


def _parameter(declared: Option, help: str) -> inspect.Parameter:
    """The option as a parameter that typer understands."""
    several = declared.repeats or declared.kind is list
    settings: dict[str, Any] = {
        "help": help, "rich_help_panel": declared.panel, "metavar": declared.metavar, "min": declared.least,
        "show_default": not declared.negated,
        "parser": _share(declared) if declared.kind is float else None,
        "autocompletion": _COMPLETIONS.get(declared.completion),
    }  # fmt: skip
    kind: Any = list[str] if several else declared.kind
    default = None if several or declared.kind is not declared.holds else declared.default
    return inspect.Parameter(
        declared.field, inspect.Parameter.KEYWORD_ONLY, default=default,
        annotation=Annotated[kind | None if default is None else kind, typer.Option(*_names(declared), **settings)],
    )  # fmt: skip


def _names(declared: Option) -> list[str]:
    """How typer wants the names: `--card/--no-card` for a flag of three states, ` /--no-fsync` for one that is on."""
    spelled = [f"--{name}" for name in declared.names]
    if declared.negated:
        return [f" /{name}" for name in spelled]
    return (
        ["/".join((*spelled, declared.flag(False)))] if declared.kind is bool and declared.default is None else spelled
    )


def _share(declared: Option) -> Callable[[str], float]:
    """A number between 0 and 1, or one line about what was given: 25% is none."""

    def parsed(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise RequestError(
                f"{declared.flag()} {printable(text)}: write a number between 0 and 1, such as 0.25"
            ) from None

    return parsed


def plan_arguments(context: typer.Context) -> list[str]:
    """The options on the command line that `plan` and `prune` share, as words, without those that choose layers."""
    return arguments(context.params, [each for each in PLANNING if each not in _CHOOSING])


def rule_arguments(context: typer.Context) -> list[str]:
    """The options on the command line that say which rules hold, as words: `verify` takes them too."""
    return arguments(context.params, [each for each in PLANNING if each.is_rule])


def output_name(source: str) -> str:
    """What a dry run calls the output: the source's name with -pruned."""
    path = Path(source)
    if not path.is_file():
        return f"{path.resolve().name}-pruned"
    stem = re.sub(r"-[0-9]{5}-of-[0-9]{5}$", "", path.stem)
    return f"{stem}-pruned{path.suffix}"
