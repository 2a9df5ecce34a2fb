"""The rooms of the package, and what imports what, read from the source by its syntax tree."""

from __future__ import annotations

import ast
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


def room_of(module: str) -> str:
    """The package or module at the top that `module` belongs to."""
    return module.partition(".")[0]


@cache
def imports_of(module: str) -> tuple[str, ...]:
    """The modules of ours that `module` imports, inside functions too, without `rewriter.`."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "rewriter":
                inner = name.removeprefix("rewriter").lstrip(".")
                found.add(inner if inner in MODULES else inner.rpartition(".")[0] or "__init__")
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
