"""The README and the docs are run: their commands work and print what they show."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from rewriter.architectures.stacks import entries
from rewriter.metrics import METRICS
from tests.builders import FIXTURES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
JSON_DOC = (ROOT / "docs" / "json.md").read_text()
SECONDS = re.compile(r"\b[0-9]+\.[0-9]{2} s\b")


def console_blocks() -> list[tuple[str, str]]:
    """Every `$ command` of the README with the output shown under it."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    return [pair for block in blocks for pair in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)]


def ours(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, "-m", "rewriter", *arguments],
        capture_output=True, text=True, cwd=folder, env=environment, check=False,
    )  # fmt: skip


def pattern_of(output: str) -> str:
    """A line `...` stands for any number of lines."""
    return re.escape(output).replace(re.escape("...\n"), "(?:.*\n)*?")


def test_the_readme_shows_what_the_commands_print(tmp_path):
    (tmp_path / "fixtures").symlink_to(FIXTURES)
    for name, text in re.findall(r"<!-- file: (\S+) -->\n```toml\n(.*?)```", README, re.DOTALL):
        (tmp_path / name).write_text(text)
    shown = console_blocks()
    assert len(shown) >= 6
    for command, output in shown:
        program, *arguments = shlex.split(command)
        done = ours(arguments, tmp_path)
        assert (program, done.returncode, done.stderr) == ("rewriter", 0, "")
        stripped = "\n".join(line.rstrip() for line in done.stdout.splitlines()) + "\n"
        assert re.fullmatch(pattern_of(SECONDS.sub("N s", output)), SECONDS.sub("N s", stripped)), command


def test_the_readme_counts_the_tables():
    counts = Counter(entry.format for entry in entries())
    assert f"{counts['huggingface']} Hugging Face model types and {counts['gguf']} GGUF architectures" in README


def test_the_readme_shows_working_python(tmp_path, monkeypatch):
    (tmp_path / "fixtures").symlink_to(FIXTURES)
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "from-python.gguf").exists()


@pytest.mark.parametrize(
    "arguments",
    [["inspect", "tiny-llama-12L"], ["plan", "tiny-llama-12L", "--drop", "3"], ["score", "tiny-llama-12L"]],
    ids=["inspect", "plan", "score"],
)
def test_the_docs_name_every_key_of_the_json(arguments):
    printed = json.loads(ours([*arguments, "--json"], FIXTURES / "models").stdout)
    missing = {key for key in all_keys(printed) if f"`{key}`" not in JSON_DOC}
    assert not missing


def test_the_docs_name_every_key_of_the_record(tmp_path):
    ours(["prune", "tiny-llama-12L", str(tmp_path / "out"), "--drop", "3"], FIXTURES / "models")
    record = json.loads((tmp_path / "out" / "rewriter.json").read_text())
    record["original"]["layers"] = {}
    assert not {key for key in all_keys(record) if f"`{key}`" not in JSON_DOC}


def test_the_docs_name_every_key_of_the_checksums(tmp_path):
    ours(["prune", "tiny-llama-12L", str(tmp_path / "out"), "--drop", "3", "--checksums"], FIXTURES / "models")
    record = json.loads((tmp_path / "out" / "rewriter.json").read_text())
    said = record["checksums"]
    listed = json.loads(ours(["checksums", "out", "--json"], tmp_path).stdout)
    entry = next(iter(said["tensors"].values()))
    keys = {*record, *said, *entry, *listed, *listed["tensors"][0]}
    assert not {key for key in keys if f"`{key}`" not in JSON_DOC}


def test_the_docs_name_every_metric():
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert not {name for name in METRICS if f"`{name}`" not in page}


def all_keys(value: object) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(all_keys, value))
    if isinstance(value, dict):
        return set(value).union(*map(all_keys, value.values()))
    return set()


def test_the_page_of_architectures_is_that_of_the_tables():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert (ROOT / "docs" / "architectures.md").read_text() == generate.page()
