"""How far the program has come and how much it prints."""

from __future__ import annotations


class Progress:
    """How far the program has come, for what it says when a signal ends it."""

    committed = False
    said = ""  # in the place of that, where there is more to say


class OutputLevel:
    """How much the program says."""

    quiet = verbose = False
