"""The output appears complete or not at all, the input stays as it was: with things going wrong on purpose."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from rewriter import CheckpointError, OutputError, PlanOptions, RewriterError, make_plan, open_checkpoint, verify, write
from rewriter.system import calls
from tests.support.builders import (
    everything,
    huggingface,
    prune,
)
from tests.support.doubles import patched, refused
from tests.support.write_jobs import FIRST, KEEP, KINDS, SCRIPT, Job, directory, lone, single


def touch_mtime(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def replace(path: Path) -> None:
    data, times = path.read_bytes(), path.stat()
    path.rename(path.with_name("old"))
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    path.with_name("old").unlink()


@pytest.mark.parametrize("change", [touch_mtime, replace, lambda path: os.truncate(path, 100)])
@pytest.mark.parametrize("late", [False, True])
def test_a_source_that_changes_while_it_is_read(job, change, late, monkeypatch):
    weights = job.source / "sub/side.txt" if job.source.is_dir() else job.source
    plan = make_plan(open_checkpoint(job.source), KEEP)
    if late:
        monkeypatch.setattr("rewriter.writing.write.check_plan", lambda *args: change(weights))
    else:
        change(weights)
    with pytest.raises(CheckpointError, match=r"changed|ended at byte"):
        write(plan, job.target)
    assert list(job.folder.iterdir()) == []


def swapped(data: memoryview) -> bytes:
    """Two layers under each other's numbers: the file is well formed, the tensors are not where they belong."""
    for stem in (b"blk.", b".layers."):
        data = bytes(data).replace(stem + b"0.", stem + b"x.").replace(stem + b"2.", stem + b"0.")
        data = data.replace(stem + b"x.", stem + b"5.")
    return data


def test_a_result_that_is_wrong_does_not_appear(job, monkeypatch):
    """The copy engine is made to write other bytes than the plan says: only the check can notice."""
    real = os.write
    patched(monkeypatch, "rewriter.writing.copy", write=lambda descriptor, data: real(descriptor, swapped(data)))
    with pytest.raises(RewriterError):
        job.run()
    job.check_nothing_happened()


def test_wrong_bytes_are_seen_with_verify(tmp_path, monkeypatch):
    job = Job("gguf", tmp_path)
    zeros = types.SimpleNamespace(
        **{**vars(calls), "read_part": lambda fd, count, offset: bytes(len(os.pread(fd, count, offset)))}
    )
    patched(monkeypatch, "rewriter.writing.copy", copy_file_range=refused(errno.EXDEV), sendfile=refused(errno.EXDEV))
    monkeypatch.setattr("rewriter.writing.copy.calls", zeros)
    with pytest.raises(CheckpointError):
        job.run(verify_bytes=True)
    job.check_nothing_happened()


def test_a_flipped_byte_of_a_tensor_is_seen_with_verify(tmp_path, monkeypatch):
    job = Job("lone", tmp_path)
    real = os.copy_file_range

    def flipping(source, target, count, offset_src=None):
        done = real(source, target, count, offset_src=offset_src)
        os.lseek(target, -1, os.SEEK_CUR)
        os.write(target, b"\x55")
        return done

    patched(monkeypatch, "rewriter.writing.copy", copy_file_range=flipping)
    with pytest.raises(CheckpointError, match="the source's 128 bytes, found another byte at 127"):
        job.run(verify_bytes=True)
    job.check_nothing_happened()


def test_a_small_disk_is_refused_before_anything_is_written(job, monkeypatch):
    size = sum(map(len, job.good.values()))

    monkeypatch.setattr("rewriter.system.calls.free_bytes", lambda folder: size - 1)
    patched(monkeypatch, "rewriter.writing.execute", mkdir=None)
    monkeypatch.setattr("rewriter.writing.staging._locked", lambda path: pytest.fail("something was made"))
    with pytest.raises(OutputError, match=f"needs {size} bytes, the disk has {size - 1} free: 1 too few"):
        job.run()
    job.check_nothing_happened()
    monkeypatch.undo()
    monkeypatch.setattr("rewriter.system.calls.free_bytes", lambda folder: size)
    job.run()
    job.check_success()


