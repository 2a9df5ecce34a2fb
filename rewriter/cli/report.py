"""rewriter report"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from rewriter.cli import completion, console, verbose
from rewriter.cli.options import Source, output_name, rule_arguments, with_options
from rewriter.errors import OutputError, RequestError, printable
from rewriter.planning.options import PlanOptions
from rewriter.system.files import open_for_reading, printable_name, read_at
from rewriter.writing.write import check_free, save


@with_options("generic", "architecture")
def report(
    context: typer.Context,
    source: Source,
    options: PlanOptions,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="The page; NAME-report.html unless given.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A metric to show, several times for more (`rewriter list metrics`).",
            autocompletion=completion.metrics,
        ),
    ] = None,
    no_scores: Annotated[
        bool, typer.Option("--no-scores", help="Read no weights: at once, however large the model is.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier page.")] = False,
) -> None:
    """Make a page to see the layers on, pick some, and copy the command that drops them. It needs no network.

    Example: `rewriter report model.gguf -o report.html`

    Example, without reading the weights: `rewriter report model/ --no-scores`
    """
    from rewriter.report.page import render, templates
    from rewriter.report.page_data import describe_report  # numpy takes time

    if metric and no_scores:
        raise RequestError("--metric and --no-scores cannot be combined: give one")
    made = templates()
    name = output_name(source)
    path = output or Path(f"{printable(_stem(name), 200)}-report.html")
    _check_free(path, overwrite)
    checkpoint = verbose.open_verbosely(source)
    with verbose.scoring() as on_progress:
        described = describe_report(
            checkpoint, name, () if no_scores else metric, options,
            lambda words: _commands(source, name, (*words, *rule_arguments(context))), on_progress,
        )  # fmt: skip
    save(render(made, described).encode(), path, overwrite, checkpoint)
    console.say("\n".join(_summary(described, path)))


def _stem(name: str) -> str:
    """`model` for the output `model-pruned.gguf`."""
    return name.rpartition("-pruned")[0]


def _commands(source: str, name: str, words: tuple[str, ...]) -> dict[str, str]:
    """The commands about this source, without the layers: what is left out follows at their end."""
    path, made = console.as_path(source), console.as_path(name)
    return {
        "prune": console.command("prune", path, made, *words),
        "plan": console.command("plan", path, *words),
        "verify": console.command("verify", made, "--source", path),
    }


def _check_free(path: Path, overwrite: bool) -> None:
    """Refuse before the work is done: what is there stays, unless it is a page of an earlier run."""
    from rewriter.report.page import MARK

    check_free(path, overwrite)
    if not os.path.lexists(path):
        return
    with open_for_reading(path) as (descriptor, found):
        start = read_at(descriptor, 0, min(1000, found.size), printable_name(path))
    if MARK.encode() not in start:
        raise OutputError(f"{printable_name(path)} is no page of an earlier run: it is not replaced")


def _summary(described: dict[str, Any], path: Path) -> list[str]:
    lines = []
    for stack in described["stacks"]:
        scored = ", ".join(metric["name"] for metric in stack["metrics"]) or "not scored"
        lines.append(f"stack {stack['name']}: {stack['layers']} layers, {scored}")
        lines += [f"  {each['name']} does not apply: {each['why']}" for each in stack["unscored"]]
        if stack["why"]:
            lines.append(f"  nothing can be dropped: {stack['why']}")
    return [*lines, f"open {printable(path, 200)} in a browser"]
