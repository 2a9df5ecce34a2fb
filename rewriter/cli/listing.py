"""rewriter list"""

from __future__ import annotations

import inspect

import typer

from rewriter.architectures.stacks import entries
from rewriter.cli import show
from rewriter.strategies import STRATEGIES

listing = typer.Typer(help="Show what there is: strategies, architectures.", no_args_is_help=True)


@listing.command()
def strategies() -> None:
    """Ways to choose layers by position.

    Example: `rewriter list strategies`
    """
    width = max(map(len, STRATEGIES))
    for name, function in STRATEGIES.items():
        show.console().print(f"{name:{width}}  {inspect.getdoc(function)}")


@listing.command()
def architectures() -> None:
    """Architectures with rules, and the stacks of each.

    Example: `rewriter list architectures`
    """
    rows = [(entry.format, entry.name, ", ".join(stack.name for stack in entry.stacks)) for entry in entries()]
    for table, name, stacks in sorted(rows):
        show.console().print(f"{table:12} {name:16} {stacks}")
