"""Finds the stacks of layers that a checkpoint has: by its table entry, or from its names alone.

Laws:
- A layer's number is written one way only (`7`, not `07`), and the numbers run from 0 without a gap.
- The prefix is found in the tensor names; an entry lists its spellings, and a wrapper may stand before them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from rewriter.architectures import gguf, huggingface
from rewriter.architectures.schema import Architecture, LayerLimit, StackRule
from rewriter.checkpoint import GGUF, HUGGINGFACE, IMATRIX, Checkpoint
from rewriter.errors import CheckpointError, RequestError, UnsupportedError, did_you_mean, printable

_ENTRIES = {(entry.format, entry.name): entry for entry in (*huggingface.ENTRIES, *gguf.ENTRIES)}
_NUMBER = re.compile(r"0|[1-9][0-9]{0,5}")
_FIRST_NUMBER = re.compile(r"\.([0-9]+)(?![^.])")
_MTP_KEYS = {HUGGINGFACE: "num_nextn_predict_layers", GGUF: "nextn_predict_layers"}
MOST_LAYERS = 4096  # the deepest networks have some thousand
_MOST_LISTS = 5_000  # numbered lists in the names; real ones have some dozens
NOWHERE = "\0"  # a prefix that no tensor name begins with
Lists = Mapping[str, Mapping[str, None]]  # what stands before the first number in tensor names -> the numbers there
_COUNT_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "block_count")


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack that is really there: its entry, the prefix its tensors carry, how many layers they make.

    `scope`, `count_key` and `count_default` are whole metadata keys here, "" where there is none. `mtp_layers` more
    layers follow the main ones; `counts_mtp` says that the count includes them. `echoes` are keys that say the
    count once more and that no loader of the entry reads.
    """

    entry: StackRule
    prefix: str
    count: int
    scope: str = ""
    count_key: str = ""
    count_default: str = ""
    aliases: tuple[str, ...] = ()
    echoes: tuple[str, ...] = ()
    mtp_layers: int = 0
    counts_mtp: bool = False

    @property
    def name(self) -> str:
        """The stack's name: `main`, `decoder`, `text`, ..."""
        return self.entry.name

    def layer_of(self, name: str) -> int | None:
        """The number of the layer that the tensor called `name` belongs to, or None."""
        if not name.startswith(self.prefix):
            return None
        return _as_number(name[len(self.prefix) :].partition(".")[0])

    def after(self, name: str, layer: int) -> str:
        """What follows the number in the name of a tensor of `layer`: `.mlp.weight` in `model.layers.3.mlp.weight`."""
        return name[len(f"{self.prefix}{layer}") :]

    def key(self, key: str) -> str:
        """The whole metadata key for one that is relative to the scope; `/key` and `file.json:key` are whole."""
        if not key or ".json:" in key:
            return key
        if key.startswith("/"):
            return key[1:]
        return f"{self.scope}.{key}" if self.scope else key

    def beside(self, name: str) -> str:
        """The whole name for one that stands beside the stack: `bbox_embed.` beside `model.decoder.layers.`."""
        parent = self.prefix.rstrip(".").rpartition(".")[0]
        return name[1:] if name.startswith("/") else f"{parent}.{name}" if parent else name


@lru_cache(maxsize=MOST_LAYERS)  # asked for every tensor, several times
def _as_number(label: str) -> int | None:
    return int(label) if _NUMBER.fullmatch(label) else None


def table_of(checkpoint: Checkpoint) -> str:
    """Which table describes the checkpoint: `huggingface` or `gguf`."""
    return GGUF if checkpoint.format in (GGUF, IMATRIX) else HUGGINGFACE


def find(checkpoint: Checkpoint, lists: Lists) -> Architecture | None:
    """The table entry for the checkpoint's architecture, if there is one. `lists` are its numbered lists."""
    if checkpoint.companion:
        return None
    named = _ENTRIES.get((table_of(checkpoint), checkpoint.architecture))
    return named if named or checkpoint.metadata else _by_names(lists)


def _by_names(lists: Lists) -> Architecture | None:
    """The entry for a lone file without a config, where its names show one."""
    known = {"." + name for entry in _ENTRIES.values() for name in entry.shown_by}
    longest = max(name.count(".") for name in known)
    there: set[str] = set()
    for prefix in _limited(lists):
        words = ("." + prefix).rsplit(".", longest)
        there.update(name for start in range(len(words)) if (name := "." + ".".join(words[start:])) in known)
    shown_by = (entry for entry in _ENTRIES.values() if entry.shown_by)
    return next((entry for entry in shown_by if all("." + name in there for name in entry.shown_by)), None)


def entries() -> tuple[Architecture, ...]:
    """All entries of both tables."""
    return tuple(_ENTRIES.values())


