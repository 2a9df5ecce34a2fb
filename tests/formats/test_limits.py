"""No input takes more than 2 GiB of address space or 10 s of the processor before it is refused or planned.

Each runs in a process of its own under both limits. HOSTILE_SIZES=all runs those that take long, too.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from rewriter.formats import limits
from rewriter.formats.json_edit import MEMBERS, VALUES
from tests.support.builders import gguf_field, gguf_record, gguf_string, huggingface
from tests.support.limited import SECONDS, assert_ends_in_one_line, run

pytestmark = pytest.mark.slow  # reads headers of 100 MB

PLANNED = 40  # seconds for what is not refused: the most tensors that there may be
ALL = os.environ.get("HOSTILE_SIZES") == "all"
HEADER = 100_000_000  # bytes, the most that safetensors reads


def safetensors(path: Path, raw: bytes) -> Path:
    path.write_bytes(struct.pack("<Q", len(raw)) + raw)
    return path


def tensors(count: int, name: str) -> bytes:
    entry = '":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    return ('{"' + ',"'.join(name.format(at // 128, at % 128) + entry for at in range(count)) + "}").encode()


def members(value: str, count: int) -> bytes:
    return ",".join(f'"{number}"{value}' for number in range(count)).encode()


def repeated(start: bytes, part: bytes, end: bytes, nbytes: int = HEADER) -> bytes:
    return start + part * ((nbytes - len(start) - len(end)) // len(part)) + end


# name -> (the header, what the message says; "" for a plan)
HEADERS = {
    "as many tensors as there may be": (lambda: tensors(limits.TENSORS, "h.{1}.w{0}"), ""),
    "more tensors": (lambda: tensors(1_200_000, "h.{1}.w{0}"), "tensors are more than"),
    "unlike layers": (
        lambda: tensors(1_000_000, "h.{1}.w{0}").replace(b'h.0.w1"', b'h.0.x"'),
        "holds other tensors",
    ),
    "depth": (lambda: repeated(b'{"a":', b"[", b""), "values, more than"),
    "some depth": (lambda: repeated(b'{"a":', b"[", b"", VALUES), "nested too deeply"),
    "digits": (lambda: repeated(b'{"a":', b"9", b"}"), "Exceeds the limit"),
    "digits after the point": (lambda: repeated(b'{"a":0.', b"9", b"}"), "needs a dtype"),
    "backslashes": (lambda: repeated(b'{"a":"', b"\\\\", b'"}'), "needs a dtype"),
    "spaces": (lambda: repeated(b"{", b" ", b"}"), "--generic needs"),
    "more keys": (lambda: b"{" + members(":0", MEMBERS + 1) + b"}", "members, more than"),
    "keys": (lambda: b"{" + members(":0", MEMBERS) + b"}", "are more than"),
    "metadata": (
        lambda: b'{"__metadata__":{' + members(':""', MEMBERS - 1) + b"}}",
        "entries of metadata are more than",
    ),
    "one key again and again": (lambda: repeated(b"{", b'"a":0,', b'"b":0}', 6 * (MEMBERS - 1)), "stands twice"),
    "lists in a list": (lambda: repeated(b'{"a":[', b"[],", b"0]}", 3 * (VALUES // 2 - 1)), "needs a dtype"),
    "objects in a list": (lambda: repeated(b'{"a":[', b'{"b":[0]},', b"0]}", 10 * (VALUES // 3 - 2)), "needs a dtype"),
    "lists": (lambda: tensors(limits.TENSORS, "a{0}b{1}.0.w"), "numbered lists, more than"),
    "a name of 99 MB": (lambda: tensors(1, "h.{0}." + "x" * 99_000_000), "at most 0 of the 1 can go"),
    "a name of dots": (lambda: tensors(1, "1." * 49_000_000), "--generic needs"),
}
SLOW = {"keys", "metadata", "objects in a list", "lists", "as many tensors as there may be"}


def chosen(cases, slow):
    return [name for name in cases if ALL or name not in slow]


@pytest.mark.parametrize("name", chosen(HEADERS, SLOW - {"as many tensors as there may be"}))
def test_headers_of_100_mb(name, tmp_path):
    header, words = HEADERS[name]
    path = safetensors(tmp_path / "x.safetensors", header())
    found = run("plan", path, "--generic", "--drop", "0", seconds=SECONDS if words else PLANNED)
    if words == "at most 0 of the 1 can go":
        assert (found.returncode, words in found.stderr) == (2, True)
    else:
        assert_ends_in_one_line(found, words)


def gguf(path: Path, fields: list[bytes], records: list[bytes], counts: tuple[int, int] | None = None, nbytes: int = 0):
    head = b"GGUF" + struct.pack("<IQQ", 3, *(counts or (len(records), len(fields)))) + b"".join(fields)
    head += b"".join(records)
    path.write_bytes(head + bytes(-len(head) % 32))
    if nbytes:
        os.truncate(path, nbytes)
    return path


LLAMA = gguf_field("general.architecture", 8, gguf_string("llama"))
COUNT = gguf_field("llama.block_count", 4, struct.pack("<I", 128))


def listed(kind: int, length: int, items: bytes = b"", name: str = "x.y") -> bytes:
    return gguf_field(name, 9, struct.pack("<IQ", kind, length) + items)


def empty_tensors(count: int) -> list[bytes]:
    return [gguf_record(f"blk.{n % 128}.w{n // 128}", [0], 0, 0) for n in range(count)]


# name -> (arguments of gguf, what the message says)
GGUFS = {
    "as many tensors as there may be": (lambda: ([LLAMA, COUNT], empty_tensors(limits.TENSORS)), ""),
    "a million tensors": (lambda: ([LLAMA, COUNT], empty_tensors(1_100_000)), "1100000 tensors are more than"),
    "ten million keys of zeros": (lambda: ([], [], (0, 10_000_000), 200 << 20), "entries of metadata are more than"),
    "as many keys as there may be": (
        lambda: ([LLAMA, *(gguf_field(f"k{n}", 0, b"1") for n in range(limits.ENTRIES - 1))], []),
        "show no layers",
    ),
    "25 million strings": (lambda: ([LLAMA, listed(8, 25_000_000)], [], None, 220 << 20), "show no layers"),
    "10^11 strings": (lambda: ([LLAMA, listed(8, 10**11)], [], None, 1 << 40), "that a header may have"),
    "2^40 bytes": (lambda: ([LLAMA, listed(0, 1 << 40)], [], None, (1 << 40) + 4096), "that a header may have"),
    "short lists": (
        lambda: ([LLAMA, *(listed(1, 4096, b"\x80" * 4096, f"k{n}") for n in range(40_000))], []),
        "items, more than",
    ),
    "one list for all tensors": (
        lambda: ([LLAMA, listed(1, 180_000_000, b"\x80" * 180_000_000, "general.tensor_extra.x")], []),
        "items, more than",
    ),
    "long strings": (
        lambda: ([LLAMA, *(gguf_field(f"k{n}", 8, gguf_string("x" * (60 << 20))) for n in range(5))], []),
        "that a header may have",
    ),
}  # fmt: skip
SLOW_GGUFS = {"25 million strings", "long strings", "short lists", "as many tensors as there may be"}


@pytest.mark.parametrize("name", chosen(GGUFS, SLOW_GGUFS))
def test_gguf(name, tmp_path):
    arguments, words = GGUFS[name]
    path = gguf(tmp_path / "x.gguf", *arguments())
    assert_ends_in_one_line(run("plan", path, "--drop", "0", seconds=SECONDS if words else PLANNED), words)


# name -> (file of a directory, its content, what the message says)
FILES = {
    "config of [": ("config.json", lambda: repeated(b"", b"[", b""), "values, more than"),
    "config of digits": ("config.json", lambda: repeated(b'{"a":', b"9", b"}"), "Exceeds the limit"),
    "config of 300 MB": ("config.json", lambda: b" " * 300_000_000, "far too many for a JSON file"),
    "config of long text": ("config.json", lambda: config(x="a" * 90_000_000), ""),
    "config of keys": ("config.json", lambda: config(**{f"k{n}": n for n in range(3_000_000)}), "entries of metadata"),
    "tokenizer": ("tokenizer.json", lambda: b"[" * 100_000_000, ""),
    "generation config": ("generation_config.json", lambda: b"[" * 3_000_000, "nested too deeply"),
    "index": (
        "model.safetensors.index.json",
        lambda: json.dumps({"weight_map": {f"h.{n}.w": "model.safetensors" for n in range(1_500_000)}}).encode(),
        "",
    ),
}
SLOW_FILES = {"config of keys", "config of 300 MB"}


def config(**more: object) -> bytes:
    return json.dumps({"model_type": "llama", "num_hidden_layers": 6, **more}).encode()


@pytest.mark.parametrize("name", chosen(FILES, SLOW_FILES))
def test_files_of_a_directory(name, tmp_path):
    file, content, words = FILES[name]
    source = huggingface(tmp_path / "in")
    (source / file).write_bytes(content())
    if name == "index":
        (source / "model.safetensors").rename(source / "model-1.safetensors")
        words = "cannot open model.safetensors"
    assert_ends_in_one_line(run("plan", source, "--drop", "0"), words)


def test_many_lists_are_inspected(tmp_path):
    path = safetensors(tmp_path / "x.safetensors", tensors(10_000, "a{0}b{1}.0.w"))
    assert_ends_in_one_line(run("inspect", path), "numbered lists, more than")


def test_layers_without_end(tmp_path):
    path = safetensors(tmp_path / "x.safetensors", tensors(5000, "h.{0}{1}.w").replace(b"h.0", b"h."))
    assert run("plan", path, "--generic", "--drop", "0").returncode == 1
