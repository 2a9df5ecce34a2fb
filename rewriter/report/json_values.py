"""What `inspect` and `plan` say, as JSON values: the tables on screen are drawn from these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rewriter.architectures.lookup import Stack, entries, find, first_list, listed_stacks, numbered_lists, resolve
from rewriter.architectures.schema import Architecture
from rewriter.checkpoint import CARD, Checkpoint, TensorInfo
from rewriter.layout.model_card_text import make_card
from rewriter.layout.output import Output
from rewriter.planning.plan import Plan
from rewriter.planning.provenance import edit_to_json, options_to_json
from rewriter.version import VERSION

if TYPE_CHECKING:
    from rewriter.scoring.components import Component
    from rewriter.scoring.suggest import Suggestion

SCHEMA = 1


def describe(checkpoint: Checkpoint, architecture: Architecture | None = None) -> dict[str, Any]:
    """Everything that `inspect --json` prints. Sizes are in bytes, parameters count stored elements.

    The stacks are those of `architecture`, else of the tables' entry.
    """
    lists = numbered_lists(checkpoint)
    architecture = architecture or find(checkpoint, lists)
    stacks = resolve(checkpoint, architecture, lists) if architecture else listed_stacks(lists)
    groups = _grouped(checkpoint, stacks)
    held = Counter(tensor.shard for tensor in checkpoint.tensors)
    return {
        "schema": SCHEMA,
        "name": checkpoint.name,
        "format": checkpoint.format,
        "architecture": checkpoint.architecture,
        "known": architecture is not None,
        **({"companion": checkpoint.companion} if checkpoint.companion else {}),
        "header_sha256": checkpoint.header_sha256,
        **_sums(checkpoint.tensors),
        "dtypes": _dtypes(checkpoint.tensors),
        "stacks": [_stack(stack, groups[index], index == 0) for index, stack in enumerate(stacks)],
        "outside": _sums(groups[None][None]),
        "shards": [
            {"name": shard.name, "bytes": shard.stamp.size, "tensors": held[index]}
            for index, shard in enumerate(checkpoint.shards)
        ],
        "side_files": sorted([*(file.name for file in checkpoint.side_files), *_patched(checkpoint)]),
        "left_behind": list(checkpoint.left_behind),
        "provenance": checkpoint.provenance,
    }


Groups = dict[int | None, dict[int | None, list[TensorInfo]]]


def _grouped(checkpoint: Checkpoint, stacks: tuple[Stack, ...]) -> Groups:
    """Stack -> layer -> its tensors; None -> None -> those outside all stacks."""
    groups: Groups = {
        index: {layer: [] for layer in range(stack.count + stack.mtp_layers)} for index, stack in enumerate(stacks)
    }
    groups[None] = {None: []}
    by_prefix = {stack.prefix: index for index, stack in enumerate(stacks)}
    inner = [index for index, stack in enumerate(stacks) if first_list(stack.prefix + "0") != stack.prefix]
    for tensor in checkpoint.tensors:
        first = by_prefix.get(first_list(tensor.name))
        places = ((index, stacks[index].layer_of(tensor.name)) for index in (first, *inner) if index is not None)
        index, layer = next(((index, layer) for index, layer in places if layer is not None), (None, None))
        groups[index][layer].append(tensor)
    return groups


def _sums(tensors: Iterable[TensorInfo]) -> dict[str, int]:
    tensors = tuple(tensors)
    return {
        "tensors": len(tensors),
        "parameters": sum(tensor.parameters for tensor in tensors),
        "bytes": sum(tensor.nbytes for tensor in tensors),
    }


def _dtypes(tensors: Iterable[TensorInfo]) -> list[dict[str, Any]]:
    """The quantisation mix, the largest share first."""
    groups: dict[str, list[TensorInfo]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    rows = [{"dtype": dtype, **_sums(members)} for dtype, members in groups.items()]
    return sorted(rows, key=lambda row: -row["bytes"])


def _stack(stack: Stack, layers: dict[int | None, list[TensorInfo]], main: bool) -> dict[str, Any]:
    return {
        "name": stack.name,
        "main": main,
        "prefix": stack.prefix,
        "count_key": stack.count_key,
        "layers": stack.count,
        "prediction_layers": stack.mtp_layers,
        **_sums(tensor for tensors in layers.values() for tensor in tensors),
        "per_layer": [
            {"layer": layer, **_sums(tensors), "dtypes": [row["dtype"] for row in _dtypes(tensors)]}
            for layer, tensors in layers.items()
        ],
    }


def _patched(checkpoint: Checkpoint) -> list[str]:
    """Documents besides the config and the index."""
    names = (document.name for document in checkpoint.documents)
    return [name for name in names if name != "config.json" and not name.endswith("index.json")]


def describe_plan(plan: Plan, output: Output) -> dict[str, Any]:
    """Everything that `plan --json` prints and `plan -o` saves."""
    checkpoint = plan.checkpoint
    before, after = _sums(checkpoint.tensors), _sums(copy.tensor for copy in plan.tensors)
    return {
        "schema": SCHEMA,
        "kind": "rewriter-plan",
        "rewriter": VERSION,
        "source": {
            "name": checkpoint.name,
            "format": checkpoint.format,
            "architecture": checkpoint.architecture,
            "header_sha256": checkpoint.header_sha256,
        },
        **({"companion": checkpoint.companion} if checkpoint.companion else {}),
        "stack": plan.layers.stack,
        "main": plan.model.is_main,
        "prefix": plan.stack.prefix,
        "layers": {
            "before": plan.layers.count,
            "after": len(plan.layers.main),
            "kept": list(plan.layers.kept),
            "dropped": list(plan.layers.dropped),
            "numbers": [[old, new] for old, new in plan.layers.numbers.items()],
        },
        "prediction_layers": {
            "before": plan.layers.mtp_layers,
            "after": len(plan.layers.kept) - len(plan.layers.main),
        },
        "options": {**options_to_json(plan.options), "provenance": plan.options.provenance},
        **{key: {"before": before[key], "after": after[key]} for key in before},
        "changes": [edit_to_json(edit) for edit in plan.edits],
        "card": _card(plan),
        "moved": _moved(plan),
        "files": [
            {"name": file.name, "bytes": file.nbytes, "shareable": file.shareable, "unchanged": file.unchanged}
            for file in output.files
        ],
        "disk_needed": output.nbytes,
        "shareable": output.shareable,
        "left_behind": list(checkpoint.left_behind),
        "warnings": list(plan.warnings),
    }


def describe_suggestion(suggestion: Suggestion, parts: Iterable[Component]) -> dict[str, Any]:
    """Everything that `score --json` prints. A score is importance, and rank 1 goes first."""
    scores = suggestion.scores
    return {
        "schema": SCHEMA,
        "metric": scores.metric,
        "why": scores.why,
        "stack": scores.stack,
        "protected": list(suggestion.protected),
        "scores": [{"layer": each.layer, "score": each.score, "rank": each.rank} for each in scores.layers],
        "suggested": list(suggestion.dropped),
        "refusal": suggestion.refusal,
        "shared": {"deepest": suggestion.shared("top"), "middle": suggestion.shared("middle")},
        "components": [describe_component(part) for part in parts],
    }


def describe_component(part: Component) -> dict[str, Any]:
    """A part of the checkpoint as `score --json` prints it."""
    return {
        "name": part.name,
        "tensors": part.tensors,
        "parameters": part.parameters,
        "bytes": part.nbytes,
        "magnitude": part.magnitude,
        "survives": part.survives,
    }


def _card(plan: Plan) -> dict[str, Any] | None:
    """What becomes of the model card: the entries of its front matter that change, null for those that go."""
    card = make_card(plan)
    if card is None:
        return None
    return {"file": CARD, "changes": dict(card.changes), "section": card.text is not None, "note": card.note}


def _moved(plan: Plan) -> list[list[str]]:
    """Old and new name of tensors that were stored once under a layer that goes."""
    gone = set(plan.layers.dropped)
    return [[copy.tensor.name, copy.name] for copy in plan.tensors if plan.stack.layer_of(copy.tensor.name) in gone]


def architecture_rows() -> list[tuple[str, str, str, str]]:
    """Format, name, stacks and limits of every architecture with rules."""
    return [
        (entry.format, entry.name, ", ".join(stack.name for stack in entry.stacks), _limits(entry))
        for entry in entries()
    ]


def _limits(entry: Architecture) -> str:
    reasons = [f"{stack.name}: {limit.why}" for stack in entry.stacks for limit in stack.limits]
    reasons += [warning for _, warning in entry.warnings]
    return "; ".join(dict.fromkeys(reasons))
