"""Is an output what it must be? Against itself, and against what a plan makes of its source.

Every difference is a Problem, one line: where, expected, found.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from rewriter.architectures.lookup import table_of
from rewriter.checkpoint import CARD, GGUF, Checkpoint, LongArray, Problem
from rewriter.errors import CheckpointError, RewriterError, printable
from rewriter.formats import json_edit, open_checkpoint
from rewriter.layout.output import Piece
from rewriter.layout.tensor_pieces import tensor_pieces
from rewriter.planning.companions.plan import plan_companion
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import Plan, effective_metadata, find_problems, make_plan, planned_checkpoint
from rewriter.planning.provenance import recorded
from rewriter.planning.saved_plan import plan_of_companion
from rewriter.system.files import printable_name
from rewriter.writing.checksums import checksum_problems as damaged
from rewriter.writing.match_layers import Place, find_layers, first_difference, first_difference_in

_ABSENT = "no such key"
_OURS = "rewriter"  # what we add ourselves: the provenance


def verify(
    path: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    options: PlanOptions | None = None,
    checksums: bool = False,
    opened: Callable[[str | os.PathLike[str]], Checkpoint] = open_checkpoint,
) -> tuple[Problem, ...]:
    """Return what is wrong with the checkpoint at `path`; nothing is the good answer.

    Without `source`: the file against itself: format, layer numbers, counts, lists, index, sizes. With it: also
    every kept tensor's bytes, the absence of every dropped one, and every metadata value. Which layers were kept
    is read from the provenance, or found by comparing bytes where there is none. With `checksums`: also every
    tensor's and file's hash, against those that were recorded. `opened` opens both, and may say so. Raises
    CheckpointError where it cannot be told.
    """
    hashes = tuple(damaged(path)) if checksums else ()
    try:
        checkpoint = opened(path)
    except CheckpointError as error:
        return (Problem(printable_name(Path(path)), "a well-formed checkpoint", str(error)), *hashes)
    try:
        options = options or _recorded_options(checkpoint)
    except CheckpointError as error:
        return (Problem(printable_name(Path(path)), "a record of how it was made", str(error)), *hashes)
    found = [*hashes, *structure(checkpoint, options), *_totals(checkpoint), *_second_reader(checkpoint)]
    if source is None:
        return tuple(found)
    original = opened(source)
    if not found:
        _refuse_untold(checkpoint, original)
    try:
        expected = _expected(checkpoint, original, options)
        told = {problem.where for problem in found}  # a wrong count contradicts the tensors and the source: said once
        differences = compare(checkpoint, expected, options, with_bytes=True)
        return (*found, *(each for each in differences if each.where not in told))
    except RewriterError as error:
        return (
            *found,
            Problem(printable_name(Path(path)), f"layers of {printable_name(Path(source))} by the rules", str(error)),
        )


def _refuse_untold(checkpoint: Checkpoint, source: Checkpoint) -> None:
    """The old form of an importance matrix has no place for a record: nothing says which of its layers went."""
    if source.companion and checkpoint.header_sha256 != source.header_sha256 and not recorded(checkpoint):
        raise CheckpointError(
            f"cannot tell: {printable(checkpoint.name)} carries no record of its pruning, only the source itself "
            f"can be "
            "told to be the same"
        )


def _recorded_options(checkpoint: Checkpoint) -> PlanOptions:
    """The options that the output was made with, so that `--generic` need not be said again."""
    record = recorded(checkpoint)
    return record.options if record else PlanOptions()


def structure(checkpoint: Checkpoint, options: PlanOptions) -> tuple[Problem, ...]:
    """What contradicts itself in a checkpoint that could be opened."""
    try:
        return find_problems(checkpoint, options)
    except RewriterError as error:
        return (Problem(printable(checkpoint.name), "layers and metadata that agree", str(error)),)


def _totals(checkpoint: Checkpoint) -> Iterator[Problem]:
    """An index says how many bytes its tensors have; loaders do not care, so a source may be wrong about it."""
    for document in checkpoint.documents:
        if document.name.endswith("index.json"):
            metadata = json_edit.parse(document.text, document.name).get("metadata")
            stated = metadata.get("total_size") if isinstance(metadata, dict) else None
            actual = sum(tensor.nbytes for tensor in checkpoint.tensors)
            if stated not in (None, actual):
                yield Problem(f"{document.name} total_size", str(actual), printable(stated))


def _second_reader(checkpoint: Checkpoint) -> Iterator[Problem]:
    """Ask the safetensors library to open its own format: ours is not the only reading of it."""
    if table_of(checkpoint) == GGUF:
        return
    from safetensors import SafetensorError, safe_open  # here: `prune` never needs it

    names: list[set[str]] = [set() for _ in checkpoint.shards]
    for tensor in checkpoint.tensors:
        names[tensor.shard].add(tensor.name)
    for shard, ours in zip(checkpoint.shards, names, strict=True):
        try:
            with safe_open(shard.path, framework="numpy") as reader:
                theirs = set(reader.keys())
        except (SafetensorError, OSError) as error:
            yield Problem(printable(shard.name), "a file that safetensors opens", printable(error, 120))
            continue
        if theirs != ours:
            yield Problem(printable(shard.name), f"{len(ours)} tensors", f"{len(theirs)} by safetensors")


def _expected(checkpoint: Checkpoint, source: Checkpoint, options: PlanOptions) -> Checkpoint:
    """What the source becomes when the layers that `checkpoint` lacks are dropped."""
    if source.companion:
        saved = plan_of_companion(checkpoint)
        if saved is None:
            _refuse_untold(checkpoint, source)
            return source
        base = checkpoint.metadata.get("adapter_config.json:base_model_name_or_path")
        again = replace(saved.options, provenance=False)
        return planned_checkpoint(plan_companion(saved, source, again, base if isinstance(base, str) else None))
    for stack, kept in find_layers(checkpoint, source, options).items():
        source = planned_checkpoint(
            make_plan(source, kept, replace(options, stack=stack, provenance=False, card=False, base_model=""))
        )
    return source


def check_plan(checkpoint: Checkpoint, plan: Plan, with_bytes: bool) -> None:
    """Raise CheckpointError unless `checkpoint`, which was just written, is what `plan` says."""
    wrong = "the output is not what it should be, nothing was written"
    options = plan.options
    try:
        found = [*structure(checkpoint, options), *compare(checkpoint, planned_checkpoint(plan), options, with_bytes)]
    except RewriterError as error:
        raise CheckpointError(f"{wrong}: {error}") from None
    for problem in found:
        raise CheckpointError(f"{wrong}: {problem}")


def compare(checkpoint: Checkpoint, expected: Checkpoint, options: PlanOptions, with_bytes: bool) -> Iterator[Problem]:
    """Every difference between a checkpoint and what it should be; `expected` lies in the source's files."""
    yield from _compare_tensors(checkpoint, expected, with_bytes)
    yield from _compare_metadata(effective_metadata(checkpoint, options), effective_metadata(expected, options))
    yield from _compare_headers(checkpoint, expected)
    yield from _compare_side_files(checkpoint, expected, options, with_bytes)


