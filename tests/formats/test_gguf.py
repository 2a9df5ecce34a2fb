"""The GGUF parser: one literal hostile input for every error, odd inputs that are allowed, split sets."""

from __future__ import annotations

import resource
import struct
import time

import gguf
import pytest

from rewriter import CheckpointError, OutputError, open_checkpoint, verify
from tests.support.builders import (
    everything,
    gguf_field,
    gguf_metadata,
    gguf_record,
    gguf_string,
    prune,
    raw_gguf,
    split_files,
    split_gguf,
    tensors_of,
)

ARCH = gguf_field("general.architecture", 8, gguf_string("llama"))


def number(value: int) -> bytes:
    return struct.pack("<I", value)


def count(layers: int) -> bytes:
    return gguf_field("llama.block_count", 4, number(layers))


def array(kind: int, length: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, length) + items


def records(*layers: int) -> list[bytes]:
    return [gguf_record(f"blk.{layer}.w", [8], 0, 32 * at) for at, layer in enumerate(layers)]


LLAMA = (ARCH, count(2))


def write(path, fields=LLAMA, tensors=None, data=bytes(range(64)), **how):
    return raw_gguf(path, fields, records(0, 1) if tensors is None else tensors, data, **how)


def with_field(key: str, kind: int, value: bytes) -> dict:
    return {"fields": [ARCH, count(2), gguf_field(key, kind, value)]}


def with_tensor(name: str, shape: list[int], kind: int, offset: int) -> dict:
    return {"tensors": [*records(0, 1), gguf_record(name, shape, kind, offset)]}


HOSTILE = {
    "version 1": ({"version": 1}, "GGUF version 1"),
    "version 4": ({"version": 4}, "GGUF version 4"),
    "big-endian": ({"version": 3 << 24}, "big-endian"),
    "2^40 tensors": ({"counts": (2**40, 2)}, "tensors at byte"),
    "2^40 keys": ({"counts": (2, 2**40)}, "metadata records at byte"),
    "2^63 keys": ({"counts": (2, 2**63)}, "metadata records at byte"),
    "one key too many": ({"counts": (2, 3)}, ""),
    "one tensor too many": ({"counts": (3, 2)}, ""),
    "unknown value type": (with_field("x.y", 13, b""), "key x.y: unknown value type 13"),
    "unknown item type": (with_field("x.y", 9, array(13, 1)), "key x.y: unknown value type 13"),
    "array of arrays": (with_field("x.y", 9, array(9, 1)), "key x.y: arrays of arrays"),
    "array of 2^40": (with_field("x.y", 9, array(0, 2**40)), "key x.y: 1099511627776 items"),
    "array of 2^62 words": (with_field("x.y", 9, array(10, 2**62)), "key x.y"),
    "2^40 strings": (with_field("x.y", 9, array(8, 2**40)), "key x.y: 1099511627776 strings"),
    "long string": (with_field("x.y", 8, struct.pack("<Q", 2**40)), "key x.y: a string of"),
    "string past the end": (with_field("x.y", 8, struct.pack("<Q", 60_000)), "key x.y"),
    "many strings past the end": (
        with_field("x.y", 9, array(8, 5000, (gguf_string("a") * 4999) + struct.pack("<Q", 2**40))),
        "strings run past the end",
    ),
    "key twice": ({"fields": [ARCH, count(2), count(2)]}, "the key llama.block_count stands twice"),
    "alignment 0": (with_field("general.alignment", 4, number(0)), "power of two, not 0"),
    "alignment 48": (with_field("general.alignment", 4, number(48)), "power of two, not 48"),
    "alignment of text": (with_field("general.alignment", 8, gguf_string("32")), "power of two"),
    "alignment true": (with_field("general.alignment", 7, b"\1"), "power of two, not True"),
    "alignment negative": (with_field("general.alignment", 5, struct.pack("<i", -32)), "power of two, not -32"),
    "tensor twice": ({"tensors": records(0, 0)}, "the tensor name blk.0.w stands twice"),
    "5 dimensions": (with_tensor("t", [1] * 5, 0, 64), "tensor t has 5 dimensions"),
    "2^31 dimensions": ({"tensors": [gguf_string("t") + number(2**31)]}, "dimensions"),
    "unknown tensor type": (with_tensor("t", [8], 999, 64), "tensor t has the unknown type 999"),
    "half a block": (with_tensor("t", [33], 8, 64), "tensor t: rows of"),
    "dimension overflow": (with_tensor("t", [2**32, 2**32], 0, 64), "tensor t ends at byte"),
    "hole": (with_tensor("t", [8], 0, 96), "tensor t starts at offset 96, expected 64"),
    "overlap": (with_tensor("t", [8], 0, 32), "tensor t starts at offset 32, expected 64"),
    "offset 2^64 - 32": (with_tensor("t", [8], 0, 2**64 - 32), "tensor t starts at offset"),
    "cut off": ({"data": bytes(63)}, "tensor blk.1.w ends at byte"),
    "no data": ({"data": b""}, "tensor blk.0.w ends at byte"),
}


