"""A real Dask scheduler with worker processes on loopback: one checkpoint, a batch, and workers that are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rewriter import verify
from rewriter.errors import OutputError, RequestError
from rewriter.writing.executors import workers
from tests.support.builders import ROOT, everything, huggingface, prune, write_gguf
from tests.support.cluster import cluster
from tests.support.workers import Gate

pytestmark = pytest.mark.slow  # starts a scheduler and workers for each test

KEEP, DROP = (0, 2, 3, 5), "1,4"


def ours(folder: Path, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "rewriter", *words], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(process: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, (out, err)
    return out, err


@pytest.fixture
def source(tmp_path):
    (tmp_path / "work").mkdir()
    folder = huggingface(tmp_path / "work" / "in", shards=4)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_a_giant_checkpoint_whose_worker_is_killed_in_the_middle(source, tmp_path):
    work, gate = tmp_path / "work", Gate(tmp_path)
    with cluster(tmp_path, 3, **gate.environment) as made:
        process = ours(work, "prune", "in", "out", "--drop", DROP, "--executor", f"dask={made.address}")
        os.kill(gate.waiting(3)[0], signal.SIGKILL)
        gate.open()
        _, err = finished(process)
        assert err == ""
        again = ours(work, "prune", "in", "more", "--drop", "2", "--executor", f"dask={made.address}")
        finished(again)
    prune(source, tmp_path / "local", KEEP)
    assert everything(work / "out") == everything(tmp_path / "local")
    assert verify(work / "more", source) == ()
    assert sorted(os.listdir(work)) == ["in", "more", "out"]


def test_a_batch_whose_worker_is_killed_in_the_middle(source, tmp_path):
    work, gate = tmp_path / "work", Gate(tmp_path)
    write_gguf(work / "a.gguf")
    (work / "jobs.toml").write_text(
        '[defaults]\noutput = "o/"\ndrop = ["1,4", "2"]\n[[job]]\nsource = "in"\n[[job]]\nsource = "*.gguf"\n'
    )
    with cluster(tmp_path, 2, **gate.environment) as made:
        process = ours(work, "batch", "jobs.toml", "--executor", f"dask={made.address}")
        os.kill(gate.waiting(2)[0], signal.SIGKILL)
        gate.open()
        out, _ = finished(process)
        assert "4 done" in out
    prune(source, tmp_path / "local", KEEP)
    assert everything(work / "o" / "in-1,4") == everything(tmp_path / "local")
    assert verify(work / "o" / "a-2.gguf", work / "a.gguf") == ()
    lines = [json.loads(line) for line in (work / "results.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["done"] * 4


def test_a_signal_ends_it_and_the_workers_notice(source, tmp_path):
    work, gate = tmp_path / "work", Gate(tmp_path)
    with cluster(tmp_path, 1, **gate.environment) as made:
        process = ours(work, "prune", "in", "out", "--drop", DROP, "--executor", f"dask={made.address}")
        gate.waiting(1)
        process.send_signal(signal.SIGTERM)
        _, err = finished(process, 128 + signal.SIGTERM)
        assert err == "rewriter: stopped by SIGTERM; nothing was written\n"
        assert os.listdir(work) == ["in"]
        gate.open()
        finished(ours(work, "prune", "in", "out", "--drop", DROP, "--executor", f"dask={made.address}"))
    assert sorted(os.listdir(work)) == ["in", "out"]


def test_workers_of_another_version_or_without_the_files_say_so(source, tmp_path):
    work = tmp_path / "work"
    (tmp_path / "sitecustomize.py").write_text("import rewriter.version\nrewriter.version.VERSION = '0.0.9'\n")
    other = os.pathsep.join([str(tmp_path), str(ROOT)])
    with cluster(tmp_path, 1, PYTHONPATH=other) as made:
        process = ours(work, "prune", "in", "out", "--drop", DROP, "--executor", f"dask={made.address}")
        _, err = finished(process, 1)
    assert re.fullmatch(
        r"rewriter: the worker on \S+ has rewriter 0\.0\.9, the run was started by .*: install .*\n", err
    )
    assert os.listdir(work) == ["in"]


def test_a_scheduler_that_does_not_answer(monkeypatch):
    pytest.importorskip("distributed", reason="a cluster needs the extra `dask`")
    monkeypatch.setattr("rewriter.writing.executors._PATIENCE", 1)
    with (
        pytest.raises(OutputError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1: "),
        workers("dask=tcp://127.0.0.1:1"),
    ):
        pass
    for address in ("localhost", "tcp://localhost", "tls://[::1]", "host:port"):
        with pytest.raises(RequestError, match="has no port: write dask=tcp://HOST:8786"), workers(f"dask={address}"):
            pass
    with pytest.raises(OutputError, match="no Dask scheduler answers at nonsense"), workers("dask=nonsense://x"):
        pass


def test_a_scheduler_without_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("rewriter.writing.executors._PATIENCE", 3)
    with (
        cluster(tmp_path, 0) as made,
        pytest.raises(OutputError, match="has no workers"),
        workers(f"dask={made.address}"),
    ):
        pass


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RequestError, match=r"pip install 'rewriter\[dask\]'"), workers("dask=tcp://127.0.0.1:1"):
        pass
