"""The record that an output carries of how it was made, and how records of several runs compose.

No clock, no absolute path: the same input and plan give the same bytes. It is a JSON value: the whole of
`rewriter.json` in a directory, the key `rewriter.provenance` in a GGUF, the entry `rewriter` of `__metadata__`
in a lone safetensors file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

from rewriter.architectures.custom import from_values, to_values
from rewriter.architectures.lookup import MOST_LAYERS
from rewriter.architectures.schema import Architecture
from rewriter.checkpoint import Checkpoint, FieldEdit, LayerMap
from rewriter.errors import CheckpointError
from rewriter.planning.layer_ranges import format_layers
from rewriter.planning.option import Recorded, options_of
from rewriter.planning.options import PlanOptions
from rewriter.system.untrusted import ShapeError, convert
from rewriter.version import VERSION

SCHEMA = 1
_MOST_NUMBERS = 2 * MOST_LAYERS  # with those for prediction
_RECORDED = tuple(each for each in options_of(PlanOptions) if each.recorded)


@dataclass(frozen=True, slots=True)
class Origin:
    """The checkpoint that a chain of runs started from.

    `layers` gives for each stack that was pruned the number, in the origin, of every layer still there.
    """

    name: str
    header_sha256: str
    layers: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        for numbers in self.layers.values():
            check_layer_numbers(numbers)


@dataclass(frozen=True, slots=True)
class Provenance:
    """One run: what it read, what it kept, what it changed, and where everything came from at first."""

    source_name: str
    source_sha256: str
    layers: LayerMap
    options: PlanOptions
    edits: tuple[FieldEdit, ...]
    warnings: tuple[str, ...]
    origin: Origin
    model: Mapping[str, Any] | None = (
        None  # of what belongs to a model: the model, as rewriter.planning.saved_plan reads it
    )

    @property
    def selection(self) -> str:
        """The arguments that give this plan again, written one way only: `--stack text --keep 0-3,5`."""
        return f"--stack {self.layers.stack} --keep {format_layers(self.layers.kept)}" + "".join(
            f" {word}" for word in self.options.arguments
        )

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON value, its keys in a fixed order."""
        return {
            "schema": SCHEMA,
            "rewriter": VERSION,
            "source": {"name": self.source_name, "header_sha256": self.source_sha256},
            "selection": self.selection,
            **({} if self.model is None else {"model": dict(self.model)}),
            "stack": self.layers.stack,
            "layers": {"before": self.layers.count, "kept": list(self.layers.kept)},
            "options": options_to_json(self.options),
            "changes": [edit_to_json(edit) for edit in self.edits],
            "warnings": list(self.warnings),
            "original": {
                "name": self.origin.name,
                "header_sha256": self.origin.header_sha256,
                "layers": {stack: list(kept) for stack, kept in self.origin.layers.items()},
            },
        }


def options_to_json(options: PlanOptions) -> dict[str, Any]:
    """What was asked for besides the layers, as a JSON value."""
    values = {each.field: getattr(options, each.field) for each in options_of(PlanOptions)}
    return {
        each.field: _json_value(values[each.field])
        for each in _RECORDED
        if each.recorded is not Recorded.IF_GIVEN or values[each.field] != each.default
    }


def _json_value(value: Any) -> Any:
    if isinstance(value, Architecture):
        return to_values(value)
    return list(value) if isinstance(value, tuple) else value


def options_from_json(value: Mapping[str, Any]) -> PlanOptions:
    """The inverse. Raises ShapeError for anything else, CheckpointError for an architecture that is not one."""
    if any(each.field not in value for each in _RECORDED if each.recorded is Recorded.ALWAYS):
        raise ShapeError("options are missing")
    found = {each.field: value[each.field] for each in _RECORDED if each.field in value}
    if found["architecture"] is not None:
        found["architecture"] = from_values(found["architecture"])
    options = convert(found, PlanOptions, "the options")
    if options.max_size is not None and options.max_size < 1:
        raise ShapeError("a file cannot be smaller than a byte")
    return options


def edit_to_json(edit: FieldEdit) -> dict[str, Any]:
    """One metadata change as a JSON value."""
    place = {"file": edit.file} if edit.file else {}
    return {**place, "key": edit.key, "before": edit.before, "after": edit.after, "rule": edit.rule}


@dataclass(frozen=True, slots=True)
class RecordedLayers:
    """Which layers stay, as records and saved plans have it."""

    before: int
    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        check_layer_numbers(self.kept)
        check_layer_numbers((self.before,))
        if not self.kept:
            raise ValueError("no layer stays")


class _Source(TypedDict):
    name: str
    header_sha256: str


class _Record(TypedDict):  # Provenance.to_json
    schema: Literal[1]
    source: _Source
    stack: str
    layers: RecordedLayers
    options: dict[str, Any]
    original: Origin
    model: NotRequired[dict[str, Any]]


def recorded(checkpoint: Checkpoint) -> Provenance | None:
    """The record of the run that made `checkpoint`, without its edits; None if it carries none.

    Raises CheckpointError if it is damaged.
    """
    if checkpoint.provenance is None:
        return None
    try:
        record = convert(checkpoint.provenance, _Record)
        options = options_from_json(record["options"])
    except ShapeError:
        raise CheckpointError(
            "the provenance record (rewriter.json, or the rewriter entry in the metadata) is damaged; "
            "--no-provenance goes on without it"
        ) from None
    source, layers = record["source"], LayerMap(record["stack"], record["layers"].kept, record["layers"].before)
    return Provenance(
        source["name"], source["header_sha256"], layers, options, (), (), record["original"], record.get("model")
    )


def origin_of(checkpoint: Checkpoint) -> Origin:
    """Where the checkpoint came from at first: what its record says, else itself. Raises CheckpointError."""
    record = recorded(checkpoint)
    return record.origin if record else Origin(checkpoint.name, checkpoint.header_sha256, {})


def check_layer_numbers(numbers: Sequence[int]) -> None:
    """Raise ValueError for numbers of layers, or of all layers, that no stack has."""
    if len(numbers) > _MOST_NUMBERS or any(not 0 <= number <= _MOST_NUMBERS for number in numbers):
        raise ValueError("no stack has such layers")


def composed(origin: Origin, layers: LayerMap) -> Origin:
    """`origin` after one more run: the kept layers keep their original numbers. Raises CheckpointError."""
    total = layers.count + layers.mtp_layers
    before = origin.layers.get(layers.stack, tuple(range(total)))
    if len(before) != total:
        raise CheckpointError(
            f"the provenance record knows {len(before)} layers in stack {layers.stack}, the tensors have "
            f"{total}; --no-provenance goes on without it"
        )
    kept = tuple(before[old] for old in layers.kept)
    return Origin(origin.name, origin.header_sha256, {**origin.layers, layers.stack: kept})
