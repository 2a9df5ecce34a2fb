"""The command line: the only place that prints, asks or exits."""

from rewriter.cli.main import main

__all__ = ["main"]
