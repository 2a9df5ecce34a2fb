"""Threads that share work: their results, what they raise, and how they end."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from rewriter.system.signals import STOP, StoppedError
from rewriter.system.threads import ThreadPool
from tests.support.builders import MODELS

LIMIT = 60  # seconds: far more than any of this takes


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(workers: int):
    with ThreadPool(workers) as team:
        assert team.map(lambda item: item * item, range(100)) == [item * item for item in range(100)]
        assert team.map(str, []) == []


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_what_fails_first_is_raised_and_the_team_goes_on(workers: int):
    def fail(item: int) -> int:
        if item % 10 == 7:
            raise IndexError(item)
        return item

    with ThreadPool(workers) as team:
        for _ in range(20):
            with pytest.raises(IndexError, match=r"^7$"):
                team.map(fail, range(100))
        assert team.map(fail, range(7)) == list(range(7))


def test_the_threads_end():
    before = threading.active_count()
    with ThreadPool(3) as pool:
        pool.map(lambda item: time.sleep(0.01), range(10))
        assert threading.active_count() == before + 3
    assert threading.active_count() == before


def test_what_has_begun_is_told_that_something_else_has_failed():
    waiting = threading.Event()

    def work(item: int) -> None:
        if item:
            waiting.wait(LIMIT)
            raise IndexError(item)
        waiting.set()
        while True:
            time.sleep(0.001)
            pool.check()

    with ThreadPool(2) as pool, pytest.raises(IndexError, match="1"):
        pool.map(work, range(9))


@pytest.mark.parametrize("abandonable", [True, False])
def test_a_stop_ends_the_wait_for_an_item_that_polls_nothing(abandonable: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(STOP, "number", 0)
    begun, end = threading.Event(), threading.Event()

    def long(_: int) -> None:
        begun.set()
        STOP.set(signal.SIGINT)
        end.wait(0 if not abandonable else LIMIT)

    with pytest.raises(StoppedError), ThreadPool(2, abandonable=abandonable) as pool:
        pool.map(long, range(5))
    assert begun.is_set()
    end.set()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.slow
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
