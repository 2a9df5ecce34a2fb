"""The program: its commands, its exit codes, and how it ends when something goes wrong.

Exit codes: 0 done, 1 bad input, refused or not as it must be, 2 wrong usage, 128 + N stopped by signal N.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

from rewriter.cli.state import OutputLevel, RunState
from rewriter.system.signals import SIGNALS, STOP, StoppedError

_ONE_REQUEST = 0.5  # seconds in which signals count as one: `timeout` and a closed terminal send two


def _stop(number: int, frame: FrameType | None) -> None:
    """The first signal asks the program to end; a second one ends it at once."""
    if not STOP.is_set():
        STOP.set(number)
    elif time.monotonic() - STOP.since > _ONE_REQUEST:
        _leave(number, "at once; the next run clears what is left")


def _handle_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup has set that
            signal.signal(number, handler)


def main() -> None:
    """Run the program. Handlers come before the slow imports: Ctrl-C never prints a traceback."""
    STOP.set(0)  # main may be called twice
    RunState.committed, RunState.message = False, ""
    OutputLevel.quiet = OutputLevel.verbose = False
    gc.disable()  # a run is short, and a pass over a million values takes as long as reading them
    _handle_signals(_stop)
    for name in ("stdout", "stderr"):  # closed by the caller: the output goes nowhere
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # a terminal may know only ASCII, a name may be no UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        _run()
    except StoppedError:
        _stopped()
    except SystemExit:
        _drop_unsaid()
        raise
    finally:
        _handle_signals(signal.SIG_IGN)  # a late signal would print a traceback while the interpreter ends


def _stopped() -> None:
    """End at once: the interpreter would wait for threads that are in a long call of the system or of numpy."""
    _drop_unsaid()
    _leave(STOP.number, RunState.message or ("the output is complete" if RunState.committed else "nothing was written"))


def _leave(number: int, state: str) -> None:
    try:
        os.write(2, f"rewriter: stopped by {signal.Signals(number).name}; {state}\n".encode())
    finally:
        os._exit(128 + number)


def _drop_unsaid() -> None:
    """What a full disk or a closed pipe has not taken: Python would try once more as it ends, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _run() -> None:
    from rewriter.cli.command_group import run
    from rewriter.cli.completion import mend_words
    from rewriter.errors import RequestError, RewriterError, os_reason_with_path

    STOP.check()
    mend_words(os.environ)
    try:
        code = run()
        sys.stdout.flush()  # what is printed into a file is still held back: a full disk shows only now
        sys.exit(code)
    except BrokenPipeError:
        sys.exit(1)  # nobody reads any more: as typer ends where the pipe breaks earlier
    except RewriterError as error:
        _end(2 if isinstance(error, RequestError) else 1, str(error))
    except OSError as error:
        _end(1, os_reason_with_path(error))
    except MemoryError:
        _end(1, "there is not enough memory for this input")


def _end(code: int, message: str) -> None:
    STOP.check()  # a worker that the same signal has ended is not the reason
    try:
        sys.stderr.write(f"rewriter: {message}\n")
        sys.stderr.flush()
    finally:
        sys.exit(code)
