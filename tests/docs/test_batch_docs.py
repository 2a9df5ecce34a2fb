"""docs/batch.md and docs/cluster.md are run: the batches in them, and the cluster on loopback."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.builders import FIXTURES, ROOT
from tests.support.cluster import cluster

pytestmark = pytest.mark.slow  # runs every command of two pages

PLACE = "tcp://HOST:8786"
SECONDS = re.compile(r"[0-9]+\.[0-9]{2}( s)?$", re.MULTILINE)


def run_page(name: str, folder: Path, address: str = PLACE) -> int:
    """Run the commands of a page in `folder`, compare what they print, and return how many there were."""
    page = (ROOT / "docs" / name).read_text()
    (folder / "fixtures").symlink_to(FIXTURES)
    (folder / "jobs.toml").write_text(re.search(r"<!-- file: jobs.toml -->\n```toml\n(.*?)```", page, re.DOTALL)[1])
    blocks = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    shown = [pair for block in blocks for pair in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)]
    for command, output in shown:
        program, *words = shlex.split(command.replace(PLACE, address))
        done = subprocess.run(
            [sys.executable, "-m", program, *words], capture_output=True, text=True, cwd=folder, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        printed = "\n".join(line.rstrip() for line in done.stdout.splitlines()).lstrip("\n") + "\n"
        wanted = re.escape(SECONDS.sub("N", output)).replace(re.escape("...\n"), "(?:.*\n)*?")
        assert re.fullmatch(wanted, SECONDS.sub("N", printed)), command
    return len(shown)


def test_the_page_about_batches(tmp_path):
    assert run_page("batch.md", tmp_path) == 3
    assert (tmp_path / "ways" / "middle" / "model.safetensors.index.json").exists()


def test_the_page_about_a_cluster(tmp_path):
    with cluster(tmp_path, 2) as made:
        assert run_page("cluster.md", tmp_path, made.address) == 2
    assert len(os.listdir(tmp_path / "small")) == 3


def test_the_python_on_the_page_about_a_cluster(tmp_path, monkeypatch):
    (tmp_path / "fixtures").symlink_to(FIXTURES)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "cluster.md").read_text()
    exec(compile(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], "cluster.md", "exec"), {})
    assert (tmp_path / "spread" / "config.json").exists()


def test_the_sums_on_the_page_about_a_cluster():
    """The table follows from the numbers that the text says."""
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", (ROOT / "docs" / "cluster.md").read_text(), re.MULTILINE)
    assert len(rows) == 4
    output, files, models = 76e12, 24_000, 6_000
    for machines, cells in ((int(number), cells) for number, cells in rows):
        filesystem, network = 2 * output / 40e9, output / (machines * 3e9)
        metadata, coordinator = 12 * files / 5000, 0.05 * models
        hours = max(filesystem, network, metadata, coordinator) * 1.13 / 3600
        minutes = [f"{seconds / 60:.0f} min" for seconds in (filesystem, network, metadata, coordinator)]
        cost = hours * machines
        assert cells.split(" | ") == [*minutes, f"{hours:.1f} h", f"{cost:.1f}", f"${cost * 1.5:.0f}"]


@pytest.mark.parametrize("name", ["batch.md", "cluster.md"])
def test_links_on_the_pages_lead_somewhere(name):
    links = re.findall(r"\]\(([^):#]+)\)", (ROOT / "docs" / name).read_text())
    assert all((ROOT / "docs" / link).exists() for link in links)
