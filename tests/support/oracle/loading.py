"""A model of transformers, saved and loaded again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.oracle.hf_models import (
    Row,
)


@dataclass(frozen=True, slots=True)
class Source:
    row: Row
    model: Any
    folder: Path


def load(cls: Any, folder: Path) -> Any:
    """Load a folder, and let transformers say that it neither missed nor met a tensor."""
    model, report = cls.from_pretrained(folder, output_loading_info=True)
    assert {problem: found for problem, found in report.items() if found} == {}
    return model


def without(model_depth: int, dropped: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(index for index in range(model_depth) if index not in dropped)
