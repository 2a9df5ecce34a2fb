"""Real limits of real systems: full and read-only filesystems, a limit of the file size, signals, closed streams."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rewriter import OutputError, verify
from tests.support.builders import MODELS, everything, huggingface, prune
from tests.support.faults import in_child
from tests.support.write_jobs import KINDS, SCRIPT, Job

GGUF = MODELS / "tiny-llama-12L-Q8_0.gguf"  # 2.9 MB


def rewriter(*arguments: object, **how) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rewriter", *map(str, arguments)]
    how = {"stdout": subprocess.PIPE, **how}
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **how)


@contextmanager
def mounted(folder: Path, options: str):
    """A tmpfs of its own. Needs root."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a filesystem")
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_limit_of_the_file_size_is_one_line(tmp_path):
    """`ulimit -f`: the kernel sends SIGXFSZ, or answers EFBIG where that is ignored."""
    limit = 1 << 20
    how = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))}
    done = rewriter("prune", GGUF, tmp_path / "x.gguf", "--drop", "3", **how)
    assert (done.returncode, done.stderr) == (1, "rewriter: cannot write x.gguf: file too large\n")
    assert list(tmp_path.iterdir()) == []


def test_a_small_disk_is_refused_with_how_much_is_missing(tmp_path):
    with mounted(tmp_path / "disk", "size=1m") as disk:
        done = rewriter("prune", GGUF, disk / "x.gguf", "--drop", "3")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.endswith("too few\n")
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize("checksums", [True, False])
def test_a_disk_that_fills_up_meanwhile(tmp_path, monkeypatch, checksums):
    with mounted(tmp_path / "disk", "size=1m") as disk:
        monkeypatch.setattr("rewriter.writing.execute.disk_needed", lambda output, folder, how: 0)
        with pytest.raises(OutputError, match=r"^cannot write x.gguf: no space left on device$"):
            prune(GGUF, disk / "x.gguf", [0, 1, 2, 3, 4, 5, 6, 7], checksums=checksums)
        assert list(disk.iterdir()) == []


def test_a_disk_that_fills_up_and_a_resumed_run(tmp_path, monkeypatch):
    """Somebody makes room and goes on."""
    source = huggingface(tmp_path / "in", shards=3)
    for number, file in enumerate(sorted(source.glob("*.safetensors"))):
        large = {f"extra.{number}": np.full((100 * (number + 1), 1024), number, "uint8")}
        save_file({**load_file(file), **large}, file, metadata={"format": "pt"})
    add_to_index(source)
    with mounted(tmp_path / "disk", "size=800k") as disk:
        monkeypatch.setattr("rewriter.writing.execute.disk_needed", lambda output, folder, how: 0)
        told: list[str] = []
        (disk / "ballast").write_bytes(bytes(250 << 10))
        with pytest.raises(OutputError, match="no space left"):
            prune(source, disk / "x", [0, 1, 2], resume=True, notify=told.append)
        (disk / "ballast").unlink()
        prune(source, disk / "x", [0, 1, 2], resume=True, notify=told.append)
        assert "are kept in .x.rewriter-tmp" in told[0]
        assert "from an interrupted run and stay" in told[1]
        assert verify(disk / "x", source) == ()
        assert [path.name for path in disk.iterdir()] == ["x"]


def add_to_index(source: Path) -> None:
    index = source / "model.safetensors.index.json"
    names = {name: file.name for file in sorted(source.glob("*.safetensors")) for name in load_file(file)}
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))


@pytest.mark.parametrize("kind", KINDS)
def test_another_filesystem(kind, tmp_path):
    """The kernel answers EXDEV to what works within one filesystem."""
    job = Job(kind, tmp_path)
    with mounted(tmp_path / "disk", "size=8m") as disk:
        (disk / "out").mkdir()
        first = prune(job.source, disk / "out" / job.target.name, [0, 2, 5], verify_bytes=True)
        assert everything(disk / "out") == job.good
        back = prune(first, job.target, [0, 1], verify_bytes=True)
        assert verify(back, job.source) == ()


@pytest.mark.parametrize("kind", KINDS)
def test_a_read_only_destination(kind, tmp_path):
    job = Job(kind, tmp_path)
    with mounted(tmp_path / "disk", "ro,size=8m") as disk, pytest.raises(OutputError, match="read-only file system"):
        prune(job.source, disk / job.target.name, [0])


def test_a_read_only_source(tmp_path):
    with mounted(tmp_path / "disk", "size=8m") as disk:
        shutil.copy(GGUF, disk / "in.gguf")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert verify(prune(disk / "in.gguf", tmp_path / "x.gguf", [0, 3]), disk / "in.gguf") == ()


def test_a_destination_of_somebody_else():
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(GGUF, folder / "in.gguf")

        def nobody() -> None:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            with pytest.raises(OutputError, match=r"^cannot write x.gguf: permission denied$"):
                prune(folder / "in.gguf", folder / "x.gguf", [0, 3])

        assert in_child(nobody) == 0
        assert [path.name for path in folder.iterdir()] == ["in.gguf"]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_closed_streams(stream, tmp_path):
    command = f'exec "$@" {"1" if stream == "stdout" else "2"}>&-'
    words = [sys.executable, "-m", "rewriter", "prune", str(GGUF), str(tmp_path / "x.gguf"), "--drop", "3"]
    done = subprocess.run(["sh", "-c", command, "sh", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert verify(tmp_path / "x.gguf", GGUF) == ()
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_a_full_stdout_after_the_output_is_there(tmp_path):
    with Path("/dev/full").open("w") as full:
        done = rewriter("prune", GGUF, tmp_path / "x.gguf", "--drop", "3", stdout=full)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert "is written; its summary could not be printed" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_stderr_when_something_is_to_be_told(unbuffered, tmp_path):
    """What --resume has to say is worth no failure, held back until the end or not."""
    job = Job("directory", tmp_path)
    act = 'interrupted(rewriter.writing.copy, "write_file", 3, True, kill)'
    words = [str(job.source), str(job.target), "--keep", "0,2,5", "--resume"]
    subprocess.run([sys.executable, "-c", SCRIPT.replace("{patch}", act), *words], check=False)
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "rewriter", "prune", *words]
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(command, stderr=full, stdout=subprocess.DEVNULL, check=False, env=environment)
    assert done.returncode == 0
    job.check_success()


def test_nohup(tmp_path):
    """A signal that whoever started this has made ignored is ignored."""
    job = Job("gguf", tmp_path)
    act = 'interrupted(rewriter.writing.copy, "write_file", 1, True, lambda: os.kill(os.getpid(), signal.SIGHUP))'
    command = [
        sys.executable,
        "-c",
        SCRIPT.replace("{patch}", act),
        str(job.source),
        str(job.target),
        "--keep",
        "0,2,5",
    ]
    how = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, **how)
    assert (done.returncode, done.stderr) == (0, "")
    job.check_success()


def test_other_threads_may_write_too(tmp_path):
    """Handlers belong to the main thread: a run in another one has none to hold back."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            prune(GGUF, tmp_path / "x.gguf", [0, 3])
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failed
    assert verify(tmp_path / "x.gguf", GGUF) == ()
