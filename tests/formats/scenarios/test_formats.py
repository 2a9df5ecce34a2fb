"""One conformance suite over a table of files: what holds for every format, on every kind of input."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from rewriter import PlanOptions, open_checkpoint, verify
from tests.support.builders import (
    MODELS,
    everything,
    gguf_metadata,
    huggingface,
    llama_names,
    prune,
    split_gguf,
    tensors_of,
    write_config,
    write_gguf,
    write_safetensors,
)

FIELDS = {
    "attention.head_count_kv": [8, 7, 6, 5, 4, 3],
    "context_length": 128,
    "rope.freq_base": 10000.5,
    "long.numbers": list(range(5000)),
    "long.words": [f"word {number}" for number in range(5000)],
    "general.tags": ["a", "b", "c", "d", "e", "f"],
    "general.flag": True,
}


def lone(folder: Path, config: bool = True) -> Path:
    if config:
        write_config(folder / "config.json", model_type="llama", num_hidden_layers=6, hidden_size=8)
    return write_safetensors(folder / "model.safetensors", llama_names(6), {"format": "pt", "unknown": "stays"})


def version_2(folder: Path) -> Path:
    path = write_gguf(folder / "model.gguf", fields=FIELDS)
    path.write_bytes(path.read_bytes().replace(b"GGUF\3", b"GGUF\2", 1))
    return path


def aligned_to(alignment: int):
    return lambda folder: write_gguf(folder / "model.gguf", fields=FIELDS, alignment=alignment)


FILES = {
    "lone": lone,
    "lone-generic": lambda folder: lone(folder, config=False),
    "directory": lambda folder: huggingface(folder / "model", unknown={"stays": [1, 2.5, None]}),
    "directory-shards": lambda folder: huggingface(folder / "model", shards=3),
    "gguf": lambda folder: write_gguf(folder / "model.gguf", fields=FIELDS),
    "gguf-2": version_2,
    "gguf-aligned-8": aligned_to(8),
    "gguf-aligned-64": aligned_to(64),
    "gguf-aligned-4096": aligned_to(4096),
    "gguf-split": split_gguf,
    "gguf-split-empty-first": lambda folder: split_gguf(folder, empty_first=True),
    **{
        name: lambda folder, name=name: MODELS / name
        for name in (
            "tiny-llama-12L",
            "tiny-llama-16L-bytes",
            "tiny-llama-12L-F16.gguf",
            "tiny-llama-12L-Q8_0.gguf",
            "tiny-llama-12L-Q4_K_M.gguf",
        )
    },
}
DROPPED = (1, 4)


@dataclass
class Case:
    path: Path
    count: int
    generic: bool

    @property
    def kept(self) -> list[int]:
        return [number for number in range(self.count) if number not in DROPPED]

    def target(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        return folder / re.sub("-00001-of-0000.", "", self.path.name)

    def options(self, **others) -> PlanOptions:
        return PlanOptions(generic=self.generic, **others)

    def prune(self, folder: Path, keep: list[int] | None = None, **options) -> Path:
        return prune(self.path, self.target(folder), self.kept if keep is None else keep, self.options(**options))


@pytest.fixture(params=FILES)
def case(request, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    path = FILES[request.param](folder)
    count = int(found[1]) if (found := re.search(r"-([0-9]+)L", path.name)) else 6
    return Case(path, count, "generic" in request.param)


def source_files(case: Case) -> dict[str, bytes]:
    """The files of the source under the names that the output gives them."""
    if case.path.is_dir():
        return {f"{case.path.name}/{name}": data for name, data in everything(case.path).items()}
    if case.path.parent == MODELS:
        return {case.path.name: case.path.read_bytes()}
    found = everything(case.path.parent)
    return {"model.config.json" if name == "config.json" else name: data for name, data in found.items()}


def test_keeping_every_layer_gives_the_same_bytes(case, tmp_path):
    case.prune(tmp_path / "out", keep=list(range(case.count)), provenance=False)
    assert everything(tmp_path / "out") == source_files(case)


NUMBER = re.compile(r"^(model\.layers\.|blk\.)([0-9]+)(\..*)$")


def renamed(name: str, kept: list[int]) -> str | None:
    """What a tensor must be called, worked out without the code under test; None if it must be gone."""
    match = NUMBER.match(name)
    if match is None:
        return name
    old = int(match[2])
    return f"{match[1]}{kept.index(old)}{match[3]}" if old in kept else None


def test_an_irregular_drop_keeps_every_other_tensor(case, tmp_path):
    before = tensors_of(case.path)
    expected = {new: entry for name, entry in before.items() if (new := renamed(name, case.kept)) is not None}
    assert len(expected) < len(before)
    assert tensors_of(case.prune(tmp_path / "out")) == expected


def expected_metadata(case: Case) -> dict:
    before = gguf_metadata(case.path)
    before["llama.block_count"] = (before["llama.block_count"][0], len(case.kept))
    key = "llama.attention.head_count_kv"
    if isinstance(before[key][1], list):
        before[key] = (before[key][0], [before[key][1][number] for number in case.kept])
    if "split.tensors.count" in before:
        before["split.tensors.count"] = (before["split.tensors.count"][0], len(tensors_of(case.path)) - 3 * 2)
    return before


def test_metadata_follows_and_the_unknown_stays(case, tmp_path):
    target = case.prune(tmp_path / "out")
    if target.suffix == ".gguf":
        after = gguf_metadata(target)
        assert json.loads(after.pop("rewriter.provenance")[1])["layers"]["kept"] == case.kept
        assert set(after.pop("rewriter.padding", (0, " "))[1]) == {" "}
        assert after == expected_metadata(case)
        assert list(after) == list(expected_metadata(case))
        return
    is_directory = case.path.is_dir()
    config = target / "config.json" if is_directory else target.with_name("model.config.json")
    assert config.exists() != case.generic
    if not case.generic:
        old = (case.path if is_directory else case.path.parent) / "config.json"
        pattern = rf'"num_hidden_layers": {case.count}\b'
        assert config.read_text() == re.sub(pattern, f'"num_hidden_layers": {len(case.kept)}', old.read_text())


def test_lone_header_metadata_stays(tmp_path):
    (tmp_path / "in").mkdir()
    target = prune(lone(tmp_path / "in"), tmp_path / "out.safetensors", [0, 5])
    raw = target.read_bytes()
    metadata = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    record = json.loads(metadata.pop("rewriter"))
    assert metadata == {"format": "pt", "unknown": "stays"}
    assert (record["selection"], record["original"]["layers"]) == ("--stack main --keep 0,5", {"main": [0, 5]})


def test_shards_keep_their_metadata_and_the_index_is_true(tmp_path):
    source = huggingface(tmp_path / "in", shards=3)
    target = prune(source, tmp_path / "out", [0, 2, 5])
    index = json.loads((target / "model.safetensors.index.json").read_text())
    tensors = {file.name: tensors_of(file) for file in target.glob("*.safetensors")}
    assert index["weight_map"] == {name: file for file, found in tensors.items() for name in found}
    assert index["metadata"] == {"total_size": sum(len(e[2]) for found in tensors.values() for e in found.values())}
    assert list(index["weight_map"]) == sorted(index["weight_map"])


def test_two_runs_give_the_same_bytes(case, tmp_path):
    case.prune(tmp_path / "one")
    case.prune(tmp_path / "elsewhere" / "two")
    assert everything(tmp_path / "one") == everything(tmp_path / "elsewhere" / "two")


def test_the_path_of_the_source_leaves_no_trace(case, tmp_path):
    target = case.prune(tmp_path / "out")
    for data in everything(target if target.is_dir() else target.parent).values():
        assert str(tmp_path).encode() not in data


def test_two_runs_compose(case, tmp_path):
    first = case.prune(tmp_path / "first")
    kept = list(range(len(case.kept)))[1::2]
    direct = [case.kept[number] for number in kept]
    composed = prune(first, case.target(tmp_path / "second"), kept, case.options())
    once = case.prune(tmp_path / "once", keep=direct)
    records = [open_checkpoint(path).provenance["original"] for path in (composed, once)]
    assert records[0] == records[1]
    assert list(records[0]["layers"].values()) == [direct]
    prune(first, case.target(tmp_path / "bare"), kept, case.options(provenance=False))
    case.prune(tmp_path / "bare once", keep=direct, provenance=False)
    assert everything(tmp_path / "bare") == everything(tmp_path / "bare once")


def test_verify_agrees(case, tmp_path):
    options = case.options()
    for provenance in (True, False):
        target = case.prune(tmp_path / f"out {provenance}", provenance=provenance)
        assert verify(target, options=options) == ()
        assert verify(target, case.path, options) == ()
    assert verify(case.path, case.path, options) == ()


@pytest.mark.parametrize("ending", [".safetensors", ".gguf", ".txt", ""])
@pytest.mark.parametrize("kind", ["lone", "gguf", "directory"])
def test_the_content_decides_not_the_ending(kind, ending, tmp_path):
    path = FILES[kind](tmp_path)
    moved = path.rename(path.with_name("misleading" + ending))
    expected = {"lone": "safetensors", "gguf": "gguf", "directory": "huggingface"}[kind]
    assert open_checkpoint(moved).format == expected
    target = prune(moved, tmp_path / f"out{ending}", [0, 3])
    assert {renamed(name, [0, 3]) for name in tensors_of(moved)} - {None} == set(tensors_of(target))


def test_a_read_only_source_is_enough(case, tmp_path):
    if case.path.is_relative_to(MODELS):
        pytest.skip("fixtures keep their mode")
    for file in case.path.parent.rglob("*"):
        file.chmod(0o555 if file.is_dir() else 0o444)
    before = source_files(case)
    assert verify(case.prune(tmp_path / "out"), case.path, case.options()) == ()
    assert source_files(case) == before