def named_entry(name: str) -> Architecture:
    """The entry called `name`, or `gguf/NAME` or `huggingface/NAME` where both tables have one. Raises RequestError."""
    table, _, rest = name.rpartition("/")
    found = [entry for entry in entries() if entry.name == rest and table in ("", entry.format)]
    if len(found) > 1:
        raise RequestError(
            f"both tables have {printable(rest)}: write {' or '.join(f'{e.format}/{e.name}' for e in found)}"
        )
    if not found:
        known = [each for entry in entries() for each in (entry.name, f"{entry.format}/{entry.name}")]
        raise RequestError(
            f"there is no entry {printable(name)}; rewriter list architectures shows those there "
            f"are{did_you_mean(name, known)}"
        )
    return found[0]


def resolve(checkpoint: Checkpoint, architecture: Architecture, lists: Lists) -> tuple[Stack, ...]:
    """The stacks of `architecture` that the checkpoint's tensors show, in table order. `lists` are its numbered lists.

    Raises CheckpointError for gaps, aliases and doubtful prefixes, UnsupportedError if there is no stack at all.
    """
    names = tuple(tensor.name for tensor in checkpoint.tensors)
    found = [
        stack for entry in architecture.stacks if (stack := _resolved(checkpoint, names, lists, entry)) is not None
    ]
    stacks = _with_echoes(checkpoint, _without_alternatives(checkpoint, found))
    _check_absent(checkpoint, architecture, stacks)
    if not stacks:
        expected = " or ".join(entry.prefixes[0] + "N" for entry in architecture.stacks)
        raise UnsupportedError(
            f"the tensors of this {printable(checkpoint.architecture)} file show no layers (expected {expected})"
        )
    return stacks


def _without_alternatives(checkpoint: Checkpoint, stacks: list[Stack]) -> tuple[Stack, ...]:
    """Of the stacks that share a name the first whose count is stated, else the first."""
    chosen: dict[str, Stack] = {}
    for stack in stacks:
        before = chosen.setdefault(stack.name, stack)
        if checkpoint.value(before.count_key) is None and checkpoint.value(stack.count_key) is not None:
            chosen[stack.name] = stack
    return tuple(chosen.values())


def _with_echoes(checkpoint: Checkpoint, stacks: tuple[Stack, ...]) -> tuple[Stack, ...]:
    """`stacks` with the keys that hub files count the same layers by a second time: remote code may read those.

    They stand in the stack's own scope, or at the top for the first stack. A scope with several stacks has counts of
    its own for each.
    """
    if table_of(checkpoint) == GGUF:
        return stacks
    scopes = [stack.scope for stack in stacks]
    read = {key for stack in stacks for key in (stack.count_key, stack.count_default, *stack.aliases)}
    return tuple(
        replace(
            stack,
            echoes=tuple(key for key in _echoes(stack, scopes) if key not in read and _agrees(checkpoint, stack, key)),
        )
        for stack in stacks
    )


def _echoes(stack: Stack, scopes: list[str]) -> Iterator[str]:
    own = [stack.scope] if scopes.count(stack.scope) == 1 else []
    top = [""] if stack.scope == scopes[0] and "" not in scopes else []
    for scope in (*own, *top):
        yield from (f"{scope}.{word}".lstrip(".") for word in _COUNT_KEYS)


def _agrees(checkpoint: Checkpoint, stack: Stack, key: str) -> bool:
    value = checkpoint.value(key)
    return type(value) is int and value == stack.count


def _rules_of(checkpoint: Checkpoint, entry: StackRule) -> StackRule:
    """`entry` with the rules of the model type that its nested config names, if there is one in the table.

    Where it names none, loaders take their own: `llama4_text` for the `text_config` of a `llama4`.
    """
    named = checkpoint.value(f"{entry.like}.model_type") if entry.like else None
    own = f"{checkpoint.architecture}_{entry.like.removesuffix('_config')}"
    nested = _ENTRIES.get((HUGGINGFACE, own if named is None else str(named))) if entry.like else None
    if nested is None:
        known = not isinstance(named, str) or named.startswith(checkpoint.architecture)
        unknown = LayerLimit(
            kind="keep_all", why=f"there are no rules for the architecture {printable(named)} of {entry.like}"
        )
        return entry if known else replace(entry, limits=(*entry.limits, unknown))
    main = nested.stacks[0]
    return replace(
        main,
        name=entry.name,
        prefixes=tuple(dict.fromkeys((*entry.prefixes, *(f"{entry.like}.{prefix}" for prefix in main.prefixes)))),
        count_key=f"{entry.like}.{main.count_key}",
        count_default=f"{entry.like}.{main.count_default}" if main.count_default else "",
        fields=(*main.fields, *entry.fields),
        limits=(*main.limits, *entry.limits),
        defaults=(*main.defaults, *entry.defaults),
        optional=entry.optional,
    )


