"""Opens a model: finds the architecture and the stacks of a checkpoint, once for a command. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rewriter.architectures.lookup import find, generic, numbered_lists, resolve, select
from rewriter.checkpoint import GGUF, Checkpoint
from rewriter.errors import CheckpointError, UnsupportedError, printable
from rewriter.planning.constraints.custom_rules import check_entry, check_keys
from rewriter.planning.model import Model
from rewriter.planning.options import PlanOptions


def open_model(checkpoint: Checkpoint, options: PlanOptions | None = None) -> Model:
    """The checkpoint seen through its architecture: the user's own, the tables', or with `generic` a derived one.

    Raises UnsupportedError for an architecture without rules, CheckpointError if tensors and metadata contradict each
    other, RequestError for a stack that the checkpoint does not have.
    """
    options = options or PlanOptions()
    if checkpoint.companion:
        raise UnsupportedError(
            f"{printable(checkpoint.name)} is no model ({checkpoint.companion}): it has no layers of its own and "
            "follows those of a model, see rewriter apply"
        )
    lists = numbered_lists(checkpoint)
    described = options.architecture or find(checkpoint, lists)
    architecture = described or (generic(checkpoint, lists) if options.generic else None)
    if architecture is None:
        raise UnsupportedError(_unknown(checkpoint))
    with entry_errors(options):
        if options.architecture is not None:
            check_entry(checkpoint, options.architecture)
        stacks = resolve(checkpoint, architecture, lists)
        if options.architecture is not None:
            check_keys(checkpoint, stacks)
    return Model(checkpoint, architecture, stacks, select(stacks, options.stack), options, lists, described is None)


@contextmanager
def entry_errors(options: PlanOptions) -> Iterator[None]:
    """Turn what a wrong value in the user's own entry raises anywhere into a CheckpointError."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError) as error:
        if options.architecture is None:
            raise
        raise CheckpointError(
            f"the entry {printable(options.architecture.name)} has a wrong value: {printable(error)}"
        ) from None


def _unknown(checkpoint: Checkpoint) -> str:
    if not checkpoint.architecture and checkpoint.format == GGUF:
        return "no general.architecture says what these tensors are; --generic goes by the tensor names alone"
    if not checkpoint.architecture:
        return (
            "no config.json says what these tensors are; put it beside the file, or give --generic to go by the "
            "tensor names alone"
        )
    return (
        f"there are no rules for architecture {printable(checkpoint.architecture)!r} (rewriter list architectures "
        "shows those there are); --generic tries it by its tensor names and its layer count, --architecture takes rules"
    )
