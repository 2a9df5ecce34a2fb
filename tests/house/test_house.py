"""The house rules: what may import what, what a start-up loads, how long a function may be."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from itertools import chain

import pytest

from rewriter import errors
from rewriter.architectures.lookup import entries
from rewriter.planning.metadata.field_rules import RULES
from tests.house.rooms import (
    MODULES,
    ORDER,
    PACKAGE,
    PACKAGES,
    TESTS,
    circles,
    code_lines,
    functions,
    imported_names,
    imports_of,
    levels_of_rooms,
    may_import,
    nodes_of,
    room_of,
    tree_of,
)
from tests.support.builders import FIXTURES, ROOT

# Modules that hold data and nothing else may be as long as their data.
TABLES = {
    "architectures.gguf", "architectures.metadata_fields", "formats.ggml_types", "planning.companions.peft_fields",
    *(module for module in MODULES if module.startswith("architectures.huggingface.")),
}  # fmt: skip
MODULE_LINES, FUNCTION_LINES = 400, 50
# Debts: how many conditional expressions stand inside another.
NESTED = Counter({
    "architectures.lookup": 2, "cli.batch": 3, "cli.batch_keys": 1, "cli.score": 1, "formats.front_matter": 1,
    "formats.hub_id": 1, "layout.model_card_text": 1, "planning.companions.plan": 2,
    "planning.tensor_renaming": 1,
})  # fmt: skip


@pytest.mark.parametrize("module", sorted(MODULES), ids=str)
def test_imports_go_one_way(module):
    assert room_of(module) in ORDER, "a new room needs a place in tests/house/rooms.py"
    assert [each for each in imports_of(module) if not may_import(module, each)] == []


def test_no_import_circle_even_inside_a_package():
    assert circles() == []


def test_the_house_is_small():
    assert len([room for room in ORDER if room in PACKAGES]) <= 10
    assert len([room for room in ORDER if room not in PACKAGES]) <= 7
    assert len(set(levels_of_rooms().values())) <= 10


# Modules without behaviour: tables, values, the entry point.
DATA = {"__main__", "version", "checkpoint", "architectures.schema", "architectures.metadata_fields",
        "planning.companions.peft_fields", "system.signals", "cli.state",
        *(module for module in MODULES if module.startswith("architectures.huggingface."))}  # fmt: skip
MISSING = 64  # a debt that only shrinks
# Debts: modules, or all of a package, that have no test module of their own, and the tests that reach them.
TESTED_BY = {
    "architectures": "architectures/scenarios", "batch": "batch/scenarios", "cli": "cli/scenarios",
    "formats": "formats/scenarios/test_formats.py", "layout": "formats/scenarios/test_formats.py",
    "planning": "planning/test_plan.py", "planning.companions": "planning/companions/test_companions.py",
    "report": "report/test_report.py", "request": "cli/test_prune.py", "scoring": "scoring/test_score.py",
    "scoring.build": "oracle/test_streams.py", "scoring.forward": "oracle/test_streams.py",
    "system": "writing/scenarios", "writing": "writing/scenarios",
}  # fmt: skip


def test_every_module_has_a_test_module():
    """`tests/<room>/test_<module>.py`, but for data and for debts."""
    places = {module: path.relative_to(PACKAGE) for module, path in MODULES.items() if path.name != "__init__.py"}
    missing = {name for name, path in places.items() if not (TESTS / path.with_name(f"test_{path.name}")).exists()}
    assert len(missing - DATA) <= MISSING, "a new module has no test module"
    assert all(any(f"{name}.".startswith(f"{each}.") for each in TESTED_BY) for name in missing - DATA)
    assert all((TESTS / place).exists() for place in TESTED_BY.values())


def test_no_test_module_imports_another():
    """What two of them need stands in tests/support/."""
    trees = {path.relative_to(TESTS).as_posix(): ast.parse(path.read_text()) for path in TESTS.rglob("*.py")}
    names = [(name, each) for name, tree in trees.items() for each in imported_names(tree)]
    assert [each for each in names if re.match(r"tests\.(.*\.)?test_", each[1])] == []


# The project whose package has another name than its import.
PROJECTS = {"yaml": "pyyaml", "ruamel": "ruamel.yaml", "markupsafe": "jinja2", "dask": "distributed"}


def test_every_import_is_declared():
    """Each library comes with a dependency or an extra of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    declared = {re.match(r"[\w.-]+", line)[0].lower() for line in lines} | {"rewriter"}
    imported = {name.split(".")[0] for module in MODULES for name in imported_names(tree_of(module))}
    needed = {PROJECTS.get(name, name) for name in imported - sys.stdlib_module_names}
    assert needed - declared == set()


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
def test_pruning_needs_neither_numpy_nor_gguf(name, tmp_path):
    source, target = str(FIXTURES / "models" / name), str(tmp_path / "out")
    code = f"""
import rewriter.cli
sys.argv = ["rewriter", "prune", {source!r}, {target!r}, "--count", "3", "--strategy", "top"]
try: rewriter.cli.main()
except SystemExit: pass
"""
    loaded = loaded_by(code)
    assert (tmp_path / "out").exists()
    assert not loaded & {"torch", "numpy", "gguf"}


