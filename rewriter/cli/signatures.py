"""Signatures put together: typer reads the options of a command off its signature, so shared ones are joined to it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from rewriter.cli.state import OutputLevel
from rewriter.errors import RequestError

Command = Callable[..., None]


def joined(run: Command, parameters: Iterable[inspect.Parameter]) -> Command:
    """`run` under the signature of `parameters`, those without a default first."""
    ordered = sorted(parameters, key=lambda each: each.default is not each.empty)
    run.__signature__ = inspect.Signature([each.replace(kind=each.KEYWORD_ONLY) for each in ordered])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in ordered}
    vars(run).pop("__wrapped__", None)  # typing.get_type_hints would look there
    return run


def parameters_of(function: Command) -> dict[str, inspect.Parameter]:
    """The parameters of a function by name, their annotations evaluated."""
    return dict(inspect.signature(function, eval_str=True).parameters)


def with_output_level(command: Command) -> Command:
    """`command` with the options that every command has: --quiet and --verbose, before its name and behind it."""

    @functools.wraps(command)
    def run(quiet: bool, verbose: bool, **given: Any) -> None:
        OutputLevel.quiet |= quiet
        OutputLevel.verbose |= verbose
        if OutputLevel.quiet and OutputLevel.verbose:
            raise RequestError("--quiet and --verbose cannot be combined: give one")
        command(**given)

    return joined(run, (*parameters_of(command).values(), *parameters_of(_levels).values()))


def _levels(
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors (and --json).")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say on stderr what is being done.")] = False,
) -> None:
    """Only its signature is used."""
