"""The plain way, where a system lacks a call."""

from __future__ import annotations

import errno
import os
import types

import pytest

from rewriter.system import calls


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
