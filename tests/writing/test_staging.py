"""The staging directory: locked, taken over from a killed run, and never confused with anything else."""

from __future__ import annotations

import errno
import fcntl
import os
import types

import pytest

from rewriter import OutputError
from rewriter.writing.staging import staging_path
from tests.support.builders import (
    everything,
)
from tests.support.doubles import refused
from tests.support.write_jobs import FIRST, Job


def test_what_a_killed_run_left_is_taken_over(job):
    staging = job.folder / f".{job.target.name}.rewriter-tmp"
    (staging / "deep" / "er").mkdir(parents=True)
    (staging / "deep" / "file").write_text("left")
    (staging / FIRST[job.kind]).write_text("left")
    (staging / "link").symlink_to(job.source)
    job.run()
    job.check_success()


def test_a_second_run_at_the_same_time(job):
    staging = job.folder / f".{job.target.name}.rewriter-tmp"
    staging.mkdir()
    lock = os.open(staging, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match=r"another run is writing \..*rewriter-tmp at this moment"):
            job.run()
    finally:
        os.close(lock)
    assert list(staging.iterdir()) == []
    job.run()
    job.check_success()


@pytest.mark.parametrize("obstacle", ["file", "link"])
def test_something_else_under_the_staging_name(job, obstacle, tmp_path):
    staging = job.folder / f".{job.target.name}.rewriter-tmp"
    staging.write_text("mine") if obstacle == "file" else staging.symlink_to(tmp_path / "in")
    with pytest.raises(OutputError, match="is in the way"):
        job.run()
    assert everything(tmp_path / "in") == job.before


def test_a_run_that_begins_after_the_rename_waits_until_the_first_has_cleared_away(job, monkeypatch):
    refused = []

    def sync(folder):
        if folder == job.folder:
            with pytest.raises(OutputError, match="another run is writing"):
                job.run(overwrite=True)
            refused.append(folder)

    job.run()
    monkeypatch.setattr("rewriter.writing.execute.sync", sync)
    job.run(overwrite=True)
    assert refused == [job.folder]
    job.check_success()


def test_a_staging_directory_that_goes_before_it_is_locked(job, monkeypatch):
    staging, calls = job.folder / f".{job.target.name}.rewriter-tmp", []

    def flock(descriptor, operation):
        calls.append(descriptor)
        if len(calls) == 1:
            staging.rmdir()
        fcntl.flock(descriptor, operation)

    monkeypatch.setattr("rewriter.system.calls.fcntl", types.SimpleNamespace(**{**vars(fcntl), "flock": flock}))
    job.run()
    assert len(calls) == 2
    job.check_success()


def test_the_directory_goes_if_it_cannot_be_locked(tmp_path, monkeypatch):
    job = Job("gguf", tmp_path)
    monkeypatch.setattr("rewriter.system.calls.DirectoryHandle.lock", refused(errno.EIO))
    with pytest.raises((OSError, OutputError)):
        job.run()
    job.check_nothing_happened()


def test_a_refused_run_leaves_no_file_open(tmp_path):
    job = Job("gguf", tmp_path)
    staging = job.folder / f".{job.target.name}.rewriter-tmp"
    staging.mkdir()
    lock = os.open(staging, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OutputError, match="another run is writing"):
            job.run()
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        os.close(lock)


def test_a_long_name_has_its_hash_in_its_place(tmp_path):
    assert staging_path(tmp_path / ("x" * 199)).name == f".{'x' * 199}.rewriter-tmp"
    assert len(staging_path(tmp_path / ("x" * 200)).name) == len("..rewriter-tmp") + 64
