"""The program: its commands, its exit codes, and how it ends when something goes wrong.

Exit codes: 0 done, 1 bad input, refused or not as it must be, 2 wrong usage, 128 + N stopped by signal N.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType


class Stopped(BaseException):
    """A signal asked the program to end. No ordinary handler may swallow it."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def main() -> None:
    """Run the program. Handlers come before the slow imports: Ctrl-C never prints a traceback."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _stop)
        _run()
    except Stopped as stopped:
        _end(128 + stopped.args[0], f"stopped by {signal.Signals(stopped.args[0]).name}; nothing was written")


def _run() -> None:
    from rewriter.cli.commands import app
    from rewriter.errors import RequestError, RewriterError, shown

    try:
        app(prog_name="rewriter")
    except RewriterError as error:
        _end(2 if isinstance(error, RequestError) else 1, str(error))
    except BrokenPipeError:
        _end(1, "the output was closed early")
    except OSError as error:
        name = f" {shown(error.filename)}" if error.filename else ""
        _end(1, f"{(error.strerror or str(error)).lower()}{name}")


def _end(code: int, message: str) -> None:
    try:
        sys.stderr.write(f"rewriter: {message}\n")
        sys.stderr.flush()
    finally:
        sys.exit(code)
