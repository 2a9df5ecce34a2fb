"""Interrupts the program at random moments, on a machine with more busy processes than cores.

`python -m tests.stress --runs 3000` prints how many runs of each scenario were stopped, and the longest time from a
signal to the end. After each run: it ended within 5 s of the signal, with 128 + N and one line or with success; the
outputs are the earlier ones or the new ones, byte for byte; no file of ours and no process is left.

A cold run starts the interpreter, so that signals meet the imports too; a warm run is a fork of a process that has
imported everything, so that all of them meet the work.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

from tests.support.builders import prune

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "fixtures" / "models"
GGUF, DIRECTORY = MODELS / "tiny-llama-12L-F16.gguf", MODELS / "tiny-llama-12L"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LIMIT = 5.0  # seconds from a signal to the end
JOBS = '[[job]]\nsource = "in.gguf"\noutput = "out/{drop}.gguf"\ndrop = ["3", "4", "5", "6"]\noverwrite = true\n'
PRUNE = ("--drop", "3-5", "--overwrite", "--checksums", "--verify")
# name -> the words of the command line, whether it starts workers, and its share of the runs
SCENARIOS: dict[str, tuple[tuple[str, ...], bool, float]] = {
    "prune of a file": (("prune", "in.gguf", "out/x.gguf", *PRUNE), False, 0.3),
    "prune of a directory": (("prune", "in", "out/x", *PRUNE), False, 0.3),
    "score": (("score", "in.gguf", "--json"), False, 0.15),
    "verify": (("verify", "out/x.gguf", "--source", "in.gguf"), False, 0.15),
    "batch": (("batch", "jobs.toml", "--executor", "processes=2"), True, 0.1),
}


@dataclass
class Figures:
    """How often runs were interrupted, and what went wrong."""

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    latest: dict[str, float] = field(default_factory=dict)  # scenario -> the longest time from a signal to the end
    failures: list[str] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        """Count those of `other` as well."""
        self.ends.update(other.ends)
        self.failures += other.failures
        for name, seconds in other.latest.items():
            self.latest[name] = max(seconds, self.latest.get(name, 0.0))


class Program:
    """A command that is run again and again in a folder of its own."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.words, self.has_workers, _ = SCENARIOS[name]
        (folder / "out").mkdir(parents=True)
        shutil.copy(GGUF, folder / "in.gguf")
        shutil.copytree(DIRECTORY, folder / "in")
        (folder / "jobs.toml").write_text(JOBS)
        for source, target in (("in.gguf", "out/x.gguf"), ("in", "out/x")):
            prune(folder / source, folder / target, range(11))
        self._copy("out", "before")
        self.before = contents(folder / "out")
        self.cold_seconds = self._finish(*self.words)
        self.after = contents(folder / "out")
        self.warm_seconds = self.cold_seconds
        if not self.has_workers:
            began = time.monotonic()
            os.waitpid(self._fork(), 0)
            self.warm_seconds = time.monotonic() - began
        self.inputs = contents(folder / "in")

    def _copy(self, source: str, target: str) -> None:
        shutil.rmtree(self.folder / target, ignore_errors=True)
        shutil.copytree(self.folder / source, self.folder / target)

    def _finish(self, *words: str) -> float:
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "rewriter", *words], cwd=self.folder, env=ENVIRONMENT, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
        return time.monotonic() - began

    def interrupt(self, cold: bool, number: signal.Signals, moment: float) -> tuple[str, float, list[str]]:
        """How a run ended, how long after the signal, and what is wrong. `moment` is a share of the run's time."""
        self._copy("before", "out")
        (self.folder / "results.jsonl").unlink(missing_ok=True)
        cold = cold or self.has_workers
        child = self._start() if cold else self._fork()
        time.sleep(moment * (self.cold_seconds if cold else self.warm_seconds))
        with suppress(ProcessLookupError):
            os.kill(child, number)
        sent = time.monotonic()
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() - sent < LIMIT:
            time.sleep(0.002)
        seconds = time.monotonic() - sent
        if ended[0] == 0:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hung", seconds, [f"it did not end within {LIMIT:g} s"]
        return self._judge(os.waitstatus_to_exitcode(ended[1]), number, child, seconds)

    def _judge(self, code: int, number: int, child: int, seconds: float) -> tuple[str, float, list[str]]:
        said = (self.folder / "stderr").read_text()
        lines, found = said.splitlines(), contents(self.folder / "out")
        last = f"rewriter: stopped by {signal.Signals(number).name}; "
        rules = {
            f"exit code {code}": code in (0, 128 + number),
            "a traceback": "Traceback" not in said,
            "not one line": self.has_workers or len(lines) == (code != 0),
            "another line": code == 0 or (lines and lines[-1].startswith(last)),
            "a staging directory is left": not [name for name in found if "rewriter-tmp" in name],
            "an output is neither the earlier nor the new one": self._is_whole(found),
            "success without the output": code != 0 or found == self.after,
            "the input has changed": contents(self.folder / "in") == self.inputs,
            "a worker is left": self._is_gone(child),
        }
        if not self.has_workers and lines:
            states = {"nothing was written": self.before, "the output is complete": self.after}
            rules["a wrong line"] = states.get(lines[-1][len(last) :]) == found
        return (
            "done" if code == 0 else "stopped",
            seconds,
            [f"{name}: {said}" for name, good in rules.items() if not good],
        )

    def _is_whole(self, found: dict[str, str]) -> bool:
        """A directory, or a single file, is the one or the other; each job of a batch is on its own."""
        if not self.has_workers:
            return found in (self.before, self.after)
        return all(digest in (self.before.get(name), self.after.get(name)) for name, digest in found.items())

    @staticmethod
    def _is_gone(group: int) -> bool:
        for _ in range(int(LIMIT / 0.01)):
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.01)
        return False

    def _start(self) -> int:
        """Start the interpreter, and wait until the program's handlers are there."""
        with (self.folder / "stderr").open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "rewriter", *self.words],
                cwd=self.folder,
                env=ENVIRONMENT,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        process.returncode = 0  # we wait for it by its number
        while not handles_signals(process.pid):
            time.sleep(0.001)
        return process.pid

    def _fork(self) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        child = os.fork()
        if child == 0:
            self._become()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return child

    def _become(self) -> None:
        """Be the program, in which signals wait until its handlers are there."""
        main = import_module("rewriter.cli.program")
        run: Callable[[], None] = main._run

        def begin() -> None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            run()

        code = 70
        try:
            os.setsid()
            os.chdir(self.folder)
            os.dup2(os.open("stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
            sys.argv, main._run = ["rewriter", *self.words], begin
            main.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        finally:
            sys.stderr.flush()
            os._exit(code)


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def handles_signals(process: int) -> bool:
    """Whether a process has a handler for SIGTERM, or has ended."""
    status = Path(f"/proc/{process}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16) if "SigCgt:" in status else 0
    return bool(caught >> signal.SIGTERM - 1 & 1) or "State:\tZ" in status


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file in `folder`, by its name; records of runs hold times and are left out."""
    files = (path for path in folder.rglob("*") if path.is_file() or "rewriter-tmp" in path.name)
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in files
    }


def run_scenario(name: str, runs: int, seed: int, until: float) -> Figures:
    """Interrupt a scenario `runs` times, or as often as it goes until the time `until`."""
    import_module("rewriter.cli.command_group")
    for module in ("prune", "score", "verify"):
        import_module(f"rewriter.cli.{module}")
    import_module("rewriter.scoring.score")
    figures, chance = Figures(), random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        program = Program(name, Path(folder, "run"))
        for _ in range(runs):
            if time.time() > until:
                break
            cold, number, moment = chance.random() < 0.1, chance.choice(SIGNALS), chance.random() * 1.1
            end, seconds, wrong = program.interrupt(cold, number, moment)
            figures.ends[name, end] += 1
            figures.latest[name] = max(seconds * (end == "stopped"), figures.latest.get(name, 0.0))
            figures.failures += [
                f"{name}, seed {seed}, {number.name} at {moment:.3f}, cold {cold}: {each}" for each in wrong
            ]
    return figures


@contextmanager
def busy(count: int) -> Iterator[None]:
    """`count` processes that compute all the time."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def stress(runs: int, seconds: float = 3600, processes: int = 2, seed: int = 0, load: int | None = None) -> Figures:
    """Interrupt all scenarios, `runs` times together, `processes` at the same time, beside `load` busy processes."""
    figures, until = Figures(), time.time() + seconds
    cores = os.cpu_count() or 1
    parts = [
        (name, round(runs * share / processes) or 1, seed + number * len(SCENARIOS) + place)
        for number in range(processes)
        for place, (name, (_, _, share)) in enumerate(SCENARIOS.items())
    ]
    with busy(cores + 1 if load is None else load), ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for future in [pool.submit(run_scenario, *part, until) for part in parts]:
            figures.add(future.result())
    return figures


def main() -> None:
    """Run and print the figures; exit code 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3000)
    parser.add_argument("--seconds", type=float, default=3600, help="no run begins later than this")
    parser.add_argument("--processes", type=int, default=2, help="scenarios at the same time")
    parser.add_argument("--load", type=int, help="busy processes beside them, one more than cores unless given")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    figures = stress(asked.runs, asked.seconds, asked.processes, asked.seed, asked.load)
    print("| scenario | stopped | done before | latest end |\n| --- | --- | --- | --- |")
    for name in SCENARIOS:
        stopped, done = figures.ends[name, "stopped"], figures.ends[name, "done"]
        print(f"| {name} | {stopped} | {done} | {figures.latest.get(name, 0):.2f} s |")
    print(f"{sum(figures.ends.values())} signals, {len(figures.failures)} failures", *figures.failures[:20], sep="\n")
    sys.exit(bool(figures.failures))
