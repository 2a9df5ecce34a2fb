"""What was written gets its place: a loader sees the earlier output, the whole new one, or none."""

from __future__ import annotations

import pytest

from rewriter import OutputError
from tests.support.builders import (
    everything,
    prune,
)
from tests.support.write_jobs import FIRST, Job


def test_the_first_file_appears_last(job, monkeypatch):
    renamed = []
    real = __import__("rewriter.system.rename", fromlist=["rename_new"]).rename_new
    monkeypatch.setattr(
        "rewriter.writing.commit.rename_new", lambda old, new: (renamed.append(new.name), real(old, new))
    )
    job.run()
    expected = [FIRST[job.kind]]
    if job.kind != "directory":
        expected = [name for name in sorted(job.good, reverse=True) if name != FIRST[job.kind]] + expected
    assert renamed == expected


@pytest.mark.parametrize("kind", ["split", "lone"])
def test_nobody_sees_old_and_new_files_together(kind, tmp_path, monkeypatch):
    job = Job(kind, tmp_path)
    prune(job.source, job.target, [1, 3])
    first, seen = job.folder / FIRST[kind], []
    real = __import__("rewriter.system.rename", fromlist=["rename_new"]).rename_new

    def renaming(old, new):
        seen.append(first.exists())
        real(old, new)

    monkeypatch.setattr("rewriter.writing.commit.rename_new", renaming)
    job.run(overwrite=True)
    assert seen == [True] + [False] * (2 * len(job.good) - 1)
    job.check_success()


def test_a_destination_that_appears_meanwhile_is_not_replaced(job, monkeypatch):
    place = job.folder / FIRST[job.kind]
    monkeypatch.setattr("rewriter.writing.write.check_plan", lambda *args: place.write_text("somebody else's"))
    with pytest.raises(OutputError, match=r"exists|is not replaced"):
        job.run()
    assert everything(job.folder) == {FIRST[job.kind]: b"somebody else's"}


def test_without_renameat2(job, monkeypatch):
    monkeypatch.setattr("rewriter.system.rename._renameat2", lambda old, new, flags: False)
    job.run()
    job.check_success()
    with pytest.raises(OutputError, match="exists"):
        job.run()
    job.run(overwrite=True)
    job.check_success()
