"""rewriter plan"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from rewriter.cli import console, verbose
from rewriter.cli.companions import With, describe_companions, plan_companions, plan_lines
from rewriter.cli.options import Json, Source, output_name, with_plan_options
from rewriter.errors import CheckpointError, OutputError, printable
from rewriter.layout import make_output
from rewriter.planning.layer_ranges import moves
from rewriter.planning.saved_plan import load_plan
from rewriter.report.json_values import describe_plan
from rewriter.request import PruneRequest
from rewriter.system.files import printable_name
from rewriter.writing.write import save


@with_plan_options
def plan(
    source: Source,
    request: PruneRequest,
    json: Json = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Save it for `prune --plan`.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a plan that was saved before.")] = False,
    companions: With = None,
) -> None:
    """Show what `prune` would do, and do nothing.

    Example: `rewriter plan model.gguf --drop 20-23`

    Example: `rewriter plan model/ --drop 20-23 --shard-size 5GB`
    """
    name = output_name(source)
    notices: list[str] = []
    with verbose.scoring() as on_progress:
        made = request.plan(verbose.open_verbosely(source), name, notices.append, on_progress)
    verbose.log_plan(made)
    described = describe_plan(made, make_output(made, name))
    if companions:
        described["companions"] = describe_companions(plan_companions(made, companions, name))
    if output is not None:
        if overwrite and os.path.lexists(output):
            _check_is_plan(output)
        save(f"{dumps(described, indent=2)}\n".encode(), output, overwrite, made.checkpoint)
    if json:
        console.print_json(described)
    else:
        saved = [] if output is None else [f"saved: {printable(output, 200)}"]
        console.say("\n".join([_text(described), *plan_lines(described.get("companions", [])), *notices, *saved]))


def _check_is_plan(path: Path) -> None:
    try:
        load_plan(path)
    except CheckpointError:
        raise OutputError(f"{printable_name(path)} is no saved plan: it is not replaced") from None


def _moved(old: str, new: str) -> str:
    """What becomes of a tensor that is stored once, under a layer that goes."""
    if old == new:
        return f"stays: {printable(old, 80)}, for the layer that has this number now"
    return f"moved: {printable(old, 80)} -> {printable(new, 80)}"


def _text(described: dict[str, Any]) -> str:
    layers = described["layers"]
    lines = [
        f"{printable(described['source']['name'], 80)}: stack {described['stack']}, "
        f"{console.counted(layers['before'], 'layer')} -> {layers['after']}",
        f"  keep     {console.layers(layers['kept'])}",
        f"  drop     {console.layers(layers['dropped'])}",
        f"  number   {_numbers(layers['numbers'])}",
        f"  tensors  {_change(described['tensors'], str)}",
        f"  weights  {_change(described['parameters'], console.number)}",
        f"  bytes    {_change(described['bytes'], console.size)}",
    ]
    changes = [*map(_edit, described["changes"]), *_card(described["card"])]
    lines += ["changes:", *changes] if changes else ["changes: none"]
    lines += ["files:"]
    lines += [f"  {file['bytes']:>15,}  {_file(file)}" for file in described["files"]]
    lines += [f"  {described['disk_needed']:>15,}  bytes of disk needed"]
    lines += [f"  {described['shareable']:>15,}  of them shared where the filesystem can (XFS, btrfs)"]
    lines += notes(described)
    return "\n".join(lines)


def notes(described: dict[str, Any]) -> list[str]:
    """What a person should know besides: files that stay behind, and warnings."""
    lines = [f"warning: {warning}" for warning in described["warnings"]]
    if not described["layers"]["dropped"]:
        regrouped = described["options"]["single_file"] or described["options"]["max_size"]
        what = "the same tensors are put into other files" if regrouped else "the output is a copy"
        lines.append(f"note: nothing is dropped, {what}")
    lines += [_moved(old, new) for old, new in described["moved"]]
    if described["card"] and described["card"]["note"]:
        lines.append(f"note: {printable(described['card']['note'], 200)}")
    if described["left_behind"]:
        names = ", ".join(printable(name) for name in described["left_behind"])
        lines.append(f"left behind (they belong to the unpruned model): {names}")
    return lines


def _card(card: dict[str, Any] | None) -> list[str]:
    """The model card in one line."""
    if card is None or not card["section"]:
        return []
    entries = [f"{key}: {console.value(value)}" for key, value in card["changes"].items()]
    return [f"  {card['file']}: {', '.join(entries)}, a section on the pruned layers  (card)"]


def _file(file: dict[str, Any]) -> str:
    return f"{printable(file['name'], 80)}{' (unchanged)' if file['unchanged'] else ''}"


def _numbers(numbers: Iterable[tuple[int, int]]) -> str:
    """The new numbers as runs: 4-6 -> 3-5."""
    moved = [f"{console.layers(old)} -> {console.layers(new)}" for old, new in moves(dict(numbers)) if old != new]
    return ", ".join(moved) or "unchanged"


def _change(change: dict[str, int], form: Callable[[int], str]) -> str:
    return f"{form(change['before'])} -> {form(change['after'])}"


def _edit(edit: dict[str, Any]) -> str:
    place = f"{edit['file']}: " if "file" in edit else ""
    change = f"{console.value(edit['before'])} -> {console.value(edit['after'])}"
    return f"  {place}{printable(edit['key'], 80)}: {change}  ({edit['rule']})"
