"""The program: its commands, its exit codes, and how it ends when something goes wrong.

Exit codes: 0 done, 1 bad input, refused or not as it must be, 2 wrong usage, 128 + N stopped by signal N.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
from types import FrameType

from rewriter.cli.state import Progress, Stopped, Voice
from rewriter.system.signals import SIGNALS

_AGAIN = 0.001  # seconds


def _stop(number: int, frame: FrameType | None) -> None:
    """The first signal ends the program. Those that come while it puts things in order change nothing."""
    if _stopped(sys.exc_info()[1]) is None:
        raise Stopped(number)


def _stopped(error: BaseException | None) -> Stopped | None:
    """The signal that `error` came from: Python says other things where one comes while a class is made."""
    while error is not None and not isinstance(error, Stopped):
        error = error.__context__
    return error


def _send_again(dropped: sys.UnraisableHookArgs) -> None:
    """Python drops what is raised in the callback of a weak reference (imports have some) or in `__del__`.

    For a signal that came there the program must end all the same: it comes again once that is over.
    """
    if not isinstance(dropped.exc_value, Stopped) or not hasattr(signal, "setitimer"):
        sys.__unraisablehook__(dropped)
        return
    number = dropped.exc_value.args[0]
    signal.signal(signal.SIGALRM, lambda alarm, frame: signal.raise_signal(number))
    signal.setitimer(signal.ITIMER_REAL, _AGAIN)


def _listen_no_more() -> None:
    """All is done or said: a signal that comes while the interpreter ends would print a traceback."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def main() -> None:
    """Run the program. Handlers come before the slow imports: Ctrl-C never prints a traceback."""
    Progress.committed, Progress.said = False, ""  # whoever calls this twice
    Voice.quiet = Voice.verbose = False
    gc.disable()  # a run is short, and a pass over a million values takes as long as reading them
    sys.unraisablehook = _send_again
    try:
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup means it
                signal.signal(number, _stop)
        for name in ("stdout", "stderr"):  # closed by whoever started this: what is printed goes nowhere
            if getattr(sys, name) is None:
                setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        for stream in (sys.stdout, sys.stderr):  # a terminal may know only ASCII, a name may be no UTF-8
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            _run()
        except SystemExit:
            _drop_unsaid()
            raise
        finally:
            _listen_no_more()
    except (Stopped, Exception) as error:
        stopped = _stopped(error)
        if stopped is None:
            raise
        _listen_no_more()
        state = Progress.said or ("the output is complete" if Progress.committed else "nothing was written")
        _leave(128 + stopped.args[0], f"stopped by {signal.Signals(stopped.args[0]).name}; {state}")


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
    from rewriter.cli.command_group import app
    from rewriter.cli.completion import mend_words
    from rewriter.errors import RequestError, RewriterError, os_reason_with_path
    from rewriter.scoring import blas_threads  # noqa: F401  # before numpy, whoever imports that

    mend_words(os.environ)
    try:
        try:
            app(prog_name="rewriter")
        except SystemExit:
            sys.stdout.flush()  # what is printed into a file is still held back: a full disk is heard of only now
            raise
    except BrokenPipeError:
        sys.exit(1)  # nobody reads any more: as typer ends where the pipe breaks earlier
    except RewriterError as error:
        _end(2 if isinstance(error, RequestError) else 1, str(error))
    except OSError as error:
        _end(1, os_reason_with_path(error))
    except MemoryError:
        _end(1, "there is not enough memory for this input")


def _end(code: int, message: str) -> None:
    try:
        sys.stderr.write(f"rewriter: {message}\n")
        sys.stderr.flush()
    finally:
        sys.exit(code)


def _leave(code: int, message: str) -> None:
    """End at once: all is in order, and the interpreter may wait for, or trip over, threads that were stopped."""
    try:
        sys.stderr.write(f"rewriter: {message}\n")
        sys.stderr.flush()
        sys.stdout.flush()
    finally:
        os._exit(code)
