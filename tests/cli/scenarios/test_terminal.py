"""Nothing from a file reaches the terminal as it stands: names, metadata, records and paths, in every command.

`ESCAPES` would clear a screen, set a title, disguise a path or break a line; markup would change colours.
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.builders import (
    gguf_field,
    gguf_record,
    gguf_string,
    huggingface,
    prune,
    raw_gguf,
    raw_safetensors,
    write_gguf,
)

ESCAPES = "\x1b[2J\x1b]0;title\x07\x9b31m\r\n\t\u202egpj\u2066\u200b\ufeff\x7f"
MARKUP = "[red]x[/red][link=http://x]"
LONG = "z" * 1_000_000
EVIL = ESCAPES + MARKUP
# what a terminal would act on; on a terminal the program itself may style and move
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
OWN = re.compile(r"\x1b\[[0-9;?]*[mKAhl]|\r(?=\n|\x1b)")


def evil_gguf(path: Path) -> Path:
    fields = [
        gguf_field("general.architecture", 8, gguf_string("llama")),
        gguf_field("llama.block_count", 4, b"\2\0\0\0"),
        gguf_field(EVIL, 8, gguf_string(EVIL)),
        gguf_field("llama." + EVIL, 9, b"\4\0\0\0" + (2).to_bytes(8, "little") + bytes(8)),
        gguf_field("x" + LONG, 8, gguf_string(LONG)),
    ]
    names = [f"blk.{layer}.{EVIL}{LONG}" for layer in range(2)]
    return raw_gguf(path, fields, [gguf_record(name, [8], 0, 32 * at) for at, name in enumerate(names)], bytes(64))


def evil_architecture(path: Path) -> Path:
    fields = [gguf_field("general.architecture", 8, gguf_string(EVIL + LONG))]
    fields += [gguf_field(f"{EVIL + LONG}.block_count", 4, b"\3\0\0\0")]
    return raw_gguf(path, fields, [gguf_record(f"blk.{EVIL}.{layer}.w", [8], 0, 32 * layer) for layer in range(2)],
                    bytes(64))  # fmt: skip


def evil_lone(path: Path) -> Path:
    shape = {"dtype": "F32", "shape": [2]}
    names = [f"{EVIL}.{layer}.{EVIL}{LONG}" for layer in range(2)]
    header = {name: {**shape, "data_offsets": [8 * at, 8 * at + 8]} for at, name in enumerate(names)}
    return raw_safetensors(path, {"__metadata__": {EVIL: EVIL + LONG}, **header}, bytes(16))


def evil_directory(path: Path, **config: object) -> Path:
    """Side files, stale files and values of the config, all with names of their own."""
    source = huggingface(path, **{"architectures": [EVIL], "layer_types": [EVIL + LONG] * 6, EVIL: [EVIL], **config})
    for name in (EVIL, MARKUP + ".txt", EVIL + ".bin", "openvino_" + EVIL, "n" * 250 + ".h5"):
        (source / name.replace("/", "|")).write_bytes(b"")
    return source


def evil_record(path: Path) -> Path:
    """The record of an earlier run, with names that the run never met."""
    source = prune(huggingface(path.with_name("before")), path, [0, 1, 2, 3])
    record = json.loads((source / "rewriter.json").read_text())
    record["source"]["name"] = record["original"]["name"] = EVIL + LONG
    record["original"]["layers"] = {EVIL + LONG: [0, 1, 2, 3]}
    (source / "rewriter.json").write_text(json.dumps(record))
    return source


SOURCES = {
    "keys and tensors of a GGUF": evil_gguf,
    "the architecture of a GGUF": evil_architecture,
    "tensors and metadata of safetensors": evil_lone,
    "files and values of a directory": evil_directory,
    "an unknown model type": lambda path: evil_directory(path, model_type=EVIL + LONG),
    "a count that is text": lambda path: evil_directory(path, num_hidden_layers=EVIL + LONG),
    "quantised modules": lambda path: evil_directory(path, quantization_config={"modules_to_not_convert": [EVIL]}),
    "a record": evil_record,
}


def commands(source: Path, folder: Path) -> dict[str, list[object]]:
    more = ["--drop", "1", "--keep-field", "llama." + EVIL]
    return {
        "inspect": ["inspect", source],
        "inspect --json": ["inspect", "--json", source],
        "plan": ["plan", source, "--drop", "1"],
        "plan --json": ["plan", source, "--drop", "1", "--generic", "--json"],
        "plan of another stack": ["plan", source, "--drop", "1", "--stack", EVIL],
        "prune": ["prune", source, folder / f"out {EVIL.replace('/', '|')}", "--drop", "1"],
        "prune --generic": ["prune", source, folder / "generic", "--generic", *more],
        "prune --verify": ["prune", source, folder / "verified", "--verify", "--drop", "1"],
        "verify": ["verify", source],
        "verify --source": ["verify", source, "--source", source],
        "list": ["list", "architectures", "--toml", EVIL],
    }


NAMES = list(commands(Path(), Path()))


def on_a_terminal(arguments: list[object]) -> str:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    words = [sys.executable, "-m", "rewriter", *map(str, arguments)]
    process = subprocess.Popen(words, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    found = b""
    try:
        while part := os.read(ours, 65536):
            found += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    process.wait(60)
    return OWN.sub("", found.decode()).replace("\r\n", "\n")


def assert_printable(text: str) -> None:
    assert text.strip()
    assert RAW.findall(text) == []
    assert "Traceback" not in text
    if "{\n" not in text:  # JSON is for programs: whole, and ASCII
        assert "z" * 200 not in text
        assert len(text) < 20_000
        return
    assert text.isascii()


@pytest.fixture(scope="module", params=SOURCES)
def source(request, tmp_path_factory):
    return SOURCES[request.param](tmp_path_factory.mktemp("evil") / "in.gguf")


@pytest.mark.parametrize("command", NAMES)
def test_printed(command, source, run, tmp_path):
    _, out, err = run(*commands(source, tmp_path)[command])
    assert_printable(out + err)


@pytest.mark.parametrize("command", ["inspect", "prune --generic"])
def test_on_a_terminal(command, source, tmp_path):
    assert_printable(on_a_terminal(commands(source, tmp_path)[command]))


@pytest.mark.parametrize("name", [ESCAPES, "[red]x[/red]".replace("/", "|"), "[bold]", "-o", os.fsdecode(b"\xff")])
def test_a_source_of_an_evil_name(name, run, tmp_path):
    path = write_gguf(tmp_path / f"{name}.gguf")
    for command in ("inspect", "plan", "prune --generic", "verify --source"):
        _, out, err = run(*commands(path, tmp_path)[command])
        assert_printable(out + err)
