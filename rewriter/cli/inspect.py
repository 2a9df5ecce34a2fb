"""rewriter inspect"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rewriter.cli import console, verbose
from rewriter.cli.options import Json, Source, with_options
from rewriter.errors import printable
from rewriter.planning.open_model import open_model
from rewriter.planning.options import PlanOptions
from rewriter.report.json_values import describe

if TYPE_CHECKING:
    from rich.table import Table


@with_options("generic", "architecture")
def inspect(source: Source, options: PlanOptions, json: Json = False) -> None:
    """Show what a checkpoint holds: its stacks, its layers, their sizes.

    Example: `rewriter inspect model.gguf`
    """
    checkpoint = verbose.open_verbosely(source)
    described = describe(checkpoint, None if options == PlanOptions() else open_model(checkpoint, options).architecture)
    if json:
        console.print_json(described)
        return
    out = console.console()
    out.print(_head(described))
    for stack in described["stacks"]:
        out.print(_table(stack))
    out.print(_rest(described))


def _head(described: dict[str, Any]) -> str:
    lines = [
        f"{printable(described['name'], 80)}: {described['format']}, {_kind(described)}",
        f"{console.number(described['parameters'])} parameters, {console.size(described['bytes'])} in "
        f"{console.counted(described['tensors'], 'tensor')}: " + ", ".join(map(_share, described["dtypes"])),
    ]
    return "\n".join([*lines, *_origin(described["provenance"])])


def _kind(described: dict[str, Any]) -> str:
    """What it is a checkpoint of: a model, or what belongs to one."""
    if "companion" in described:
        return f"{described['companion']}: it follows the layers of a pruned model, see rewriter apply"
    known = "" if described["known"] else " (no rules for it: --generic may work)"
    return f"architecture {printable(described['architecture'] or 'unknown')}{known}"


def _origin(record: object) -> list[str]:
    """Where a pruned file comes from; a record that is damaged says nothing here."""
    try:
        original = record["original"]  # type: ignore[index]
        stacks = ", ".join(f"{printable(stack)} {console.layers(kept)}" for stack, kept in original["layers"].items())
        return [f"pruned from {printable(original['name'], 80)}: its layers {stacks}"]
    except (KeyError, TypeError, AttributeError, IndexError):
        return []


def _share(row: dict[str, Any]) -> str:
    return f"{row['dtype']} {console.size(row['bytes'])}"


def _table(stack: dict[str, Any]) -> Table:
    more = f" and {stack['prediction_layers']} for prediction" if stack["prediction_layers"] else ""
    title = f"stack {printable(stack['name'])}: {console.counted(stack['layers'], 'layer')}{more}, {_amount(stack)}"
    table = console.table(title)
    for column in ("layer", "tensors", "parameters", "size"):
        table.add_column(column, justify="right")
    table.add_column("")
    table.add_column("dtypes")
    largest = max(row["bytes"] for row in stack["per_layer"])
    for row in stack["per_layer"]:
        table.add_row(
            str(row["layer"]), str(row["tensors"]), console.number(row["parameters"]), console.size(row["bytes"]),
            console.bar(row["bytes"], largest), " ".join(row["dtypes"]),
        )  # fmt: skip
    return table


def _rest(described: dict[str, Any]) -> str:
    outside = described["outside"]
    lines = [f"outside the layers: {console.counted(outside['tensors'], 'tensor')}, {_amount(outside)}"]
    if len(described["shards"]) > 1:
        lines += [f"  {printable(shard['name'], 80)}: {_shard(shard)}" for shard in described["shards"]]
    if described["left_behind"]:
        lines.append("would stay behind: " + ", ".join(printable(name) for name in described["left_behind"]))
    return "\n".join(lines)


def _amount(sums: dict[str, Any]) -> str:
    return f"{console.number(sums['parameters'])} parameters, {console.size(sums['bytes'])}"


def _shard(shard: dict[str, Any]) -> str:
    return f"{console.counted(shard['tensors'], 'tensor')}, {console.size(shard['bytes'])}"
