"""Rules that a user wrote for one model: what they get wrong is refused, as nobody has tested them. Pure.

A key that is misspelt would be a key that is not there, and a count under the wrong key would be written beside the
one that the loader reads: files that verify against such rules, and are wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rewriter.architectures.lookup import Stack, table_of
from rewriter.architectures.schema import FORMS, Architecture, StackRule
from rewriter.checkpoint import GGUF, Checkpoint
from rewriter.errors import CheckpointError, RequestError, did_you_mean, printable
from rewriter.planning.constraints import limit_kinds
from rewriter.planning.metadata import field_rules
from rewriter.planning.metadata.edits import FORMULAS

_ALIKE = 0.9  # of two keys that differ by a slip; num_dense_layers and num_hidden_layers have 0.85


def check_entry(checkpoint: Checkpoint, entry: Architecture) -> None:
    """Raise RequestError for an entry of the other format, CheckpointError for names of rules that do not exist."""
    if entry.format != table_of(checkpoint):
        raise RequestError(
            f"the entry {printable(entry.name)} is for {entry.format} files, this is {checkpoint.format}"
        )
    check_words(entry)


def check_words(entry: Architecture) -> None:
    """Raise CheckpointError for the name of a rule, limit, formula or form that does not exist."""
    used: dict[str, tuple[set[str], Iterable[str]]] = {
        "rule": ({rule for stack in entry.stacks for _, rule in stack.fields}, field_rules.RULES),
        "kind of limit": (
            {limit.kind for stack in entry.stacks for limit in stack.limits},
            limit_kinds.KINDS,
        ),
        "formula": ({formula for stack in entry.stacks for _, formula in stack.pins}, FORMULAS),
        "form": ({pattern.form for stack in entry.stacks for pattern in stack.patterns}, FORMS),
    }
    for what, (names, known) in used.items():
        for name in sorted(names - set(known)):
            there = f"there are {', '.join(sorted(known))}{did_you_mean(name, known)}"
            raise CheckpointError(f"there is no {what} {printable(name)}; {there}")


def check_keys(checkpoint: Checkpoint, stacks: Iterable[Stack]) -> None:
    """Raise CheckpointError for keys of the entry that the metadata does not have, or has under a similar name."""
    for stack in stacks if checkpoint.metadata else ():
        _check_count(checkpoint, stack)
        for key in map(stack.key, _named(stack.entry)):
            _check_spelling(checkpoint, key)


def _check_count(checkpoint: Checkpoint, stack: Stack) -> None:
    """The count must be stated: one that is added beside the one that a loader reads changes nothing for it."""
    keys = [stack.count_key, *stack.aliases, stack.count_default, stack.key(stack.entry.counted_by)]
    if any(key and checkpoint.value(key) is not None for key in keys):
        return
    there = [key for key, value in checkpoint.metadata.items() if type(value) is int and value == stack.count]
    hint = f"; {' and '.join(printable(key, 80) for key in there[:3])} would agree" if there else ""
    raise CheckpointError(
        f"the rules count stack {printable(stack.name)} by {printable(stack.count_key, 80)}, which is not in "
        f"{_where(checkpoint)}; the tensors have {stack.count} layers{hint}"
    )


def _named(entry: StackRule) -> Iterator[str]:
    """The keys that the rules of a stack name, but for counts."""
    yield from (key for key, _ in entry.fields)
    for pattern in entry.patterns:
        yield from (pattern.explicit, *pattern.period_keys, pattern.offset_key, pattern.until_key)


def _check_spelling(checkpoint: Checkpoint, key: str) -> None:
    """A key that is not there may be one that a loader knows a default for, unless one is there that looks like it."""
    if not key or key in checkpoint.metadata:
        return
    from difflib import get_close_matches  # only when something may be wrong

    once = ".".join(dict.fromkeys(key.split(".")))  # the scope goes without saying
    near = [once] if once in checkpoint.metadata else get_close_matches(key, checkpoint.metadata, 1, _ALIKE)
    if near:
        meant = printable(near[0], 80)
        raise CheckpointError(
            f"the rules name {printable(key, 80)}, which is not in {_where(checkpoint)}; did you mean {meant}?"
        )


def _where(checkpoint: Checkpoint) -> str:
    return "the metadata" if checkpoint.format == GGUF else "config.json"
