"""Layers that are named in how the weights are quantised: each name follows, or the drop is refused. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import islice

from rewriter.architectures.metadata_fields import QUANTIZATION
from rewriter.checkpoint import LayerMap
from rewriter.errors import CheckpointError, UnsupportedError, printable
from rewriter.planning.metadata import field_rules
from rewriter.planning.metadata.edits import module_name_fields
from rewriter.planning.model import Model
from rewriter.system.untrusted import TooLongError, time_limit

_EXPRESSION = re.compile(r"(?=.*[0-9])(?=.*[*+?\[(|^$\\])", re.DOTALL)
_LONGEST = 100_000  # characters of an expression: what it is compiled to is a hundred times as long
_SECONDS = 4
_MARK = re.compile(r"re:|[-+]:")  # what compressed-tensors and GPTQModel put before an expression


def check_module_names(model: Model, layers: LayerMap) -> None:
    """Raise UnsupportedError where a kept layer would be taken for another one."""
    followed = module_name_fields(model)
    left = {key for key in followed if {key, key.partition(".")[0]} & set(model.options.keep_fields)}
    _refuse_names(model, layers, {*followed})
    expressions = [
        (key, text)
        for key, rule in followed.items()
        if key not in left
        for text in filter(_EXPRESSION.match, _texts(model.metadata[key], rule))
        if not _is_named(text, layers)
    ]
    renamed = tuple(_modules(model, layers)) if expressions else ()  # a million names take seconds
    for key, text in _changed(expressions, renamed):
        raise UnsupportedError(
            f"{printable(key, 80)} has {printable(text)}, which would mean other layers; --keep-field "
            f"{printable(key, 80)} "
            "leaves it as it is"
        )


def _changed(expressions: list[tuple[str, str]], renamed: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """The first of the expressions that would mean other layers, if there is one."""
    try:
        with time_limit(_SECONDS):
            found = (each for each in expressions if any(_differs(way, renamed) for way in _meanings(each[1])))
            return list(islice(found, 1))
    except TooLongError:
        raise CheckpointError("quantization_config: to find what its expressions mean takes too long") from None


def has_expressions(model: Model) -> bool:
    """Whether expressions with numbers say how weights are quantised: each selection must be asked about them."""
    left = set(model.options.keep_fields)
    followed = {key: rule for key, rule in module_name_fields(model).items() if not {key, key.partition(".")[0]} & left}
    return any(_EXPRESSION.match(text) for key, rule in followed.items() for text in _texts(model.metadata[key], rule))


def _refuse_names(model: Model, layers: LayerMap, followed: set[str]) -> None:
    pattern = field_rules.layer_pattern(layers.prefixes)
    for key, value in model.metadata.items():
        head = key.partition(".")[0]
        if not key.startswith(QUANTIZATION) or ".json:" in key or key in followed or head in model.options.keep_fields:
            continue
        parent, _, last = key.replace("\\.", "\0").rpartition(".")
        names = [] if parent.replace("\0", "\\.") in followed else [last.replace("\0", ".")]
        texts = (*names, *(() if isinstance(value, dict) else _texts(value, "names_within")))
        if any(pattern.match(text.strip()) for text in texts):
            raise UnsupportedError(
                f"{printable(key)} names a layer, and no rule says how it follows; --keep-field {head} leaves it "
                f"as it is"
            )


def _texts(value: object, rule: str) -> Iterator[str]:
    """The names that a rule follows: keys or entries, and with `names_within` all that is inside them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        yield from (item for item in value if isinstance(item, str))
        inner = value.values() if isinstance(value, dict) else (item for item in value if not isinstance(item, str))
        for item in inner if rule == "names_within" else ():
            yield from _texts(item, rule)


def _is_named(text: str, layers: LayerMap) -> bool:
    """Whether the rule for names has followed it."""
    return field_rules.RULES["layer_names"]([text], layers) != [text]


def _modules(model: Model, layers: LayerMap) -> Iterator[tuple[str, str]]:
    """Every module and tensor of the kept layers, as it was called and as it will be."""
    numbers = layers.numbers
    inner: dict[tuple[int, str], None] = {}
    for tensor in model.checkpoint.tensors:
        layer = model.stack.layer_of(tensor.name)
        if layer is not None and numbers.get(layer, layer) != layer:
            rest = model.stack.after(tensor.name, layer)
            inner |= {(layer, rest): None, (layer, rest.rpartition(".")[0]): None}
    for prefix in dict.fromkeys(layers.prefixes):
        yield from ((f"{prefix}{layer}{rest}", f"{prefix}{numbers[layer]}{rest}") for layer, rest in inner)


def _meanings(text: str) -> Iterator[Callable[[str], object]]:
    """What loaders make of an expression: a regular one, from the start of the name, or one with wildcards."""
    bare = _MARK.sub("", text, count=1)
    if len(bare) > _LONGEST:
        raise UnsupportedError(f"{printable(text)} has {len(bare)} characters, too many for an expression")
    yield lambda name: fnmatchcase(name, bare)
    with suppress(re.error, RecursionError, OverflowError):
        yield re.compile(bare).match


def _differs(meaning: Callable[[str], object], renamed: tuple[tuple[str, str], ...]) -> bool:
    return any(bool(meaning(old)) != bool(meaning(new)) for old, new in renamed)
