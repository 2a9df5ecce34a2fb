"""On a filesystem that can share blocks, an output takes next to no room. Needs root, mkfs.xfs and a loop device."""

from __future__ import annotations

import os
import shutil
import subprocess
import types
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from rewriter.errors import OutputError
from rewriter.formats import open_checkpoint
from rewriter.layout import make_output
from rewriter.layout.output import BLOCK, CopyRange, WriteOptions
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import make_plan
from rewriter.writing.verify import verify
from rewriter.writing.write import write
from tests.support.builders import huggingface

ROWS = 256  # of 4096 bytes each: tensors of 1 MiB


@pytest.fixture(scope="module")
def shared_disk(tmp_path_factory):
    """A mounted XFS with reflinks."""
    if os.geteuid() != 0 or shutil.which("mkfs.xfs") is None:
        pytest.skip("needs root and mkfs.xfs")
    folder = tmp_path_factory.mktemp("xfs")
    image, mount = folder / "image", folder / "disk"
    with image.open("wb") as file:
        file.truncate(512 << 20)
    mount.mkdir()
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, mount], check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.strip()}")
    yield mount
    subprocess.run(["umount", mount], check=True)


def directory(folder: Path) -> Path:
    source = huggingface(folder / "in", layers=20)
    names = [f"model.layers.{layer}.w" for layer in range(20)]
    tensors = {name: np.full((ROWS, 1024), number, "float32") for number, name in enumerate(names)}
    save_file({"odd": np.ones(7, "int8"), **tensors}, source / "model.safetensors", metadata={"format": "pt"})
    return source


def single(folder: Path) -> Path:
    writer = gguf.GGUFWriter(folder / "in.gguf", "llama")
    writer.add_block_count(20)
    for layer in range(20):
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", np.full((ROWS, 1024), layer, "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "in.gguf"


def used(folder: Path) -> int:
    os.sync()
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


@pytest.mark.parametrize("make", [directory, single])
def test_an_output_shares_the_blocks_of_its_source(make, shared_disk):
    source = make(shared_disk)
    before = used(shared_disk)
    target = shared_disk / f"out-{source.name}"
    output = write(make_plan(open_checkpoint(source), [n for n in range(20) if n not in (3, 7, 8)]), target)
    assert used(shared_disk) - before < output.nbytes * 0.02
    assert verify(target, source) == ()


@pytest.mark.parametrize("make", [directory, single])
def test_what_is_not_to_be_shared_is_copied(make, shared_disk):
    folder = shared_disk / f"not-shared-{make.__name__}"
    folder.mkdir()
    source = make(folder)
    before = used(shared_disk)
    plan = make_plan(open_checkpoint(source), range(4))
    output = write(plan, folder / f"out-{source.name}", WriteOptions(share=False))
    assert used(shared_disk) - before > output.nbytes * 0.98
    assert shared_extents(folder / f"out-{source.name}") == 0
    write(plan, folder / f"shared-{source.name}")
    assert shared_extents(folder / f"shared-{source.name}") > 0


def shared_extents(path: Path) -> int:
    """How many extents of the weights other files have too."""
    file = path / "model.safetensors" if path.is_dir() else path
    done = subprocess.run(["xfs_io", "-r", "-c", "fiemap -v", file], capture_output=True, text=True, check=True)
    flags = [int(line.split()[-1], 16) for line in done.stdout.splitlines() if line.split()[-1].startswith("0x")]
    assert flags
    return sum(bool(flag & 0x2000) for flag in flags)  # linux/fiemap.h: FIEMAP_EXTENT_SHARED


def test_a_whole_file_is_cloned(shared_disk, monkeypatch):
    """In one call, and not by ranges; its last block too."""
    source = directory(shared_disk / "whole")
    monkeypatch.setattr("rewriter.writing.copy._copy", lambda *arguments: pytest.fail("copied"))
    before = used(shared_disk)
    output = write(make_plan(open_checkpoint(source), range(20)), shared_disk / "whole" / "out")
    assert [(file.name, file.shareable) for file in output.files if file.unchanged] == [
        ("model.safetensors", (source / "model.safetensors").stat().st_size)
    ]
    assert used(shared_disk) - before < 1 << 17
    assert shared_extents(shared_disk / "whole" / "out") > 0
    assert verify(shared_disk / "whole" / "out", source) == ()


