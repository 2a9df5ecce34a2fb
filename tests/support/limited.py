"""The program in a process with limits of address space and processor time."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time

from tests.support.builders import ROOT

SPACE = 2 << 30  # bytes of address space
SECONDS = 10  # of the processor of a quiet machine
QUIET = 0.8  # seconds that the work of `slowness` takes there
PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({space}, {space}))
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds} + 5))
sys.argv[0] = "rewriter"
from rewriter.cli import main
main()
"""


def slowness() -> float:
    """How many times longer this machine needs now, in processor time, than a quiet one: at least 1.

    Virtual machines charge waiting for memory and for their host as processor time, up to three times as much.
    """
    begun = time.process_time()
    names = {f"model.layers.{number}.weight": {"shape": [number, 8]} for number in range(200_000)}
    json.loads(json.dumps(names))
    sorted(names)
    return max(1.0, (time.process_time() - begun) / QUIET)


def run(*arguments: object, seconds: int = SECONDS) -> subprocess.CompletedProcess:
    program = PROGRAM.format(space=SPACE, seconds=math.ceil(seconds * slowness()))
    words = [sys.executable, "-c", program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"}
    return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120, check=False)


def assert_ends_in_one_line(found: subprocess.CompletedProcess, words: str) -> None:
    assert found.returncode == (1 if words else 0), found.stderr[-300:]
    assert words in found.stderr
    assert found.stderr.count("\n") == (1 if words else 0)
    assert len(found.stderr) < 500
