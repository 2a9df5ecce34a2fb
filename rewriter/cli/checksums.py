"""rewriter checksums"""

from __future__ import annotations

from typing import Annotated

import typer

from rewriter.cli import console, verbose
from rewriter.errors import printable
from rewriter.writing.checksums import manifest


def checksums(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A checkpoint: a source, or an output.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with the tensors' own names too.")] = False,
) -> None:
    """List the SHA-256 of every tensor under the name that it had in the source.

    So the list of a source and that of its output have the same line for every tensor that stayed, whatever its
    number is now.

    Example: `diff <(rewriter checksums model.gguf) <(rewriter checksums smaller.gguf)`
    """
    checkpoint = verbose.open_verbosely(path)
    entries = manifest(checkpoint)
    if not json:
        for entry in entries:
            console.say(f"{entry.sha256}  {printable(entry.source, 1000)}")
        return
    rows = [
        {
            "name": entry.tensor.name, "source": entry.source, "dtype": entry.tensor.dtype,
            "shape": list(entry.tensor.shape), "bytes": entry.tensor.nbytes, "sha256": entry.sha256,
        }
        for entry in entries
    ]  # fmt: skip
    console.print_json({"schema": 1, "name": checkpoint.name, "algorithm": "sha256", "tensors": rows})
