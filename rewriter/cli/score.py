"""rewriter score"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rewriter.cli import completion, console, verbose
from rewriter.cli.options import Json, Source, output_name, plan_arguments, with_plan_options
from rewriter.errors import RequestError, printable
from rewriter.planning.open_model import open_model
from rewriter.report.json_values import describe_suggestion
from rewriter.report.plot import about_bars, bar_lengths, picture_kind, plot_scores
from rewriter.request import PruneRequest
from rewriter.writing.write import check_free, save

if TYPE_CHECKING:
    from rich.table import Table


@with_plan_options
def score(
    context: typer.Context,
    source: Source,
    request: PruneRequest,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which metric (`rewriter list metrics`); else the best measured.",
            autocompletion=completion.metrics,
        ),
    ] = None,
    json: Json = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it too, as .png or .svg (pip install 'rewriter[plot]').")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier picture.")] = False,
) -> None:
    """Rank the layers by their weights alone, and suggest which to drop: a quarter, unless an amount is given.

    A score is a prior, not a measurement: compare the pruned model with the whole one on your own text.

    Example: `rewriter score model.gguf --ratio 0.25`
    """
    from rewriter.scoring.components import components  # numpy takes time

    if metric is not None:
        if request.selection.strategy is not None:
            raise RequestError("--metric and --strategy cannot be combined: give one")
        request = replace(request, selection=replace(request.selection, strategy=metric))
    kind = "" if plot is None else picture_kind(plot)
    if plot is not None:
        check_free(plot, overwrite)
    checkpoint = verbose.open_verbosely(source)
    model = open_model(checkpoint, request.options)
    with verbose.scoring() as on_progress:
        suggestion = request.suggestion(model, output_name(source), on_progress)
    described = describe_suggestion(suggestion, components(model))
    if plot is not None:
        save(plot_scores(described, checkpoint.name, kind), plot, overwrite, checkpoint)
    if json:
        console.print_json(described)
        return
    out = console.console()
    out.print(_table(described, printable(checkpoint.name, 80)))
    out.print(_components(described["components"]))
    if plot is not None:
        out.print(f"saved: {printable(plot, 200)}")
    out.print(_conclusion(described, source, plan_arguments(context)))


def _table(described: dict[str, Any], name: str) -> Table:
    values = [row["score"] for row in described["scores"]]
    caption = "\n".join(filter(None, (described["why"], about_bars(values))))
    table = console.table(f"{name}: stack {printable(described['stack'])}, scored by {described['metric']}", caption)
    for column in ("layer", "score", "rank"):
        table.add_column(column, justify="right")
    table.add_column("")
    table.add_column("")
    marks = {**dict.fromkeys(described["protected"], "protected"), **dict.fromkeys(described["suggested"], "drop")}
    for row, length in zip(described["scores"], bar_lengths(values), strict=True):
        mark = marks.get(row["layer"], "")
        style = "bold" if mark == "drop" else "dim" if mark else None
        table.add_row(
            str(row["layer"]), f"{row['score']:.4g}", str(row["rank"]), console.bar(length, 1.0), mark, style=style
        )
    return table


def _components(parts: list[dict[str, Any]]) -> Table:
    table = console.table("components", "kept: share of its weights if half of all go by magnitude")
    for column in ("", "parameters", "size", "mean |w|", "kept"):
        table.add_column(column, justify="right" if column else "left")
    for part in parts:
        table.add_row(
            part["name"], console.number(part["parameters"]), console.size(part["bytes"]), f"{part['magnitude']:.3g}",
            f"{part['survives']:.0%}",
        )  # fmt: skip
    return table


def _conclusion(described: dict[str, Any], source: str, more: list[str]) -> str:
    if described["refusal"]:
        return f"nothing is suggested: {described['refusal']}"
    dropped, shared = described["suggested"], described["shared"]
    count = len(dropped)
    drop = ("--drop", console.layers(dropped), *more)
    command = console.command("prune", console.as_path(source), console.as_path(output_name(source)), *drop)
    return "\n".join(
        [
            f"suggested: drop {console.layers(dropped)} ({count} of {len(described['scores'])}); "
            f"{shared['deepest']} of them are among the {count} deepest, {shared['middle']} in the middle {count}",
            "a score from weights alone is a prior, not a measurement: compare the result on your own text",
            f"next: {command}",
        ]
    )