@pytest.mark.parametrize(("flaw", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile(flaw, message, tmp_path):
    path = write(tmp_path / "hostile.gguf", **flaw)
    began = time.monotonic()
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(path)
    assert message in str(raised.value)
    assert str(raised.value).startswith("hostile.gguf: ")
    assert str(raised.value).isprintable()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("length", [*range(4, 24), 60, 100, 150])
def test_a_header_that_ends_early(length, tmp_path):
    path = write(tmp_path / "x.gguf")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"x.gguf"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("fields", "layers", "message"),
    [
        ([ARCH, count(3)], (0, 1), "llama.block_count: expected 2, as the tensors have layers, found 3"),
        ([ARCH, count(2)], (0, 2), "layer 1 is missing among 2 layers"),
        ([ARCH, count(2), gguf_field("llama.attention.head_count_kv", 9, array(4, 3, bytes(12)))], (0, 1), "3 entries"),
        ([ARCH, gguf_field("llama.block_count", 7, b"\1")], (0,), "llama.block_count"),
    ],
)
def test_metadata_that_contradicts(fields, layers, message, tmp_path):
    path = write(tmp_path / "x.gguf", fields, records(*layers), bytes(32 * len(layers)))
    with pytest.raises(CheckpointError, match=message):
        prune(path, tmp_path / "y.gguf", [0])
    assert [problem for problem in verify(path) if message in str(problem)]
    assert set(everything(tmp_path)) == {"x.gguf"}


ALL_TYPES = [
    gguf_field("x.u8", 0, b"\xff"), gguf_field("x.i8", 1, b"\xff"), gguf_field("x.u16", 2, b"\1\2"),
    gguf_field("x.i16", 3, b"\xff\xff"), gguf_field("x.i32", 5, bytes(4)),
    gguf_field("x.f32", 6, bytes.fromhex("0100c07f")),
    gguf_field("x.bool", 7, b"\1"), gguf_field("x.u64", 10, b"\xff" * 8), gguf_field("x.i64", 11, b"\xff" * 8),
    gguf_field("x.f64", 12, b"\x01\0\0\0\0\0\xf8\x7f"), gguf_field("x.empty", 9, array(4, 0)),
    gguf_field("x.no strings", 9, array(8, 0)), gguf_field("x.text", 8, gguf_string(b"\xff\xfe not utf-8 \xc3")),
    gguf_field("x.texts", 9, array(8, 3, gguf_string(b"\x80") + gguf_string(b"") * 2)),
    gguf_field(b"x.\xffkey", 4, number(7)), gguf_field("", 4, number(8)),
]  # fmt: skip


@pytest.mark.parametrize("unusual", ALL_TYPES, ids=range(len(ALL_TYPES)))
def test_metadata_of_every_type_keeps_its_bytes(unusual, tmp_path):
    path = write(tmp_path / "x.gguf", [ARCH, unusual, count(2)])
    target = prune(path, tmp_path / "y.gguf", [1])
    assert ARCH + unusual + count(1) + gguf_string("rewriter.provenance") in target.read_bytes()
    assert verify(target, path) == ()


def test_names_that_are_not_utf_8_survive(tmp_path):
    names = [gguf_record(b"blk.%d.\xff\xfe" % layer, [8], 0, 32 * layer) for layer in range(2)]
    target = prune(write(tmp_path / "x.gguf", tensors=names), tmp_path / "y.gguf", [1])
    assert gguf_record(b"blk.0.\xff\xfe", [8], 0, 0) in target.read_bytes()
    assert target.read_bytes().endswith(bytes(range(32, 64)))


def test_rank_0_and_empty_tensors(tmp_path):
    tensors = [
        gguf_record("blk.0.w", [8], 0, 0), gguf_record("scalar", [], 0, 32), gguf_record("empty", [0, 7], 0, 64),
        gguf_record("blk.1.w", [8], 0, 64), gguf_record("blk.1.empty", [0], 0, 96),
    ]  # fmt: skip
    target = prune(write(tmp_path / "x.gguf", tensors=tensors, data=bytes(range(96))), tmp_path / "y.gguf", [1])
    found = open_checkpoint(target)
    assert [(t.name, t.shape, t.nbytes) for t in found.tensors] == [
        ("scalar", (), 4), ("empty", (0, 7), 0), ("blk.0.w", (8,), 32), ("blk.0.empty", (0,), 0)
    ]  # fmt: skip
    raw = target.read_bytes()
    start = found.shards[0].data_start
    assert (raw[start : start + 4], raw[start + 32 : start + 64]) == (bytes(range(32, 36)), bytes(range(64, 96)))


@pytest.mark.parametrize("kept", [[0], [1], [0, 1]])
def test_the_last_tensor_may_end_without_padding(kept, tmp_path):
    tensors = [gguf_record(f"blk.{layer}.w", [3], 0, 32 * layer) for layer in range(2)]
    path = write(tmp_path / "x.gguf", tensors=tensors, data=bytes(range(44)))
    target = prune(path, tmp_path / "y.gguf", kept)
    found = {name: data for name, (_, _, data) in tensors_of(target).items()}
    expected = [bytes(range(12)), bytes(range(32, 44))]
    assert found == {f"blk.{new}.w": expected[old] for new, old in enumerate(kept)}
    assert len(target.read_bytes()) % 32 == 0


def test_an_alignment_below_32_is_followed(tmp_path):
    align = gguf_field("general.alignment", 4, number(8))
    tensors = [gguf_record(f"blk.{layer}.w", [3], 0, 16 * layer) for layer in range(3)]
    path = write(tmp_path / "x.gguf", [ARCH, count(3), align], tensors, bytes(range(48)), alignment=8)
    target = prune(path, tmp_path / "y.gguf", [0, 2])
    assert [tensor.data_offset % 16 for tensor in gguf.GGUFReader(target).tensors] == [
        gguf.GGUFReader(target).data_offset % 16
    ] * 2
    assert tensors_of(target)["blk.1.w"][2] == bytes(range(32, 44))


def test_long_lists_are_skipped_quickly_and_in_little_memory(tmp_path):
    words = b"".join(gguf_string("token " * 4 + str(n)) for n in range(200_000))
    scores = array(6, 2_000_000, bytes(8_000_000))
    fields = [ARCH, gguf_field("tokenizer.ggml.tokens", 9, array(8, 200_000, words)), count(2),
              gguf_field("tokenizer.ggml.scores", 9, scores)]  # fmt: skip
    path = write(tmp_path / "x.gguf", fields)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    target = prune(path, tmp_path / "y.gguf", [0])
    assert time.process_time() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30 * 1024
    assert fields[1] + count(1) + fields[3] in target.read_bytes()
    assert verify(target, path) == ()


def test_a_changed_type_of_count_keeps_the_type(tmp_path):
    path = write(tmp_path / "x.gguf", [ARCH, gguf_field("llama.block_count", 10, struct.pack("<Q", 2))])
    assert gguf_metadata(prune(path, tmp_path / "y.gguf", [0]))["llama.block_count"] == ([gguf.GGUFValueType.UINT64], 1)


def test_a_second_run_replaces_the_record(tmp_path):
    first = prune(write(tmp_path / "x.gguf"), tmp_path / "y.gguf", [0, 1])
    second = prune(first, tmp_path / "z.gguf", [1])
    assert second.read_bytes().count(b"rewriter.provenance") == 1
    assert open_checkpoint(second).provenance["original"]["name"] == "x.gguf"


# Split sets


@pytest.mark.parametrize("empty_first", [False, True])
@pytest.mark.parametrize("name", ["small.gguf", "small-00001-of-00007.gguf", "small"])
def test_an_emptied_file_of_a_split_set_goes(name, empty_first, tmp_path):
    source = split_gguf(tmp_path / "in", layers=6, files=4, empty_first=empty_first)
    (tmp_path / "out").mkdir()
    counts = [len(gguf.GGUFReader(file).tensors) for file in split_files(source)]
    names = [tensor.name for file in split_files(source) for tensor in gguf.GGUFReader(file).tensors]
    last = names[-counts[-1] :]
    emptied = {int(name.split(".")[1]) for name in last}
    target = prune(source, tmp_path / "out" / name, set(range(6)) - emptied)
    assert [file.name for file in split_files(target)] == [
        f"small-{n}-of-00003.gguf" for n in ("00001", "00002", "00003")
    ]
    assert set(everything(tmp_path / "out")) == {file.name for file in split_files(target)}
    metadata = [gguf_metadata(file) for file in split_files(target)]
    total = len(tensors_of(target))
    for index, values in enumerate(metadata):
        assert [values[key][1] for key in ("split.no", "split.count", "split.tensors.count")] == [index, 3, total]
        assert [values[key][0][0].name for key in ("split.no", "split.count", "split.tensors.count")] == [
            "UINT16", "UINT16", "INT32"
        ]  # fmt: skip
    assert metadata[0]["llama.attention.head_count_kv"][1] == [2] * (6 - len(emptied))
    assert metadata[0]["general.unknown"][1] == "stays"
    assert all(len(values) == 3 for values in metadata[1:])
    assert verify(target, source) == ()


def test_the_metadata_moves_on_when_the_first_file_is_emptied(tmp_path):
    def file(number: int, layers: list[int], fields: list[bytes]):
        split = [
            gguf_field("split.no", 2, struct.pack("<H", number)),
            gguf_field("split.count", 2, struct.pack("<H", 2)),
            gguf_field("split.tensors.count", 5, struct.pack("<i", 4)),
        ]
        write(tmp_path / f"m-0000{number + 1}-of-00002.gguf", [*fields, *split], records(*layers))

    file(0, [0, 1], [ARCH, count(4)])
    file(1, [2, 3], [])
    target = prune(tmp_path / "m-00001-of-00002.gguf", tmp_path / "y.gguf", [2, 3])
    assert target.name == "y-00001-of-00001.gguf"
    metadata = gguf_metadata(target)
    assert metadata["llama.block_count"][1] == 2
    assert [metadata[key][1] for key in ("split.no", "split.count", "split.tensors.count")] == [0, 1, 2]
    assert {name: data for name, (_, _, data) in tensors_of(target).items()} == {
        "blk.0.w": bytes(range(32)), "blk.1.w": bytes(range(32, 64))
    }  # fmt: skip
    assert verify(target, tmp_path / "m-00001-of-00002.gguf") == ()


def test_a_later_file_of_a_set_names_the_first(tmp_path):
    split_gguf(tmp_path)
    with pytest.raises(CheckpointError, match=r"file 2 of a split set; give the first: model-00001-of-00003"):
        open_checkpoint(tmp_path / "model-00002-of-00003.gguf")


def test_a_set_with_a_missing_file(tmp_path):
    first = split_gguf(tmp_path)
    (tmp_path / "model-00002-of-00003.gguf").unlink()
    with pytest.raises(CheckpointError, match=r"cannot open model-00002-of-00003.gguf"):
        open_checkpoint(first)


def test_a_set_under_another_name(tmp_path):
    path = split_gguf(tmp_path).rename(tmp_path / "renamed.gguf")
    with pytest.raises(CheckpointError, match=r"its name must end in -00001-of-00003.gguf"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (2, gguf_field("split.no", 2, b"\1\0"), gguf_field("split.no", 2, b"\2\0"), "split.no is 2, expected 1"),
        (2, gguf_field("split.count", 2, b"\3\0"), gguf_field("split.count", 2, b"\4\0"), "split.count is 4"),
        (3, gguf_field("split.tensors.count", 5, number(21)), gguf_field("split.tensors.count", 5, number(20)),
         "split.tensors.count is 20, expected 21"),
        (2, gguf_string("split.no"), gguf_string("split.xx"), "split.no is None"),
        (3, b"blk.5.ffn_down.weight", b"blk.0.ffn_down.weight", "same tensor name"),
    ],
)  # fmt: skip
def test_a_set_that_contradicts_itself(file, old, new, message, tmp_path):
    first = split_gguf(tmp_path)
    path = tmp_path / f"model-0000{file}-of-00003.gguf"
    assert path.read_bytes().count(old) == 1
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(first)


def test_a_merged_file_that_still_has_split_keys(tmp_path):
    """`gguf-split --merge` leaves split.count 0 and the other two keys behind."""
    split = [gguf_field("split.no", 2, bytes(2)), gguf_field("split.count", 2, bytes(2)),
             gguf_field("split.tensors.count", 5, number(2))]  # fmt: skip
    path = write(tmp_path / "x.gguf", [ARCH, count(2), *split])
    target = prune(path, tmp_path / "y.gguf", [1])
    assert target == tmp_path / "y.gguf"
    assert verify(target, path) == ()


def test_a_metadata_only_first_file_with_a_huge_alignment(tmp_path):
    path = split_gguf(tmp_path, empty_first=True)
    raw = path.read_bytes()
    fields, head = raw[24:].rstrip(b"\0"), raw[:16] + struct.pack("<Q", 8)
    path.write_bytes(head + gguf_field("general.alignment", 10, struct.pack("<Q", 2**50)) + fields + bytes(64))
    with pytest.raises((CheckpointError, OutputError)):
        prune(path, tmp_path / "y.gguf", [1])
