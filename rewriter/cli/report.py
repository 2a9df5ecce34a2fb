"""rewriter report"""

from __future__ import annotations

import os
from pathlib import Path
from secrets import token_hex
from typing import Annotated, Any

import typer

from rewriter.architectures.toml_file import load_architecture
from rewriter.cli import completing, show, telling
from rewriter.cli.options import Source, output_name
from rewriter.errors import OutputError, RequestError, shown
from rewriter.formats.files import named
from rewriter.renaming import rename_new
from rewriter.selection import Options
from rewriter.system import to_disk


def report(
    source: Source,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="The page; NAME-report.html unless given.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A metric to show, several times for more (`rewriter list metrics`).",
            autocompletion=completing.metrics,
        ),
    ] = None,
    no_scores: Annotated[
        bool, typer.Option("--no-scores", help="Read no weights: at once, however large the model is.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier page.")] = False,
    generic: Annotated[bool, typer.Option("--generic", help="Go by tensor names and layer count alone.")] = False,
    architecture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rules of your own: an entry in TOML.")
    ] = None,
) -> None:
    """Make a page to see the layers on, pick some, and copy the command that drops them. It needs no network.

    Example: `rewriter report model.gguf -o report.html`

    Example, without reading the weights: `rewriter report model/ --no-scores`
    """
    from rewriter.report.describing import describe_report  # numpy takes time
    from rewriter.report.page import render, templates

    if metric and no_scores:
        raise RequestError("--metric and --no-scores cannot be combined: give one")
    made = templates()
    name = output_name(source)
    path = output or Path(f"{shown(_stem(name), 200)}-report.html")
    _check_free(path, overwrite)
    own = load_architecture(architecture) if architecture else None
    rules = [*(["--generic"] if generic else []), *(["--architecture", str(architecture)] if architecture else [])]
    with telling.scoring() as watch:
        described = describe_report(
            telling.opened(source), name, () if no_scores else metric, Options(generic=generic, architecture=own),
            lambda words: _commands(source, name, (*words, *rules)), watch,
        )  # fmt: skip
    _write(path, render(made, described), overwrite)
    show.say("\n".join(_summary(described, path)))


def _stem(name: str) -> str:
    """`model` for the output `model-pruned.gguf`."""
    return name.rpartition("-pruned")[0]


def _commands(source: str, name: str, words: tuple[str, ...]) -> dict[str, str]:
    """The commands about this source, without the layers: what is left out follows at their end."""
    path, made = show.as_path(source), show.as_path(name)
    return {
        "prune": show.command("prune", path, made, *words),
        "plan": show.command("plan", path, *words),
        "verify": show.command("verify", made, "--source", path),
    }


def _check_free(path: Path, overwrite: bool) -> None:
    """Refuse before the work is done: what is there stays, unless it is a page of an earlier run."""
    from rewriter.report.page import MARK

    if not os.path.lexists(path):
        return
    if not overwrite:
        raise OutputError(f"{named(path)} exists already; --overwrite replaces it")
    try:
        with path.open("rb") as file:
            known = MARK.encode() in file.read(1000)
    except OSError as error:
        raise OutputError(f"cannot read {named(path)}: {(error.strerror or str(error)).lower()}") from None
    if not known:
        raise OutputError(f"{named(path)} is no page of an earlier run: it is not replaced")


def _write(path: Path, text: str, overwrite: bool) -> None:
    """The page appears whole or not at all."""
    staged = path.with_name(f".{path.name[:200]}.{token_hex(4)}")
    try:
        try:
            with staged.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                to_disk(file.fileno())
            (os.replace if overwrite else rename_new)(staged, path)
        finally:
            staged.unlink(missing_ok=True)  # it is still there where something went wrong
    except FileExistsError:
        raise OutputError(f"{named(path)} exists already; --overwrite replaces it") from None
    except OSError as error:
        raise OutputError(f"cannot write {named(path)}: {(error.strerror or str(error)).lower()}") from None


def _summary(described: dict[str, Any], path: Path) -> list[str]:
    lines = []
    for stack in described["stacks"]:
        scored = ", ".join(metric["name"] for metric in stack["metrics"]) or "not scored"
        lines.append(f"stack {stack['name']}: {stack['layers']} layers, {scored}")
        lines += [f"  {each['name']} does not apply: {each['why']}" for each in stack["unscored"]]
        if stack["why"]:
            lines.append(f"  nothing can be dropped: {stack['why']}")
    return [*lines, f"open {shown(path, 200)} in a browser"]
