"""Checkpoint formats: which one a file is, how it is opened, which files a plan becomes."""

from __future__ import annotations

import os
from pathlib import Path

from rewriter.checkpoint import Checkpoint
from rewriter.errors import CheckpointError, os_reason
from rewriter.formats import gguf, huggingface, imatrix, safetensors
from rewriter.system.files import open_for_reading, printable_name, read_at

_CONVERT = (
    "neither a GGUF nor a safetensors file: save the model with transformers' save_pretrained, or convert it with "
    "llama.cpp's convert_hf_to_gguf.py"
)
_OTHER_KINDS = (
    (b"PK\3\4", f"a PyTorch or zip file, {_CONVERT}"),
    ((b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5"), f"a pickle (PyTorch's old form), {_CONVERT}"),
    (b"\x89HDF\r\n", f"an HDF5 file, {_CONVERT}"),
    (b"version https://", "neither a GGUF nor a safetensors file, but a Git LFS pointer to one: git lfs pull"),
)  # fmt: skip
_TORCH = (".bin", ".pt", ".pth", ".ckpt")  # how PyTorch's files are called


def open_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """Open a GGUF file, the first file of a split GGUF, a safetensors file, a Hugging Face directory, or what belongs
    to a model: a PEFT adapter's directory or file, an importance matrix in its old form.

    The content decides which, not the name's ending. Only headers and metadata are read. Raises
    CheckpointError for anything that is not a well-formed checkpoint.
    """
    if not os.fspath(source):
        raise CheckpointError("the source has no name")
    path = Path(source)
    try:
        if path.is_dir():
            return huggingface.open_directory(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {printable_name(path)}: {os_reason(error)}") from None
    with open_for_reading(path) as (descriptor, found):
        start = read_at(descriptor, 0, min(16, found.size), path.name)
    if gguf.is_gguf(start):
        return gguf.open_gguf(path)
    if safetensors.is_safetensors(start, found.size):
        return huggingface.open_file(path)
    if imatrix.is_imatrix(start):
        return imatrix.open_imatrix(path)
    raise CheckpointError(f"{printable_name(path)} is {_other_kind(path, start)}")


def _other_kind(path: Path, start: bytes) -> str:
    """What the file at `path`, which begins with `start`, is instead, and what can be done about it."""
    if not start:
        return "empty, neither a GGUF nor a safetensors file"
    known = (what for first, what in _OTHER_KINDS if start.startswith(first))
    if start.lstrip()[:1] == b"{":
        return "JSON, no checkpoint: give the directory that it is in"
    return next(known, _CONVERT if path.suffix in _TORCH else "neither a GGUF nor a safetensors file")
