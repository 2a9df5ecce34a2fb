"""Checkpoints of hundreds of gigabytes, sparse: what only their headers cost, and that it grows as they do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks import data
from benchmarks.measure import OURS, Case, Section, check, in_turns, removed, rounds_of

GIANT = """\
DeepSeek-V3's names, shapes and sizes in {shards} shards: {tensors} tensors, {size:.0f} GB, without
data (sparse files). `prune` leaves the holes: its output takes {room:.0f} MB on the disk. Medians of {rounds} runs in
turns."""
LINEAR = """\
The same with other numbers of experts and layers, one run each: seconds of CPU, so that others on the
machine matter less."""
SIZES = ((8, 10, 2), (61, 26, 20), (61, 85, 50), (61, 256, 163), (61, 850, 300), (61, 2870, 500))


def room(folder: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in folder.iterdir())


def commands(source: Path, target: Path) -> list[Case]:
    before = removed(target)
    return [
        Case("plan", [*OURS, "plan", str(source), "--drop", "4-5"], before),
        Case("prune", [*OURS, "prune", str(source), str(target), "--drop", "4-5"], before),
        Case("verify", [*OURS, "verify", str(source)]),
    ]


def tensors(source: Path) -> int:
    return len(json.loads((source / "model.safetensors.index.json").read_text())["weight_map"])


def giant(folder: Path, small: bool) -> Section:
    rounds, shape = rounds_of(small, 3), (8, 4, 3) if small else (61, 256, 163)
    source, target = data.deepseek(folder / "giant", *shape), folder / "out"
    found = in_turns(commands(source, target), rounds)
    check("prune", str(source), str(target), "--drop", "4-5", "--overwrite")
    check("verify", str(target))
    size = sum(file.stat().st_size for file in source.iterdir())
    text = GIANT.format(
        shards=shape[2], tensors=tensors(source), size=size / 1e9, room=room(target) / 1e6, rounds=rounds
    )
    removed(source, target)()
    rows = ((name, f"{s.wall:.2f} s", f"{s.cpu:.2f} s", f"{s.memory:.0f} MiB") for name, s in found.items())
    return Section("A giant checkpoint", text, ("", "wall", "CPU", "memory"), tuple(rows))


def growth(folder: Path, small: bool) -> Section:
    rows = []
    for layers, experts, shards in SIZES[:1] if small else SIZES:
        source, target = data.deepseek(folder / "linear", layers, experts, shards), folder / "out"
        found, count = in_turns(commands(source, target), 1), tensors(source)
        cells = (f"{s.cpu:.2f} s, {s.memory:.0f} MiB" for s in found.values())
        rows.append((f"{count}", *cells, f"{found['plan'].cpu / count * 1e6:.0f} µs"))
        shutil.rmtree(source)
        removed(target)()
    return Section("Growth", LINEAR, ("tensors", "plan", "prune", "verify", "plan, for each tensor"), tuple(rows))


def sections(folder: Path, small: bool) -> list[Section]:
    return [giant(folder, small), growth(folder, small)]
