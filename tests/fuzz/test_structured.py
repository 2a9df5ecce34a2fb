"""Changes single fields of good checkpoints. What comes out is refused with one line, or pruned right.

A fixed number of examples, always the same ones. By hand: FUZZ_EXAMPLES=100000 pytest tests/fuzz
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.make_broken import (
    CONFIG,
    COUNTED,
    INDEX,
    MAP,
    PREFIX,
    SHARDS,
    count,
    entry,
    field,
    gguf,
    layers,
    record,
    safetensors,
    shard,
    string,
)  # fmt: skip
from rewriter import PlanOptions, RewriterError, make_plan, open_checkpoint, verify, write
from rewriter.report.json_values import describe
from tests.support.builders import tensors_of

BY_HAND = int(os.environ.get("FUZZ_EXAMPLES", "0"))
bounded = settings(
    max_examples=BY_HAND or 150, derandomize=not BY_HAND, deadline=None, suppress_health_check=list(HealthCheck)
)

EDGES = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 127, 128, 255, 256]
EDGES += [2**power + by for power in (15, 16, 31, 32, 53, 62, 63, 64) for by in (-1, 0, 1)]
numbers = st.sampled_from(EDGES) | st.sampled_from([-number for number in EDGES]) | st.integers(-4, 40)
words = st.sampled_from(
    ["", "F32", "F4", "I64", "llama", "h.0.w", "h.01.w", "h.1.w", "h.2.w", "h.0.", ".", "a\0b", "\x1b[31m", "\u202e",
     "\ud800", "[red]", "x" * 300, "__metadata__", "../x", "/x", "blk.1.w", "model.layers.1.w", "model.layers.2.w"]
) | st.text(max_size=5)  # fmt: skip
scalars = st.none() | st.booleans() | numbers | st.floats() | words
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)


def places(value: object) -> list[tuple]:
    """Every path into a JSON value."""
    found: list[tuple] = [()]
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        found += [(key, *rest) for rest in places(member)]
    return found


def changed(value: object, path: tuple, change) -> object:
    if not path:
        return change(value)
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(copy[path[0]], path[1:], change)
    return copy


@st.composite
def mutated(draw, value: object) -> object:
    """`value` with one to three members replaced, taken away, added or renamed."""
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(value)))
        new, name = draw(values), draw(words)
        kind = draw(st.sampled_from(["replace", "add", "rename", "drop", "twice"]))
        value = changed(value, path, lambda old, kind=kind, new=new, name=name: CHANGES[kind](old, new, name))
    return value


def added(old: object, new: object, name: str) -> object:
    return {**old, name: new} if isinstance(old, dict) else [*old, new] if isinstance(old, list) else new


def renamed(old: object, new: object, name: str) -> object:
    if not isinstance(old, dict) or not old:
        return new
    first = next(iter(old))
    return {name if key == first else key: member for key, member in old.items()}


def dropped(old: object, new: object, name: str) -> object:
    return dict(list(old.items())[1:]) if isinstance(old, dict) else old[1:] if isinstance(old, list) else None


CHANGES = {
    "replace": lambda old, new, name: new,
    "add": added,
    "rename": renamed,
    "drop": dropped,
    "twice": lambda old, new, name: [old, old],
}


def survives(path: Path, options: PlanOptions) -> None:
    """The one law: one printable line, or an output that the reference reads, with the source's bytes."""
    target = path.parent / "out"
    kept = None
    try:
        checkpoint = open_checkpoint(path)
        describe(checkpoint)
        plan = make_plan(checkpoint, [1], options)
        kept = {copy.name: copy.tensor.name for copy in plan.tensors}
        output = write(plan, target)
    except RewriterError as error:
        assert str(error).isprintable()  # noqa: PT017
        assert len(str(error)) < 1000  # noqa: PT017
        assert not [each for each in path.parent.iterdir() if each.name not in ("in", path.name)]
        return
    written = target if output.directory else target.with_name(output.files[0].name)
    before, after = tensors_of(path), tensors_of(written)
    assert after == {new: before[old] for new, old in kept.items()}
    assert all(problem.where.isprintable() for problem in verify(written, path, options))


def assert_refused_or_planned(files: dict[str, bytes], opened: str, options: PlanOptions) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in"
        path.mkdir()
        for name, content in files.items():
            (path / name).write_bytes(content)
        if opened:
            path = (path / opened).rename(Path(folder) / opened)
            (Path(folder) / "in").rmdir()
        survives(path, options)


GENERIC = PlanOptions(generic=True)
HEADER = {"__metadata__": {"format": "pt"}, **layers(0, 1), "t": entry(16, 16, [0, 3])}


