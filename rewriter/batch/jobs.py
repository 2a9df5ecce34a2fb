"""The jobs of one TOML file: which outputs are to be made from which sources, as values.

    [defaults]
    output = "small/{stem}-{ratio}{suffix}"

    [[job]]
    source = "models/llama-*.gguf"
    choose-on = "models/llama-F16.gguf"
    ratio = [0.25, 0.5]

Laws:
- Keys are the options of the command line, by their names. A list of values for one that chooses layers means as many
  outputs. Paths are relative to the folder of the TOML file.
- An unclear or colliding job is an error before anything starts: one output written twice, or read as well.
- A pattern never matches what the batch itself has made.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice, product
from pathlib import Path
from string import Formatter
from typing import Any

from rewriter.batch.conflicts import JobFiles, check_conflicts, real_path
from rewriter.errors import CheckpointError, RequestError, did_you_mean, printable
from rewriter.layout.output import WriteOptions
from rewriter.request import PruneRequest
from rewriter.system.untrusted import TooLongError, read_toml, time_limit

_LISTED = ("drop", "keep", "strategy", "count", "ratio", "target-size")  # a list of these means several outputs
_EXACT = ("drop", "keep", "plan")
_AMOUNTS = ("count", "ratio", "target-size")
_BY_SCORE = ("strategy", "contiguous", "sparsity", "protect-first", "protect-last", "choose-on")
LONGEST_PATH = 4096  # characters: no system opens a longer one
_MOST_JOBS = 10_000
_SECONDS = 4  # `*/../*/..` has matches without end
_OWN = ("source", "output", "choose-on")  # keys that are not options
_ELSEWHERE = {
    "with": "what belongs to a model is no part of a batch: `rewriter apply OUTPUT FILE OUT` lets it follow",
    "executor": "who works is said once for the whole batch: --executor",
}
_SPLIT = re.compile(r"-[0-9]{5}-of-[0-9]{5}(?=[.]gguf$)")

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class KeyType:
    """The type of a key's value, `list` for texts, and the least number. Keys are options of the command line."""

    kind: type
    least: int | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The values of a job's options. `plan` is the path of a saved plan."""

    request: PruneRequest
    write_options: WriteOptions
    plan: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One output to make of one source; all paths are absolute. `choose_on` is the file that layers are chosen on.

    `number` is that of its table, counted from 1. `by_pattern`: a pattern has matched its source.
    """

    source: str
    output: str
    settings: Settings
    choose_on: str | None = None
    number: int = 0
    by_pattern: bool = False

    @property
    def read(self) -> tuple[str, ...]:
        """The paths that are read to plan it."""
        return tuple(path for path in (self.source, self.settings.plan, self.choose_on) if path is not None)

    @property
    def files(self) -> JobFiles:
        """The files that it reads and writes, as far as they are known before it is planned."""
        return JobFiles(self.number, tuple(map(os.path.realpath, self.read)), (real_path(self.output),))

    @property
    def is_split(self) -> bool:
        """Whether the output of a GGUF is written as a split set, whose files have names of their own."""
        options = self.settings.request.options
        return options.max_size is not None or (_SPLIT.search(self.source) is not None and not options.single_file)


@dataclass(frozen=True, slots=True)
class Batch:
    """All jobs of a file, in its order. `left_out` are sources that a pattern has matched and that are outputs.

    `own` are the files that the batch itself reads and writes.
    """

    jobs: tuple[Job, ...]
    own: JobFiles
    left_out: tuple[str, ...] = ()


def read_batch(
    path: Path,
    keys: Mapping[str, KeyType],
    settings: Callable[[Values], Settings],
    made: Collection[str] = (),
    kept: Collection[str] = (),
) -> Batch:
    """The jobs in the TOML file at `path`. `settings` makes values of the options of a job.

    `made` are earlier outputs, `kept` are the files that the batch writes itself.

    Raises CheckpointError if the file cannot be read, RequestError if a job cannot be done from any source.
    """
    tables, defaults = _tables(path, keys)
    folder = Path(os.path.abspath(path)).parent
    asked = (_jobs(_inherited(defaults, table), number, folder, settings) for number, table in enumerate(tables, 1))
    found = list(islice(chain.from_iterable(asked), _MOST_JOBS + 1))
    if len(found) > _MOST_JOBS:
        raise RequestError(f"{printable(path.name)} asks for more than {_MOST_JOBS} outputs: make it several batches")
    outputs = {os.path.realpath(each) for each in (*made, *kept)} | {real_path(job.output) for job in found}
    split = {real_path(job.output) for job in found if job.is_split}
    left_out = {job.source for job in found if job.by_pattern and _is_output(job.source, outputs, split)}
    jobs = tuple(job for job in found if not (job.by_pattern and job.source in left_out))
    own = JobFiles(
        0, tuple(way(each) for each in (os.path.abspath(path), *kept) for way in (real_path, os.path.realpath))
    )
    check_conflicts([own, *(job.files for job in jobs)])
    if not jobs:
        raise CheckpointError(
            f"nothing is to be done: all that the patterns match are outputs of this batch, such as "
            f"{printable(min(left_out), 200)}"
        )
    return Batch(jobs, own, tuple(sorted(left_out)))


def _tables(path: Path, keys: Mapping[str, KeyType]) -> tuple[list[Values], Values]:
    """The tables of the jobs and the defaults, every key known and every value of its type."""
    value = read_toml(path)
    _check_names(value, ("defaults", "job"), printable(path.name))
    jobs, defaults = value.get("job"), value.get("defaults", {})
    if not isinstance(jobs, list) or not jobs:
        raise RequestError(f"{printable(path.name)} has no job: write [[job]] with source, output and what to drop")
    for number, table in enumerate((defaults, *jobs)):
        where = f"job {number}" if number else "defaults"
        if not isinstance(table, dict):
            raise RequestError(f"{where} must be a table: write [[job]] and [defaults]")
        _check_names(table, (*_OWN, *keys), where)
        for name, given in table.items():
            _check_value(name, given, keys.get(name, KeyType(str)), where)
    return jobs, defaults


def _check_names(table: Iterable[str], known: Iterable[str], where: str) -> None:
    known = tuple(known)
    for name in table:
        if name not in known:
            if name in _ELSEWHERE:
                raise RequestError(f"{where}: {name} is no key: {_ELSEWHERE[name]}")
            hint = did_you_mean(name.replace("_", "-"), known) or f"; there are {', '.join(known)}"
            raise RequestError(f"{where} has an unknown key {printable(name)!r}{hint}")


def _check_value(name: str, value: Any, key: KeyType, where: str) -> None:
    several = isinstance(value, list) and (name in _LISTED or key.kind is list)
    values: list[Any] = value if several else [value]
    for each in values:
        kinds: tuple[type, ...] = {float: (int, float), list: (str,), Path: (str,)}.get(key.kind, (key.kind,))
        if name in ("drop", "keep"):
            kinds = (str, int)
        if not _is_a(each, kinds):
            words = {bool: "true or false", int: "a whole number", float: "a number"}.get(key.kind, "a text")
            raise RequestError(f"{where}: {name} must be {words}, not {printable(each)!r}")
        if key.least is not None and each < key.least:
            raise RequestError(f"{where}: {name} must be at least {key.least}, not {printable(each)}")
    if several and not value:
        raise RequestError(f"{where}: {name} is an empty list")


def _is_a(value: object, kinds: tuple[type, ...]) -> bool:
    """Whether `value` is of one of `kinds`; true is not a number."""
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def _inherited(defaults: Values, table: Values) -> Values:
    """`table` with the defaults for keys that it does not have; its own choice of layers replaces theirs."""
    if any(name in table for name in _EXACT):
        replaced: set[str] = {*_EXACT, *_AMOUNTS, *_BY_SCORE}
    elif any(name in table for name in _AMOUNTS):
        replaced = {*_EXACT, *_AMOUNTS}
    else:
        replaced = set(_EXACT) if "strategy" in table else set()
    return {**{name: value for name, value in defaults.items() if name not in replaced}, **table}


def _jobs(table: Values, number: int, folder: Path, settings: Callable[[Values], Settings]) -> Iterator[Job]:
    """Every output that a table asks for."""
    where = f"job {number}"
    for name in ("source", "output"):
        if not table.get(name):
            raise RequestError(f"{where} has no {name}")
    options = {name: value for name, value in table.items() if name not in _OWN}
    varied = [name for name in _LISTED if isinstance(options.get(name), list)]
    sources, matched = _sources(folder, table["source"], where)
    for source in sources:
        for values in product(*(options[name] for name in varied)):
            chosen = {**options, **dict(zip(varied, values, strict=True))}
            words = _words(source, chosen)
            output = _filled(_template(table["output"], varied), words, where)
            choose_on = table.get("choose-on")
            choose_on = choose_on and _absolute(folder, _filled(table["choose-on"], words, where), where)
            yield Job(
                source,
                _absolute(folder, output, where),
                _settings(settings, chosen, folder, where),
                choose_on,
                number,
                matched,
            )


def _settings(settings: Callable[[Values], Settings], chosen: Values, folder: Path, where: str) -> Settings:
    paths = {
        name: str(folder / os.path.expanduser(chosen[name])) for name in ("plan", "architecture") if name in chosen
    }
    try:
        return settings({**chosen, **paths})
    except (RequestError, CheckpointError) as error:
        raise type(error)(f"{where}: {error}") from None


def _sources(folder: Path, text: str, where: str) -> tuple[list[str], bool]:
    """The paths that match `text`, and whether it is a pattern; of a split set only the first file."""
    path = _absolute(folder, text, where)
    if os.path.lexists(path) or not glob.has_magic(text):
        return [path], False
    try:
        with time_limit(_SECONDS):
            found = sorted(os.path.normpath(each) for each in glob.glob(path, recursive=True))
    except TooLongError:
        raise RequestError(f"{where}: {printable(text, 200)} has too many matches to look at") from None
    sources = [each for each in found if not _SPLIT.search(each) or "-00001-of-" in each]
    if not sources:
        raise RequestError(f"{where}: nothing matches {printable(text, 200)}")
    return sources, True


def _absolute(folder: Path, text: str, where: str) -> str:
    if "\0" in text or len(text) > LONGEST_PATH:
        raise RequestError(f"{where}: {printable(text)!r} is no path")
    return os.path.normpath(folder / os.path.expanduser(text))


def _template(output: str, varied: list[str]) -> str:
    """A folder as an output means a name in it that holds the values that differ."""
    if not output.endswith("/"):
        return output
    return f"{output}{{stem}}-{'-'.join(f'{{{name}}}' for name in varied) or 'pruned'}{{suffix}}"


def _words(source: str, options: Values) -> dict[str, str]:
    """The names that a template may hold: parts of the source's path, and values of its job."""
    name = _SPLIT.sub("", os.path.basename(source))
    stem, suffix = (name, "") if os.path.isdir(source) else os.path.splitext(name)
    words = {"name": name, "stem": stem, "suffix": suffix, "folder": os.path.basename(os.path.dirname(source))}
    said = {name: options[name] for name in (*_LISTED, "stack", "shard-size") if name in options}
    return words | {name: (f"{value:g}" if isinstance(value, float) else str(value)) for name, value in said.items()}


def _filled(template: str, words: Mapping[str, str], where: str) -> str:
    try:
        parts = [(text, name, spec, way) for text, name, spec, way in Formatter().parse(template)]
    except ValueError as error:
        raise RequestError(f"{where}: {printable(template, 80)!r} is no template: {error}") from None
    result = ""
    for text, name, spec, way in parts:
        if name is not None and (name not in words or spec or way):
            raise RequestError(f"{where}: {{{printable(name)}}} has no value here; there are {', '.join(words)}")
        result += text + ("" if name is None else words[name].replace("/", "-"))
    return result


def _is_output(source: str, outputs: set[str], split: set[str]) -> bool:
    return bool({real_path(source), os.path.realpath(source)} & outputs) or _SPLIT.sub("", real_path(source)) in split
