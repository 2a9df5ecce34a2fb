"""The command line: the only place that prints, asks or exits."""

from rewriter.cli.program import main

__all__ = ["main"]
