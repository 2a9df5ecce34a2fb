"""Multilayer perceptrons (DeepCTR's dnn.linears.N): widths are chained, so a drop must leave them fitting."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rewriter.errors import UnsupportedError
from rewriter.formats import open_checkpoint
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import make_plan
from rewriter.writing.verify import verify
from rewriter.writing.write import write

GENERIC = PlanOptions(generic=True)


@pytest.fixture
def perceptron(tmp_path):
    """Widths 8 -> 16 -> 16 -> 16 -> 4, with an embedding beside."""
    widths = [8, 16, 16, 16, 4]
    tensors = {"embedding.weight": np.ones((3, 8), "float32")}
    for number, (before, after) in enumerate(pairwise(widths)):
        tensors[f"dnn.linears.{number}.weight"] = np.full((after, before), number, "float32")
        tensors[f"dnn.linears.{number}.bias"] = np.full(after, number, "float32")
    save_file(tensors, tmp_path / "ctr.safetensors")
    return tmp_path / "ctr.safetensors"


@pytest.mark.parametrize("keep", [[0, 2, 3], [0, 1, 3], [0, 3]])
def test_layers_between_equal_widths_may_go(perceptron, keep, tmp_path):
    write(make_plan(open_checkpoint(perceptron), keep, GENERIC), tmp_path / "out.safetensors")
    assert verify(tmp_path / "out.safetensors", perceptron) == ()
    pruned = load_file(tmp_path / "out.safetensors")
    state = np.ones(8, "float32")
    for new, old in enumerate(keep):
        assert (pruned[f"dnn.linears.{new}.bias"] == old).all()
        state = pruned[f"dnn.linears.{new}.weight"] @ state
    assert state.shape == (4,)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ([1, 2, 3], "without 0 to 0 a width of 8 would meet one of 16"),
        ([0, 1, 2], "without 3 to 3 a width of 16 would meet one of 4"),
        ([0], "without 1 to 3 a width of 16 would meet one of 4"),
    ],
)
def test_others_are_refused_with_the_widths(perceptron, keep, message):
    with pytest.raises(UnsupportedError, match=message):
        make_plan(open_checkpoint(perceptron), keep, GENERIC)
