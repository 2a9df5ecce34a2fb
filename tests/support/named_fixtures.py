"""The fixtures with the real tensor names of each architecture."""

from __future__ import annotations

import json
from pathlib import Path

from rewriter.architectures.lookup import numbered_lists
from rewriter.checkpoint import Checkpoint, TensorInfo
from rewriter.formats.json_edit import flatten
from tests.support.builders import FIXTURES


def named_fixtures(entry) -> list[Path]:
    folder = FIXTURES / "names" / ("gguf" if entry.format == "gguf" else "huggingface")
    return sorted(folder.glob(f"{entry.name}.json")) + sorted(folder.glob(f"{entry.name}.[A-Z]*.json"))


def checkpoint_from(entry, file: Path) -> Checkpoint:
    """The names and metadata of a fixture, as if a file with them had been opened."""
    value = json.loads(file.read_text())
    tensors = tuple(TensorInfo(name, dtype, tuple(shape), 0, 0, 0) for name, (dtype, shape) in value["tensors"].items())
    metadata = value["metadata"] if entry.format == "gguf" else flatten(value["config"])
    checkpoint = Checkpoint(entry.format, str(file), file.name, entry.name, (), tensors, metadata, "")
    assert numbered_lists(checkpoint)
    return checkpoint