def test_an_existing_destination_is_refused(job):
    job.run()
    with pytest.raises(OutputError, match=f"{FIRST[job.kind]} exists already; --overwrite replaces it"):
        job.run()
    job.check_success()


def test_overwrite_replaces_our_own_output(job):
    prune(job.source, job.target, [1, 3])
    assert everything(job.folder) != job.good
    job.run(overwrite=True)
    job.check_success()


def test_overwrite_replaces_an_empty_directory(tmp_path):
    job = Job("directory", tmp_path)
    job.target.mkdir()
    with pytest.raises(OutputError, match="exists already"):
        job.run()
    job.run(overwrite=True)
    job.check_success()


def test_overwriting_a_directory_needs_room_for_one_output(tmp_path, monkeypatch):
    job = Job("directory", tmp_path)
    job.run()
    need = sum(map(len, job.good.values()))
    rooms = [need, need, 0, 0]  # nothing is asked once the bytes are written
    monkeypatch.setattr("rewriter.system.calls.free_bytes", lambda folder: rooms.pop(0))
    job.run(overwrite=True)
    job.check_success()


def test_overwrite_leaves_a_foreign_directory(tmp_path):
    job = Job("directory", tmp_path)
    job.target.mkdir()
    (job.target / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"neither empty nor a directory that holds our rewriter.json"):
        job.run(overwrite=True)
    assert everything(job.folder) == {"x/thesis.txt": b"years of work"}


@pytest.mark.parametrize("to", ["nowhere", "elsewhere"])
def test_overwrite_leaves_a_link(job, to, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = job.folder / FIRST[job.kind]
    link.symlink_to(tmp_path / to)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="is a link; it is not replaced"):
            job.run(overwrite=overwrite)
    assert [path.name for path in job.folder.iterdir()] == [FIRST[job.kind]]
    assert link.is_symlink()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_overwrite_leaves_a_directory_where_a_file_goes(job):
    wrong = job.folder / FIRST[job.kind]
    wrong.write_text("file") if job.kind == "directory" else wrong.mkdir()
    with pytest.raises(OutputError, match=r"neither empty nor a directory|is not a regular file"):
        job.run(overwrite=True)
    assert [path.name for path in job.folder.iterdir()] == [wrong.name]


@pytest.mark.parametrize("name", ["x-00009-of-00009.gguf", "x-1-of-2.gguf"])
def test_a_split_set_claims_its_names(name, tmp_path):
    job = Job("split", tmp_path)
    (job.folder / name).write_text("an older, longer set")
    (job.folder / "y-00001-of-00002.gguf").write_text("another model")
    with pytest.raises(OutputError, match=f"{name} exists already"):
        job.run()
    job.run(overwrite=True)
    assert everything(job.folder) == {**job.good, "y-00001-of-00002.gguf": b"another model"}


