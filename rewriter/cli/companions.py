"""The companions of a model: the option --with, and how they are shown."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rewriter.cli import console, verbose
from rewriter.cli.options import output_name
from rewriter.errors import RequestError, printable
from rewriter.layout import make_output
from rewriter.layout.output import WriteOptions
from rewriter.planning.companions.plan import plan_companion
from rewriter.planning.plan import Plan
from rewriter.planning.saved_plan import from_plan
from rewriter.report.json_values import describe_plan
from rewriter.writing.execute import check_destination
from rewriter.writing.write import check_name, planned

With = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="FILE[=OUT]",
        help="Let what belongs to the model follow: an adapter, a control vector, an importance matrix, another "
        "quantisation. May be repeated; OUT is FILE-pruned beside DST unless given.",
    ),
]


@dataclass(frozen=True, slots=True)
class CompanionOutput:
    """A companion's output: its plan and its destination."""

    plan: Plan
    destination: str


def plan_companions(plan: Plan, files: Iterable[str], destination: str) -> tuple[CompanionOutput, ...]:
    """Plan the `files` of --with; their outputs are placed beside `destination` unless FILE=OUT gives another path."""
    beside = os.path.dirname(destination.rstrip("/"))
    found = []
    for source, target in map(_parted, files):
        made = plan_companion(from_plan(plan), verbose.open_verbosely(source), plan.options)
        found.append(CompanionOutput(made, target or os.path.join(beside, output_name(source))))
    return tuple(found)


def _parted(text: str) -> tuple[str, str]:
    """FILE=OUT, or a file whose own name has the sign in it."""
    file, sign, target = text.rpartition("=")
    if not sign or os.path.lexists(text):
        return text, ""
    if not target or not file:
        raise RequestError(f"--with {printable(text, 80)}: write it as FILE or FILE=OUT")
    return file, target


def check_outputs(outputs: list[tuple[Plan, str]], write_options: WriteOptions) -> None:
    """Raise before the first of several outputs is written if one of them must not be."""
    if len(outputs) == 1:
        return
    places = [os.path.abspath(destination) for _, destination in outputs]
    twice = next((place for at, place in enumerate(places) if place in places[:at]), None)
    if twice is not None:
        raise RequestError(f"two outputs would go to {printable(twice, 200)}: say where with --with FILE=OUT")
    for plan, destination in outputs:
        check_name(plan, destination)
        check_destination(planned(plan, destination, write_options), Path(destination), write_options)


def describe_companions(companions: Iterable[CompanionOutput]) -> list[dict[str, Any]]:
    """Return the JSON values of `plan --json`, one per companion."""
    return [describe_plan(each.plan, make_output(each.plan, Path(each.destination).name)) for each in companions]


def plan_lines(described: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines that `plan` prints for each companion."""
    for each in described:
        yield f"along: {_what(each)}"
        yield from (f"  {printable(edit['key'], 80)}: {_change(edit)}" for edit in each["changes"])
        yield from (f"  {file['bytes']:>15,}  {printable(file['name'], 80)}" for file in each["files"])
        yield from (f"  warning: {warning}" for warning in each["warnings"])


def summary_lines(each: CompanionOutput) -> list[str]:
    """Return the lines that a command prints after `each` is written."""
    described = describe_plan(each.plan, make_output(each.plan, Path(each.destination).name))
    left = ", ".join(printable(name) for name in described["left_behind"])
    return [
        f"{printable(each.destination, 200)}: {_what(described)}",
        *(f"warning: {warning}" for warning in described["warnings"]),
        *([f"left behind: {left}"] if left else []),
    ]


def _what(described: dict[str, Any]) -> str:
    tensors, nbytes = described["tensors"], described["bytes"]
    kind = described.get("companion", described["source"]["format"])
    name = f"{kind} {printable(described['source']['name'], 80)}"
    if tensors["before"] == tensors["after"] and not described["changes"]:
        return f"{name}: unchanged, it has none of the dropped layers"
    return (
        f"{name}: {console.counted(tensors['before'], 'tensor')} -> {tensors['after']}, "
        f"{console.size(nbytes['before'])} -> {console.size(nbytes['after'])}"
    )


def _change(edit: dict[str, Any]) -> str:
    return f"{console.value(edit['before'])} -> {console.value(edit['after'])}  ({edit['rule']})"
