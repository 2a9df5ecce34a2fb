"""Runs programs in turns, and says how long each took: medians, and ratios to the first."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = [sys.executable, "-m", "rewriter"]
ROUNDS: int | None = None  # what the command line asks for
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: seconds of wall clock and of CPU, and the most memory at one time, in MiB.

    For the medians of several `least` is the shortest wall clock: what is left when nobody disturbs.
    """

    wall: float
    cpu: float
    memory: float
    least: float = 0


@dataclass(frozen=True, slots=True)
class Case:
    """A command, and what is to be done before it, which is not measured."""

    name: str
    command: Sequence[str]
    before: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report: `rows` are the cells under `head`."""

    title: str
    text: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        rule = ["---", *["---:"] * (len(self.head) - 1)]
        lines = ("| " + " | ".join(cells) + " |" for cells in (self.head, rule, *self.rows))
        return f"## {self.title}\n\n{self.text}\n\n" + "\n".join(lines) + "\n"


# A small program starts the one that is measured: memory that its parent had would be counted as its own.
STARTER = """
import os, sys, time
began = time.perf_counter()
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
_, status, used = os.wait4(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet), 0)
print(time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def run(command: Sequence[str]) -> Sample:
    """Run a command that must succeed."""
    starter = [sys.executable, "-I", "-S", "-c", STARTER, *command]
    done = subprocess.run(starter, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, check=True)
    return Sample(*map(float, done.stdout.split()))


def rounds_of(small: bool, usual: int) -> int:
    """How many runs to take the median of."""
    return 1 if small else ROUNDS or usual


def in_turns(cases: Sequence[Case], rounds: int) -> dict[str, Sample]:
    """The medians of `rounds` runs of each; every round begins with another one."""
    samples: dict[str, list[Sample]] = {case.name: [] for case in cases}
    for turn in range(rounds):
        start = turn % max(1, len(cases))
        for case in (*cases[start:], *cases[:start]):
            case.before()
            samples[case.name].append(run(case.command))
    return {name: median(found) for name, found in samples.items()}


def median(samples: Sequence[Sample]) -> Sample:
    """Each number's own median."""
    columns = ((s.wall for s in samples), (s.cpu for s in samples), (s.memory for s in samples))
    return Sample(*map(statistics.median, columns), min(s.wall for s in samples))


def rows(found: Mapping[str, Sample], bases: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    """Wall, ratio, shortest wall, ratio, CPU, ratio, memory; `bases` says what each is compared with."""
    table = []
    for name, each in found.items():
        base = found[bases.get(name, name)]
        wall = f"{each.wall:.2f} s", f"{each.wall / base.wall:.2f}"
        least = f"{each.least:.2f} s", f"{each.least / base.least:.2f}"
        cpu = f"{each.cpu:.2f} s", f"{each.cpu / max(base.cpu, 0.01):.2f}"
        table.append((name, *wall, *least, *cpu, f"{each.memory:.0f} MiB"))
    return tuple(table)


HEAD = ("", "wall", "ratio", "shortest", "ratio", "CPU", "ratio", "memory")


def removed(*paths: Path) -> Callable[[], None]:
    """Remove outputs, and let the disk come to rest."""

    def remove() -> None:
        for path in paths:
            for each in path.parent.glob(f"{path.name}*"):
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        os.sync()

    return remove


def check(*command: str) -> None:
    """A command of ours that must agree."""
    subprocess.run([*OURS, *command], check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)


def machine(folder: Path) -> list[str]:
    """On what it was measured, without names."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    kind = subprocess.run(["df", "--output=fstype", folder], capture_output=True, text=True, check=True).stdout.split()[
        -1
    ]
    release = ".".join(platform.release().split(".")[:2])
    copy = subprocess.run(["cp", "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    packages = ", ".join(f"{name} {version(name)}" for name in ("typer", "gguf", "safetensors", "numpy"))
    return [
        f"- {os.cpu_count()} cores ({platform.machine()}) of a virtual machine that others use as well, "
        f"{memory:.0f} GB of memory, {kind}, Linux {release}",
        f"- Python {platform.python_version()}, {packages}, {copy}",
        f"- load when it began: {os.getloadavg()[0]:.1f}",
    ]