def _check_absent(checkpoint: Checkpoint, architecture: Architecture, stacks: tuple[Stack, ...]) -> None:
    """A stack that the metadata counts must be there: under a name nobody knows, another one would pass for it."""
    there = {stack.name for stack in stacks}
    first = architecture.stacks[0]
    if stacks and first.name not in there and not first.optional:
        raise UnsupportedError(
            f"the tensors show no stack {first.name} under a known name such as {printable(first.prefixes[0])}N, only "
            f"{', '.join(there)}"
        )
    for entry in architecture.stacks:
        stated = checkpoint.value(_with_keys(checkpoint, entry).count_key)
        if stacks and entry.name not in there and not entry.optional and type(stated) is int and stated > 0:
            raise UnsupportedError(
                f"the metadata counts {stated} layers in stack {entry.name}, the tensors show none under a known name "
                f"such as {printable(entry.prefixes[0])}N"
            )


def _resolved(checkpoint: Checkpoint, names: tuple[str, ...], lists: Lists, entry: StackRule) -> Stack | None:
    entry = _rules_of(checkpoint, entry)
    stack = _with_keys(checkpoint, entry)
    if not entry.stored_layers:  # all layers share one: the metadata alone counts them
        stated = checkpoint.value(stack.count_key)
        return replace(stack, count=stated) if type(stated) is int and 0 < stated < MOST_LAYERS else None
    prefix = _prefix(names, lists, entry.prefixes)
    if not prefix:
        return None
    total = _count(names, prefix)
    mtp_layers = _mtp_layers(checkpoint, stack, total)
    return replace(stack, prefix=prefix, count=total - mtp_layers, mtp_layers=mtp_layers)


def _with_keys(checkpoint: Checkpoint, entry: StackRule) -> Stack:
    """In a GGUF every key starts with the architecture; in a config.json the nesting says what a key is about."""
    if table_of(checkpoint) == HUGGINGFACE:
        scope = entry.count_key.rpartition(".")[0]
        stack = Stack(entry, NOWHERE, 0, scope, entry.count_key, entry.count_default)
        return replace(stack, aliases=tuple(map(stack.key, entry.aliases)))
    scope = checkpoint.architecture
    count_key, count_default = (f"{scope}.{key}" if key else "" for key in (entry.count_key, entry.count_default))
    return Stack(entry, NOWHERE, 0, scope, count_key, count_default, counts_mtp=True)


def _mtp_layers(checkpoint: Checkpoint, stack: Stack, total: int) -> int:
    """How many of `total` layers are MTP layers. A checkpoint that was saved again may have lost them."""
    value = checkpoint.value(stack.key(stack.entry.mtp_key)) if stack.entry.mtp_key else None
    number = value if type(value) is int and 0 < value < total else 0
    if stack.counts_mtp or checkpoint.value(stack.count_key) == total - number:
        return number
    return 0


def _prefix(names: tuple[str, ...], lists: Lists, spellings: Iterable[str]) -> str:
    """The one of `spellings` that numbered names start with, else the one wrapped spelling that they show."""
    there = [spelling for spelling in spellings if _is_there(spelling, names, lists)]
    if not there:
        ends = tuple("." + spelling for spelling in spellings)
        there = [prefix for prefix in lists if prefix.endswith(ends)]
    if len(there) > 1:
        raise CheckpointError(f"layers stand under several names: {', '.join(map(printable, there[:4]))}")
    return there[0] if there else ""


def _is_there(prefix: str, names: tuple[str, ...], lists: Lists) -> bool:
    """A prefix with a number inside it (`stages.2.blocks.`) is not among `lists`."""
    inner = re.search(r"\.[0-9]+\.", prefix) is not None
    return prefix in lists or (inner and any(name.startswith(prefix) for name in names))


def numbered_lists(checkpoint: Checkpoint) -> Lists:
    """What stands before the first number in a tensor name -> the numbers met there, as written, in order."""
    lists: dict[str, dict[str, None]] = {}
    search = _FIRST_NUMBER.search
    for tensor in checkpoint.tensors:
        name = tensor.name
        if match := search(name):
            lists.setdefault(name[: match.start(1)], {})[match[1]] = None
    return lists


def first_list(name: str) -> str:
    """What stands before the first number in `name`, "" if there is none."""
    match = _FIRST_NUMBER.search(name)
    return name[: match.start(1)] if match else ""


def _limited(lists: Lists) -> Lists:
    if len(lists) > _MOST_LISTS:
        raise CheckpointError(f"the tensor names make {len(lists)} numbered lists, more than {_MOST_LISTS}")
    return lists


