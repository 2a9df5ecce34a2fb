"""Other systems, as far as they can be made to appear here: the same bytes, whatever the system lacks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.builders import FIXTURES, ROOT, everything

MODELS = FIXTURES / "models"
SOURCES = {"directory": MODELS / "tiny-llama-12L", "gguf": MODELS / "tiny-llama-12L-Q8_0.gguf"}
SYSTEMS = ["windows", "macos"]


def there(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`rewriter ARGUMENTS` on a system that looks like the one called `name`."""
    command = [sys.executable, str(ROOT / "tests" / "support" / "other_systems.py"), name, *map(str, arguments)]
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
