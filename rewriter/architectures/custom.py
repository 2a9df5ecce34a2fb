"""An architecture as a TOML file: the same rows as in the tables, for models that these do not know yet.

Members that are left out have their defaults. Pairs are arrays of two: `fields = [["layer_types", "per_layer"]]`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from rewriter.architectures.schema import Architecture
from rewriter.errors import CheckpointError, did_you_mean, printable
from rewriter.system.untrusted import convert, read_toml


def load_architecture(path: Path) -> Architecture:
    """Read the entry in the TOML file at `path`. Raises CheckpointError, naming the member that is wrong."""
    values = read_toml(path)
    try:
        return from_values(values)
    except CheckpointError as error:
        raise CheckpointError(f"{printable(path.name)}: {error}") from None


def from_values(values: Mapping[str, Any]) -> Architecture:
    """The entry that `values`, as read from TOML or JSON, describe. Raises CheckpointError, as above."""
    where = "the architecture"
    _check_members(Architecture, values, where)
    entry = convert(_frozen(values), Architecture, where)
    if entry.format not in ("huggingface", "gguf"):
        raise CheckpointError(f"format must be huggingface or gguf, not {printable(entry.format)}")
    if not entry.stacks or not all(
        stack.name and (stack.prefixes or not stack.stored_layers) for stack in entry.stacks
    ):
        raise CheckpointError("an architecture needs stacks, each with a name and prefixes")
    return entry


def _check_members(kind: Any, values: object, where: str) -> None:
    """Every table has members that the dataclass `kind` has, and all that it needs. Raises CheckpointError."""
    if not isinstance(values, Mapping):
        return  # of another type altogether
    hints = get_type_hints(kind)
    for name in values:
        if name not in hints:
            there = f"there are {', '.join(hints)}{did_you_mean(name, hints)}"
            raise CheckpointError(f"{printable(where)} has no member {printable(name)}; {there}")
    missing = [each.name for each in fields(kind) if each.default is MISSING and each.name not in values]
    if missing:
        raise CheckpointError(f"{printable(where)} needs {', '.join(missing)}")
    for name, value in values.items():
        for item in filter(is_dataclass, get_args(hints[name])[:1]):
            for table in value if isinstance(value, list) else ():
                _check_members(item, table, f"{where}: {name}")


def _frozen(value: object) -> object:
    """Arrays as tuples, also in members of any type."""
    if isinstance(value, Mapping):
        return {name: _frozen(member) for name, member in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def to_values(entry: object) -> dict[str, Any]:
    """What differs from the defaults, as plain lists and dicts."""
    members = ((each, getattr(entry, each.name)) for each in fields(entry))  # type: ignore[arg-type]
    return {each.name: _plain(value) for each, value in members if value != each.default}


def _plain(value: object) -> object:
    if is_dataclass(value):
        return to_values(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def as_toml(entry: Architecture) -> str:
    """The entry as a TOML file to start from."""
    return "\n".join(_lines(to_values(entry), "")) + "\n"


def _lines(values: Mapping[str, Any], path: str) -> list[str]:
    """Plain members first, as TOML wants; JSON writes strings, numbers, booleans and arrays in TOML's way too."""
    tables = {
        name: value for name, value in values.items() if isinstance(value, list) and value and _is_table(value[0])
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items() if name not in tables]
    for name, items in tables.items():
        for item in items:
            lines += ["", f"[[{path}{name}]]", *_lines(item, f"{path}{name}.")]
    return lines


def _is_table(value: object) -> bool:
    return isinstance(value, dict)
