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
from rewriter.system.untrusted import read_toml


def load_architecture(path: Path) -> Architecture:
    """Read the entry in the TOML file at `path`. Raises CheckpointError, naming the member that is wrong."""
    values = read_toml(path)
    try:
        return from_values(values)
    except CheckpointError as error:
        raise CheckpointError(f"{printable(path.name)}: {error}") from None


def from_values(values: Mapping[str, Any]) -> Architecture:
    """The entry that `values`, as read from TOML or JSON, describe."""
    entry: Architecture = _built(Architecture, values, "the architecture")
    if entry.format not in ("huggingface", "gguf"):
        raise CheckpointError(f"format must be huggingface or gguf, not {printable(entry.format)}")
    if not entry.stacks or not all(
        stack.name and (stack.prefixes or not stack.stored_layers) for stack in entry.stacks
    ):
        raise CheckpointError("an architecture needs stacks, each with a name and prefixes")
    return entry


def _built(kind: type[Any], values: object, where: str) -> Any:
    """An instance of the dataclass `kind`; every member is checked against its type."""
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{printable(where)} must be a table")
    hints = get_type_hints(kind)
    for name in values:
        if name not in hints:
            there = f"there are {', '.join(hints)}{did_you_mean(name, hints)}"
            raise CheckpointError(f"{printable(where)} has no member {printable(name)}; {there}")
    missing = [each.name for each in fields(kind) if each.default is MISSING and each.name not in values]
    if missing:
        raise CheckpointError(f"{printable(where)} needs {', '.join(missing)}")
    return kind(**{name: _member(hints[name], value, f"{where}: {name}") for name, value in values.items()})


def _member(hint: Any, value: object, where: str) -> object:
    if hint is object:
        return _frozen(value)
    if hint in (str, int, bool):
        if type(value) is not hint:
            raise CheckpointError(f"{printable(where)} must be of type {hint.__name__}")
        return value
    return _items(get_args(hint), value, where)


def _items(kinds: tuple[Any, ...], value: object, where: str) -> tuple[object, ...]:
    """A tuple: of any length if its type ends in `...`, else one member for each type."""
    if not isinstance(value, list):
        raise CheckpointError(f"{printable(where)} must be an array")
    if kinds[-1] is not Ellipsis:
        if len(value) != len(kinds):
            raise CheckpointError(f"{printable(where)} must hold arrays of {len(kinds)}")
        return tuple(_member(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if is_dataclass(kinds[0]):
        return tuple(_built(kinds[0], item, where) for item in value)  # type: ignore[arg-type]
    return tuple(_member(kinds[0], item, where) for item in value)


def _frozen(value: object) -> object:
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
