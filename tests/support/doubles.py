"""Doubles for the system calls of one module."""

from __future__ import annotations

import os
import types


def patched(monkeypatch, module: str, **functions) -> None:
    """Give one module an `os` of its own in which `functions` are replaced."""
    monkeypatch.setattr(f"{module}.os", types.SimpleNamespace(**{**vars(os), **functions}))


def refused(code: int):
    """A call that always fails with the error number `code`."""

    def call(*arguments, **named):
        raise OSError(code, os.strerror(code))

    return call