MODEL = str(FIXTURES / "models" / "tiny-llama-12L-Q8_0.gguf")


def test_numpy_has_one_thread_while_layers_are_scored():
    code = f"""
import numpy, rewriter
from threadpoolctl import threadpool_info
threads = lambda: {{each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}}
before, inside = threads(), []
model = rewriter.open_checkpoint({MODEL!r})
rewriter.score_layers(model, "magnitude-l1", on_progress=lambda *_: inside.append(threads()))
print(before == threads() == {{2}}, {{1}} == set().union(*inside))
"""
    environment = {**os.environ, "PYTHONPATH": str(FIXTURES.parent), "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["True", "True"]


def typer_names(tree: ast.AST) -> set[str]:
    """The names that a module has for modules, classes and objects of typer and click, or for what it makes of them."""
    names = {"typer", "click"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in names:
            names |= {alias.asname or alias.name for alias in node.names}
    for node in ast.walk(tree):  # app = typer.Typer()
        if (
            isinstance(node, ast.Assign)
            and {each.id for each in ast.walk(node.value) if isinstance(each, ast.Name)} & names
        ):
            names |= {each.id for each in node.targets if isinstance(each, ast.Name)}
    return names


def root_of(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("module", sorted(module for module in MODULES if room_of(module) == "cli"))
def test_typer_is_used_and_not_patched(module):
    """No attribute of typer's or click's objects is set, and no private name or inner class of theirs is used."""
    tree = ast.parse(MODULES[module].read_text())
    theirs = typer_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("typer", "click"):
                assert (node.module, names) in [("typer.core", ["TyperGroup"]), ("typer.main", ["get_command"])]
        if isinstance(node, ast.Attribute) and root_of(node) in theirs:
            assert not re.fullmatch("_[a-z].*|models|core|main|rich_utils", node.attr)
            assert isinstance(node.ctx, ast.Load)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
            assert root_of(node.args[0]) not in theirs


def test_only_the_command_line_prints_or_exits():
    """Elsewhere nothing is called `print`, and nothing of `sys` is used that prints or exits."""
    names = {(module, node.id) for module, node in nodes_of(ast.Name) if node.id in ("print", "SystemExit", "exit")}
    members = {(module, ast.unparse(node)) for module, node in nodes_of(ast.Attribute)}
    spoken = names | {each for each in members if each[1] in ("sys.stdout", "sys.stderr", "sys.exit")}
    assert {each for each in spoken if room_of(each[0]) not in ("cli", "__main__")} == set()


def test_every_exception_has_the_one_root():
    ours = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(ours) > 4
    assert all(issubclass(each, errors.RewriterError) for each in ours)


def test_no_module_catches_everything():
    """Every handler names its exceptions, and none of those names takes in whatever comes."""
    handlers = [(module, node) for module, node in nodes_of(ast.ExceptHandler)]
    caught = [(module, node.type and ast.unparse(node.type)) for module, node in handlers]
    everything = {module for module, names in caught if names is None or re.search(r"\b(Base)?Exception\b", names)}
    assert everything == set()


FOREIGN = {"pickle", "marshal", "shelve", "socket", "ssl", "http", "urllib", "ftplib", "requests", "subprocess", "mmap"}


def test_nothing_reaches_the_network_or_runs_what_it_reads():
    imported = {(module, name) for module in MODULES for name in imported_names(tree_of(module))}
    assert {each for each in imported if each[1].split(".")[0] in FOREIGN} == set()
    called = {(module, node.func.id) for module, node in nodes_of(ast.Call) if isinstance(node.func, ast.Name)}
    assert {each for each in called if each[1] in ("eval", "exec", "compile", "__import__")} == set()


def test_functions_are_short():
    assert [(module, node.name) for module, node in functions() if code_lines(node) > FUNCTION_LINES] == []


def test_modules_are_short():
    lengths = {module: len(path.read_text().splitlines()) for module, path in MODULES.items() if module not in TABLES}
    assert {module: lines for module, lines in lengths.items() if lines > MODULE_LINES} == {}


def test_no_conditional_expression_stands_inside_another():
    outer = [(module, node) for module, node in nodes_of(ast.IfExp)]
    inner = [
        module for module, node in outer for each in ast.walk(node) if isinstance(each, ast.IfExp) and each != node
    ]
    assert Counter(inner) <= NESTED, "a module has more of them than it had"


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: f"{entry.format}-{entry.name}")
def test_every_rule_of_an_entry_exists(entry):
    assert {rule for stack in entry.stacks for _, rule in stack.fields} <= set(RULES)
