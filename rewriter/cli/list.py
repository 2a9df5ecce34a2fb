"""rewriter list"""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from rewriter.architectures.custom import as_toml
from rewriter.architectures.lookup import named_entry
from rewriter.cli import completion, console
from rewriter.planning.selection.published_orders import RECIPES
from rewriter.planning.selection.strategies import STRATEGIES
from rewriter.report.json_values import architecture_rows as rows


def strategies() -> None:
    """Ways to choose layers by position.

    Example: `rewriter list strategies`
    """
    width = max(map(len, STRATEGIES))
    for name, function in STRATEGIES.items():
        console.console().print(f"{name:{width}}  {inspect.getdoc(function)}")


def metrics() -> None:
    """Ways to score layers by their weights: `rewriter score --metric NAME`, `rewriter prune --strategy NAME`.

    Example: `rewriter list metrics`
    """
    from rewriter.scoring.metrics import METRICS  # numpy takes time

    width = max(map(len, METRICS))
    for name, function in METRICS.items():
        console.console().print(f"{name:{width}}  {(inspect.getdoc(function) or '').partition(chr(10))[0]}")


def recipes() -> None:
    """Published removal orders, each for one model: `rewriter prune --strategy recipe:NAME`.

    Example: `rewriter list recipes`
    """
    for recipe in RECIPES.values():
        console.console().print(
            f"recipe:{recipe.name}: {recipe.model} ({recipe.layers} layers, width {recipe.width}, vocabulary "
            f"{recipe.vocabulary}); {recipe.paper}; {','.join(map(str, recipe.order))}"
        )


def architectures(
    toml: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Print this entry as a file for --architecture to start from.",
            autocompletion=completion.entries,
        ),
    ] = None,
) -> None:
    """Architectures with rules, their stacks, and what limits the layers that may go.

    Example: `rewriter list architectures --toml gguf/llama`
    """
    if toml is not None:
        console.say(as_toml(named_entry(toml)).rstrip("\n"))
        return
    for row in sorted(rows()):
        console.console().print("{:12} {:24} {:20} {}".format(*row).rstrip())


HELP = "Show what there is: strategies, metrics, recipes, architectures.\n\nExample: `rewriter list strategies`"
COMMANDS = (strategies, metrics, recipes, architectures)
