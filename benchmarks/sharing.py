"""How long an output takes that shares its blocks, and how much room: on an XFS in a file, on a loop device."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import data
from benchmarks.measure import ENVIRONMENT, OURS, Case, Section, check, in_turns, removed, rounds_of

DROP = ["--drop", "3,9,17,28"]
TEXT = """\
{what}, 4 of 30 layers dropped, on XFS with reflinks (a loop mount). "Beyond the start" is without what
`rewriter --version` takes. Room is what the filesystem says is used more, after a sync. Medians of {rounds} runs in
turns. Widths are those of real models (2048): blocks can be shared where what is dropped fills whole ones."""


@contextmanager
def xfs(folder: Path, size: int) -> Iterator[Path | None]:
    """A mounted XFS of `size` bytes; None where that cannot be made."""
    image, mount = folder / "image", folder / "xfs"
    if os.geteuid() != 0 or shutil.which("mkfs.xfs") is None:
        yield None
        return
    with image.open("wb") as file:
        file.truncate(size)
    mount.mkdir()
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True, capture_output=True)
    if subprocess.run(["mount", "-o", "loop", image, mount], check=False, capture_output=True).returncode:
        yield None
        return
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)
        image.unlink()


def used(folder: Path) -> int:
    """Bytes in use once that stands still: XFS frees the blocks of what was removed when it has time."""
    found = [-1, 0]
    while found[-1] != found[-2]:
        time.sleep(1)
        os.sync()
        status = os.statvfs(folder)
        found.append((status.f_blocks - status.f_bfree) * status.f_frsize)
    return found[-1]


def rows(mount: Path, source: Path, rounds: int) -> Iterator[tuple[str, ...]]:
    """How long, how much longer than a start, and how much room."""
    target = mount / f"out{source.suffix}"
    prune = [*OURS, "prune", str(source), str(target), *DROP]
    ways = {"rewriter": [], "rewriter --no-share": ["--no-share"]}
    cases = [Case(name, [*prune, *more], removed(target)) for name, more in ways.items()]
    found = in_turns([Case("start", [*OURS, "--version"]), *cases], rounds)
    for name, more in ways.items():
        removed(target)()
        before = used(mount)
        subprocess.run([*prune, *more], check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
        room = used(mount) - before
        size = sum(file.stat().st_size for file in (target, *target.glob("*")) if file.is_file())
        check("verify", str(target), "--source", str(source))
        beyond = found[name].wall - found["start"].wall
        share = f"{room / 1e6:.1f} MB ({100 * room / size:.2f} % of {size / 1e6:.0f})"
        yield f"{name}, {source.name}", f"{found[name].wall:.2f} s", f"{beyond:.2f} s", share
    removed(target)()


def sections(folder: Path, small: bool) -> list[Section]:
    rounds, width = rounds_of(small, 5), 256 if small else 2048
    head = ("", "wall", "beyond the start", "new room")
    with xfs(folder, (512 << 20) if small else (10 << 30)) as mount:
        if mount is None:
            return [Section("Sharing blocks", "Not measured: that needs root, mkfs.xfs and a loop device.", head, ())]
        sources = [data.llama(mount / "llama", width), data.gguf(mount / "llama.gguf", 150, width)]
        found = [row for source in sources for row in rows(mount, source, rounds)]
    what = "5 shards, and a GGUF of the same size"
    return [Section("Sharing blocks", TEXT.format(what=what, rounds=rounds), head, tuple(found))]
