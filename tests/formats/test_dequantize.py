"""Stored tensors as numbers: what the scores read."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize

from rewriter import open_checkpoint
from rewriter.errors import CheckpointError, UnsupportedError
from rewriter.formats.dequantize import open_weights, small_floats
from rewriter.formats.ggml_types import GGML_TYPES
from tests.support.builders import write_config

CODES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1", "U8": "<u1"}
CODES |= {"U64": "<u8", "U32": "<u4", "U16": "<u2", "BF16": "<u2", "F8_E4M3": "<u1", "F8_E5M2": "<u1"}


def saved(folder: Path, tensors: dict[str, tuple[str, np.ndarray]], **config: Any) -> Path:
    """A llama directory whose only file has these tensors, as dtype and bytes."""
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, array) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data += array.tobytes()
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder / "config.json", model_type="llama", num_hidden_layers=1, **config)
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return folder


def read(path: Path, name: str) -> np.ndarray:
    with open_weights(open_checkpoint(path)) as weights:
        return weights[name].whole()


Q = "model.layers.0.self_attn.q_proj.weight"
UP = "model.layers.0.mlp.up_proj.weight"


def codes(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 120, shape).astype(np.uint8)


@pytest.mark.parametrize("dtype", CODES)
def test_plain_types(dtype: str, tmp_path: Path):
    stored = np.arange(24).reshape(6, 4).astype(CODES[dtype])
    found = read(saved(tmp_path, {Q: (dtype, stored)}), Q)
    assert found.dtype == np.float32
    assert found.shape == (6, 4)
    if dtype == "BF16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    if dtype.startswith("F8"):
        stored = small_floats(4 if dtype == "F8_E4M3" else 5, dtype == "F8_E4M3")[stored]
    assert np.array_equal(found, stored.astype(np.float32))


def test_eight_bit_floats_by_hand():
    """The values that the OCP's table of the formats names."""
    four, five = small_floats(4, True), small_floats(5, False)
    assert (four[0b0_1111_110], four[0b0_0001_000], four[0b0_0000_111], four[0b0_0000_001]) == (
        448, 2**-6, 0.875 * 2**-6, 2**-9,
    )  # fmt: skip
    assert (five[0b0_11110_11], five[0b0_00001_00], five[0b0_00000_11], five[0b0_00000_01]) == (
        57344, 2**-14, 0.75 * 2**-14, 2**-16,
    )  # fmt: skip
    assert np.isnan(four[[0b0_1111_111, 0b1_1111_111]]).all()
    assert np.isnan(four).sum() == 2
    assert five[0b1_11111_00] == -np.inf
    assert np.isnan(five).sum() == 6


# ---- quantised GGUF

QUANTISED = [name for name, _, _ in GGML_TYPES.values()]


def able(name: str) -> bool:
    try:
        quantum = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]
        dequantize(np.zeros((1, quantum), np.uint8), gguf.GGMLQuantizationType[name])
    except NotImplementedError:
        return False
    return True


def one_tensor(path: Path, name: str, raw: np.ndarray) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_tensor("blk.0.attn_q.weight", raw, raw_dtype=gguf.GGMLQuantizationType[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", [name for name in QUANTISED if able(name) and name not in CODES])
def test_rows_of_a_quantised_tensor_are_those_of_the_whole(name: str, tmp_path: Path):
    kind = gguf.GGMLQuantizationType[name]
    width = 2 * gguf.GGML_QUANT_SIZES[kind][0]
    try:
        raw = quantize(np.random.default_rng(0).standard_normal((7, width), np.float32), kind)
    except NotImplementedError:
        raw = np.random.default_rng(0).integers(0, 60, (7, 2 * gguf.GGML_QUANT_SIZES[kind][1])).astype(np.uint8)
    wanted = dequantize(raw, kind)
    with open_weights(open_checkpoint(one_tensor(tmp_path / "model.gguf", name, raw))) as weights:
        weight = weights["blk.0.attn_q.weight"]
        assert weight.shape == (7, width)
        assert np.array_equal(weight.whole(), wanted, equal_nan=True)
        for start, stop in ((0, 1), (3, 6), (6, 7)):
            assert np.array_equal(weight.read(start, stop), wanted[start:stop], equal_nan=True)


def test_what_gguf_cannot_decode_is_refused_with_a_way_out(tmp_path: Path):
    name = next(name for name in QUANTISED if not able(name))
    raw = np.zeros((2, gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]), np.uint8)
    with pytest.raises(UnsupportedError, match=f"(?s){name}.*plan"):
        read(one_tensor(tmp_path / "model.gguf", name, raw), "blk.0.attn_q.weight")


# ---- values and scales

FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 3]}}


def test_blocks_with_a_scale_each(tmp_path: Path):
    values, scales = codes(0, 10, 8), np.random.default_rng(1).standard_normal((3, 3)).astype(np.float32)
    folder = saved(tmp_path, {Q: ("F8_E4M3", values), f"{Q}_scale_inv": ("F32", scales)}, **FP8)
    wanted = small_floats(4, True)[values] * np.kron(scales, np.ones((4, 3)))[:10, :8]
    with open_weights(open_checkpoint(folder)) as weights:
        assert set(weights) == {Q}
        assert np.allclose(weights[Q].whole(), wanted)
        assert np.allclose(weights[Q].read(3, 7), wanted[3:7])


