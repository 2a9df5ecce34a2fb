"""Modules that a quantization config names follow their layers."""

import pytest

from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import make_plan
from tests.support.checkpoints import (
    changes,
    gemma3,
    llama,
    with_metadata,
)


@pytest.mark.parametrize("key", ["ignore", "ignored_layers", "modules_to_not_convert", "llm_int8_skip_modules"])
def test_module_names_in_a_quantization_config_follow(key):
    skipped = ["lm_head", "model.layers.1.mlp", "layers.2.mlp", r"re:.*layers\.\d+\.x1", "model.layers.5"]
    plan = make_plan(llama(quantization_config={"bits": 4, key: skipped}), [0, 2, 5])
    after = ["lm_head", "layers.1.mlp", r"re:.*layers\.\d+\.x1", "model.layers.2"]
    assert changes(plan) == {"num_hidden_layers": 3, f"quantization_config.{key}": after}


def test_module_names_follow_at_the_top_of_a_nested_config():
    skipped = ["vision_tower.vision_model.encoder.layers.1.q", "language_model.model.layers.1.q"]
    checkpoint = gemma3(6, 2)
    checkpoint = with_metadata(checkpoint, {"quantization_config.ignore": skipped})
    assert changes(make_plan(checkpoint, [1]))["quantization_config.ignore"] == [
        skipped[0], "language_model.model.layers.0.q",
    ]  # fmt: skip
    assert changes(make_plan(checkpoint, [1], PlanOptions(stack="vision")))["quantization_config.ignore"] == [
        "vision_tower.vision_model.encoder.layers.0.q", skipped[1],
    ]  # fmt: skip
