"""The program in a process with limits of address space and processor time."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.builders import ROOT

SPACE = 2 << 30  # bytes of address space
SECONDS = 10  # of the processor
PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({space}, {space}))
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds} + 5))
sys.argv[0] = "rewriter"
from rewriter.cli import main
main()
"""


def run(*arguments: object, seconds: int = SECONDS) -> subprocess.CompletedProcess:
    program = PROGRAM.format(space=SPACE, seconds=seconds)
    words = [sys.executable, "-c", program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"}
    return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120, check=False)


def assert_ends_in_one_line(found: subprocess.CompletedProcess, words: str) -> None:
    assert found.returncode == (1 if words else 0), found.stderr[-300:]
    assert words in found.stderr
    assert found.stderr.count("\n") == (1 if words else 0)
    assert len(found.stderr) < 500
