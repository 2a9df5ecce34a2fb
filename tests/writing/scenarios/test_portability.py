"""Other systems, as far as they can be made to appear here: the same bytes, whatever the system lacks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import types

import pytest

from rewriter.system import calls
from tests.support.builders import FIXTURES, ROOT, everything

MODELS = FIXTURES / "models"
SOURCES = {"directory": MODELS / "tiny-llama-12L", "gguf": MODELS / "tiny-llama-12L-Q8_0.gguf"}
SYSTEMS = ["windows", "macos"]


def there(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`rewriter ARGUMENTS` on a system that looks like the one called `name`."""
    command = [sys.executable, str(ROOT / "tests" / "other_systems.py"), name, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def here(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rewriter", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("name", SYSTEMS)
def test_another_system_makes_the_same_bytes(name, kind, tmp_path):
    source, output = SOURCES[kind], f"out{SOURCES[kind].suffix}"
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / output
    for run, folder in ((here, tmp_path / "here"), (lambda *words: there(name, *words), tmp_path / "there")):
        for words in (["--drop", "3"], ["--drop", "3,7-9,-1", "--overwrite", "--verify", "--checksums"]):
            done = run("prune", source, folder / output, *words)
            assert (done.returncode, done.stderr) == (0, "")
    assert everything(tmp_path / "there") == everything(tmp_path / "here")
    assert [path.name for path in tmp_path.glob("there/.*")] == []
    for words in (["verify", target, "--source", source, "--checksums"], ["plan", source, "--count", "2"]):
        done = there(name, *words)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert done.stdout == here(*words).stdout


@pytest.mark.parametrize("name", SYSTEMS)
def test_another_system_links_resumes_and_splits(name, tmp_path):
    for words in (["--hardlink"], ["--resume"], ["--shard-size", "1MB"], ["--single-file", "--no-fsync", "--no-share"]):
        done = there(name, "prune", SOURCES["directory"], tmp_path / "out", "--drop", "3", "--overwrite", *words)
        assert (done.returncode, done.stderr) == (0, "")
    done = there(name, "prune", SOURCES["gguf"], tmp_path / "x.gguf", "--drop", "3", "--split-max-size", "1MB")
    assert (done.returncode, done.stderr) == (0, "")
    done = there(name, "prune", SOURCES["gguf"], tmp_path / "x.gguf", "--drop", "4", "--split-max-size", "1MB")
    assert (done.returncode, done.stderr) == (
        1,
        "rewriter: x-00001-of-00003.gguf exists already; --overwrite replaces it\n",
    )
    for words in (["report", SOURCES["gguf"], "-o", tmp_path / "r.html"], ["score", SOURCES["gguf"]]):
        assert there(name, *words).returncode == 0


def test_a_part_is_read_by_seeking(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "pread")
    (tmp_path / "file").write_bytes(b"0123456789")
    descriptor = os.open(tmp_path / "file", calls.READING)
    try:
        assert [calls.read_part(descriptor, 4, at) for at in (3, 0, 8, 10)] == [b"3456", b"0123", b"89", b""]
    finally:
        os.close(descriptor)


def test_what_a_system_does_not_tell_counts_as_nothing():
    assert calls.sparse_bytes(types.SimpleNamespace(st_size=5000)) == 0
    assert calls.sparse_bytes(types.SimpleNamespace(st_size=5000, st_blocks=2)) == 5000 - 1024


def test_processors_are_counted_where_they_are_not_allotted(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert calls.processors() == (os.cpu_count() or 1)


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.EIO])
def test_macos_syncs_through_to_the_drive(code, tmp_path, monkeypatch):
    """Where a network file system cannot, fsync must do; an error of the disk stays one."""

    def refused(descriptor, command):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("rewriter.system.calls.fcntl", types.SimpleNamespace(F_FULLFSYNC=51, fcntl=refused))
    synced = []
    monkeypatch.setattr("os.fsync", synced.append)
    if code == errno.EIO:
        with pytest.raises(OSError, match="Input/output error"):
            calls.fsync(7)
    else:
        calls.fsync(7)
    assert synced == ([] if code == errno.EIO else [7])


def test_a_folder_that_does_not_open_is_still_told_from_a_file(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_DIRECTORY")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(NotADirectoryError):
            calls.DirectoryHandle(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        calls.DirectoryHandle(tmp_path / "nothing")
    folder = calls.DirectoryHandle(tmp_path)
    folder.lock()
    folder.sync()
    assert folder.is_at(tmp_path)
    folder.close()