def _compare_tensors(checkpoint: Checkpoint, expected: Checkpoint, with_bytes: bool) -> Iterator[Problem]:
    there = {tensor.name: tensor for tensor in checkpoint.tensors}
    for wanted in expected.tensors:
        tensor = there.pop(wanted.name, None)
        if tensor is None:
            yield Problem(_tensor(wanted.name), f"{wanted.dtype} {list(wanted.shape)}", "nothing")
        elif tensor.dtype != wanted.dtype or tensor.shape != wanted.shape:
            found = f"{tensor.dtype} {list(tensor.shape)}"
            yield Problem(_tensor(wanted.name), f"{wanted.dtype} {list(wanted.shape)}", found)
        elif with_bytes:
            here = Place(checkpoint.shards[tensor.shard].path, tensor.offset)
            pieces = tuple(tensor_pieces(wanted, expected.shards[wanted.shard].path))
            yield from _compare_tensor(_tensor(wanted.name), here, pieces)
    for name in there:
        yield Problem(_tensor(name), "nothing", "a tensor that should be gone")


def _tensor(name: str) -> str:
    return f"tensor {printable(name, 80)}"


def _compare_tensor(where: str, here: Place, pieces: tuple[Piece, ...]) -> Iterator[Problem]:
    """`pieces` are where the tensor's bytes come from, one after the other."""
    done, nbytes = 0, sum(piece.nbytes for piece in pieces)
    for piece in pieces:
        place = first_difference_in(Place(here.path, here.offset + done), piece)
        if place is not None:
            yield Problem(where, f"the source's {nbytes} bytes", f"another byte at {done + place}")
            return
        done += piece.nbytes


