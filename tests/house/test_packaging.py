"""What is built from this directory: a wheel and a source archive that hold the program, and nothing more."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml

from rewriter.version import VERSION
from tests.support.builders import FIXTURES, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TINY = FIXTURES / "models" / "tiny-llama-12L"


def files_of_the_package() -> set[str]:
    found = (path for path in (ROOT / "rewriter").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in found}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The source archive, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and re.search(r"No matching distribution|Could not find a version|ConnectionError", done.stdout):
        pytest.skip("the build backend cannot be fetched here")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"rewriter-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = message_from_bytes(archive.read(f"rewriter-{VERSION}.dist-info/METADATA"))
    assert {name for name in names if ".dist-info/" not in name} == files_of_the_package()
    assert {"rewriter/py.typed", "rewriter/report/templates/page.html"} <= names
    assert f"rewriter-{VERSION}.dist-info/licenses/LICENSE" in names
    assert (about["Name"], about["Version"], about["Requires-Python"]) == ("rewriter", VERSION, ">=3.11")
    assert about["License-Expression"] == "MIT"
    assert about.get_payload().startswith("# rewriter")
    needed = {re.match(r"[\w-]+", line)[0] for line in about.get_all("Requires-Dist") if "extra ==" not in line}
    assert needed == {"safetensors", "numpy", "gguf", "typer", "rich", "msgspec", "pyyaml", "threadpoolctl"}


@pytest.mark.slow
def test_the_source_archive_builds_the_wheel_and_holds_the_docs(built):
    (archive,) = built.glob("*.tar.gz")  # `build` has made the wheel from it
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert files_of_the_package() <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "docs/reliability.md"} <= names
    assert not {name for name in names if name.split("/")[0] in ("tests", "fixtures", "benchmarks", ".ci")}


@pytest.mark.slow
def test_the_wheel_runs_in_an_environment_of_its_own(built, tmp_path):
    """As `pipx run` and `uvx` do; what it needs is taken from where the tests run."""
    venv.create(tmp_path / "env", with_pip=False)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    needed = Path(yaml.__file__).parent.parent
    (site / "needed.pth").write_text(f"{needed}\n")
    python = tmp_path / "env" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*words: object) -> str:
        command = [python, "-m", "rewriter", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert run("--version") == f"rewriter {VERSION}\n"
    run("prune", TINY, "out", "--drop", "3")
    assert run("verify", "out", "--source", TINY).startswith("ok: ")
    command = [python, "-c", "import rewriter; print(rewriter.__file__)"]
    where = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert where.stdout.startswith(str(site))


def test_every_python_that_is_promised_is_named():
    versions = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert versions == {"3.11", "3.12", "3.13", "3.14"}
    assert PROJECT["scripts"] == {"rewriter": "rewriter.cli:main"}


WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())


def test_the_workflow_pins_what_it_uses_and_may_only_read():
    text = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    used = re.findall(r"uses: *(.*)", text)
    assert len(used) == 2
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line) for line in used)
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in WORKFLOW["jobs"].values())


def test_the_workflow_runs_the_readme_s_tests_on_the_systems_that_are_promised():
    job = WORKFLOW["jobs"]["test"]
    matrix = job["strategy"]["matrix"]
    assert {"ubuntu-latest", "macos-latest"} == set(matrix["os"])
    assert set(matrix["python"]) == {"3.11", "3.14"}
    assert [row for row in matrix["include"] if row["os"] == "windows-latest" and row["experimental"]]
    steps = [step["run"] for step in job["steps"] if "run" in step]
    pasted = re.search(r"<!-- test -->\n```sh\n(.*)\n", (ROOT / "README.md").read_text())[1]
    assert "python -m pytest -n auto -m 'not oracle and not slow'" in pasted
    assert 'python -m pytest -n auto -m "not oracle and not slow"' in steps
    assert 'python -m pytest -n auto -m "slow and not oracle"' in steps
