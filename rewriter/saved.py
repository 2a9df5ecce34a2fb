"""Saved plans: what `plan -o plan.json` wrote, read again and applied to the same file or to a sibling.

A saved plan is never trusted for names or offsets: it is planned again from the layers it keeps, and must then
say the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rewriter.checkpoint import GGUF, HUGGINGFACE, Checkpoint
from rewriter.errors import CheckpointError, RequestError, shown
from rewriter.formats import json_text
from rewriter.formats.files import named, read_document
from rewriter.plan import Plan, make_plan
from rewriter.provenance import edit_to_json, options_from_json
from rewriter.selection import Options


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """What a saved plan asks for. `changes` are the metadata changes that it announced, as JSON values."""

    source_name: str
    source_sha256: str
    source_kind: tuple[str, str]  # which table describes it, and its architecture there
    stack: str
    main: bool
    before: int
    kept: tuple[int, ...]
    options: Options
    changes: tuple[Any, ...]


def load_plan(path: str | Path) -> SavedPlan:
    """Read the plan saved at `path`. Raises CheckpointError if it is not one."""
    return saved_plan(json_text.parse(read_document(Path(path), named(path)).text, named(path)), named(path))


def saved_plan(value: Any, name: str) -> SavedPlan:
    """The plan that `value` is, as `plan --json` prints it; errors call it `name`. Raises CheckpointError."""
    try:
        if value["kind"] != "rewriter-plan" or type(value["schema"]) is not int or value["schema"] != 1:
            raise KeyError
        source, layers = value["source"], value["layers"]
        kept = tuple(layers["kept"])
        if not all(type(number) is int for number in (layers["before"], *kept)):
            raise TypeError
        options = replace(options_from_json(value["options"]), provenance=value["options"]["provenance"] is True)
        return SavedPlan(
            str(source["name"]), str(source["header_sha256"]), _kind(source["format"], source["architecture"]),
            str(value["stack"]), value["main"] is True,
            layers["before"], kept, options, tuple(value["changes"]),
        )  # fmt: skip
    except (KeyError, TypeError):
        raise CheckpointError(f"{name} is not a plan that `rewriter plan -o` saved") from None


def _kind(format: object, architecture: object) -> tuple[str, str]:
    return (GGUF if format == GGUF else HUGGINGFACE, str(architecture))


def plan_again(saved: SavedPlan, checkpoint: Checkpoint) -> tuple[Plan, bool]:
    """The plan for `checkpoint`, and whether it is the very file that the plan was saved for.

    For another file of the same model the layers are kept by number, after the layer counts were compared; the
    main stack is found under whatever name it has there. Raises RequestError when they do not fit.
    """
    same = saved.source_sha256 == checkpoint.header_sha256
    table, architecture = _kind(checkpoint.format, checkpoint.architecture)
    if saved.source_kind[0] == table and saved.source_kind[1] != architecture:
        raise RequestError(f"the plan is for a {shown(saved.source_kind[1])}, this is a {shown(architecture)}")
    stack = "main" if saved.main and not same else saved.stack
    plan = make_plan(checkpoint, saved.kept, replace(saved.options, stack=stack))
    if plan.layers.count != saved.before:
        raise RequestError(
            f"the plan is for {saved.before} layers ({shown(saved.source_name)}), {shown(checkpoint.name)} has "
            f"{plan.layers.count} in stack {plan.layers.stack}"
        )
    if same and json_text.plain([edit_to_json(edit) for edit in plan.edits]) != list(saved.changes):
        raise RequestError("this version would change other metadata than the saved plan says; plan again")
    return plan, same
