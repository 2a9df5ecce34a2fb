"""What was written gets its place: a loader sees the earlier output, the whole new one, or none."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from rewriter import OutputError
from rewriter.system.rename import rename_new
from rewriter.writing.commit import commit_directory, commit_files, roll_back
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


# The moves of a set, without a run


def stage(folder: Path, new: dict[str, str], earlier: dict[str, str]) -> Path:
    """A staging directory with the new files, beside the earlier ones."""
    staging = folder / ".staging"
    (staging / "new").mkdir(parents=True)
    for name, text in new.items():
        (staging / "new" / name).write_text(text)
    for name, text in earlier.items():
        (folder / name).write_text(text)
    return staging


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


NEW, EARLIER = {"a": "new a", "b": "new b"}, {"a": "old a", "c": "old c"}


def commit(folder: Path, staging: Path) -> None:
    commit_files(staging, [folder / name for name in NEW], [folder / name for name in EARLIER])


def test_a_set_replaces_another_and_files_that_it_lacks_go(tmp_path):
    commit(tmp_path, stage(tmp_path, NEW, EARLIER))
    assert texts(tmp_path) == NEW


def test_the_first_earlier_file_goes_before_all_others_and_the_first_new_one_comes_last(tmp_path, monkeypatch):
    moved, real = [], rename_new
    monkeypatch.setattr("rewriter.writing.commit.rename_new", lambda old, new: (moved.append(old), real(old, new)))
    staging = stage(tmp_path, NEW, EARLIER)
    commit(tmp_path, staging)
    assert moved == [tmp_path / "a", tmp_path / "c", staging / "new" / "b", staging / "new" / "a"]


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_a_move_that_fails_takes_back_those_before_it(nth, tmp_path, monkeypatch):
    staging, calls, real = stage(tmp_path, NEW, EARLIER), [], rename_new

    def failing(old, new):
        calls.append(old)
        if len(calls) == nth:
            raise OSError(28, "No space left on device")
        real(old, new)

    monkeypatch.setattr("rewriter.writing.commit.rename_new", failing)
    with pytest.raises(OSError, match="No space"):
        commit(tmp_path, staging)
    assert texts(tmp_path) == EARLIER
    assert texts(staging / "new") == NEW


class Killed(BaseException):
    pass


@pytest.mark.parametrize("done", [0, 1, 2, 3, 4])
def test_the_next_run_takes_back_the_moves_of_a_killed_one_unless_all_were_done(done, tmp_path, monkeypatch):
    staging, calls, real = stage(tmp_path, NEW, EARLIER), [], rename_new

    def killing(old, new):
        if len(calls) == done:
            raise Killed
        calls.append(old)
        real(old, new)

    monkeypatch.setattr("rewriter.writing.commit.rename_new", killing)
    with suppress(Killed):
        commit(tmp_path, staging)
    monkeypatch.undo()
    roll_back(staging)
    assert texts(tmp_path) == (NEW if done == 4 else EARLIER)
    assert sorted(path.name for path in staging.iterdir()) == ["new"]


def test_a_file_that_somebody_else_has_put_there_meanwhile_stays(tmp_path, monkeypatch):
    staging, real = stage(tmp_path, NEW, {}), rename_new

    def killing(old, new):
        real(old, new)
        raise Killed

    monkeypatch.setattr("rewriter.writing.commit.rename_new", killing)
    with suppress(Killed):
        commit_files(staging, [tmp_path / name for name in NEW], [])
    monkeypatch.undo()
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "theirs").replace(tmp_path / "b")
    roll_back(staging)
    assert texts(tmp_path) == {"b": "theirs"}


@pytest.mark.parametrize("damage", [b"", b"[", b'[{"a": 1}]', b"[1, 2]", b'[{"../../x": 1}, {}]'])
def test_a_list_of_moves_that_was_cut_off_moves_nothing(damage, tmp_path):
    staging = stage(tmp_path, NEW, EARLIER)
    (staging / "moves").write_bytes(damage)
    roll_back(staging)
    assert texts(tmp_path) == EARLIER
    assert not (staging / "moves").exists()


@pytest.mark.parametrize("wait", [True, False])
def test_the_list_of_moves_and_its_name_are_on_the_disk_before_the_first(wait, tmp_path, monkeypatch):
    seen, real = [], rename_new
    monkeypatch.setattr("rewriter.system.calls.fsync", lambda descriptor: seen.append("sync"))
    monkeypatch.setattr("rewriter.writing.commit.rename_new", lambda old, new: (seen.append("move"), real(old, new)))
    staging = stage(tmp_path, NEW, EARLIER)
    commit_files(staging, [tmp_path / name for name in NEW], [tmp_path / name for name in EARLIER], wait)
    assert seen == ["sync"] * 2 * wait + ["move"] * 4


def test_a_lone_file_never_replaces_what_is_there_unless_it_is_the_earlier_one(tmp_path):
    staging = stage(tmp_path, {"a": "new"}, {"a": "old"})
    with pytest.raises(FileExistsError):
        commit_files(staging, [tmp_path / "a"], [])
    assert texts(tmp_path) == {"a": "old"}
    commit_files(staging, [tmp_path / "a"], [tmp_path / "a"])
    assert texts(tmp_path) == {"a": "new"}


def test_a_directory_appears_or_changes_places(tmp_path):
    staging = stage(tmp_path, NEW, {})
    commit_directory(staging, tmp_path / "out")
    assert texts(tmp_path / "out") == NEW
    (staging / "new").mkdir()
    (staging / "new" / "z").write_text("newer")
    commit_directory(staging, tmp_path / "out")
    assert texts(tmp_path / "out") == {"z": "newer"}
    assert texts(staging / "new") == NEW