SPELLINGS = {
    "itself": lambda path: path,
    "dots": lambda path: path.parent / "." / "x" / ".." / path.name,
    "slashes": lambda path: f"{path.parent}//{path.name}",
    "relative": os.path.relpath,
    "linked folder": lambda path: path.parent.parent / "linked" / path.name,
    "link": lambda path: path.parent.parent / "link",
    "hard link": lambda path: path.parent.parent / "hard link",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_input_is_never_replaced(job, spelling, overwrite):
    folder = job.source.parent
    (folder / "x").mkdir()
    (folder.parent / "linked").symlink_to(folder)
    (folder.parent / "link").symlink_to(job.source)
    if spelling == "hard link":
        if job.kind in ("directory", "split"):
            pytest.skip("no hard link to a directory; a split set has names of its own")
        os.link(job.source, folder.parent / "hard link")
    if (spelling, job.kind) == ("link", "split"):
        pytest.skip("a split set has names of its own")
    with pytest.raises(OutputError, match=r"is the input itself|exists already"):
        prune(job.source, SPELLINGS[spelling](job.source), KEEP, overwrite=overwrite)
    assert everything(folder) == job.before
    assert not list(folder.parent.rglob(".*.rewriter-tmp"))


def test_the_config_beside_the_input_is_never_replaced(tmp_path):
    source = lone(tmp_path)
    (tmp_path / "config.json").rename(tmp_path / "model.config.json")
    before = everything(tmp_path)
    with pytest.raises(OutputError):
        prune(source, tmp_path / "model", KEEP, overwrite=True)
    assert everything(tmp_path) == before


def test_what_the_input_links_to_is_never_replaced(tmp_path):
    """An earlier output may be the real place of the files that the input links to."""
    real = prune(huggingface(tmp_path / "in"), tmp_path / "real", [0, 1, 2, 3])
    source = tmp_path / "source"
    source.mkdir()
    for file in real.iterdir():
        (source / file.name).symlink_to(file)
    before = everything(real)
    with pytest.raises(OutputError):
        prune(source, real, [0], overwrite=True)
    assert everything(real) == before


@pytest.mark.parametrize("place", ["model/out", "model/sub/out", "model/sub"])
def test_nothing_is_written_inside_the_input(place, tmp_path):
    job = Job("directory", tmp_path)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"lies inside the input|is the input itself|exists already"):
            prune(job.source, job.source.parent / place, KEEP, overwrite=overwrite)
    assert everything(job.source.parent) == job.before


def test_the_input_may_not_lie_in_the_output(tmp_path):
    outer = prune(directory(tmp_path / "in"), tmp_path / "outer", [0])
    source = huggingface(outer / "inner")
    with pytest.raises(OutputError, match="the input in it"):
        prune(source, outer, [0], overwrite=True)
    assert source.exists()


@pytest.mark.parametrize("place", ["nowhere/x", "file/x", "in/../nowhere/x"])
def test_a_parent_that_is_no_folder(job, place, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"does not exist; make it first|is not a folder"):
        prune(job.source, tmp_path / place, KEEP)
    assert (tmp_path / "file").read_text() == ""
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("place", ["/", "..", "."])
def test_a_destination_that_is_no_name(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError):
        prune(single(tmp_path / "in"), place, KEEP, overwrite=True)


@pytest.mark.parametrize("name", ["näme ü", "-x", "a b'c", "x" * 250, os.fsdecode(b"\xff\xfe")])
def test_odd_names(job, name, tmp_path):
    if len(name) > 240 and job.kind in ("split", "lone"):
        pytest.skip("the name of the second file would be too long")
    target = prune(job.source, job.folder / name, KEEP)
    assert verify(target, job.source) == ()
    assert not [path.name for path in job.folder.iterdir() if path.name.startswith(".")]


def test_a_split_set_with_a_line_break_in_its_name(tmp_path):
    job = Job("split", tmp_path)
    assert verify(prune(job.source, job.folder / "new\nline.gguf", KEEP), job.source) == ()


def test_a_name_that_is_too_long(job):
    with pytest.raises(OutputError, match="file name too long"):
        prune(job.source, job.folder / ("x" * 300), KEEP)
    job.check_nothing_happened()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(job, mask):
    before = os.umask(mask)
    try:
        job.run()
    finally:
        os.umask(before)
    for path in job.folder.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask


def test_a_stale_config_of_an_earlier_output_goes(tmp_path):
    source = lone(tmp_path / "in")
    (tmp_path / "out").mkdir()
    prune(source, tmp_path / "out/x.safetensors", [0, 1])
    (tmp_path / "in/config.json").unlink()
    target = prune(source, tmp_path / "out/x.safetensors", [0], PlanOptions(generic=True), overwrite=True)
    assert verify(target, source, PlanOptions(generic=True)) == ()


