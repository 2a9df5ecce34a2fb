"""A Dask scheduler with its workers, on loopback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.builders import ROOT
from tests.support.workers import until


class Cluster:
    """A scheduler and workers, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, ""
        self.processes: list[subprocess.Popen] = []

    def start(self, count: int, environment: dict[str, str], **cwd: Path) -> None:
        file = self.folder / "scheduler.json"
        options = ("--scheduler-file", str(file), "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self._run("scheduler", *options, environment={**os.environ, "PYTHONPATH": str(ROOT)})
        until(file.exists)
        self.address = until(lambda: (re.search(r'"address": "([^"]+)"', file.read_text()) or [None, None])[1])
        for _ in range(count):
            self.add_worker(environment, **cwd)
        log = self.folder / "worker.log"
        until(lambda: not count or (log.exists() and log.read_text().count("Registered to:") == count))

    def add_worker(self, environment: dict[str, str], **cwd: Path) -> subprocess.Popen:
        options = ("--no-nanny", "--no-dashboard", "--nthreads", "1", "--local-directory", str(self.folder / "dask"))
        return self._run("worker", self.address, *options, environment=environment, **cwd)

    def _run(self, what: str, *words: str, environment: dict[str, str] | None = None, cwd: Path | None = None):
        with (self.folder / f"{what}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{what}", *words],
                stdout=log, stderr=log, env=environment, cwd=cwd or self.folder,
            )  # fmt: skip
        self.processes.append(process)
        return process


@contextmanager
def cluster(folder: Path, count: int, **environment: str):
    pytest.importorskip("distributed", reason="a cluster needs the extra `dask`")
    (folder / "cluster").mkdir()
    made = Cluster(folder / "cluster")
    try:
        made.start(count, {**os.environ, "PYTHONPATH": str(ROOT), **environment}, cwd=Path("/"))
        yield made
    finally:
        for process in made.processes:
            process.kill()
        for process in made.processes:
            process.wait()
