"""rewriter list"""

from __future__ import annotations

import inspect

import typer

from rewriter.cli import show
from rewriter.inspection import architecture_rows as rows
from rewriter.strategies import STRATEGIES

listing = typer.Typer(help="Show what there is: strategies, architectures.", no_args_is_help=True, add_completion=False)


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
    """Architectures with rules, their stacks, and what limits the layers that may go.

    Example: `rewriter list architectures`
    """
    for row in sorted(rows()):
        show.console().print("{:12} {:24} {:20} {}".format(*row).rstrip())
