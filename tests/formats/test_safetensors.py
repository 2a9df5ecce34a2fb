"""The safetensors parser: one literal hostile input for every error, and odd inputs that are allowed."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from safetensors import deserialize

from rewriter import CheckpointError, PlanOptions, open_checkpoint
from tests.support.builders import prune, raw_safetensors, tensors_of, write_safetensors

GENERIC = PlanOptions(generic=True)


def entry(begin: int, end: int, shape: object = (1,), dtype: object = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file_of(header: object, data: bytes = bytes(4)) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


HOSTILE = {
    "empty": (b"", "neither"),
    "seven bytes": (bytes(7), "neither"),
    "only a length": (struct.pack("<Q", 0), "neither"),
    "header past the end": (struct.pack("<Q", 99) + b"{}      ", "neither"),
    "huge header": (struct.pack("<Q", 2**63) + b"{}      ", "neither"),
    "no object": (file_of(b" [1]", b""), "not a JSON object"),
    "no json": (file_of(b"{nothing}", b""), "not valid JSON"),
    "cut json": (file_of(b'{"a": ', b""), "not valid JSON"),
    "not utf-8": (file_of(b'{"\xff": 1}', b""), "not UTF-8"),
    "twice": (file_of(b'{"a": 1, "a": 2}', b""), "'a' stands twice"),
    "depth bomb": (file_of(b'{"a":' + b"[" * 100_000, b""), "nested too deeply"),
    "long integer": (file_of(b'{"a":' + b"9" * 5000 + b"}", b""), "not valid JSON"),
    "entry is a number": (file_of({"a": 1}), "tensor a needs a dtype"),
    "entry is null": (file_of({"a": None}), "tensor a needs a dtype"),
    "no dtype": (file_of({"a": {"shape": [1], "data_offsets": [0, 4]}}), "tensor a needs a dtype"),
    "no shape": (file_of({"a": {"dtype": "F32", "data_offsets": [0, 4]}}), "tensor a needs a dtype"),
    "no offsets": (file_of({"a": {"dtype": "F32", "shape": [1]}}), "tensor a needs a dtype"),
    "three offsets": (file_of({"a": {**entry(0, 4), "data_offsets": [0, 2, 4]}}), "two data_offsets"),
    "shape is a number": (file_of({"a": entry(0, 4, shape=1)}), "tensor a needs"),
    "shape of floats": (file_of({"a": entry(0, 4, shape=[1.0])}), "must be numbers"),
    "shape of booleans": (file_of({"a": entry(0, 4, shape=[True])}), "must be numbers"),
    "negative shape": (file_of({"a": entry(0, 4, shape=[-1])}), "must be numbers"),
    "shape of 2^63": (file_of({"a": entry(0, 4, shape=[2**63])}), "must be numbers"),
    "shape overflow": (file_of({"a": entry(0, 4, shape=[2**62, 4])}), "too large"),
    "100 dimensions": (file_of({"a": entry(0, 4, shape=[1] * 100)}), "at most 64"),
    "negative offset": (file_of({"a": entry(-4, 0)}), "must be numbers"),
    "offsets backwards": (file_of({"a": entry(4, 0)}), "give -4"),
    "unknown dtype": (file_of({"a": entry(0, 4, dtype="F31")}), "unknown dtype F31"),
    "dtype is a list": (file_of({"a": entry(0, 4, dtype=["F32"])}), "unknown dtype"),
    "half a byte": (file_of({"a": entry(0, 1, shape=[1], dtype="F4")}, bytes(1)), "needs 0.5 bytes"),
    "size and shape differ": (file_of({"a": entry(0, 4, shape=[2])}), "needs 8 bytes, its offsets 0 to 4 give 4"),
    "hole": (file_of({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)), "tensor b starts at byte 8 of the data"),
    "hole at the start": (file_of({"a": entry(4, 8)}, bytes(8)), "leaves a hole"),
    "overlap": (file_of({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)), "tensor b starts at byte 2"),
    "same place": (file_of({"a": entry(0, 4), "b": entry(0, 4)}), "overlaps"),
    "cut off": (file_of({"a": entry(0, 8, shape=[2])}, bytes(7)), "tensors end at byte"),
    "bytes after": (file_of({"a": entry(0, 4)}, bytes(5)), "tensors end at byte"),
    "metadata is a list": (file_of({"__metadata__": [], "a": entry(0, 4)}), "must map strings to strings"),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}, "a": entry(0, 4)}), "must map strings to strings"),
    "name of half a character": (file_of(b'{"\\ud800": ' + json.dumps(entry(0, 4)).encode() + b"}"), "not UTF-8"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile(content, message, tmp_path):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(path)
    assert message in str(raised.value)
    assert "hostile.safetensors" in str(raised.value)
    assert str(raised.value).isprintable()


MALFORMED = {
    "shape is a string": {"h.0.w": entry(0, 4, shape="")},
    "shape is an object": {"h.0.w": entry(0, 4, shape={})},
    "entry is a list of pairs": {"h.0.w": [["dtype", "F32"], ["shape", [1]], ["data_offsets", [0, 4]]]},
    "metadata of half a character": {"__metadata__": {"a": "\ud800"}, "h.0.w": entry(0, 4)},
}


@pytest.mark.parametrize("header", MALFORMED.values(), ids=MALFORMED)
def test_what_the_library_refuses_is_refused(header, tmp_path):
    with pytest.raises(Exception, match="eader"):
        deserialize(raw_safetensors(tmp_path / "x.safetensors", header, bytes(4)).read_bytes())
    with pytest.raises(CheckpointError):
        prune(tmp_path / "x.safetensors", tmp_path / "out.safetensors", [0], GENERIC)


def layers(*numbers: int, shape: tuple[int, ...] = (2,), size: int = 8) -> dict:
    return {f"h.{number}.w": entry(place * size, (place + 1) * size, shape) for place, number in enumerate(numbers)}


DATA = bytes(range(24))
ODD = {
    "plain": layers(0, 1, 2),
    "unsorted header": dict(reversed(layers(0, 1, 2).items())),
    "unsorted offsets": layers(2, 0, 1),
    "extra members": {"h.0.w": {**entry(0, 24, (6,)), "note": ["x", 1]}},
    "metadata empty": {"__metadata__": {}, **layers(0, 1, 2)},
    "metadata last": {**layers(0, 1, 2), "__metadata__": {"format": "pt", "ünï": "\U0001f600"}},
    "rank 0": {f"h.{n}.w": entry(n * 8, n * 8 + 8, (), "F64") for n in range(3)},
    "empty tensors": {"h.0.w": entry(0, 0, (0, 7)), "h.1.w": entry(0, 24, (6,)), "h.2.w": entry(24, 24, (0,))},
    "strange names": {"": entry(0, 8, (2,)), "h.0.ü\n\x1b[31m": entry(8, 24, (4,))},
    "small types": {"h.0.w": entry(0, 24, (48,), "F4")},
}


@pytest.mark.parametrize("padding", [0, 1, 4096])
@pytest.mark.parametrize("header", ODD.values(), ids=ODD)
def test_odd_but_allowed(header, padding, tmp_path):
    source = raw_safetensors(tmp_path / "x.safetensors", header, DATA, padding)
    count = sum(name.endswith(".w") or "h.0." in name for name in header)
    target = prune(source, tmp_path / "y.safetensors", range(count), PlanOptions(generic=True, provenance=False))
    assert tensors_of(target) == tensors_of(source)
    new = json.loads(target.read_bytes()[8:].split(b"\n")[0].decode("utf-8", "replace").rpartition("}")[0] + "}")
    assert new.get("__metadata__") == header.get("__metadata__")
    assert target.read_bytes()[:8] == struct.pack("<Q", (len(target.read_bytes()) - len(DATA) - 8))
    assert (len(target.read_bytes()) - len(DATA)) % 8 == 0


def test_extra_members_of_an_entry_stay(tmp_path):
    source = raw_safetensors(tmp_path / "x.safetensors", ODD["extra members"], DATA)
    target = prune(source, tmp_path / "y.safetensors", [0], GENERIC)
    raw = target.read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    assert header["h.0.w"] == {**entry(0, 24, [6]), "note": ["x", 1]}


@pytest.mark.parametrize("metadata", [None, {}, {"a": "b"}])
def test_metadata_appears_only_with_a_record(metadata, tmp_path):
    header = layers(0, 1, 2) if metadata is None else {"__metadata__": metadata, **layers(0, 1, 2)}
    source = raw_safetensors(tmp_path / "x.safetensors", header, DATA)
    found = []
    for provenance in (False, True):
        name = f"{provenance}.safetensors"
        raw = prune(source, tmp_path / name, [1], PlanOptions(generic=True, provenance=provenance)).read_bytes()
        found.append(json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]]).get("__metadata__"))
    assert found[0] == metadata
    assert list(found[1]) == [*(metadata or {}), "rewriter"]


def test_layers_out_of_order_in_the_file_keep_their_bytes(tmp_path):
    source = raw_safetensors(tmp_path / "x.safetensors", layers(2, 0, 1), DATA)
    target = prune(source, tmp_path / "y.safetensors", [0, 2], GENERIC)
    found = {name: data for name, (_, _, data) in tensors_of(target).items()}
    assert found == {"h.0.w": DATA[8:16], "h.1.w": DATA[:8]}


def test_a_shard_alone_is_refused(tmp_path):
    path = raw_safetensors(tmp_path / "model-00001-of-00003.safetensors", layers(0, 1, 2), DATA)
    with pytest.raises(CheckpointError, match="one of 3 shards; give the directory"):
        open_checkpoint(path)
    assert open_checkpoint(path.rename(tmp_path / "model-00001-of-00001.safetensors")).format == "safetensors"


def test_the_config_beside_a_lone_file(tmp_path):
    source = raw_safetensors(tmp_path / "x.safetensors", {"model." + k.replace("h.", "layers."): v for k, v in
                                                          layers(0, 1, 2).items()}, DATA)  # fmt: skip
    text = '{"model_type":"llama",\r\n\t"num_hidden_layers" : 3, "x": 1e400, "y": 0.10}'
    (tmp_path / "config.json").write_text(text, newline="")
    target = prune(source, tmp_path / "sub.y.safetensors", [0, 2])
    assert (tmp_path / "sub.y.config.json").read_bytes().decode() == text.replace(": 3", ": 2").replace(" : 3", " : 2")
    assert open_checkpoint(target).metadata["num_hidden_layers"] == 2
    (tmp_path / "x.config.json").write_text(text.replace("llama", "qwen2"))
    assert open_checkpoint(source).architecture == "qwen2"


@pytest.mark.parametrize(
    ("config", "message"),
    {
        "": "config.json is not valid JSON",
        "[]": "config.json is not a JSON object",
        '{"model_type": "llama", "num_hidden_layers": 4}': "num_hidden_layers: expected 3",
        '{"model_type": "llama", "num_hidden_layers": true}': "num_hidden_layers: expected 3",
        '{"model_type": "llama", "num_hidden_layers": "3"}': "num_hidden_layers: expected 3",
        '{"model_type": "llama", "num_hidden_layers": 3, "layer_types": ["a"]}': "layer_types: has 1 entries",
        '{"model_type": "llama", "num_hidden_layers": 3, "num_hidden_layers": 3}': "stands twice",
        '{"model_type": "llama", "num_hidden_layers": 3, "mlp_only_layers": [3]}': "names layer 3 of 3",
    }.items(),
)
def test_a_config_that_contradicts(config, message, tmp_path):
    names = {f"model.layers.{number}.w": entry(8 * number, 8 * number + 8, (2,)) for number in range(3)}
    source = raw_safetensors(tmp_path / "x.safetensors", names, DATA)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=message):
        prune(source, tmp_path / "y.safetensors", [0])
    assert not (tmp_path / "y.safetensors").exists()


@pytest.mark.parametrize("numbers", [("0", "2"), ("0", "01"), ("1", "2"), ("0", "x"), ("0", "1_0"), ("0", "١")])
def test_layer_numbers_with_gaps_or_aliases(numbers, tmp_path):
    header = {f"model.layers.{label}.w": entry(8 * at, 8 * at + 8, (2,)) for at, label in enumerate(numbers)}
    source = raw_safetensors(tmp_path / "x.safetensors", header, bytes(16))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match=r"is missing among|is not a layer number"):
        prune(source, tmp_path / "y.safetensors", [0])


def test_numbers_are_compared_as_numbers(tmp_path):
    header = {f"model.layers.{n}.w": entry(4 * n, 4 * n + 4) for n in range(12)}
    data = np.arange(12, dtype="<i4").tobytes()
    source = raw_safetensors(tmp_path / "x.safetensors", header, data)
    target = prune(source, tmp_path / "y.safetensors", [0, 2, 10, 11], GENERIC)
    found = {name: int.from_bytes(raw, "little") for name, (_, _, raw) in tensors_of(target).items()}
    assert found == {f"model.layers.{new}.w": old for new, old in enumerate([0, 2, 10, 11])}


def test_what_the_library_wrote_comes_back_byte_for_byte(tmp_path):
    names = ["h.0.ünï", 'h.1."quoted"\\\x7f', "h.2.\U0001f600\t"]
    source = write_safetensors(tmp_path / "x.safetensors", names, {"größe": "½\n"})
    target = prune(source, tmp_path / "y.safetensors", [0, 1, 2], PlanOptions(generic=True, provenance=False))
    assert target.read_bytes() == source.read_bytes()