@pytest.mark.parametrize(
    "shape",
    [(), (1,), (1, 1), (10,), (10, 1), (10, 2), (2, 1), (1, 2)],
    ids=lambda shape: "x".join(map(str, shape)) or "one",
)
@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "I8"])
def test_scales_of_any_shape(dtype: str, shape: tuple[int, ...], tmp_path: Path):
    """One for all, for each row, for halves of a row, for blocks."""
    values, scales = codes(0, 10, 8), np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    config = {"quantization_config": {"quant_method": "compressed-tensors"}}
    tensors = {
        Q: (dtype, values),
        f"{Q}_scale": ("F32", scales),
        f"{Q[:-7]}.input_scale": ("F32", np.ones(1, np.float32)),
    }
    folder = saved(tmp_path, tensors, **config)
    plain = (
        values.astype(np.float32) if dtype == "I8" else small_floats(4 if "E4" in dtype else 5, "E4" in dtype)[values]
    )
    grid = scales.reshape(1, 1) if scales.size == 1 else scales.reshape(len(scales), -1)
    wanted = plain * np.kron(grid, np.ones((10 // grid.shape[0], 8 // grid.shape[1])))
    with open_weights(open_checkpoint(folder)) as weights:
        assert set(weights) == {Q}
        assert np.allclose(weights[Q].whole(), wanted)
        assert np.allclose(weights[Q].read(4, 9), wanted[4:9])


def test_two_rows_of_two_blocks_are_not_a_scale_for_each_row(tmp_path: Path):
    values, scales = codes(0, 2, 256), np.array([[1, 2]], np.float32)
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    found = read(saved(tmp_path, {Q: ("F8_E4M3", values), f"{Q}_scale_inv": ("F32", scales)}, **config), Q)
    assert np.allclose(found, small_floats(4, True)[values] * np.repeat([1, 2], 128))


def test_integers_whose_largest_stands_for_127(tmp_path: Path):
    values, scales = codes(0, 6, 4), np.arange(1, 7, dtype=np.float32)
    config = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    found = read(saved(tmp_path, {Q: ("I8", values), Q.replace("weight", "SCB"): ("F32", scales)}, **config), Q)
    assert np.allclose(found, values * scales[:, None] / 127)


@pytest.mark.parametrize(
    ("name", "dtype", "method"),
    [
        ("qweight", "I32", "gptq"), ("qweight", "I32", "awq"), ("weight.absmax", "F32", "bitsandbytes"),
        ("weight_packed", "I32", "compressed-tensors"), ("weight", "U8", "modelopt"), ("weight", "I8", "quanto"),
    ],
)  # fmt: skip
def test_what_is_packed_otherwise_is_refused_with_a_way_out(name: str, dtype: str, method: str, tmp_path: Path):
    tensors = {Q.replace("weight", name): (dtype, np.zeros((4, 4), CODES[dtype]))}
    folder = saved(tmp_path, tensors, quantization_config={"quant_method": method})
    with pytest.raises(UnsupportedError, match=f"{name}.*{method}.*plan"):
        read(folder, Q)


def test_four_bit_floats_with_eight_bit_scales_are_refused(tmp_path: Path):
    """NVFP4: two values a byte, which are no eight-bit integers with a scale."""
    tensors = {Q: ("U8", codes(0, 4, 8)), f"{Q}_scale": ("F8_E4M3", codes(1, 4, 1))}
    with pytest.raises(UnsupportedError, match=r"q_proj.*plan"):
        read(saved(tmp_path, tensors, quantization_config={"quant_method": "modelopt"}), Q)


def test_microscaled_floats_by_hand(tmp_path: Path):
    """1.5 and -6, 0.5 and 2, ...: the low half comes first; the scales are 2^1 and 2^-2."""
    blocks = np.array([[[[0xF3, 0x41], [0x21, 0x09]]]], np.uint8)
    scales = np.array([[[128, 125]]], np.uint8)
    experts = "model.layers.0.mlp.experts.down_proj"
    folder = saved(tmp_path, {f"{experts}_blocks": ("U8", blocks), f"{experts}_scales": ("U8", scales)})
    assert read(folder, experts).tolist() == [[[3, -12, 1, 4, 0.125, 0.25, -0.125, 0]]]


# ---- files


def test_a_file_that_ends_early_is_damaged(tmp_path: Path):
    folder = saved(tmp_path, {Q: ("F32", np.ones((8, 8), np.float32)), UP: ("F32", np.ones((8, 8), np.float32))})
    checkpoint = open_checkpoint(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with open_weights(checkpoint) as weights:
        assert weights[Q].whole().sum() == 64
        with pytest.raises(CheckpointError):
            weights[UP].whole()


def test_little_is_in_memory_at_once(tmp_path: Path):
    from rewriter.scoring.score import score_layers

    folder = saved(tmp_path, {Q: ("F32", np.ones((8192, 1024), np.float32))})
    checkpoint = open_checkpoint(folder)
    tracemalloc.start()
    assert score_layers(checkpoint, "magnitude-l2", threads=2).values == pytest.approx([2**11.5])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20  # of 32 MiB


@pytest.mark.parametrize("shape", [(3, 2, 2), (3, 1, 1), (3,)], ids=str)
def test_a_stack_of_matrices_has_scales_of_its_own(shape: tuple[int, ...], tmp_path: Path):
    name = "model.layers.0.mlp.experts.down_proj"
    values, scales = codes(0, 3, 8, 6), np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 3]}}
    found = read(saved(tmp_path, {name: ("F8_E4M3", values), f"{name}_scale_inv": ("F32", scales)}, **config), name)
    grids = scales.reshape(3, *(shape[1:] or (1, 1)))
    for matrix, plain, grid in zip(found, small_floats(4, True)[values], grids, strict=True):
        assert np.allclose(matrix, plain * np.kron(grid, np.ones((8 // grid.shape[0], 6 // grid.shape[1]))))