def _compare_bytes(where: str, here: Place, source: Place, nbytes: int) -> Iterator[Problem]:
    place = first_difference(here, source, nbytes)
    if place is not None:
        yield Problem(where, f"the source's {nbytes} bytes", f"another byte at {place}")


def _compare_metadata(ours: Mapping[str, object], wanted: Mapping[str, object]) -> Iterator[Problem]:
    ours, wanted = _leaves(ours), _leaves(wanted)
    for key in {**wanted, **ours}:
        if repr(ours.get(key, _ABSENT)) != repr(wanted.get(key, _ABSENT)):
            found = printable(ours.get(key, _ABSENT), 120)
            yield Problem(printable(key, 80), printable(wanted.get(key, _ABSENT), 120), found)


def _leaves(metadata: Mapping[str, object]) -> dict[str, object]:
    """Without what a split set says about its files, which opening it checks, and our own record."""
    return {
        key: value
        for key, value in metadata.items()
        if not isinstance(value, dict) and key.partition(".")[0] not in ("split", _OURS)
    }


def _compare_headers(checkpoint: Checkpoint, expected: Checkpoint) -> Iterator[Problem]:
    """Long arrays of a GGUF by their bytes; `__metadata__` of safetensors by its entries."""
    if checkpoint.format != GGUF:
        ours, wanted = (_entries(one) for one in (checkpoint, expected))
        if ours != wanted:
            yield Problem("__metadata__", printable(wanted, 120), printable(ours, 120))
        return
    shards = checkpoint.shards[0], expected.shards[0]
    there = {field.key: field for field in shards[0].fields or ()}
    for field in shards[1].fields or ():
        other = there.get(field.key)
        if isinstance(field.value, LongArray) and other is not None and other.nbytes == field.nbytes:
            places = Place(shards[0].path, other.offset), Place(shards[1].path, field.offset)
            yield from _compare_bytes(printable(field.key, 80), *places, field.nbytes)


def _entries(checkpoint: Checkpoint) -> set[tuple[str, object]]:
    fields = (field for shard in checkpoint.shards for field in shard.fields or ())
    return {(field.key, field.value) for field in fields if field.key != _OURS}


def _compare_side_files(
    checkpoint: Checkpoint, expected: Checkpoint, options: PlanOptions, with_bytes: bool
) -> Iterator[Problem]:
    there = {file.name: file for file in checkpoint.side_files}
    for wanted in expected.side_files:
        file = there.get(wanted.name)
        if file is None:
            yield Problem(printable(wanted.name, 80), "a side file of the source", "nothing")
        elif wanted.name == CARD and options.card is not False:
            continue  # it says what was pruned, and people go on writing in it
        elif file.stamp.size != wanted.stamp.size:
            yield Problem(printable(wanted.name, 80), f"{wanted.stamp.size} bytes", f"{file.stamp.size}")
        elif with_bytes:
            places = Place(file.path, 0), Place(wanted.path, 0)
            yield from _compare_bytes(printable(wanted.name, 80), *places, wanted.stamp.size)
