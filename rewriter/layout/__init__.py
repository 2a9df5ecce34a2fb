"""Plan -> Output: files made of literal bytes and ranges of source bytes. Pure; one module for each format."""

from __future__ import annotations

from collections.abc import Callable

from rewriter.checkpoint import GGUF, HUGGINGFACE, IMATRIX, SAFETENSORS
from rewriter.layout import gguf, huggingface, imatrix
from rewriter.layout.output import Output
from rewriter.planning.plan import Plan

LAYOUTS: dict[str, Callable[[Plan, str], Output]] = {
    GGUF: gguf.layout,
    HUGGINGFACE: huggingface.layout,
    SAFETENSORS: huggingface.layout,
    IMATRIX: imatrix.layout,
}


def make_output(plan: Plan, name: str) -> Output:
    """The files that `plan` becomes at a destination called `name`: pure, nothing is read or written.

    Raises UnsupportedError and RequestError if the tensors cannot be put into the files that were asked for.
    """
    return LAYOUTS[plan.checkpoint.format](plan, name)
