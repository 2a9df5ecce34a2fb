"""Threads that share work: what they give, what they raise, and that no exception in the one that waits hangs them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import Any

import pytest

from rewriter.scoring.threads import Team
from tests.support.builders import MODELS

LIMIT = 60  # seconds: far more than any of this takes


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(workers: int):
    with Team(workers) as team:
        assert team.map(lambda item: item * item, range(100)) == [item * item for item in range(100)]
        assert team.map(str, []) == []


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_what_fails_first_is_raised_and_the_team_goes_on(workers: int):
    def fail(item: int) -> int:
        if item % 10 == 7:
            raise IndexError(item)
        return item

    with Team(workers) as team:
        for _ in range(20):
            with pytest.raises(IndexError, match=r"^7$"):
                team.map(fail, range(100))
        assert team.map(fail, range(7)) == list(range(7))


def test_the_threads_end():
    with Team(3) as team:
        team.map(str, range(10))
        assert sum(thread.is_alive() for thread in team._threads) == 3
    assert not any(thread.is_alive() for thread in team._threads)


class Interrupted(BaseException):
    """What the handler of a signal raises."""


def interrupted_after(steps: int, team: Team) -> bool:
    """Whether `map` still ran after so many instructions of Python's: then it was interrupted."""
    left = steps

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        frame.f_trace_opcodes = True
        left -= event == "opcode"
        if left == 0:
            raise Interrupted
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        team.map(str, range(5))
    except Interrupted:
        return True
    finally:
        sys.settrace(before)
    return False


def test_an_exception_at_any_instruction_leaves_no_lock_taken():
    """All threads end, and the team goes on: locks of Python's own queues and futures would stay taken."""
    steps = 0
    with Team(2) as team:
        while True:
            steps += 1
            if not interrupted_after(steps, team):
                break
            assert team.map(str, range(3)) == ["0", "1", "2"]
    assert steps > 100
    assert not any(thread.is_alive() for thread in team._threads)


def test_nobody_waits_for_a_thread_that_does_not_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rewriter.scoring.threads._PATIENCE", 0.1)
    never = threading.Event()
    with Team(2) as team:
        team._asked.put(lambda: bool(never.wait(LIMIT)))
    never.set()
    assert team.workers == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_moment_ends_the_scoring(number: signal.Signals):
    """At 15 moments, counted from when the file is open: before, another thread cannot be waiting."""
    command = [sys.executable, "-m", "rewriter", "-v", "score", str(MODELS / "tiny-llama-12L-F16.gguf"), "--json"]
    for moment in range(15):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("read: ")
            time.sleep(moment * 0.06)
            process.send_signal(number)
            out, err = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
        if process.returncode:  # else it was done before
            assert (process.returncode, out) == (128 + number, "")
            assert err.splitlines()[-1] == f"rewriter: stopped by {number.name}; nothing was written"
            assert "Traceback" not in err
