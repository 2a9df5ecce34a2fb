"""Saved plans: what `plan -o plan.json` wrote, or a pruned checkpoint recorded, read again and applied to the same
file, to a sibling, or to what belongs to the model.

A saved plan is never trusted for names or offsets: it is planned again from the layers it keeps, and must then
say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from rewriter.architectures.lookup import Stack
from rewriter.checkpoint import GGUF, HUGGINGFACE, Checkpoint
from rewriter.errors import CheckpointError, RequestError, printable
from rewriter.formats import json_edit, open_checkpoint
from rewriter.planning.open_model import open_model
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import Plan, make_plan
from rewriter.planning.provenance import (
    Provenance,
    RecordedLayers,
    check_layer_numbers,
    edit_to_json,
    options_from_json,
    recorded,
)
from rewriter.system.files import open_for_reading, printable_name, read_at, read_document
from rewriter.system.untrusted import ShapeError, convert

_SCHEMA = 1  # docs/json.md
PROJECTOR = "clip"  # the general.architecture of an mmproj file: towers of its own beside a model


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """What a saved plan asks for. `changes` are the metadata changes that it announced, as JSON values, None where it
    did not. `prefix` is what stands before a layer's number in the model's tensor names, "" where it is not said.
    """

    source_name: str
    source_sha256: str
    source_kind: tuple[str, str]  # which table describes it, and its architecture there
    stack: str
    main: bool
    before: int
    kept: tuple[int, ...]
    options: PlanOptions
    changes: tuple[Any, ...] | None
    prefix: str = ""
    mtp_layers: int = 0

    def __post_init__(self) -> None:
        check_layer_numbers((self.mtp_layers,))

    def to_json(self) -> dict[str, Any]:
        """What the record of a companion says about the model: with its layers all that is needed to plan again."""
        return {
            "name": self.source_name,
            "header_sha256": self.source_sha256,
            "format": self.source_kind[0],
            "architecture": self.source_kind[1],
            "main": self.main,
            "prefix": self.prefix,
            "prediction_layers": self.mtp_layers,
        }


def open_plan(path: str | Path) -> SavedPlan:
    """The plan saved at `path`, or the one that the pruned checkpoint there carries. Raises CheckpointError."""
    if not Path(path).is_dir():
        with open_for_reading(path) as (descriptor, found):
            start = read_at(descriptor, 0, min(16, found.size), printable_name(path))
        if not start.strip() or start.lstrip()[:1] == b"{":
            return load_plan(path)
    return plan_from_record(open_checkpoint(path))


def load_plan(path: str | Path) -> SavedPlan:
    """Read the plan saved at `path`. Raises CheckpointError if it is not one."""
    return saved_plan(
        json_edit.parse(read_document(Path(path), printable_name(path)).text, printable_name(path)),
        printable_name(path),
    )


class _Head(TypedDict):
    kind: Literal["rewriter-plan"]
    schema: int


class _Model(TypedDict):
    name: str
    header_sha256: str
    format: str
    architecture: str


class _Companion(_Model):  # SavedPlan.to_json
    main: bool
    prefix: str
    prediction_layers: int


class _Plan(TypedDict):  # what `plan --json` prints
    source: _Model
    stack: str
    main: bool
    layers: RecordedLayers
    options: dict[str, Any]
    changes: tuple[object, ...]
    prediction_layers: Mapping[Literal["before", "after"], int]
    prefix: NotRequired[str]


def saved_plan(value: object, name: str) -> SavedPlan:
    """The plan that `value` is, as `plan --json` prints it; errors call it `name`. Raises CheckpointError."""
    try:
        if (schema := convert(value, _Head)["schema"]) != _SCHEMA:
            raise CheckpointError(f"{name} is a plan of another version: schema {printable(schema)}, not {_SCHEMA}")
        plan = convert(value, _Plan)
        source, layers = plan["source"], plan["layers"]
        options = replace(options_from_json(plan["options"]), provenance=plan["options"]["provenance"] is True)
        return SavedPlan(
            source["name"], source["header_sha256"], _kind(source["format"], source["architecture"]), plan["stack"],
            plan["main"], layers.before, layers.kept, options, plan["changes"],
            plan.get("prefix", ""), plan["prediction_layers"]["before"],
        )  # fmt: skip
    except (ShapeError, KeyError, ValueError):
        raise CheckpointError(f"{name} is not a plan that `rewriter plan -o` saved") from None


def from_plan(plan: Plan) -> SavedPlan:
    """What `plan` would be saved as, for what belongs to its model."""
    checkpoint, layers = plan.checkpoint, plan.layers
    return SavedPlan(
        checkpoint.name, checkpoint.header_sha256, _kind(checkpoint.format, checkpoint.architecture), layers.stack,
        plan.model.is_main, layers.count, layers.kept, plan.options, None, plan.stack.prefix,
        layers.mtp_layers,
    )  # fmt: skip


def plan_from_record(checkpoint: Checkpoint) -> SavedPlan:
    """The plan that `checkpoint`, which was pruned, carries in its record. Raises CheckpointError without one."""
    record = recorded(checkpoint)
    if record is None or checkpoint.companion:
        raise CheckpointError(f"{printable(checkpoint.name)} is neither a saved plan nor a pruned model with a record")
    if record.origin.header_sha256 != record.source_sha256:
        raise CheckpointError(
            f"{printable(checkpoint.name)} was pruned more than once: apply the plans of all runs, or their "
            f"outputs, one "
            "after the other"
        )
    stack, main = recorded_stack(checkpoint, record)
    layers = record.layers
    return SavedPlan(
        record.source_name, record.source_sha256, _kind(checkpoint.format, checkpoint.architecture), stack.name,
        main, layers.count, layers.kept, record.options, None, stack.prefix,
        max(stack.mtp_layers, layers.kept[-1] + 1 - layers.count),
    )  # fmt: skip


def recorded_stack(checkpoint: Checkpoint, record: Provenance) -> tuple[Stack, bool]:
    """The stack that was pruned, and whether it is the main one. Raises CheckpointError where there is none."""
    stacks = open_model(checkpoint, record.options).stacks
    found = next((stack for stack in stacks if stack.name == record.layers.stack), None)
    if found is None:
        raise CheckpointError(
            f"{printable(checkpoint.name)} has no stack {printable(record.layers.stack)}, as its record says"
        )
    return found, found is stacks[0]


def plan_of_companion(checkpoint: Checkpoint) -> SavedPlan | None:
    """The plan that a companion was made by, from its record; None if it carries none. Raises CheckpointError."""
    record = recorded(checkpoint)
    if record is None:
        return None
    try:
        model, layers = convert(record.model, _Companion), record.layers
        return SavedPlan(
            model["name"], model["header_sha256"], _kind(model["format"], model["architecture"]), layers.stack,
            model["main"], layers.count, layers.kept, record.options, None, model["prefix"], model["prediction_layers"],
        )  # fmt: skip
    except (ShapeError, ValueError):
        raise CheckpointError("the provenance record does not say which model was pruned") from None


def _kind(format: object, architecture: object) -> tuple[str, str]:
    return (GGUF if format == GGUF else HUGGINGFACE, str(architecture))


def replan(saved: SavedPlan, checkpoint: Checkpoint) -> tuple[Plan, bool]:
    """The plan for `checkpoint`, and whether it is the very file that the plan was saved for.

    For another file of the same model the layers are kept by number, after the layer counts were compared; the
    main stack is found under whatever name it has there. Raises RequestError when they do not fit.
    """
    same = saved.source_sha256 == checkpoint.header_sha256
    table, architecture = _kind(checkpoint.format, checkpoint.architecture)
    if saved.source_kind[0] == table and saved.source_kind[1] != architecture:
        raise RequestError(f"the plan is for a {printable(saved.source_kind[1])}, this is a {printable(architecture)}")
    if architecture == PROJECTOR and saved.source_kind[1] != PROJECTOR and saved.main:
        raise RequestError(f"the plan is for the model's layers: {printable(checkpoint.name)} has none of them")
    stack = "main" if saved.main and not same else saved.stack
    options = replace(saved.options, stack=stack)
    if not same:  # a sibling has another name on the Hub, and a file no model card
        options = replace(options, card=options.card if checkpoint.format == HUGGINGFACE else None, base_model="")
    plan = make_plan(checkpoint, saved.kept, options)
    if plan.layers.count != saved.before:
        raise RequestError(
            f"the plan is for {saved.before} layers ({printable(saved.source_name)}), {printable(checkpoint.name)} has "
            f"{plan.layers.count} in stack {plan.layers.stack}"
        )
    if (
        same
        and saved.changes is not None
        and json_edit.json_roundtrip([edit_to_json(edit) for edit in plan.edits]) != list(saved.changes)
    ):
        raise RequestError(
            "the changes in the plan are not those that its layers make here: it was edited, or another version "
            "saved it; save a new one with `rewriter plan -o`"
        )
    return plan, same
