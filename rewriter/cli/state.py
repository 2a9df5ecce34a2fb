"""How far the program has come and how much it prints."""

from __future__ import annotations


class RunState:
    """How far the program has come: its last line reports this if a signal ends it."""

    committed = False
    message = ""  # replaces the usual words of that line


class OutputLevel:
    """How much the program says."""

    quiet = verbose = False
