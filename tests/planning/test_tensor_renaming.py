"""Which tensors stay, and under which names."""

import pytest

from rewriter.checkpoint import FieldEdit
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import make_plan
from tests.support.checkpoints import (
    hf,
    llama,
    llama_gguf,
    names,
    numbered,
    t5,
    t5_gguf,
    without,
)

BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"


def test_the_order_of_the_tensors_is_that_of_the_files():
    shuffled = [
        "model.layers.10.w",
        "z",
        "model.layers.2.w",
        *(f"model.layers.{n}.w" for n in without(2, 10, count=11)),
    ]
    plan = make_plan(hf("llama", shuffled, {"num_hidden_layers": 11}), [2, 10])
    assert list(names(plan).items()) == [
        ("model.layers.10.w", "model.layers.1.w"),
        ("z", "z"),
        ("model.layers.2.w", "model.layers.0.w"),
    ]


def test_layer_1_is_not_layer_10():
    plan = make_plan(llama(12), without(1, count=12))
    assert names(plan)["model.layers.10.weight"] == "model.layers.9.weight"
    assert names(plan)["model.layers.11.weight"] == "model.layers.10.weight"
    assert len(plan.dropped) == 1


def test_numbers_deeper_in_a_name_are_not_layers():
    experts = numbered("model.layers.", 4, "mlp.experts.0.w1", "mlp.experts.3.w1", "mlp.experts.11.w1")
    plan = make_plan(
        hf("mixtral", [*experts, "visual.blocks.3.w", "model.layers_3.w"], {"num_hidden_layers": 4}), [1, 3]
    )
    assert names(plan)["model.layers.3.mlp.experts.3.w1"] == "model.layers.1.mlp.experts.3.w1"
    assert names(plan)["model.layers.1.mlp.experts.11.w1"] == "model.layers.0.mlp.experts.11.w1"
    assert names(plan)["visual.blocks.3.w"] == "visual.blocks.3.w"
    assert names(plan)["model.layers_3.w"] == "model.layers_3.w"
    assert len(plan.tensors) == 8


def test_gguf_blocks_are_renumbered():
    plan = make_plan(llama_gguf(4), [3])
    assert names(plan)["blk.3.weight"] == "blk.0.weight"
    assert plan.edits == (FieldEdit("llama.block_count", 4, 1, "count"),)


@pytest.mark.parametrize("side", ["decoder", "encoder"])
def test_the_position_bias_moves_with_the_first_layer(side):
    plan = make_plan(t5(), [2, 4], PlanOptions(stack=side))
    assert names(plan)[f"{side}.block.0.{BIAS}"] == f"{side}.block.0.{BIAS}"
    assert f"{side}.block.0.layer.0.w" not in names(plan)
    assert names(plan)[f"{side}.block.2.layer.0.w"] == f"{side}.block.0.layer.0.w"
    assert len({copy.name for copy in plan.tensors}) == len(plan.tensors)


def test_the_position_bias_stays_with_a_first_layer_that_stays():
    plan = make_plan(t5(), [0, 4])
    assert names(plan)[f"decoder.block.0.{BIAS}"] == f"decoder.block.0.{BIAS}"


def test_a_position_bias_in_every_layer_follows_its_own():
    plan = make_plan(t5(bias=range(6)), [2, 4])
    assert f"decoder.block.0.{BIAS}" not in names(plan)
    assert names(plan)[f"decoder.block.2.{BIAS}"] == f"decoder.block.0.{BIAS}"


@pytest.mark.parametrize(("stack", "side"), [("main", "dec"), ("encoder", "enc")])
def test_the_position_bias_moves_in_gguf(stack, side):
    plan = make_plan(t5_gguf(decoder=3), [1, 3, 5] if side == "enc" else [1, 2], PlanOptions(stack=stack))
    assert names(plan)[f"{side}.blk.0.attn_rel_b.weight"] == f"{side}.blk.0.attn_rel_b.weight"
    assert names(plan)[f"{side}.blk.1.w"] == f"{side}.blk.0.w"
    assert f"{side}.blk.0.w" not in names(plan)
