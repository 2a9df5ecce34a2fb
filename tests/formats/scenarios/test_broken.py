"""Every file of `fixtures/broken` is refused with one line that names the place; every one of `fixtures/odd` is taken.

What the reference says about each is asked too: it refuses what we refuse, but for the cases that give a reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil

import pytest
from safetensors import deserialize

from fixtures.make_broken import BROKEN, ODD, place, written
from rewriter import CheckpointError, PlanOptions, RewriterError, make_output, make_plan, open_checkpoint, verify
from rewriter.report.json_values import describe
from tests.support.builders import FIXTURES, everything, prune, tensors_of

FOLDERS = {"broken": BROKEN, "odd": ODD}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_files_are_those_of_the_table(folder, tmp_path):
    written(tmp_path, FOLDERS[folder])
    assert everything(tmp_path) == everything(FIXTURES / folder)


def test_there_are_enough_and_they_are_small():
    assert len(BROKEN) >= 150
    assert len(ODD) >= 40
    assert sum(len(raw) for folder in FOLDERS for raw in everything(FIXTURES / folder).values()) < 500_000


def commands(path, target, options):
    """What `inspect`, `plan` and `prune` do."""
    return {
        "inspect": lambda: describe(open_checkpoint(path)),
        "plan": lambda: make_output(make_plan(open_checkpoint(path), [1], options), "out"),
        "prune": lambda: prune(path, target, [1], options),
    }


def check_message(message: str, words: str) -> None:
    assert words in message
    assert message.isprintable()
    assert len(message) < 400


@pytest.mark.parametrize("name", BROKEN)
def test_broken(name, tmp_path):
    case = BROKEN[name]
    path = place(FIXTURES / "broken", name, case)
    options = PlanOptions(generic=case.generic and case.at == "open")
    for command, run in commands(path, tmp_path / "out", options).items():
        if case.at == "plan" and command == "inspect":
            continue
        with pytest.raises(CheckpointError) as raised:
            run()
        check_message(str(raised.value), case.words)
    problems = verify(path)
    assert [problem for problem in problems if case.words in str(problem)]
    assert all(str(problem).isprintable() for problem in problems)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name, case in BROKEN.items() if case.at == "open"])
def test_the_message_names_the_file(name):
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(place(FIXTURES / "broken", name, BROKEN[name]))
    files = {*BROKEN[name].files, name}
    missing = str(raised.value).startswith(("cannot open ", "the same tensor name"))
    assert missing or any(file.partition(".")[0] in str(raised.value) for file in files)


ENDLESS = {
    "key-array-of-2-40.gguf", "key-array-of-2-62-words.gguf", "key-array-of-2-61-words.gguf",
    "key-array-of-2-40-strings.gguf", "counts-2-40-tensors.gguf", "counts-2-63-tensors.gguf",
    "counts-2-64-tensors.gguf", "counts-2-40-keys.gguf", "counts-2-64-keys.gguf",
    "tensor-2-31-dimensions.gguf", "key-array-of-arrays-deep.gguf",
}  # fmt: skip


def reference(path) -> None:
    """Read everything as the libraries that own the formats do; the index as a loader follows it."""
    if path.is_file():
        tensors_of(path)
        return
    for file in path.glob("*.json"):
        json.loads(file.read_text("utf-8"))
    json.loads((path / "config.json").read_text("utf-8")).get("model_type")
    index = path / "model.safetensors.index.json"
    if not index.exists():
        deserialize((path / "model.safetensors").read_bytes())
        return
    for tensor, file in json.loads(index.read_text("utf-8"))["weight_map"].items():
        assert tensor in dict(deserialize((path / file).read_bytes()))


def reads(path) -> bool:
    """Whether the reference reads it, in a process of its own: some files would take all time and memory."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    code = 1
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            reference(path)
        code = 0
    finally:
        os._exit(code)


@pytest.mark.parametrize("name", [name for name in BROKEN if name not in ENDLESS])
def test_the_reference_refuses_it_too(name):
    case = BROKEN[name]
    assert reads(place(FIXTURES / "broken", name, case)) == bool(case.mildly), "say why we are stricter, where we are"


def kept_second(contents: dict) -> dict:
    """Of layers 0 and 1 the second, as layer 0, and all that is in neither."""
    layer = re.compile(r"^(h|blk|model\.layers)\.([01])\.", re.DOTALL)
    kept = {name: entry for name, entry in contents.items() if not (found := layer.match(name)) or found[2] == "1"}
    return {layer.sub(r"\1.0.", name): entry for name, entry in kept.items()}


@pytest.mark.parametrize("name", ODD)
def test_odd_but_allowed(name, tmp_path):
    case = ODD[name]
    path = place(FIXTURES / "odd", name, case)
    options = PlanOptions(generic=case.generic)
    target = prune(path, tmp_path / path.name, [1], options)
    assert tensors_of(target) == kept_second(tensors_of(path))
    assert verify(target, path, options) == ()
    again = prune(path, tmp_path / f"all-{path.name}", [0, 1], options)
    assert tensors_of(again) == tensors_of(path)


# What git cannot hold: links, pipes, devices


@pytest.fixture
def sharded(tmp_path):
    return shutil.copytree(FIXTURES / "odd" / "sharded", tmp_path / "in")


SHARD, INDEX = "model-00002-of-00002.safetensors", "model.safetensors.index.json"


def linked(to: str):
    return lambda path: path.symlink_to(to)


SPECIAL = {
    "a pipe": (os.mkfifo, "is not a regular file"),
    "a directory": (os.mkdir, "is not a regular file"),
    "a link to /dev/zero": (linked("/dev/zero"), "is not a regular file"),
    "a link to itself": (linked("self"), ""),
    "a link to nothing": (linked("nowhere"), "cannot open"),
    "a link to the directory": (linked("."), ""),
}


@pytest.mark.parametrize("file", [SHARD, INDEX, "config.json"])
@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files(kind, file, sharded, tmp_path):
    make, words = SPECIAL[kind]
    (sharded / file).unlink()
    make(sharded / file)
    if kind == "a link to itself":
        (sharded / file).unlink()
        (sharded / file).symlink_to(file)
    with pytest.raises(RewriterError) as raised:
        prune(sharded, tmp_path / "out", [1])
    check_message(str(raised.value), words)
    assert not (tmp_path / "out").exists()


def test_links_into_a_cache_are_taken(sharded, tmp_path):
    (tmp_path / "blobs").mkdir()
    for number, file in enumerate(sorted(sharded.iterdir())):
        file.rename(tmp_path / "blobs" / str(number))
        file.symlink_to(f"../blobs/{number}")
    target = prune(sharded, tmp_path / "out", [1])
    assert tensors_of(target) == kept_second(tensors_of(FIXTURES / "odd" / "sharded"))


def test_links_that_double_at_every_level(sharded, tmp_path):
    """No loop, but 2^25 paths."""
    for level in range(25):
        (tmp_path / f"d{level}").mkdir()
        for name in "ab":
            (tmp_path / f"d{level}" / name).symlink_to(f"../d{level + 1}")
    (tmp_path / "d25").mkdir()
    (tmp_path / "d25" / "file").write_bytes(b"")
    (sharded / "bomb").symlink_to("../d0")
    with pytest.raises(CheckpointError, match="holds more than"):
        open_checkpoint(sharded)