def dumped(value: object) -> bytes:
    return json.dumps(value).encode()


@bounded
@given(mutated(HEADER), st.binary(max_size=2))
def test_safetensors(header, more):
    assert_refused_or_planned({"x.safetensors": safetensors(header, bytes(range(16)) + more)}, "x.safetensors", GENERIC)


@bounded
@given(mutated(CONFIG | COUNTED))
def test_config(config):
    files = {"model.safetensors": safetensors(layers(0, 1, prefix=PREFIX)), "config.json": dumped(config)}
    assert_refused_or_planned(files, "", PlanOptions())


@bounded
@given(mutated({"metadata": {"total_size": 16, "total_parameters": 4}, "weight_map": MAP}))
def test_index(index):
    files = {SHARDS[0]: shard(0), SHARDS[1]: shard(1), "config.json": dumped(CONFIG), INDEX: dumped(index)}
    assert_refused_or_planned(files, "", PlanOptions())


WIDTHS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}


@st.composite
def typed(draw, depth: int = 2) -> tuple[int, bytes]:
    """A value type and some bytes that mostly fit it."""
    kind = draw(st.sampled_from([*WIDTHS, 8, 9, 13, 2**31]))
    if kind in WIDTHS:
        return kind, draw(st.binary(min_size=struct.calcsize(WIDTHS[kind]), max_size=struct.calcsize(WIDTHS[kind])))
    if kind == 8:
        return kind, string(draw(st.binary(max_size=6)))
    if kind == 9 and depth:
        items = draw(st.lists(typed(depth - 1), max_size=3))
        length = draw(st.just(len(items)) | numbers.map(lambda number: number % 2**64))
        inner = items[0][0] if items else draw(st.integers(0, 13))
        return kind, struct.pack("<IQ", inner, length) + b"".join(raw for _, raw in items)
    return kind, draw(st.binary(max_size=8))


keys = st.sampled_from(
    ["general.alignment", "general.architecture", "general.type", "llama.block_count", "llama.attention.head_count_kv",
     "split.no", "split.count", "split.tensors.count", "rewriter.provenance", "rewriter.padding", "x", "",
     "general.tensor_extra.x", "llama.nextn_predict_layers"]
)  # fmt: skip
unsigned = st.sampled_from([n for n in EDGES if n < 2**64])


@st.composite
def gguf_files(draw) -> bytes:
    fields = [field("general.architecture", 8, string("llama")), count(2)]
    for name, (kind, raw) in draw(st.lists(st.tuples(keys, typed()), max_size=3)):
        fields.insert(draw(st.integers(0, len(fields))), field(name, kind, raw))
    tensors = [record(f"blk.{n}.w", [8], 0, 32 * n) for n in range(2)]
    for _ in range(draw(st.integers(0, 2))):
        name = draw(words.filter(lambda word: word.isascii()) | st.sampled_from(["blk.0.w", "blk.1.b"]))
        shape = draw(st.lists(unsigned, max_size=5))
        kind = draw(st.integers(0, 42) | unsigned.map(lambda number: number % 2**32))
        tensors.insert(draw(st.integers(0, 2)), record(name, shape, kind, draw(unsigned)))
    counts = draw(st.none() | st.tuples(unsigned, unsigned))
    version = struct.pack("<I", draw(st.sampled_from([2, 3, 3, 3, 3, 1, 4, 3 << 24])))
    return gguf(fields, tensors, bytes(range(64)), version, draw(st.sampled_from([8, 32, 64])), counts)


@bounded
@given(gguf_files())
def test_gguf_fields(content):
    assert_refused_or_planned({"x.gguf": content}, "x.gguf", PlanOptions())


@bounded
@given(st.data())
def test_gguf_bytes(data):
    """Numbers of a good file replaced where they stand."""
    content = bytearray(gguf())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 9))
        new = struct.pack("<Q", data.draw(unsigned))[: data.draw(st.sampled_from([1, 2, 4, 8]))]
        content[at : at + len(new)] = new
    cut = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    assert_refused_or_planned({"x.gguf": bytes(content[:cut])}, "x.gguf", PlanOptions())


def test_the_mutations_reach_both_ends(tmp_path):
    """A good header is taken, a changed one is refused: else the law above would say nothing."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors(HEADER, bytes(range(16))))
    survives(path, GENERIC)
    assert tensors_of(tmp_path / "out").keys() == {"h.0.w", "t"}
    path.write_bytes(safetensors({**HEADER, "h.1.w": 1}, bytes(range(16))))
    with pytest.raises(RewriterError):
        open_checkpoint(path)
