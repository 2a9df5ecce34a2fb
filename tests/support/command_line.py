"""The program: in this process, in one of its own, and on a terminal."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rewriter import cli as program
from tests.support.builders import ROOT


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the program in this process: run("plan", ...) -> exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rewriter", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            program.main()
        printed = capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err

    yield call
    gc.enable()
    for number, handler in handlers.items():
        signal.signal(number, handler)


def ok(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert (code, err) == (0, "")
    return out


def on_a_terminal(*arguments) -> tuple[int, str]:
    """Run with a pseudo-terminal for stdout and stderr, and give what appeared on it."""
    import pty  # Unix alone has it

    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-m", "rewriter", *map(str, arguments)], stdout=theirs, stderr=theirs,
                               stdin=subprocess.DEVNULL, env=environment)  # fmt: skip
    os.close(theirs)
    seen = b""
    while select.select([ours], [], [], 20)[0]:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        seen += part
    os.close(ours)
    return process.wait(), seen.decode()


def ours(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return python(["-m", "rewriter", *arguments], folder)


def python(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
