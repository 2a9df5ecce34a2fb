"""Carries out a plan: lays it out, writes it, checks what was written, and only then lets it appear."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rewriter.checkpoint import GGUF, HUGGINGFACE, IMATRIX, SAFETENSORS, Checkpoint
from rewriter.errors import OutputError, printable
from rewriter.formats import open_checkpoint
from rewriter.layout import make_output
from rewriter.layout.output import Literal, Output, OutputFile, WriteOptions
from rewriter.planning.plan import Plan
from rewriter.system.files import printable_name
from rewriter.writing.checksums import with_checksums
from rewriter.writing.copy import ProgressCallback
from rewriter.writing.execute import check_destination, execute
from rewriter.writing.verify import check_plan

if TYPE_CHECKING:
    from concurrent.futures import Executor


_ENDINGS = {".gguf": "a GGUF file", ".safetensors": "a safetensors file"}
_ENDINGS_OF = {GGUF: (".gguf",), SAFETENSORS: (".safetensors",), HUGGINGFACE: (), IMATRIX: ()}
_KINDS = {
    GGUF: "a GGUF file",
    SAFETENSORS: "a safetensors file",
    HUGGINGFACE: "a Hugging Face directory",
    IMATRIX: "an importance matrix in its old form",
}


def check_name(plan: Plan, destination: str) -> None:
    """Raise OutputError for a name that the output must not have: it would be taken for something else."""
    if not destination:
        raise OutputError("the destination has no name")
    if destination.endswith("/") and plan.checkpoint.format != HUGGINGFACE:
        raise OutputError(f"{printable(destination)} names a folder, the output is a file: give its name as well")


def about_name(plan: Plan, destination: str) -> list[str]:
    """What is to be said where the name sounds like another kind of file: the content decides, not the name."""
    ending = Path(destination).suffix.lower()
    if ending not in _ENDINGS or ending in _ENDINGS_OF[plan.checkpoint.format]:
        return []
    kind = _KINDS[plan.checkpoint.format]
    return [
        f"note: {printable_name(destination)} sounds like {_ENDINGS[ending]}, but is {kind}, as the source: "
        f"nothing is converted"
    ]


def planned(plan: Plan, destination: str | os.PathLike[str], write_options: WriteOptions) -> Output:
    """Return the output that `write` would make. Raises RequestError if `write_options` do not fit the plan."""
    output = make_output(plan, Path(os.path.abspath(destination)).name)
    return with_checksums(output, plan) if write_options.checksums else output


def check_free(path: str | os.PathLike[str], overwrite: bool) -> None:
    """Raise OutputError before the work is done if a file must not appear at `path`."""
    file = OutputFile(Path(os.path.abspath(path)).name, ())
    check_destination(Output((file,), False, ()), Path(path), WriteOptions(overwrite=overwrite))


def save(data: bytes, path: str | os.PathLike[str], overwrite: bool, made_from: Checkpoint) -> None:
    """Let what was made from a checkpoint appear as the file `path`, as `write` does. Raises OutputError."""
    file = OutputFile(Path(os.path.abspath(path)).name, (Literal(data),))
    sources = tuple((shard.path, shard.stamp) for shard in made_from.shards)
    execute(Output((file,), False, sources), Path(path), WriteOptions(overwrite=overwrite))


def write(
    plan: Plan,
    destination: str | os.PathLike[str],
    write_options: WriteOptions | None = None,
    *,
    progress: ProgressCallback = lambda nbytes: None,
    on_commit: Callable[[], None] = lambda: None,
    notify: Callable[[str], None] = lambda line: None,
    executor: Executor | None = None,
) -> Output:
    """Write what `plan` says to `destination` and return what was written.

    The output has the source's kind and layout. Its structure is checked before it appears, and its tensors'
    bytes if `verify_bytes` is set. `progress(nbytes)` is called as bytes are written, `on_commit()` once the output has
    appeared, `notify(line)` with what a user should know about an interrupted run. `executor`, any of
    `concurrent.futures`, writes the files, on other machines too where they see the same filesystem. Raises
    OutputError for the destination, CheckpointError when the source changes meanwhile or the result is not what it
    should be.
    """
    write_options = write_options or WriteOptions()
    check_name(plan, os.fspath(destination))
    target = Path(destination)
    output = planned(plan, target, write_options)

    def check(staged: Path) -> None:
        check_plan(open_checkpoint(staged), plan, write_options.verify_bytes)

    execute(
        output,
        target,
        write_options,
        progress=progress,
        check=check,
        on_commit=on_commit,
        notify=notify,
        executor=executor,
    )
    return output
