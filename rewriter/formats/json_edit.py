"""Reads JSON strictly and edits single values inside its text, so that every other byte is kept.

Configs are written by many tools: number spellings, key order, indentation and NaN are theirs to keep.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from json.decoder import WHITESPACE, scanstring  # type: ignore[attr-defined]
from math import isfinite
from typing import Any

from rewriter.errors import CheckpointError, printable

_DECODER = json.JSONDecoder()
# Commas and opening brackets, and colons, of one text: more would not fit into 2 GiB or 10 s. A million tensors do.
VALUES, MEMBERS = 9_000_000, 5_000_000
DEPTH = 127  # levels, as the library of safetensors reads; what recurses over a value can then do so
_QUOTED = json.encoder.encode_basestring_ascii
_DOT = re.compile(r"(?<!\\)\.")
_FIRST_INDENT = re.compile(r'\{[ \t\r]*\n([ \t]*)"')


def parse(text: str, where: str, finite: bool = False) -> Any:
    """Return the value of `text`. Raises CheckpointError for bad JSON, duplicate keys, depth bombs and huge texts.

    `finite`: for NaN, Infinity and 1e400 too, which Python writes and many other readers refuse.
    """
    for what, marks, most in (("values", ",[{", VALUES), ("members", ":", MEMBERS)):
        count = sum(map(text.count, marks))
        if count > most:
            raise CheckpointError(f"{printable(where)} holds {count} {what}, more than {most}")
    try:
        number = _finite if finite else None
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=number, parse_float=number)
        _check_depth(value)
        return value
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CheckpointError(f"{printable(where)} is not valid JSON: {printable(reason, 80)}") from None


def parse_or_keep(text: str, where: str) -> object:
    """The value of `text`, or the text itself if it is not JSON: a damaged record is refused only when it is needed."""
    try:
        return parse(text, where)
    except CheckpointError:
        return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {printable(twice)!r} stands twice")
    return members


def _finite(text: str) -> float:
    if not isfinite(value := float(text)):
        raise ValueError(f"{text} is no number")
    return value


def _check_depth(value: Any) -> None:
    level: list[Any] = [[value]]
    for _ in range(DEPTH + 1):
        below = (each.values() if type(each) is dict else each for each in level)
        level = [member for members in below for member in members if type(member) is dict or type(member) is list]
        if not level:
            return
    raise ValueError("nested too deeply")


def flatten(value: Mapping[str, Any]) -> dict[str, Any]:
    """Every member of nested objects under its dotted key; the objects themselves are there too.

    A dot inside a member's own name is written as a backslash and a dot.
    """
    flat: dict[str, Any] = {}
    pending = [("", value)]
    while pending:
        prefix, members = pending.pop()
        for key, member in members.items():
            name = prefix + key.replace(".", "\\.")
            flat[name] = member
            if isinstance(member, dict):
                pending.append((name + ".", member))
    return flat


def edit(text: str, changes: Mapping[str, Any]) -> str:
    """Return the JSON `text` with the values under the dotted keys of `changes` replaced, or added at the end.

    New values take the style of the text: indented where the text is.
    """
    for key, value in changes.items():
        text = _with(text, [part.replace("\\.", ".") for part in _DOT.split(key)], value)
    return text


def _with(text: str, path: list[str], value: Any) -> str:
    start = _skip(text, 0)
    for depth, key in enumerate(path, 1):
        if text[start] != "{":  # null stands for an object of defaults
            end = _DECODER.raw_decode(text, start)[1]
            return text[:start] + _dumped(text, _nested(path[depth - 1 :], value), depth - 1, "[") + text[end:]
        spans = _members(text, start)
        if key not in spans:
            return _added(text, start, spans, path[depth - 1 :], value, depth)
        start, end = spans[key]
    return text[:start] + _dumped(text, value, len(path), text[start:end]) + text[end:]


def _members(text: str, start: int) -> dict[str, tuple[int, int]]:
    """Key -> where its value starts and ends, for the object that starts at `start`."""
    spans = {}
    at = _skip(text, start + 1)
    while text[at] != "}":
        key, at = scanstring(text, at + 1)
        at = _skip(text, _skip(text, at) + 1)
        _, end = _DECODER.raw_decode(text, at)
        spans[key] = (at, end)
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return spans


def _skip(text: str, at: int) -> int:
    return int(WHITESPACE.match(text, at).end())


def _added(text: str, start: int, spans: dict[str, tuple[int, int]], path: list[str], value: Any, depth: int) -> str:
    member = f"{json.dumps(path[0])}: {_dumped(text, _nested(path[1:], value), depth, '[')}"
    if not spans:
        return text[: start + 1] + member + text[start + 1 :]
    end, unit = max(end for _, end in spans.values()), _indent(text)
    return text[:end] + (", " if unit is None else ",\n" + unit * depth) + member + text[end:]


def _nested(path: list[str], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def _indent(text: str) -> str | None:
    """What one level is indented by, None if the text stands on one line."""
    first = _FIRST_INDENT.match(text, _skip(text, 0))
    return first[1] if first else None


def _dumped(text: str, value: Any, depth: int, old: str) -> str:
    """`value` as JSON, `depth` levels deep. A list on one line stays on one line."""
    unit = _indent(text)
    if unit is None or (old[:1] in "[{" and len(old) > 1 and "\n" not in old and old not in ("[]", "{}")):
        return json.dumps(value)
    if isinstance(value, dict) and value and all(isinstance(member, str) for member in value.values()):
        gap = "\n" + unit * (depth + 1)  # an index of 100,000 tensors: with an indent json is ten times slower
        members = (f"{gap}{_QUOTED(key)}: {_QUOTED(member)}" for key, member in value.items())
        return "{" + ",".join(members) + "\n" + unit * depth + "}"
    return json.dumps(value, indent=unit).replace("\n", "\n" + unit * depth)


def json_roundtrip(value: Any) -> Any:
    """`value` as it reads after a trip through JSON: tuples are lists."""
    return json.loads(json.dumps(value))
