"""rewriter list"""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from rewriter.architectures.stacks import named_entry
from rewriter.architectures.toml_file import as_toml
from rewriter.cli import completing, show
from rewriter.inspection import architecture_rows as rows
from rewriter.recipes import RECIPES
from rewriter.strategies import STRATEGIES

listing = typer.Typer(
    help="Show what there is: strategies, metrics, recipes, architectures.\n\nExample: `rewriter list strategies`",
    no_args_is_help=True, add_completion=False, rich_markup_mode="markdown",
)  # fmt: skip


@listing.command()
def strategies() -> None:
    """Ways to choose layers by position.

    Example: `rewriter list strategies`
    """
    width = max(map(len, STRATEGIES))
    for name, function in STRATEGIES.items():
        show.console().print(f"{name:{width}}  {inspect.getdoc(function)}")


@listing.command()
def metrics() -> None:
    """Ways to score layers by their weights: `rewriter score --metric NAME`, `rewriter prune --strategy NAME`.

    Example: `rewriter list metrics`
    """
    from rewriter.metrics import METRICS  # numpy takes time

    width = max(map(len, METRICS))
    for name, function in METRICS.items():
        show.console().print(f"{name:{width}}  {(inspect.getdoc(function) or '').partition(chr(10))[0]}")


@listing.command()
def recipes() -> None:
    """Published removal orders, each for one model: `rewriter prune --strategy recipe:NAME`.

    Example: `rewriter list recipes`
    """
    for recipe in RECIPES.values():
        show.console().print(
            f"recipe:{recipe.name}: {recipe.model} ({recipe.layers} layers, width {recipe.width}, vocabulary "
            f"{recipe.vocabulary}); {recipe.paper}; {','.join(map(str, recipe.order))}"
        )


@listing.command()
def architectures(
    toml: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Print this entry as a file for --architecture to start from.",
            autocompletion=completing.entries,
        ),
    ] = None,
) -> None:
    """Architectures with rules, their stacks, and what limits the layers that may go.

    Example: `rewriter list architectures --toml gguf/llama`
    """
    if toml is not None:
        show.say(as_toml(named_entry(toml)).rstrip("\n"))
        return
    for row in sorted(rows()):
        show.console().print("{:12} {:24} {:20} {}".format(*row).rstrip())
