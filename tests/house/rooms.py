"""The rooms of the package, what imports what, and how large all is, read from the source by its syntax tree."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import rewriter

PACKAGE = Path(rewriter.__file__).parent
TESTS = Path(__file__).parents[1]

# Each room may import those before it. `__init__` is the public interface.
ORDER = (
    "errors", "version", "units", "checkpoint", "system", "formats", "architectures", "planning", "layout", "scoring",
    "request", "writing", "report", "batch", "__init__", "cli", "__main__",
)  # fmt: skip
PACKAGES = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and parts[1:] else parts)


MODULES = {_name(path): path for path in PACKAGE.rglob("*.py")}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def nodes_of(*kinds: type) -> Iterator[tuple[str, ast.AST]]:
    """Every node of these kinds in the package, with its module."""
    return ((module, node) for module in MODULES for node in ast.walk(tree_of(module)) if isinstance(node, kinds))


def room_of(module: str) -> str:
    """The package or module at the top that `module` belongs to."""
    return module.partition(".")[0]


def imported_names(tree: ast.AST) -> set[str]:
    """The modules and members that a module imports, inside functions too."""
    nodes = list(ast.walk(tree))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    return plain | {f"{node.module}.{alias.name}" for node in froms for alias in node.names}


@cache
def imports_of(module: str) -> tuple[str, ...]:
    """The modules of ours that `module` imports, without `rewriter.`."""
    ours = (name for name in imported_names(tree_of(module)) if name.split(".")[0] == "rewriter")
    inner = (name.removeprefix("rewriter").lstrip(".") for name in ours)
    found = {name if name in MODULES else name.rpartition(".")[0] or "__init__" for name in inner}
    return tuple(sorted(found - {module}))


def may_import(module: str, other: str) -> bool:
    """Whether `module` stands behind `other`, or in one room with it."""
    return ORDER.index(room_of(other)) <= ORDER.index(room_of(module))


def circles() -> list[tuple[str, ...]]:
    """Modules that import each other, over however many others. A package's `__init__` is a module of its own."""
    found: list[tuple[str, ...]] = []
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            found.append(path[path.index(module) :])
        elif module not in done:
            for other in imports_of(module):
                visit(other, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())
    return found


def levels_of_rooms() -> dict[str, int]:
    """Each room's level: one more than the highest of those that it imports."""
    levels: dict[str, int] = {}
    for room in ORDER:
        used = {room_of(each) for module in MODULES if room_of(module) == room for each in imports_of(module)}
        levels[room] = 1 + max((levels[other] for other in used - {room} if other in levels), default=-1)
    return levels


Function = ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(node: Function) -> int:
    """Lines of the body without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def functions() -> list[tuple[str, Function]]:
    return list(nodes_of(ast.FunctionDef, ast.AsyncFunctionDef))


def single_use() -> list[tuple[str, Function]]:
    """Private functions at the top of a module that one place uses."""
    uses = {
        module: Counter(node.id for node in ast.walk(tree_of(module)) if isinstance(node, ast.Name))
        for module in MODULES
    }
    return [
        (module, node)
        for module, node in functions()
        if node in tree_of(module).body and node.name.startswith("_") and uses[module][node.name] == 1
    ]
