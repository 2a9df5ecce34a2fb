"""How the oracle tests call the tool: the way a user does."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*args: str | Path) -> str:
    """Run `rewriter ARGS` and return what it printed; a failure carries its stderr."""
    command = [sys.executable, "-m", "rewriter", *map(str, args)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command[2:]} returned {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def prune(source: Path, target: Path, drop: str, stack: str = "") -> str:
    """`rewriter prune`; an empty stack leaves the choice to the tool's default."""
    # `--drop=`: a list that begins with a minus, such as -1, must not be read as an option.
    return run("prune", source, target, f"--drop={drop}", *(("--stack", stack) if stack else ()))
