"""llama.cpp itself takes what the tool made of adapters and control vectors.

The reference is the whole model with the dropped layers computing nothing: neither their weights, nor the adapter's,
nor the vector's part of them adds anything. Results are compared exactly.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.support.companion_files import write_gguf
from tests.support.in_process import call, run
from tests.support.oracle import llamacpp
from tests.support.oracle.gguf_models import ROWS, write

pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.oracle

ROW = next(row for row in ROWS if row.architecture == "llama" and "blk" in row.layers)
LAYERS = ROW.layers["blk"]
TOKENS = [int(token) for token in np.random.default_rng(0).integers(0, 64, 24)]
DROPS = {"irregular": (1, 4), "first": (0,), "last": (LAYERS - 1,)}


def lora(path: Path, model: Path, silent: tuple[int, ...] = ()) -> Path:
    """A random adapter of every matrix of the layers, with no effect in those that are `silent`."""
    random, tensors = np.random.default_rng(5), {}
    for tensor in gguf.GGUFReader(model).tensors:
        if len(tensor.shape) == 2 and tensor.name.startswith("blk."):
            columns, rows = map(int, tensor.shape)
            tensors[f"{tensor.name}.lora_a"] = random.standard_normal((2, columns), np.float32) * np.float32(0.3)
            b = random.standard_normal((rows, 2), np.float32) * np.float32(0.3)
            tensors[f"{tensor.name}.lora_b"] = b * (int(tensor.name.split(".")[1]) not in silent)
    return write_gguf(path, {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 4.0}, tensors)


@pytest.mark.parametrize("name", DROPS)
def test_the_adapter_of_the_kept_layers(name, tmp_path):
    dropped = DROPS[name]
    model = write(tmp_path / "model.gguf", ROW)
    silent = write(tmp_path / "silent.gguf", ROW, zero={"blk": dropped})
    expected = llamacpp.adapted_logits(silent, lora(tmp_path / "silent-lora.gguf", model, dropped), TOKENS)
    lora(tmp_path / "lora.gguf", model)
    drop = ",".join(map(str, dropped))
    run("prune", model, tmp_path / "small.gguf", f"--drop={drop}", "--with", tmp_path / "lora.gguf")
    small = tmp_path / "small.gguf"
    result = llamacpp.adapted_logits(small, tmp_path / "lora-pruned.gguf", TOKENS)
    assert np.array_equal(result, expected)
    assert not np.array_equal(result, llamacpp.logits(small, TOKENS))
    with pytest.raises(llamacpp.LlamaCppError, match=r"blk\.[0-9]+|LoRA"):
        llamacpp.adapted_logits(small, tmp_path / "lora.gguf", TOKENS)  # the unpruned one has layers too many


def directions(path: Path) -> np.ndarray:
    """[layers - 1, n_embd], row 0 for layer 1, as common_control_vector_load reads the file at `path`."""
    tensors = {int(tensor.name.split(".")[1]): tensor.data for tensor in gguf.GGUFReader(path).tensors}
    assert 0 not in tensors
    rows = np.zeros((max(tensors), len(next(iter(tensors.values())))), np.float32)
    for layer, row in tensors.items():
        rows[layer - 1] = row
    return rows


def saved(path: Path, rows: np.ndarray) -> Path:
    np.save(path, rows)
    return path


@pytest.mark.parametrize("dropped", [(1, 4), (LAYERS - 1,), (2,)])
def test_the_control_vector_of_the_kept_layers(dropped, tmp_path):
    model = write(tmp_path / "model.gguf", ROW)
    silent = write(tmp_path / "silent.gguf", ROW, zero={"blk": dropped})
    random = np.random.default_rng(6)
    rows = {f"direction.{layer}": random.standard_normal(32, np.float32) for layer in range(1, LAYERS)}
    vector = write_gguf(
        tmp_path / "cv.gguf",
        {"controlvector.model_hint": "llama", "controlvector.layer_count": LAYERS - 1},
        rows,
        "controlvector",
    )
    whole = directions(vector)
    whole[[layer - 1 for layer in dropped]] = 0
    expected = llamacpp.steered_logits(silent, saved(tmp_path / "silent.npy", whole), TOKENS)
    run("prune", model, tmp_path / "small.gguf", f"--drop={','.join(map(str, dropped))}", "--with", vector)
    left = saved(tmp_path / "small.npy", directions(tmp_path / "cv-pruned.gguf"))
    result = llamacpp.steered_logits(tmp_path / "small.gguf", left, TOKENS)
    assert np.array_equal(result, expected)
    assert not np.array_equal(result, llamacpp.logits(tmp_path / "small.gguf", TOKENS))


def test_an_adapter_of_dropped_layers_alone_is_refused_as_llama_cpp_takes_no_empty_one(tmp_path):
    model = write(tmp_path / "model.gguf", ROW)
    fields = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 4.0}
    tensors = {f"blk.1.attn_q.weight.lora_{part}": np.ones((32, 32), np.float32) for part in "ab"}
    write_gguf(tmp_path / "lora.gguf", fields, tensors)
    done = call("prune", model, tmp_path / "small.gguf", "--drop=1", "--with", tmp_path / "lora.gguf")
    assert (done.status, "nothing would be left" in done.errors) == (1, True)
    assert not (tmp_path / "small.gguf").exists()
