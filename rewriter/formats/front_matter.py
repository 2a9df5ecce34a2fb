"""The YAML block at the head of a model card: single entries are changed inside its text, all the rest stays.

Laws:
- The block is what huggingface_hub takes for it: between two lines of `---`, at the start of the file.
- What was changed is parsed again: it must say what was asked for, and everything else what it said before. Where it
  does not, or the text is not plain enough, CardError is raised and nothing is changed.

ruamel.yaml's round trip was tried in its place and does not keep the first law: it writes LF for CRLF, one indentation
for all lists, `[a, b]` for `[a,b]`, nothing for `~` and `null`, plain letters for escapes, and joins texts of several
lines; a front matter of 30,000 lines takes it 12 s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rewriter.system.untrusted import TooLongError, time_limit

LIMIT = 1_000_000  # characters; the cards with the longest lists of results have some 300,000
_DEPTH = 100  # cards have 6; libyaml needs time in proportion to the square
_SECONDS = 3  # without libyaml all of it takes Python's parser half a minute
_BLOCK = re.compile(
    r"(?P<head>\ufeff?\s*---(?:\r\n|\n))(?P<yaml>(?:.*?(?:\r\n|\n))??)(?P<tail>---[ \t]*(?:\r\n|\n|\Z))", re.DOTALL
)
_BEGUN = re.compile(r"\ufeff?\s*---[ \t]*(?:[\r\n]|\Z)")
_REST = re.compile(r"[ \t]*(?:#[^\r\n]*)?(?:\r\n|\n|\Z)")
_BARE = re.compile(r"[A-Za-z][\w.-]*/[\w.-]+|pruned", re.ASCII)  # what YAML takes for nothing but a text
_UNSAFE = "its front matter is written in a way that cannot be changed safely"
Value = str | list[str] | None


class CardError(Exception):
    """The card cannot be changed safely; the message says why."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of the mapping, by places in the text: its key, its value, and where the value's items begin and end.

    `value` is a text or a list of texts, as far as it is either; `events` tell two values apart.
    """

    key: int
    start: int
    end: int
    value: Value
    style: str
    items: tuple[tuple[int, int], ...]
    events: tuple[tuple[object, ...], ...]


def split(text: str) -> tuple[str, str, str]:
    """What stands before the YAML, the YAML, and what stands after it. Raises CardError.

    A text without the block gets an empty one.
    """
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    match = _BLOCK.match(text)
    if match:
        return match["head"], match["yaml"], text[match.start("tail") :]
    if _BEGUN.match(text):
        raise CardError("its front matter never ends")
    eol = end_of_line(text)
    return f"{mark}---{eol}", "", f"---{eol}{eol}" + text.removeprefix(mark)


def end_of_line(text: str) -> str:
    """How the lines of `text` end."""
    return "\r\n" if "\r\n" in text else "\n"


def get(yaml: str, key: str) -> Value:
    """What the block says under `key`; None for nothing, and for what is neither a text nor a list of texts.

    Raises CardError.
    """
    entry = _entries(yaml).get(key)
    return entry.value if entry else None


def contains(yaml: str, key: str) -> bool:
    """Whether there is such an entry. Raises CardError."""
    return key in _entries(yaml)


def edit(yaml: str, eol: str, texts: Mapping[str, str], tags: tuple[str, ...], without: tuple[str, ...]) -> str:
    """The block with the entries `texts`, with `tags` among its tags, and without the entries `without`.

    Raises CardError.
    """
    before, text = _entries(yaml), yaml
    for key in without:
        text = _without(text, key)
    for key, value in texts.items():
        text = _with_text(text, key, value, eol)
    text = _with_tags(text, tags, eol)
    after, touched = _entries(text), {*texts, *without, "tags"}
    if any(event[-1] for key in before.keys() & touched for event in before[key].events):
        raise CardError(_UNSAFE)  # an anchor that something else may mean
    rest = [{key: entry.events for key, entry in one.items() if key not in touched} for one in (before, after)]
    wanted = {**texts, "tags": _merged(before, tags)}
    there = {key: entry.value for key, entry in after.items() if key in touched}
    if rest[0] != rest[1] or there != wanted:
        raise CardError(_UNSAFE)
    return text


def _merged(entries: Mapping[str, _Entry], tags: tuple[str, ...]) -> list[str]:
    entry = entries.get("tags")
    there = entry.value if entry else None
    known = there if isinstance(there, list) else [there] if there else []
    return [*known, *(tag for tag in tags if tag not in known)]


def _with_text(text: str, key: str, value: str, eol: str) -> str:
    entry = _entries(text).get(key)
    written = value if _BARE.fullmatch(value) else _quoted(value)
    if entry is None:
        return _added(text, f"{key}: {written}", eol)
    if isinstance(entry.value, str):
        return text[: entry.start] + written + text[entry.end :]
    return _replaced(text, entry, f"{key}: {written}", eol)


def _with_tags(text: str, tags: tuple[str, ...], eol: str) -> str:
    entries = _entries(text)
    entry, merged = entries.get("tags"), _merged(entries, tags)
    if entry is None:
        return _added(text, f"tags:{eol}" + eol.join(f"- {tag}" for tag in merged), eol)
    if entry.value == merged:
        return text
    if not isinstance(entry.value, list) or not entry.items:
        if entry.value is None and entry.style != "empty":
            raise CardError("its tags are not a list of texts")
        return _replaced(text, entry, f"tags: [{', '.join(_quoted(tag) for tag in merged)}]", eol)
    new, end = merged[len(entry.value) :], entry.items[-1][1]
    if entry.style == "flow":
        return text[:end] + "".join(f", {tag}" for tag in new) + text[end:]
    line = text.rfind("\n", 0, entry.items[-1][0]) + 1
    indent = text[line : entry.items[-1][0]]  # up to the item: its spaces, its dash
    at = _line_end(text, end)
    gap = "" if text[:at].endswith("\n") else eol
    return text[:at] + gap + "".join(f"{indent}{tag}{eol}" for tag in new) + text[at:]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _without(text: str, key: str) -> str:
    entry = _entries(text).get(key)
    return text if entry is None else text[: entry.key] + text[_end_of(text, entry) :]


def _replaced(text: str, entry: _Entry, line: str, eol: str) -> str:
    return text[: entry.key] + line + eol + text[_end_of(text, entry) :]


def _end_of(text: str, entry: _Entry) -> int:
    """Where the lines of an entry end. What stands in lines is said to reach up to the next entry: comments and empty
    lines before that are not part of it.
    """
    start = text.rfind("\n", 0, entry.end) + 1
    if start <= entry.start or text[start : entry.end].strip():
        return _line_end(text, entry.end)
    margin = entry.key - (text.rfind("\n", 0, entry.key) + 1)
    lines = text[entry.key : start].splitlines(keepends=True)
    while lines[-1][margin : margin + 1] == "#" or not lines[-1].strip():
        start -= len(lines.pop())
    return start


def _line_end(text: str, at: int) -> int:
    rest = _REST.match(text, at)
    if rest is None:
        raise CardError(_UNSAFE)
    return rest.end()


def _added(text: str, line: str, eol: str) -> str:
    gap = "" if not text or text.endswith("\n") else eol
    first = min((entry.key for entry in _entries(text).values()), default=0)
    margin = text[text.rfind("\n", 0, first) + 1 : first]
    return text + gap + margin + line.replace(eol, eol + margin) + eol


@lru_cache(maxsize=8)
def _entries(text: str) -> Mapping[str, _Entry]:
    """The entries of the mapping that the block holds. Raises CardError."""
    import yaml  # type: ignore[import-untyped]  # 30 ms, and only model cards need it

    if len(text) > LIMIT:
        raise CardError("its front matter is too long")
    try:
        with time_limit(_SECONDS):
            events = iter(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
            return _mapping(events, yaml)
    except TooLongError:
        raise CardError("its front matter takes too long to read") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise CardError("its front matter is not valid YAML") from None


def _mapping(events: Iterator[Any], yaml: Any) -> Mapping[str, _Entry]:
    next(events)  # the stream
    entries: dict[str, _Entry] = {}
    if isinstance(next(events), yaml.StreamEndEvent):
        return entries
    start = next(events)
    if isinstance(start, yaml.ScalarEvent) and not start.value:
        return entries
    if not isinstance(start, yaml.MappingStartEvent) or start.flow_style:
        raise CardError("its front matter is no list of entries")
    while isinstance(key := next(events), yaml.ScalarEvent):
        if key.value in entries:
            raise CardError(f"its front matter says {key.value[:40]!r} twice")
        entries[key.value] = _entry(key, list(_one(events, yaml)), yaml)
    if not isinstance(key, yaml.MappingEndEvent):
        raise CardError("its front matter has keys that are no texts")
    return entries


def _one(events: Iterator[Any], yaml: Any) -> Iterator[Any]:
    """The events of one value."""
    depth = 0
    while True:
        event = next(events)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH:
            raise CardError("its front matter is nested too deeply")
        yield event
        if not depth:
            return


def _entry(key: Any, events: list[Any], yaml: Any) -> _Entry:
    first, last, inner = events[0], events[-1], events[1:-1]
    plain = all(isinstance(event, yaml.ScalarEvent) and not event.anchor and not event.tag for event in inner)
    value: Value = None
    style = "other"
    if isinstance(first, yaml.SequenceStartEvent) and plain and not first.anchor and not first.tag:
        value, style = [event.value for event in inner], "flow" if first.flow_style else "block"
    elif isinstance(first, yaml.ScalarEvent) and not first.anchor and not first.tag and first.style not in ("|", ">"):
        empty = not first.style and first.value in ("", "~", "null")
        value, style = None if empty else first.value, "empty" if empty else "text"
    return _Entry(
        key.start_mark.index, first.start_mark.index, last.end_mark.index, value, style,
        tuple((event.start_mark.index, event.end_mark.index) for event in inner) if style in ("flow", "block") else (),
        tuple((type(event).__name__, *(getattr(event, name, None) for name in _COMPARED)) for event in events),
    )  # fmt: skip


_COMPARED = ("value", "style", "tag", "anchor")
