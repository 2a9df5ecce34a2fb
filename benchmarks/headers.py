"""What a large vocabulary costs, beside a file with 4 tokens, and beside gguf's own reader."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import data
from benchmarks.measure import OURS, Case, Sample, Section, check, in_turns, removed, rounds_of

TEXT = """\
A GGUF with {tokens} tokens and merges beside one with 4, both with 90 small tensors; medians of {rounds} runs in turns.
The last row is how long gguf-py's `GGUFReader` takes to open it (one run)."""


def reader(path: Path) -> list[str]:
    return [sys.executable, "-c", "import sys, gguf; gguf.GGUFReader(sys.argv[1])", str(path)]


def cells(few: Sample, many: Sample) -> tuple[str, ...]:
    more = f"{many.wall - few.wall:+.2f} s", f"{many.cpu - few.cpu:+.2f} s"
    return f"{few.wall:.2f} s", f"{many.wall:.2f} s", *more, f"{many.memory:.0f} MiB"


def sections(folder: Path, small: bool) -> list[Section]:
    rounds, tokens = rounds_of(small, 7), 300 if small else 262_144
    files = {count: data.gguf(folder / f"tokens-{count}.gguf", count, 32) for count in (4, tokens)}
    target = folder / "out.gguf"
    commands = {"inspect": lambda path: ["inspect", path], "plan": lambda path: ["plan", path, "--drop", "3"]}
    commands["prune"] = lambda path: ["prune", path, str(target), "--drop", "3"]
    cases = [
        Case(f"{name} {count}", [*OURS, *words(str(path))], removed(target))
        for name, words in commands.items()
        for count, path in files.items()
    ]
    found = in_turns(cases, rounds)
    check("prune", str(files[tokens]), str(target), "--drop", "3", "--overwrite", "--verify")
    theirs = in_turns([Case(str(count), reader(path)) for count, path in files.items()], 1)
    table = [(name, found[f"{name} 4"], found[f"{name} {tokens}"]) for name in commands]
    table.append(("GGUFReader", theirs["4"], theirs[str(tokens)]))
    rows = tuple((name, *cells(*pair)) for name, *pair in table)
    removed(target, *files.values())()
    head = ("", "4 tokens", f"{tokens} tokens", "more wall", "more CPU", "memory")
    return [Section("Headers", TEXT.format(tokens=tokens, rounds=rounds), head, rows)]