def test_the_plan_says_how_much_is_shared(shared_disk):
    folder = shared_disk / "said"
    folder.mkdir()
    source = single(folder)
    before = used(shared_disk)
    output = write(make_plan(open_checkpoint(source), [0, 2, 3, 9]), folder / "out.gguf")
    new = used(shared_disk) - before
    assert output.nbytes - output.shareable <= new + 3 * BLOCK
    assert new <= output.nbytes - output.shareable + (1 << 17)


def test_a_copy_that_is_not_shared_needs_its_room(shared_disk, monkeypatch):
    folder = shared_disk / "no-room"
    folder.mkdir()
    plan = make_plan(open_checkpoint(single(folder)), range(2, 20))
    monkeypatch.setattr("rewriter.system.calls.free_bytes", lambda folder: 1 << 20)
    with pytest.raises(OutputError, match="too few"):
        write(plan, folder / "out.gguf", WriteOptions(share=False))


@pytest.mark.parametrize("make", [directory, single])
@pytest.mark.parametrize("more", [400, 1000, 2000, 3000, 4000, 5000])
def test_no_file_is_larger_than_asked_for_when_it_is_padded(make, more, tmp_path):
    source = make(tmp_path)
    size = 4 * (ROWS << 12) + more
    output = make_output(make_plan(open_checkpoint(source), range(1, 20), PlanOptions(max_size=size)), "out.gguf")
    weights = [file for file in output.files if file.nbytes > ROWS << 12]
    assert 5 <= len(weights) <= 7
    assert max(file.nbytes for file in weights) <= size


@pytest.mark.parametrize("make", [directory, single])
@pytest.mark.parametrize("keep", [range(1, 20), range(19), [0, 2, 5, 19]])
def test_large_ranges_keep_their_place_within_a_block(make, keep, tmp_path):
    """What a filesystem can share depends on the plan alone, not on the filesystem."""
    source = make(tmp_path)
    output = write(make_plan(open_checkpoint(source), keep), tmp_path / f"out-{source.name}")
    weights = max(output.files, key=lambda file: file.nbytes)
    at = 0
    for piece in weights.pieces:
        if isinstance(piece, CopyRange) and piece.nbytes > BLOCK:
            assert (piece.offset - at) % BLOCK == 0
        at += piece.nbytes


def test_large_copies_start_where_the_kernel_is_fastest(tmp_path, monkeypatch):
    """Linux moves 64 KiB at a time, and needs a third more where these do not fill whole portions of the target."""
    source, places = single(tmp_path), []

    def copy(source, target, count, offset_src=None):
        if count > 1 << 16:
            places.append(os.lseek(target, 0, os.SEEK_CUR) % (1 << 16))
        return os.copy_file_range(source, target, count, offset_src=offset_src)

    monkeypatch.setattr("rewriter.writing.copy.os", types.SimpleNamespace(**{**vars(os), "copy_file_range": copy}))
    write(make_plan(open_checkpoint(source), [0, 2, 3, 9]), tmp_path / "out.gguf")
    assert len(places) >= 3
    assert set(places) == {0}


def test_holes_stay_holes(tmp_path):
    source = directory(tmp_path)
    file = source / "model.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(size - 8 * (ROWS << 12))
        opened.truncate(size)
    target = tmp_path / "out"
    write(make_plan(open_checkpoint(source), range(1, 20)), target)
    status = (target / "model.safetensors").stat()
    assert status.st_size - status.st_blocks * 512 > 7 * (ROWS << 12)
    assert verify(target, source) == ()


def test_a_sparse_source_needs_only_its_data(tmp_path, monkeypatch):
    source = directory(tmp_path)
    file = source / "model.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(size - 8 * (ROWS << 12))
        opened.truncate(size)
    monkeypatch.setattr("rewriter.system.calls.free_bytes", lambda folder: size - 7 * (ROWS << 12))
    write(make_plan(open_checkpoint(source), range(20)), tmp_path / "out")
    assert verify(tmp_path / "out", source) == ()


def test_an_output_that_is_shared_needs_no_room(shared_disk, monkeypatch):
    """Somebody with a 70 GB file and 60 GB free, on a filesystem that shares."""
    folder = shared_disk / "tight"
    folder.mkdir()
    source = single(folder)
    monkeypatch.setattr("rewriter.system.calls.free_bytes", lambda folder: 1 << 20)
    write(make_plan(open_checkpoint(source), range(2, 20)), folder / "out.gguf")
    assert verify(folder / "out.gguf", source) == ()