def _count(names: tuple[str, ...], prefix: str) -> int:
    labels = dict.fromkeys(name[len(prefix) :].partition(".")[0] for name in names if name.startswith(prefix))
    if flaw := _flaw(labels):
        raise CheckpointError(f"tensors {printable(prefix)}N: {flaw}")
    return len(labels)


def _flaw(labels: Mapping[str, None]) -> str:
    """What keeps `labels` from being the layer numbers 0, 1, 2, ...; "" if nothing does."""
    for label in labels:
        if not _NUMBER.fullmatch(label):
            return f"{printable(label)!r} is not a layer number"
    if len(labels) > MOST_LAYERS:
        return f"{len(labels)} layers are more than {MOST_LAYERS}"
    missing = next((number for number in range(len(labels)) if str(number) not in labels), None)
    return "" if missing is None else f"layer {missing} is missing among {len(labels)} layers"


def select(stacks: tuple[Stack, ...], name: str) -> Stack:
    """The stack called `name`; `main` is always the first one. Raises RequestError naming the others."""
    for stack in stacks:
        if stack.name == name:
            return stack
    if name == "main":
        return stacks[0]
    there = ", ".join(stack.name for stack in stacks)
    alias = "" if stacks[0].name == "main" else f" (main is {stacks[0].name})"
    hint = did_you_mean(name, ["main", *(stack.name for stack in stacks)], "--stack ")
    raise RequestError(f"there is no stack {printable(name)!r} here; this checkpoint has: {there}{alias}{hint}")


def generic(checkpoint: Checkpoint, lists: Lists) -> Architecture:
    """An entry made from the checkpoint itself: one stack whose layer count agrees with the metadata.

    Without any metadata (a lone safetensors file) the names alone decide. Raises UnsupportedError.
    """
    counts = {prefix: len(labels) for prefix, labels in _limited(lists).items() if not _flaw(labels)}
    keys = _count_keys(checkpoint)
    if checkpoint.metadata:
        pairs = [(prefix, key) for prefix, number in counts.items() for key in keys if number in keys[key]]
    else:
        pairs = [(prefix, "") for prefix in counts]
    if len({(prefix, key.rpartition(".")[0]) for prefix, key in pairs}) != 1:
        raise UnsupportedError(f"--generic needs one list of layers and one count that agree; {_seen(counts, keys)}")
    return _generic_entry(checkpoint, pairs[0][0], [key for _, key in pairs])


def _seen(counts: dict[str, int], keys: dict[str, tuple[int, ...]]) -> str:
    lists = ", ".join(f"{printable(prefix)}N has {number}" for prefix, number in list(counts.items())[:4])
    stated = ", ".join(f"{printable(key)} is {values[0]}" for key, values in list(keys.items())[:4])
    return f"lists in the tensors: {lists or 'none'}; counts in the metadata: {stated or 'none'}"


def _generic_entry(checkpoint: Checkpoint, prefix: str, keys: list[str]) -> Architecture:
    table = table_of(checkpoint)
    first = keys[0].rpartition(".")[2] if table == GGUF else keys[0]
    aliases = tuple(key.rpartition(".")[2] for key in keys[1:])
    stack = StackRule(name="main", prefixes=(prefix,), count_key=first, aliases=aliases, mtp_key=_MTP_KEYS[table])
    return Architecture(name=checkpoint.architecture or "unknown", format=table, stacks=(stack,))


def _count_keys(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Keys that count layers -> how many the tensors then have: MTP layers may come on top.

    In a GGUF only what stands under its own architecture is about it.
    """
    own = checkpoint.architecture + "." if table_of(checkpoint) == GGUF else ""
    counts: dict[str, tuple[int, ...]] = {}
    for key, value in checkpoint.metadata.items():
        scope, _, name = key.rpartition(".")
        if name in _COUNT_KEYS and type(value) is int and (table_of(checkpoint) != GGUF or scope + "." == own):
            mtp_layers = checkpoint.metadata.get(f"{scope}.{_MTP_KEYS[HUGGINGFACE]}".lstrip("."))
            more = mtp_layers if table_of(checkpoint) != GGUF and type(mtp_layers) is int else 0
            counts[key] = (value, value + more)
    return counts


def listed_stacks(lists: Lists) -> tuple[Stack, ...]:
    """A stack for every numbered list of two or more: what can be shown of an architecture without rules."""
    return tuple(
        Stack(StackRule(name=prefix.rstrip("."), prefixes=(prefix,), count_key=""), prefix, len(labels))
        for prefix, labels in _limited(lists).items()
        if len(labels) > 1 and not _flaw(labels)
    )
