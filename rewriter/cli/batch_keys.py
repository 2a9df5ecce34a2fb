"""The options of `prune` as the keys of a batch: read off the same signature, so that the two cannot differ."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, get_args, get_origin

from typer.models import OptionInfo

from rewriter.batch.jobs import Key, Settings, Values
from rewriter.cli.options import request_of, writing
from rewriter.cli.prune import prune
from rewriter.errors import RequestError

NO_KEYS = ("executor", "with")  # options that a job does not have: a batch has its own, or they name other outputs
_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)(?: (?=[0-9.]+(?![0-9A-Za-z,.-])))?")
_LISTS = ("drop", "keep")  # on the command line given several times


def _parameters() -> dict[str, inspect.Parameter]:
    """Every option of `prune` by its names on the command line, without the dashes."""
    found = {}
    for parameter in inspect.signature(prune).parameters.values():
        info = next((each for each in get_args(parameter.annotation) if isinstance(each, OptionInfo)), None)
        if info is not None:
            told = [each for each in (info.default, *(info.param_decls or ())) if isinstance(each, str)]
            for name in told or [parameter.name.replace("_", "-")]:
                found[name.partition("/")[0].removeprefix("--")] = parameter  # not how a flag is said to be off
    return found


def _key(parameter: inspect.Parameter) -> Key:
    annotated, *told = get_args(parameter.annotation)
    kind = next((each for each in get_args(annotated) if each is not type(None)), annotated)
    kind = annotated if get_origin(annotated) is list else kind
    least = next((each.min for each in told if isinstance(each, OptionInfo)), None)
    return Key(list if get_origin(kind) is list else kind, None if least is None else int(least))


OPTIONS = {name: parameter for name, parameter in _parameters().items() if name not in NO_KEYS}
KEYS = {name: _key(parameter) for name, parameter in OPTIONS.items()}


def settings(values: Values) -> Settings:
    """What the options `values` mean, as `prune` would take them. Raises RequestError or CheckpointError.

    What no source can make right is refused here, once for all of them.
    """
    try:
        return _settings(values)
    except RequestError as error:
        raise RequestError(as_keys(str(error))) from None


def _settings(values: Values) -> Settings:
    given: dict[str, Any] = {OPTIONS[name].name: _as_given(name, value) for name, value in values.items()}
    plan = given.pop("saved_plan", None)
    asked = {name: given.pop(name) for name in tuple(given) if name in inspect.signature(request_of).parameters}
    request = request_of(**asked)
    if plan is None:
        request.check()
    else:
        request.looks()
    return Settings(request, writing(**given), None if plan is None else str(plan))


def as_keys(text: str) -> str:
    """What an error says of options, in the words of a batch: `--overwrite` is `overwrite = true`."""

    def key(match: re.Match[str]) -> str:
        name = match[1]
        if name not in KEYS:
            return match[0]
        return f"{name} = " if match[0].endswith(" ") else f"{name} = true" if KEYS[name].kind is bool else name

    return _OPTION.sub(key, text)


def _as_given(name: str, value: Any) -> Any:
    if name in _LISTS:
        return [str(value)]
    kind = KEYS[name].kind
    if kind is list and not isinstance(value, list):
        return [value]
    return Path(value) if kind is Path else value
