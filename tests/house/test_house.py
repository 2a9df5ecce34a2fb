"""The house rules: what may import what, what a start-up loads, how long a function may be."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path
from statistics import median

import gguf
import pytest

from rewriter import errors
from rewriter.architectures.lookup import entries, resolve
from rewriter.formats.ggml_types import GGML_TYPES
from rewriter.planning.metadata.field_rules import RULES
from tests.house.rooms import (
    MODULES,
    ORDER,
    PACKAGE,
    PACKAGES,
    TESTS,
    circles,
    imports_of,
    levels_of_rooms,
    may_import,
    room_of,
)
from tests.support.builders import FIXTURES
from tests.support.named_fixtures import checkpoint_from, named_fixtures

FILES = sorted(PACKAGE.rglob("*.py"))
TABLES = {
    "common.py",
    "decoders.py",
    "encoders.py",
    "multimodal.py",
    "metadata_fields.py",
    "ggml_types.py",
    "peft_fields.py",
}


@pytest.mark.parametrize("module", sorted(MODULES), ids=str)
def test_imports_go_one_way(module):
    assert room_of(module) in ORDER, "a new room needs a place in tests/house/rooms.py"
    assert [each for each in imports_of(module) if not may_import(module, each)] == []


def test_no_import_circle_even_inside_a_package():
    assert circles() == []


def test_no_test_module_imports_another():
    """What two of them need stands in tests/support/."""
    nodes = [(path.name, node) for path in TESTS.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    found = [(name, node) for name, node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    names = [(name, f"{node.module}.{alias.name}") for name, node in found for alias in node.names]
    assert [each for each in names if re.match(r"tests\.(.*\.)?test_", each[1])] == []


def test_the_house_is_small():
    assert len([room for room in ORDER if room in PACKAGES]) <= 10
    assert len(ORDER) <= 18
    assert len(set(levels_of_rooms().values())) <= 10


def loaded_by(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*sys.modules, sep='\\n', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stderr.splitlines()}


def test_importing_the_package_is_light():
    assert not loaded_by("import rewriter") & {"torch", "transformers", "typer", "rich", "numpy", "gguf"}


def test_ctrl_c_is_heard_before_anything_slow_is_imported():
    slow = {"typing", "re", "shutil", "pathlib", "contextlib", "threading", "typer"}
    assert not (loaded_by("import rewriter.cli") - loaded_by("")) & slow


@pytest.mark.parametrize("name", ["tiny-llama-12L", "tiny-llama-12L-F16.gguf"])
def test_pruning_needs_neither_numpy_nor_gguf_nor_pydantic(name, tmp_path):
    source, target = str(FIXTURES / "models" / name), str(tmp_path / "out")
    code = f"""
import rewriter.cli
sys.argv = ["rewriter", "prune", {source!r}, {target!r}, "--count", "3", "--strategy", "top"]
try: rewriter.cli.main()
except SystemExit: pass
"""
    loaded = loaded_by(code)
    assert (tmp_path / "out").exists()
    assert not loaded & {"torch", "numpy", "gguf", "pydantic"}  # typer has the last for what must be converted


SEEN = """
import os, sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "numpy":
            print("threads:", os.environ.get("OPENBLAS_NUM_THREADS"), file=sys.stderr)
sys.meta_path.insert(0, Finder())
"""
MODEL = str(FIXTURES / "models" / "tiny-llama-12L-Q8_0.gguf")


@pytest.mark.parametrize(
    "use",
    [
        f"import rewriter; rewriter.score_layers(rewriter.open_checkpoint({MODEL!r}), 'magnitude-l1')",
        "import rewriter.scoring.components",
        "import rewriter.scoring.metrics.weight_statistics",
        *(
            f"import rewriter.cli; sys.argv[1:] = {words}; rewriter.cli.main()"
            for words in (
                ["plan", MODEL, "--strategy", "magnitude-l1", "--count", "1"],
                ["score", MODEL, "--metric", "magnitude-l1"],
                ["report", MODEL, "-o", "page.html", "--metric", "magnitude-l1"],
                ["list", "metrics"],
            )
        ),
    ],
)
def test_numpy_is_told_of_its_one_thread_before_it_is_loaded(use, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SEEN + use], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(FIXTURES.parent), "OPENBLAS_NUM_THREADS": "7"}, check=False,
    )  # fmt: skip
    assert [line for line in done.stderr.splitlines() if line.startswith("threads:")] == ["threads: 1"], done.stderr


def test_a_numpy_that_was_there_before_has_one_thread_while_layers_are_scored():
    pytest.importorskip("threadpoolctl")
    code = f"""
import numpy, rewriter
from threadpoolctl import threadpool_info
threads = lambda: {{each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}}
before, inside = threads(), []
rewriter.score_layers(rewriter.open_checkpoint({MODEL!r}), "magnitude-l1", watch=lambda *_: inside.append(threads()))
print(before == threads() == {{2}}, {{1}} == set().union(*inside))
"""
    environment = {**os.environ, "PYTHONPATH": str(FIXTURES.parent), "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_only_the_command_line_prints_or_exits():
    outside = [path for module, path in MODULES.items() if room_of(module) not in ("cli", "__main__")]
    words = re.compile(r"\bprint\(|sys\.(stdout|stderr|exit)|raise SystemExit")
    assert not [path.name for path in outside if words.search(path.read_text())]


def test_every_exception_has_the_one_root():
    ours = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(ours) > 4
    assert all(issubclass(each, errors.RewriterError) for each in ours)


def test_no_module_swallows_everything():
    words = re.compile(r"except (Base)?Exception|except:|\bimport pickle|\bmmap\b")
    assert not [path.name for path in FILES if words.search(path.read_text())]


def test_nothing_reaches_the_network_or_runs_what_it_reads():
    words = re.compile(r"\b(import|from) (pickle|marshal|shelve|socket|ssl|http|urllib|ftplib|requests|subprocess)\b")
    code = re.compile(r"\b(eval|exec|compile|__import__)\(")
    texts = {path.name: path.read_text() for path in FILES}
    assert not [
        name for name, text in texts.items() if words.search(text) or code.search(text.replace("re.compile(", ""))
    ]


def functions(path: Path) -> list[int]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return [code_lines(node) for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_functions_are_short():
    lengths = sorted(chain.from_iterable(functions(path) for path in FILES))
    assert median(lengths) <= 8
    assert lengths[int(len(lengths) * 0.9)] <= 25
    assert lengths[-1] <= 50


def test_modules_are_short():
    long = {path.name: len(path.read_text().splitlines()) for path in FILES if path.name not in TABLES}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def test_the_table_of_ggml_types_is_that_of_gguf():
    theirs = {kind.value: (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    assert theirs == GGML_TYPES


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: f"{entry.format}-{entry.name}")
def test_every_entry_has_a_fixture_with_its_real_names(entry):
    files = named_fixtures(entry)
    assert files
    stacks = chain.from_iterable(resolve(checkpoint_from(entry, file), entry) for file in files)
    assert {stack.name for stack in stacks} == {stack.name for stack in entry.stacks}


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: f"{entry.format}-{entry.name}")
def test_every_rule_of_an_entry_exists(entry):
    assert {rule for stack in entry.stacks for _, rule in stack.fields} <= set(RULES)
