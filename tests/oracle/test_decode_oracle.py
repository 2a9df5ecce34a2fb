"""Stored tensors as torch and transformers decode them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from rewriter import open_checkpoint  # noqa: E402
from rewriter.formats.dequantize import open_weights  # noqa: E402
from tests.support.builders import write_config  # noqa: E402
from tests.support.oracle import hf_decoder_rows  # noqa: E402
from tests.support.oracle.hf_models import build, edit_config, save  # noqa: E402
from tests.support.oracle.streams import stream_of  # noqa: E402

pytestmark = pytest.mark.oracle

NAME = "model.layers.0.self_attn.q_proj.weight"
DTYPES = [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu]


def decoded(folder: Path, tensors: dict[str, Any], **config: Any) -> dict[str, np.ndarray]:
    write_config(folder / "config.json", model_type="llama", num_hidden_layers=1, **config)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with open_weights(open_checkpoint(folder)) as weights:
        return {name: weight.whole() for name, weight in weights.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_code_is_what_torch_makes_of_it(dtype: Any, tmp_path: Path) -> None:
    wide = dtype.itemsize == 2
    codes = torch.arange(65536, dtype=torch.int32).to(torch.uint16) if wide else torch.arange(256, dtype=torch.uint8)
    stored = codes.view(dtype).reshape(-1, 64)
    found = decoded(tmp_path, {NAME: stored})[NAME]
    assert np.array_equal(found, stored.to(torch.float32).numpy(), equal_nan=True)


@pytest.mark.parametrize("shape", [(256, 384), (200, 300), (128, 128), (64, 32)], ids=str)
def test_blocks_of_fp8_are_what_transformers_makes_of_them(shape: tuple[int, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    values = torch.randn(shape).to(torch.float8_e4m3fn)
    scales = torch.rand(-(-shape[0] // 128), -(-shape[1] // 128))
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    found = decoded(tmp_path, {NAME: values, f"{NAME}_scale_inv": scales}, **config)[NAME]
    spread = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)[: shape[0], : shape[1]]
    assert np.array_equal(found, (values.to(torch.float32) * spread).numpy())


@pytest.mark.parametrize("flat", [False, True], ids=["as released", "bytes of a row together"])
def test_gpt_oss_in_four_bits_is_the_model_that_transformers_unpacks(flat: bool, tmp_path: Path) -> None:
    """A square down projection: its shape does not show which way round it is stored."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    given = next(row for row in hf_decoder_rows.ROWS if row.id == "gpt_oss")
    row = replace(given, config=given.config | {"intermediate_size": 32})
    for name in ("plain", "packed"):
        (tmp_path / name).mkdir()
        save(row, build(row), tmp_path / name)
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    packed = dict(plain)
    torch.manual_seed(1)
    for name in [name for name in plain if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, inputs, outputs = plain[name].shape
        blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
        scales = torch.randint(118, 126, (experts, outputs, inputs // 32), dtype=torch.uint8)
        plain[name] = convert_moe_packed_tensors(blocks, scales).to(torch.float32).contiguous()
        assert plain[name].shape == (experts, inputs, outputs)
        del packed[name]
        packed[f"{name}_blocks"] = blocks.flatten(2) if flat else blocks
        packed[f"{name}_scales"] = scales
    save_file(plain, tmp_path / "plain" / "model.safetensors", {"format": "pt"})
    save_file(packed, tmp_path / "packed" / "model.safetensors", {"format": "pt"})
    edit_config(tmp_path / "packed" / "config.json", {"quantization_config": {"quant_method": "mxfp4"}})
    found: list[list[np.ndarray]] = []
    for name in ("plain", "packed"):
        stream_of(tmp_path / name, "", lambda stream: found.append(matrices(stream)))
    assert len(found[0]) > 20
    assert all(np.array_equal(*pair) for pair in zip(*found, strict=True))


def matrices(stream: Any) -> list[np.ndarray]:
    experts = [expert for layer in stream.layers for expert in layer.feed_forward.body.experts]
    return [linear.matrix() for expert in experts for linear in (expert.gate, expert.up, expert.down)]
