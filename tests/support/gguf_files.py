"""Writes the tiny GGUF files of tests/support/gguf_specs.py, and reads GGUF files back with the gguf library."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import gguf
import numpy as np

from tests.support.builders import FIXTURES, add_field
from tests.support.gguf_specs import Spec

NAMES = FIXTURES / "names" / "gguf"
Shapes = Mapping[str, tuple[int, ...]]  # in GGUF order: the dimension that lies contiguous in memory comes first

# Zero in all of these, a block adds nothing to what it gets.
WRITES_RESIDUAL = re.compile(
    r"(attn_output|attn_out|attn_o|cross_attn_o|ffn_down|ffn_down_exps|ffn_down_shexp|ffn_down_chexps|ssm_out|"
    r"shortconv\.out_proj|time_mix_output|channel_mix_value|post_attention_norm|post_ffw_norm|attn_post_norm|"
    r"ffn_post_norm|attn_output_norm|layer_output_norm|post_norm|proj|pw2|pw_conv2|gamma)\.(weight|bias|scale)$"
)


def write(
    path: Path, metadata: Mapping[str, Any], shapes: Shapes, values: Callable[[str], np.ndarray] | None = None
) -> Path:
    """A file of these keys and F32 tensors, by default with random values."""
    writer = gguf.GGUFWriter(path, metadata["general.architecture"])
    for key, value in metadata.items():
        if key != "general.architecture":
            add_field(writer, key, plain(value))
    for name, shape in shapes.items():
        writer.add_tensor(name, values(name) if values else random(name, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def plain(value: Any) -> Any:
    """Without the types that say how a value follows the blocks."""
    if isinstance(value, tuple | list):
        return list(value)
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def random(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values that follow from the name, of a size at which every block and every norm has its say."""
    values = np.random.default_rng(crc32(name.encode())).standard_normal(shape[::-1], np.float32)
    if name.endswith("ssm_a"):
        return -np.abs(values)  # a decay
    if name.endswith(".bias"):
        return values * np.float32(0.3)
    if re.search(r"norm[^.]*\.weight$|^rope_", name):
        return 1 + values * np.float32(0.2)
    if "time_mix" in name:
        return values * np.float32(0.2)
    if len(shape) > 1 and "blk." in name:
        return values * np.float32(1.5 / shape[0] ** 0.5)
    return values


def fixture(name: str) -> tuple[dict[str, Any], Shapes, str]:
    """Metadata, tensors, and why llama.cpp does not run them ("" if it does)."""
    value = json.loads((NAMES / f"{name}.json").read_text())
    shapes = {name: tuple(shape) for name, (_, shape) in value["tensors"].items()}
    return value["metadata"], shapes, value.get("not run", "")


Tensor = tuple[str, tuple[int, ...], bytes]
Contents = tuple[dict[str, tuple[list[str], Any]], dict[str, Tensor]]


def contents(path: Path) -> Contents:
    """Key -> types and value, and name -> type, shape and bytes."""
    reader = gguf.GGUFReader(path)
    metadata = {
        field.name: ([kind.name for kind in field.types], field.contents())
        for field in reader.fields.values()
        if not field.name.startswith(("GGUF.", "rewriter."))
    }
    tensors = {
        tensor.name: (tensor.tensor_type.name, tuple(tensor.shape.tolist()), tensor.data.tobytes())
        for tensor in reader.tensors
    }
    return metadata, tensors


def typed(spec: Spec, metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata with the types that the Spec gives its values."""
    return {key: spec.metadata.get(key, value) for key, value in metadata.items()}
