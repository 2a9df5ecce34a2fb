"""`--resume`: what was finished stays, wherever the run was interrupted, and is used only for the very same output."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from rewriter import OutputError, RewriterError, verify
from rewriter.system.signals import STOP, StoppedError
from tests.support import faults
from tests.support.builders import everything, prune
from tests.support.faults import Calls, watching
from tests.support.write_jobs import FIRST, KEEP, SCRIPT, Job

SEVERAL = ("split", "directory", "lone")


@pytest.fixture(params=SEVERAL)
def job(request, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return Job(request.param, tmp_path)


def staging(job: Job) -> Path:
    return job.folder / f".{job.target.name}.rewriter-tmp"


def kept(job: Job) -> dict[str, int]:
    """The inodes of the files that the record names, by their names in the output."""
    record = staging(job) / "finished"
    lines = record.read_text().splitlines()[1:] if record.exists() else []
    complete = [json.loads(line) for line in lines if line.endswith("}")]
    prefix = f"{job.target.name}/" if job.kind == "directory" else ""
    return {prefix + line["name"]: line["stamp"][0] for line in complete}


def run(job: Job, keep=KEEP, **how) -> list[str]:
    """A run with --resume: what a user is told."""
    told: list[str] = []
    prune(job.source, job.target, keep, notify=told.append, **{"resume": True, **how})
    return told


def check_goes_on(job: Job) -> bool:
    """The next run uses every file that was finished; whether there was one."""
    before = kept(job) if staging(job).exists() else {}
    complete = {name: data for name, data in everything(job.folder).items() if "-tmp/" not in name} == job.good
    told = run(job, overwrite=complete)
    job.check_success()
    if not complete:
        assert {name: (job.folder / name).stat().st_ino for name in before} == before
        assert told == (
            [f"{len(before)} of {len(job.good)} files are there from an interrupted run and stay"] * bool(before)
        )
    clear(job)
    return bool(before) and not complete


def clear(job: Job) -> None:
    for name in os.listdir(job.folder):
        path = job.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def points(job: Job) -> list[int]:
    with watching(Calls()) as counted:
        run(job)
    check_goes_on(job)
    return list(faults.points(counted.names))


def test_after_a_kill_at_every_call(job):
    used = 0
    for number in points(job):
        act = faults.at(number, lambda: os.kill(os.getpid(), signal.SIGKILL))

        def child(act=act) -> None:
            with watching(Calls(act)):
                run(job)

        assert os.WTERMSIG(faults.in_child(child)) == signal.SIGKILL
        used += check_goes_on(job)
    assert used > 50


def stop() -> None:
    raise StoppedError


def failure(kind: str, number: int) -> Calls:
    if kind == "error":
        return Calls(faults.failing(number, errno.EIO))
    return Calls(faults.at(number, lambda: STOP.set(signal.SIGINT)))


@pytest.mark.parametrize("kind", ["signal", "error"])
def test_after_a_signal_or_an_error_at_every_call(job, kind, monkeypatch):
    monkeypatch.setattr(STOP, "number", 0)
    used = 0
    for number in points(job):
        with watching(failure(kind, number)), suppress(StoppedError, RewriterError, OSError):
            run(job)
        STOP.set(0)
        used += check_goes_on(job)
    assert used > 20


def interrupted(job: Job, keep=KEEP, **how) -> str:
    """A run that ends in the check: all files are finished. What it tells."""
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rewriter.writing.write.check_plan", lambda *arguments: stop())
        with pytest.raises(StoppedError):
            prune(job.source, job.target, keep, notify=told.append, **{"resume": True, **how})
    return told[-1] if told else ""


def test_what_is_kept_is_said(job):
    count = len(job.good)
    name = staging(job).name
    assert interrupted(job) == f"{count} of {count} files are kept in {name}: the same command with --resume goes on"
    assert run(job) == [f"{count} of {count} files are there from an interrupted run and stay"]
    job.check_success()


def test_nothing_is_kept_without_it(job):
    assert interrupted(job, resume=False) == ""
    job.check_nothing_happened()


def weights(job: Job) -> Path:
    return sorted(job.source.glob("*.safetensors"))[0] if job.source.is_dir() else job.source


def in_place(path: Path) -> None:
    """Other bytes; the size, the inode and the mtime are as before."""
    raw, times = bytearray(path.read_bytes()), path.stat()
    raw[-1] ^= 1
    with path.open("r+b") as file:
        file.write(raw)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def by_rename(path: Path) -> None:
    """Another file with the same bytes, size and mtime."""
    raw, times = path.read_bytes(), path.stat()
    path.with_name("new").write_bytes(raw)
    os.utime(path.with_name("new"), ns=(times.st_atime_ns, times.st_mtime_ns))
    path.with_name("new").replace(path)


CHANGES: dict[str, Callable[[Path], None]] = {
    "in place": in_place, "by rename": by_rename, "touched": lambda path: os.utime(path, ns=(1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_input_starts_afresh(job, change):
    interrupted(job)
    change(weights(job))
    assert run(job) == ["starts afresh, the files of an interrupted run are not used: the input has changed"]
    assert verify(job.folder / FIRST[job.kind], job.source) == ()
    assert not staging(job).exists()


def test_another_plan_starts_afresh(job):
    interrupted(job, [1, 3])
    assert run(job) == ["starts afresh, the files of an interrupted run are not used: they belong to another output"]
    job.check_success()


def test_a_run_without_it_starts_afresh(job):
    interrupted(job)
    assert run(job, resume=False) == [
        "starts afresh, the files of an interrupted run are not used: this run is without --resume"
    ]
    job.check_success()


def test_what_a_run_without_it_left_is_not_used(job):
    folder = staging(job) / "new"
    folder.mkdir(parents=True)
    (folder / next(iter(job.good)).rpartition("/")[2]).write_text("left")
    assert run(job) == []
    job.check_success()


def test_other_ways_to_write_the_same_output_go_on(job):
    prune(job.source, job.target, [1, 3])
    interrupted(job, overwrite=True)
    count = len(job.good)
    assert run(job, overwrite=True, verify_bytes=True)[0].startswith(f"{count} of {count} files are there")
    job.check_success()


def test_an_existing_destination_is_refused_and_what_was_kept_stays(job):
    interrupted(job)
    before = kept(job)
    (job.folder / next(iter(job.good)).partition("/")[0]).mkdir()
    with pytest.raises(OutputError):
        run(job)
    assert kept(job) == before


@pytest.mark.parametrize("damage", [lambda raw: raw[:-7], lambda raw: raw + b'{"na', lambda raw: raw + b"[]\n"])
def test_a_record_that_was_cut_off(job, damage):
    interrupted(job)
    record = staging(job) / "finished"
    record.write_bytes(damage(record.read_bytes()))
    assert interrupted(job).startswith(f"{len(job.good)} of {len(job.good)} files are kept")
    assert run(job)[0].startswith(f"{len(job.good)} of {len(job.good)} files are there")
    job.check_success()


def test_a_finished_file_that_was_touched_is_copied_again(job):
    interrupted(job)
    file = next(path for path in sorted((staging(job) / "new").rglob("*")) if path.is_file())
    file.write_bytes(b"x" * file.stat().st_size)
    run(job)
    job.check_success()


def test_what_was_read_from_a_changing_input_is_not_kept(job, monkeypatch):
    monkeypatch.setattr("rewriter.writing.write.check_plan", lambda *arguments: os.utime(weights(job), ns=(1, 1)))
    with pytest.raises(RewriterError, match="has changed"):
        run(job)
    assert list(job.folder.iterdir()) == []


@pytest.mark.parametrize(("number", "kept"), [(signal.SIGTERM, 3), (signal.SIGKILL, 2)])
def test_the_command_line(tmp_path, number, kept):
    """The third file is complete when the signal comes: only a kill loses it, before it is recorded."""
    job = Job("directory", tmp_path)
    arguments = [str(job.source), str(job.target), "--keep", "0,2,5", "--resume"]
    act = f'interrupted(rewriter.writing.copy, "write_file", 3, True, lambda: os.kill(os.getpid(), {int(number)}))'
    command = [sys.executable, "-c", SCRIPT.replace("{patch}", act), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if number == signal.SIGTERM:
        kept_line, end = done.stderr.splitlines()
        assert kept_line == f"{kept} of 6 files are kept in .x.rewriter-tmp: the same command with --resume goes on"
        assert end == "rewriter: stopped by SIGTERM; nothing was written"
    command = [sys.executable, "-m", "rewriter", "prune", *arguments]
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (0, f"{kept} of 6 files are there from an interrupted run and stay\n")
    job.check_success()


def test_a_run_stopped_before_a_file_is_finished_says_so(job, monkeypatch):
    monkeypatch.setattr("rewriter.writing.execute.write_files", lambda *arguments: stop())
    line = "nothing is kept, for no file was finished: the same command begins anew"
    for resume, said in ((True, [line]), (False, [])):
        told: list[str] = []
        with pytest.raises(StoppedError):
            prune(job.source, job.target, KEEP, resume=resume, notify=told.append)
        assert told == said
        assert not staging(job).exists()
