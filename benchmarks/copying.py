"""How fast bytes get from one file to another: ours beside `cp`, and `cp` with a sync of the same files."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks import data
from benchmarks.measure import HEAD, OURS, Case, Section, check, in_turns, removed, rounds_of, rows, run

DROP = ["--drop", "3,9,17,28"]
TEXT = """\
4 of 30 layers dropped. `cp` copies the very output; `cp, sync` waits for the disk as we do. Ratios of what is waited
for are to `cp, sync`, of the rest to `cp`. Sources are in the page cache; outputs are removed and the disk comes to
rest before each run; medians of {rounds} runs in turns, and the shortest: a virtual machine may have given freed
memory back, and whoever needs it next, `cp` or we, waits for it. Ours includes the start of Python and typer, some
{start:.2f} s (measured as `plan` of a tiny file), which does not grow with the file."""


def cases(source: Path, target: Path, reference: Path) -> list[Case]:
    """`reference` is our output, which `cp` copies."""
    copy = reference.with_name("copy")
    plain = f"mkdir '{copy}' && cp -r '{reference}' '{copy}/'"
    before = removed(target, copy)
    prune = [*OURS, "prune", str(source), str(target), *DROP]
    return [
        Case("cp", ["sh", "-c", plain], before),
        Case("rewriter --no-fsync", [*prune, "--no-fsync"], before),
        Case("cp, sync", ["sh", "-c", f"{plain} && find '{copy}' -exec sync {{}} +"], before),
        Case("rewriter", prune, before),
    ]


BASES = {"rewriter --no-fsync": "cp", "rewriter": "cp, sync"}


def section(folder: Path, kind: str, source: Path, rounds: int) -> Section:
    suffix = ".gguf" if source.is_file() else ""
    target, reference = folder / f"out{suffix}", folder / f"reference{suffix}"
    run([*OURS, "prune", str(source), str(reference), *DROP])
    for file in (source, *source.glob("*")):
        if file.is_file():
            run(["cat", str(file)])
    found = in_turns(cases(source, target, reference), rounds)
    run([*OURS, "prune", str(source), str(target), *DROP, "--overwrite"])
    check("verify", str(target), "--source", str(source))
    run(["diff", "-r", str(target), str(reference)])
    tiny = data.gguf(folder / "tiny.gguf", 4, 32)
    start = run([*OURS, "plan", str(tiny), *DROP]).cpu
    removed(target, reference, folder / "copy", tiny)()
    return Section(f"Copying: {kind}", TEXT.format(rounds=rounds, start=start), HEAD, rows(found, BASES))


def resharding(folder: Path, source: Path, rounds: int) -> Section:
    """Other files, at the same speed."""
    ways = {
        "files of the source": [],
        "--single-file": ["--single-file"],
        "--shard-size 200MB": ["--shard-size", "200MB"],
    }
    target = folder / "out"
    prune = [*OURS, "prune", str(source), str(target), *DROP]
    found = in_turns([Case(name, [*prune, *more], removed(target)) for name, more in ways.items()], rounds)
    check("verify", str(target), "--source", str(source))
    removed(target)()
    text = f"The same source and drop into other files; medians of {rounds} runs in turns."
    return Section("Resharding", text, HEAD, rows(found, dict.fromkeys(ways, "files of the source")))


def sections(folder: Path, small: bool) -> list[Section]:
    rounds, width = rounds_of(small, 21), 256 if small else 2048
    shards = data.llama(folder / "llama", width)
    size = sum(file.stat().st_size for file in shards.iterdir()) / 1e6
    found = [section(folder, f"{size:.0f} MB of BF16 in 5 shards", shards, rounds), resharding(folder, shards, rounds)]
    shutil.rmtree(shards)
    tokens, row = (150, 256) if small else (150_000, 2048)
    single = data.gguf(folder / "llama.gguf", tokens, row)
    kind = f"a GGUF of {single.stat().st_size / 1e6:.0f} MB with {tokens} tokens and merges"
    found.append(section(folder, kind, single, rounds))
    single.unlink()
    return found
