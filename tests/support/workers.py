"""Worker processes that wait in the middle of a copy until a test lets them go on."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.support.builders import ROOT

PATIENCE = 60

HELD = """
import os, time
gate, copy = os.environ.get("GATE"), os.copy_file_range

def held(*arguments, **named):
    open(f"{gate}/{os.getpid()}", "w").close()
    while not os.path.exists(f"{gate}/open"):
        time.sleep(0.01)
    return copy(*arguments, **named)

if gate:
    os.copy_file_range = held
"""


class Gate:
    """A folder in which every held process leaves its number; `environment` is for processes to be held."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "gate"
        self.folder.mkdir()
        (folder / "sitecustomize.py").write_text(HELD)
        path = os.pathsep.join([str(folder), str(ROOT)])
        self.environment = {**os.environ, "PYTHONPATH": path, "GATE": str(self.folder)}

    def waiting(self, count: int = 1) -> list[int]:
        """The numbers of the processes that are held, once there are so many."""
        return until(lambda: found if len(found := [int(n) for n in os.listdir(self.folder)]) >= count else None)

    def open(self) -> None:
        (self.folder / "open").touch()


def until(what):
    """What `what` returns, as soon as it is something."""
    end = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.01)
    return found
