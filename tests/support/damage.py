"""Damages files, and reads what `verify` says about it."""

from __future__ import annotations

import json
from pathlib import Path

from rewriter import Problem
from tests.support.builders import (
    gguf_string,
)


def flip(path: Path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


def replace(path: Path, old: bytes | str, new: bytes | str) -> None:
    old, new = (text if isinstance(text, bytes) else text.encode() for text in (old, new))
    raw = path.read_bytes()
    assert raw.count(old) == 1
    path.write_bytes(raw.replace(old, new))


def in_json(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def rename_tensor(path: Path, old: str, new: str) -> None:
    assert len(old) == len(new)
    replace(path, gguf_string(old), gguf_string(new))


def lines(problems: tuple[Problem, ...], where: str, what: str) -> list[str]:
    for problem in problems:
        assert str(problem) == f"{problem.where}: expected {problem.expected}, found {problem.found}"
        assert str(problem).isprintable()
        assert all((problem.where, problem.expected, problem.found))
    return [str(each) for each in problems if str(each).startswith(where) and what in str(each)]
