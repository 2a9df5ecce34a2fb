"""The README and the docs are run: their commands work and print what they show."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from collections import Counter
from itertools import starmap

import pytest
from typer.main import get_command

from rewriter.architectures.lookup import entries
from rewriter.cli import command_group
from rewriter.planning.layer_ranges import parse_layers
from rewriter.planning.selection.strategies import STRATEGIES
from rewriter.scoring.metrics import METRICS
from tests.support.builders import FIXTURES, ROOT
from tests.support.command_line import ours, python

README = (ROOT / "README.md").read_text()
JSON_DOC = (ROOT / "docs" / "json.md").read_text()
OTHERS = ("batch", "cluster")
SECONDS = re.compile(r"\b[0-9]+\.[0-9]{2} s\b")


# The pages about batches and a cluster are run by tests of their own.
PAGES = [ROOT / "README.md", *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path.stem not in OTHERS)]


def console_blocks(page: str) -> list[tuple[str, str, int]]:
    """Every `$ command` of a page, the output shown under it, and the exit code that it says."""
    blocks = re.findall(r"(?:<!-- exit: (\d) -->\n)?```console\n(.*?)```", page, re.DOTALL)
    pairs = ((code, re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)) for code, block in blocks)
    return [(command, output, int(code or 0)) for code, found in pairs for command, output in found]


BAR, DECIMAL = re.compile("[█▏▎▍▌▋▊▉]+"), re.compile(r"-?\d+\.\d+")


def pattern_of(output: str) -> str:
    """A line `...` stands for any number of lines."""
    return re.escape(output).replace(re.escape("...\n"), "(?:.*\n)*?")


def nearly(shown: str, printed: str) -> bool:
    """Whether all is the same but for the last digits of scores: another processor adds up in another order."""
    pairs = list(zip(shown.split(), printed.split(), strict=False))
    return len(shown.split()) == len(printed.split()) == len(pairs) and all(starmap(_alike, pairs))


def _alike(one: str, other: str) -> bool:
    if BAR.fullmatch(one) and BAR.fullmatch(other):
        return abs(len(one) - len(other)) <= 1
    if DECIMAL.fullmatch(one) and DECIMAL.fullmatch(other):
        return float(other) == pytest.approx(float(one), rel=0.01)
    return one == other


def test_what_is_nearly_the_same():
    assert nearly("3   0.06509   2   ████▋   drop", "3   0.06513   2   ████▊   drop")
    assert not nearly("3   0.06509   2   ████▋   drop", "3   0.06513   3   ████▋   drop")
    assert not nearly("3   0.06509   2   ████▋   drop", "3   0.067   2   ████▋   drop")
    assert not nearly("3   0.06509   2   ████▋   drop", "3   0.06509   2   █████▊▊   drop")
    assert not nearly("3 layers", "4 layers")
    assert not nearly("1.2 a", "1.2 a b")


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] * (path.stem != "index")) for path in PAGES],
    ids=lambda path: path.stem,
)
def test_a_page_shows_what_the_commands_print(path, tmp_path):
    (tmp_path / "fixtures").symlink_to(FIXTURES)
    for name, text in re.findall(r"<!-- file: (\S+) -->\n```toml\n(.*?)```", path.read_text(), re.DOTALL):
        (tmp_path / name).write_text(text)
    for command, output, code in console_blocks(path.read_text()):
        program, *arguments = shlex.split(command)
        done = {"rewriter": ours, "python": python}[program](arguments, tmp_path)
        assert (done.returncode, bool(done.stderr)) == (code, bool(code)), done.stderr
        stripped = "".join(line.rstrip() + "\n" for line in (done.stdout + done.stderr).splitlines())
        shown, printed = SECONDS.sub("N s", output), SECONDS.sub("N s", stripped)
        assert re.fullmatch(pattern_of(shown), printed) or nearly(shown, printed), command


def test_the_pages_have_commands():
    counts = {path.stem: len(console_blocks(path.read_text())) for path in PAGES}
    assert counts["README"] >= 6
    assert {stem for stem, count in counts.items() if not count} == {
        "commands", "choices", "architectures", "rules", "json", "metrics", "performance", "reliability", "model-card",
        "systems",
    }  # fmt: skip


def test_the_table_of_the_page_about_bert():
    rows = re.findall(r"^\|.*\| `(.*)` \| ([0-9,-]+) \|$", (ROOT / "docs/how-to/bert.md").read_text(), re.MULTILINE)
    assert len(rows) == 5
    for name, dropped in rows:
        assert parse_layers(dropped, 12) == tuple(sorted(STRATEGIES[name](tuple(range(12)), 4)))


def test_every_example_in_the_help_can_be_parsed():
    app = get_command(command_group.app)
    examples = re.findall(r"^Example[^:]*: `rewriter (.*)`$", (ROOT / "docs/commands.md").read_text(), re.MULTILINE)
    assert len(examples) > 12
    for example in examples:
        command, words = app, example.split()
        while hasattr(command, "list_commands"):
            command = command.get_command(None, words.pop(0))
        command.make_context("x", words)


@pytest.mark.slow
def test_the_site_is_built(tmp_path):
    pytest.importorskip("material", reason="needs the extra `docs`")
    done = python(
        ["-m", "mkdocs", "build", "--strict", "-q", "-f", str(ROOT / "mkdocs.yml"), "-d", str(tmp_path)], ROOT
    )
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 12
    elsewhere = re.compile(r'<(?:script|link|img)[^>]+(?:src|href)="?https?:')
    assert not [page.name for page in pages if elsewhere.search(page.read_text())]


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


@pytest.mark.parametrize("name", ["architectures.md", "commands.md", "choices.md"])
def test_a_page_made_from_the_code_is_up_to_date(name):
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert (ROOT / "docs" / name).read_text() == generate.PAGES[name]()
