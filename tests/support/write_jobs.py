"""A source of each kind with the output that one selection of layers must give."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.builders import (
    everything,
    huggingface,
    llama_names,
    prune,
    split_gguf,
    write_config,
    write_gguf,
    write_safetensors,
)

KEEP = [0, 2, 5]


def lone(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder / "config.json", model_type="llama", num_hidden_layers=6)
    return write_safetensors(folder / "model.safetensors", llama_names(6))


def single(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return write_gguf(folder / "model.gguf")


def directory(folder: Path) -> Path:
    path = huggingface(folder / "model", shards=2)
    (path / "sub").mkdir()
    (path / "sub" / "side.txt").write_text("side")
    return path


KINDS = {"gguf": (single, "x.gguf"), "split": (split_gguf, "x.gguf"), "directory": (directory, "x"),
         "lone": (lone, "x.safetensors")}  # fmt: skip


FIRST = {"gguf": "x.gguf", "split": "x-00001-of-00003.gguf", "directory": "x", "lone": "x.safetensors"}


class Job:
    """A source in one folder, and a folder for the output that must hold nothing else."""

    def __init__(self, kind: str, folder: Path) -> None:
        make, name = KINDS[kind]
        self.kind = kind
        self.source = make(folder / "in")
        self.before = everything(folder / "in")
        self.folder = folder / "out"
        self.folder.mkdir()
        self.target = self.folder / name
        (folder / "good").mkdir()
        prune(self.source, folder / "good" / name, KEEP)
        self.good = everything(folder / "good")

    def run(self, **how) -> None:
        prune(self.source, self.target, KEEP, **how)

    def check_nothing_happened(self) -> None:
        assert list(self.folder.iterdir()) == []
        assert everything(self.source.parent) == self.before

    def check_success(self) -> None:
        assert everything(self.folder) == self.good
        assert [path.name for path in self.folder.iterdir() if path.name.startswith(".")] == []
        assert everything(self.source.parent) == self.before


SCRIPT = """
import os, signal, sys, time
import rewriter.cli, rewriter.writing.copy, rewriter.writing.execute as execute, rewriter.writing.commit as commit
def interrupted(module, name, nth, after, act):
    real, calls = getattr(module, name), []
    def call(*arguments, **named):
        calls.append(1)
        if len(calls) == nth and not after: act()
        result = real(*arguments, **named)
        if len(calls) == nth and after: act()
        return result
    setattr(module, name, call)
def kill(): os.kill(os.getpid(), signal.SIGKILL)
def wait(): print("READY", flush=True); time.sleep(20)
def term(): os.kill(os.getpid(), signal.SIGTERM)
{patch}
sys.argv = ["rewriter", "prune", *sys.argv[1:]]
rewriter.cli.main()
"""


def link_counts(folder: Path) -> dict[str, int]:
    """How many names each file of the folder has."""
    return {file.name: os.stat(file).st_nlink for file in folder.iterdir()}