def test_everything_is_synced_before_it_is_renamed(job, monkeypatch):
    synced = []

    def fsync(descriptor):
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        os.fsync(descriptor)

    patched(monkeypatch, "rewriter.system.calls", fsync=fsync)
    job.run()
    staging = job.folder / f".{job.target.name}.rewriter-tmp"
    prefix = len(f"{FIRST['directory']}/") if job.kind == "directory" else 0
    files = {staging / "new" / name[prefix:] for name in job.good}
    moves = {staging / "moves"} if job.kind in ("split", "lone") else set()
    assert synced[-1] == job.folder
    assert set(synced[:-1]) == files | {staging} | {file.parent for file in files} | moves


def started(job: Job, patch: str, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT.replace("{patch}", patch), str(job.source), str(job.target)]
    return subprocess.Popen(
        [*command, "--keep", "0,2,5", *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


KILLS = {
    "before the first file": 'interrupted(rewriter.writing.copy, "write_file", 1, False, kill)',
    "after the first file": 'interrupted(rewriter.writing.copy, "write_file", 1, True, kill)',
    "before the sources are checked": 'interrupted(execute, "_check_sources", 1, False, kill)',
    "before the rename": 'interrupted(commit, "rename_new", 1, False, kill)',
    "after the first rename": 'interrupted(commit, "rename_new", 1, True, kill)',
    "after the second rename": 'interrupted(commit, "rename_new", 2, True, kill)',
}


def kills():
    for kind in KINDS:
        for kill in KILLS:
            several = kind == "split" or (kind == "lone" and "second" not in kill)
            if several or "second" not in kill:
                yield pytest.param(kind, kill)


@pytest.mark.parametrize(("kind", "kill"), list(kills()))
def test_after_a_kill_the_same_command_succeeds(kind, kill, tmp_path):
    job = Job(kind, tmp_path)
    process = started(job, KILLS[kill])
    assert (process.wait(), process.communicate()[1]) == (-signal.SIGKILL, "")
    first = job.folder / FIRST[kind]
    if first.exists():
        assert {name: everything(job.folder)[name] for name in job.good} == job.good
        return
    again = started(job, "")
    assert (again.communicate()[1], again.wait()) == ("", 0)
    job.check_success()


def test_after_a_kill_in_an_overwrite_the_same_command_succeeds(job):
    prune(job.source, job.target, [1, 3])
    kinds = {"directory": ("commit", "exchange"), "gguf": ("os", "replace")}
    module, name = kinds.get(job.kind, ("commit", "rename_new"))
    assert started(job, f'interrupted({module}, "{name}", 1, True, kill)', "--overwrite").wait() == -signal.SIGKILL
    again = started(job, "", "--overwrite")
    assert (again.communicate()[1], again.wait()) == ("", 0)
    job.check_success()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("kind", ["gguf", "directory"])
def test_a_signal_leaves_nothing(kind, number, tmp_path):
    job = Job(kind, tmp_path)
    process = started(job, 'interrupted(rewriter.writing.copy, "write_file", 1, True, wait)')
    assert process.stdout.readline() == "READY\n"
    process.send_signal(number)
    assert process.communicate()[1] == f"rewriter: stopped by {number.name}; nothing was written\n"
    assert process.returncode == 128 + number
    job.check_nothing_happened()


def signalled_between_two_renames(job: Job) -> tuple[int, str]:
    process = started(job, 'interrupted(commit, "rename_new", 1, True, term)')
    error = process.communicate()[1]
    return process.returncode, error


@pytest.mark.parametrize("kind", ["split", "lone"])
def test_a_signal_between_two_renames_waits(kind, tmp_path):
    job = Job(kind, tmp_path)
    assert signalled_between_two_renames(job)[0] in (0, 143)
    job.check_success()


def test_a_signal_that_came_too_late_is_not_said_to_have_stopped_it(tmp_path):
    assert "nothing was written" not in signalled_between_two_renames(Job("split", tmp_path))[1]
