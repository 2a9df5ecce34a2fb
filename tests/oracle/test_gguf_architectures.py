"""llama.cpp computes with the pruned file what it computes with the source whose dropped blocks add nothing.

A row is a file of tests/support/gguf_specs.py that llama.cpp can run; the fixtures say of the others why not. Results
are compared exactly. Where a block that adds nothing is no identity (its input is normalised, mixed or halved all the
same), the reference is a file written afresh without the dropped blocks.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from rewriter import PlanOptions, errors
from tests.support.builders import prune
from tests.support.gguf_expected import BLOCK, expected, kept_of
from tests.support.gguf_files import WRITES_RESIDUAL, contents, fixture, random, typed, write
from tests.support.gguf_specs import PATTERN, RECURRENT, SPECS, TOKENS_READ, Spec
from tests.support.oracle import llamacpp

pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.oracle

RUN = [spec for spec in SPECS if not fixture(spec.fixture)[2]]
CASES = [(spec, dropped) for spec in RUN for dropped in spec.drops]


def name_of(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def output(spec: Spec, path: Path) -> np.ndarray:
    return llamacpp.answer(spec.question, path, TOKENS_READ)


def source(spec: Spec, path: Path, zero: tuple[int, ...] = ()) -> Path:
    """The file, in which the blocks `zero` add nothing."""
    metadata, shapes, _ = fixture(spec.fixture)

    def values(name: str) -> np.ndarray:
        block = BLOCK.match(name)
        silent = block and int(block[1]) in zero and WRITES_RESIDUAL.search(name)
        return random(name, shapes[name]) * np.float32(not silent)

    return write(path, typed(spec, metadata), shapes, values)


def afresh(spec: Spec, path: Path, full: Path, kept: list[int]) -> Path:
    """A file of the blocks `kept`, written by the gguf library from what the Spec says."""
    metadata, tensors = expected(spec, contents(full), kept)
    arrays = {name: np.frombuffer(data, np.float32).reshape(shape[::-1]) for name, (_, shape, data) in tensors.items()}
    shapes = {name: shape for name, (_, shape, _) in tensors.items()}
    return write(path, {key: value for key, (_, value) in metadata.items()}, shapes, arrays.__getitem__)


def test_at_least_forty_architectures_run():
    assert len({spec.name for spec in RUN}) >= 40


@pytest.mark.parametrize(("spec", "dropped"), CASES, ids=name_of)
def test_computes_what_the_kept_blocks_compute(spec: Spec, dropped: tuple[int, ...], tmp_path: Path):
    path = source(spec, tmp_path / "source.gguf")
    kept = kept_of(spec, dropped)
    options = PlanOptions(drop_mtp=bool(spec.mtp_layers) and kept[-1] < spec.layers)
    found = output(spec, prune(path, tmp_path / "pruned.gguf", kept, options))
    if spec.identity:
        reference = output(spec, source(spec, tmp_path / "zeroed.gguf", dropped))
    else:
        reference = output(spec, afresh(spec, tmp_path / "afresh.gguf", path, kept))
    assert np.array_equal(found, reference)
    gone = [layer for layer in dropped if layer < spec.layers]
    assert not gone or np.abs(found - output(spec, path)).max() > 0.01


@pytest.mark.parametrize("kept", [[0], [2, 5]], ids=str)
@pytest.mark.parametrize("spec", [spec for spec in RUN if spec.drops and not spec.mtp_layers], ids=str)
def test_one_or_two_blocks_are_right_or_refused(spec: Spec, kept: list[int], tmp_path: Path):
    assert_right_or_refused(spec, kept, tmp_path)


# ---- other stacks than blk.N

STACKS = [("t5encoder", "encoder", "enc.blk"), ("wavtokenizer-dec", "convnext", "convnext")]


@pytest.mark.parametrize("dropped", [(1, 4), (0,), (5,)], ids=str)
@pytest.mark.parametrize(("name", "stack", "prefix"), STACKS)
def test_other_stacks(name: str, stack: str, prefix: str, dropped: tuple[int, ...], tmp_path: Path):
    metadata, shapes, _ = fixture(name)
    silent = re.compile(rf"{prefix}\.({'|'.join(map(str, dropped))})\.(attn_o|ffn_down|pw2|gamma)\.")
    source = write(tmp_path / "source.gguf", metadata, shapes)
    zeroed = write(
        tmp_path / "zeroed.gguf",
        metadata,
        shapes,
        lambda name: random(name, shapes[name]) * np.float32(not silent.match(name)),
    )
    blocks = max(int(match[1]) for each in shapes if (match := re.match(rf"{prefix}\.([0-9]+)\.", each))) + 1
    kept = [block for block in range(blocks) if block not in dropped]
    pruned = prune(source, tmp_path / "pruned.gguf", kept, PlanOptions(stack=stack))
    found, full = (llamacpp.embeddings(path, TOKENS_READ) for path in (pruned, source))
    assert np.abs(found - llamacpp.embeddings(zeroed, TOKENS_READ)).max() < 1e-6
    assert np.abs(found - full).max() > 0.01


# ---- blocks of one kind only


def kinds(spec: Spec) -> list[bool]:
    """Which of two kinds each block is: with a window, recurrent, with attention."""
    listed = [spec.keys.get(key) for key in (PATTERN, RECURRENT, "attention.head_count_kv")]
    implied = list(spec.implied(spec.layers).values()) if spec.implied else []
    found = (each for each in (*listed, *implied) if isinstance(each, list | tuple) and len(set(map(bool, each))) == 2)
    return [bool(kind) for kind in next(found, ())]


MIXED = [spec for spec in RUN if kinds(spec) and spec.drops and not spec.mtp_layers]


@pytest.mark.parametrize("kind", [True, False])
@pytest.mark.parametrize("spec", MIXED, ids=str)
def test_one_kind_alone_is_right_or_refused(spec: Spec, kind: bool, tmp_path: Path):
    """llama.cpp aborts on a window that no block has, and on caches that no block fills."""
    assert_right_or_refused(spec, [layer for layer, each in enumerate(kinds(spec)) if each == kind], tmp_path)


def assert_right_or_refused(spec: Spec, kept: list[int], tmp_path: Path) -> None:
    path = source(spec, tmp_path / "source.gguf")
    dropped = tuple(layer for layer in range(spec.layers) if layer not in kept)
    try:
        pruned = prune(path, tmp_path / "pruned.gguf", kept)
    except errors.UnsupportedError as error:
        reason = str(error)
    else:
        reason = ""
        found = output(spec, pruned)
        zeroed = output(spec, source(spec, tmp_path / "zeroed.gguf", dropped))
        assert np.array_equal(found, zeroed) or not spec.identity
    assert not reason or "--keep" in reason
