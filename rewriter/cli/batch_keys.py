"""The options of `prune` as the keys of a batch: the same declarations, so that the two cannot differ."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rewriter.batch.jobs import KeyType, Settings, Values
from rewriter.cli.options import PLANNING, WRITING, request_of
from rewriter.errors import RequestError
from rewriter.layout.output import WriteOptions
from rewriter.planning.option import Option, from_written

NO_KEYS = ("executor", "with")  # options that a job does not have: a batch has its own, or they name other outputs
SAVED_PLAN = "plan"
OPTIONS = {name: option for option in (*PLANNING, *WRITING) for name in option.names}
KEYS = {**{name: KeyType(option.kind, option.least) for name, option in OPTIONS.items()}, SAVED_PLAN: KeyType(Path)}
_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)(?: (?=[0-9.]+(?![0-9A-Za-z,.-])))?")


def settings(values: Values) -> Settings:
    """What the options `values` mean, as `prune` would take them. Raises RequestError or CheckpointError.

    What no source can make right is refused here, once for all of them.
    """
    plan = values.get(SAVED_PLAN)
    written = {OPTIONS[name].field: _written(OPTIONS[name], value) for name, value in values.items() if name in OPTIONS}
    try:
        request = request_of(written)
        if plan is None:
            request.check()
        else:
            request.file_layout_options()
        return Settings(request, from_written(WriteOptions, written), None if plan is None else str(plan))
    except RequestError as error:
        raise RequestError(as_keys(str(error))) from None


def _written(option: Option, value: Any) -> Any:
    """The value of a key as the command line would give it."""
    if option.negated:
        return not value
    if option.kind is list or option.repeats:
        return value if isinstance(value, list) else [str(value)]
    return Path(value) if option.kind is Path else value


def as_keys(text: str) -> str:
    """What an error says of options, in the words of a batch: `--overwrite` is `overwrite = true`."""

    def key(match: re.Match[str]) -> str:
        name = match[1]
        if name not in KEYS:
            return match[0]
        return f"{name} = " if match[0].endswith(" ") else f"{name} = true" if KEYS[name].kind is bool else name

    return _OPTION.sub(key, text)
