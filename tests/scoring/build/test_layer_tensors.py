"""Every tensor of a layer has a known part in it, or the layer is not described."""

import numpy as np
import pytest

from rewriter.architectures.lookup import Stack
from rewriter.architectures.schema import StackRule
from rewriter.errors import UnsupportedError
from rewriter.formats.dequantize import WeightMatrix
from rewriter.scoring.build.layer_tensors import tensors_by_layer
from rewriter.scoring.build.tensor_roles import TensorRole

STACK = Stack(StackRule(name="main", prefixes=("l.",), count_key="n"), "l.", 2)


def weight(name: str) -> WeightMatrix:
    return WeightMatrix(name, (2, 2), lambda first, last: np.ones((last - first, 2), np.float32))


def test_tensors_go_to_their_layer_by_role():
    roles = {
        "l.0.q": TensorRole("attn_q"), "l.0.q_b": TensorRole("attn_q", "bias"),
        "l.1.e": TensorRole("ffn_up_exps", "weight", 3), "l.1.b": TensorRole("exp_probs_b", "bias"),
        "l.2.mtp": None,
    }  # fmt: skip
    first, second = tensors_by_layer(STACK, {name: weight(name) for name in roles}, roles)
    assert (list(first.weights), list(first.biases)) == (["attn_q"], ["attn_q"])
    assert (list(second.weights), list(second.experts["ffn_up_exps"])) == (["exp_probs_b"], [3])
    assert first.has("attn_q")
    assert not first.has("attn_q", "attn_k")


@pytest.mark.parametrize(("role", "why"), [(None, "nothing is known"), (TensorRole("cross_attn"), "another stack")])
def test_a_tensor_that_is_not_known(role, why):
    with pytest.raises(UnsupportedError, match=why):
        tensors_by_layer(STACK, {"l.0.x": weight("x")}, {"l.0.x": role})
