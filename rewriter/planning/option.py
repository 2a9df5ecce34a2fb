"""How an option is declared: once, as a field of a frozen dataclass with an `Option`.

The command line, the keys of a batch, records, saved plans and the commands that messages suggest are loops over the
fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def _unchanged(value: Any) -> Any:
    return value


class Recorded(Enum):
    """When the record of a run holds an option."""

    ALWAYS = "always"
    SINCE_LATER = "always, but records of earlier versions do not have it"
    IF_GIVEN = "unless it is the default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """How a field is offered on the command line and in a batch, and whether records hold it.

    help: the text shown; a field without one is not offered. panel, metavar: where and how the help shows it.
    names: its names there, without dashes; the name of the field unless given. Those after the first are aliases.
    negated: its name asks for the opposite of the field: `no-fsync` for `sync`.
    holds: the type of the field: bool, int, float, str, list for several texts, or a class of ours.
    kind: the type of what is written for it: the same unless given.
    least: the least number. read: makes the value of the field from what is written.
    repeats: it may be given several times on the command line; the texts are joined by commas.
    completion: the names that a shell offers, as `cli.completion` calls them.
    is_rule: it says which rules hold, so `verify` takes it too. beside_plan: it may be given beside a saved plan.
    """

    field: str
    default: Any
    holds: type
    kind: type
    help: str = ""
    panel: str | None = None
    metavar: str | None = None
    names: tuple[str, ...] = ()
    negated: bool = False
    least: int | None = None
    read: Callable[[Any], Any] = _unchanged
    repeats: bool = False
    completion: str = ""
    is_rule: bool = False
    beside_plan: bool = False
    recorded: Recorded | None = None

    def flag(self, value: object = True) -> str:
        """The option on the command line; a flag as it is given to state `value`."""
        no = "no-" if value is False and not self.negated else ""
        return f"--{no}{self.names[0]}"


def option(default: T, help: str = "", **settings: Any) -> T:
    """A field that is an option; `settings` are those of `Option`."""
    made: T = field(default=default, metadata={"help": help, **settings})
    return made


def options_of(*kinds: type) -> tuple[Option, ...]:
    """The options that the fields of `kinds` declare, in their order."""
    found = []
    for kind in kinds:
        types = get_type_hints(kind)
        for each in fields(kind):
            holds = _plain_type(types[each.name])
            settings = {"kind": holds, "names": (each.name.replace("_", "-"),), **each.metadata}
            found.append(Option(field=each.name, default=each.default, holds=holds, **settings))
    return tuple(found)


def _plain_type(annotation: Any) -> type:
    """`int` for `int | None`, `list` for a tuple of texts."""
    kind = next((each for each in get_args(annotation) if each is not type(None)), annotation)
    return list if get_origin(annotation) is tuple else kind


def from_written(kind: type[T], written: Mapping[str, Any]) -> T:
    """The options of `kind` from what is written for its fields. What is missing or None keeps its default.

    Raises RequestError for a size that is not one, CheckpointError for a file of rules that is damaged.
    """
    given = [each for each in options_of(kind) if written.get(each.field) not in (None, [], ())]
    return kind(**{each.field: each.read(written[each.field]) for each in given})


def arguments(values: Mapping[str, Any], chosen: Iterable[Option]) -> list[str]:
    """The words of a command line that state `values`, by field, for the options `chosen`; rules come first.

    A field may be missing: not every command has every option.
    """
    words = []
    for each in sorted(chosen, key=lambda each: (not each.is_rule, each.kind is list)):
        value = values.get(each.field)
        if value in (each.default, None, [], ()):
            continue
        if each.kind is bool:
            words.append(each.flag(value))
        else:
            several = value if isinstance(value, list | tuple) else [value]
            words += [word for one in several for word in (each.flag(), str(one))]
    return words
