"""Configs as they lie on the hub: diff-style, with keys of older and remote code, with counts said twice."""

import pytest

from rewriter.errors import CheckpointError
from rewriter.plan import make_plan
from tests.checkpoints import changes, hf, numbered, without

LAYERS = "model.layers."


def decoder(architecture, count=6, prefix=LAYERS, more=0, **config):
    tensors = ["model.norm.weight", *numbered(prefix, count + more)]
    return hf(architecture, tensors, {"num_hidden_layers": count, **config})


@pytest.mark.parametrize("key", ["n_layer", "n_layers", "num_layers"])
def test_a_count_that_is_said_twice_follows_twice(key):
    """Remote code reads the other one."""
    assert changes(make_plan(decoder("llama", **{key: 6}), without(1, 4))) == {"num_hidden_layers": 4, key: 4}


def test_another_number_of_layers_is_not_the_count():
    assert changes(make_plan(decoder("llama", num_layers=2), without(1, 4))) == {"num_hidden_layers": 4}


def test_a_repeated_count_is_not_one_that_a_loader_reads():
    """Without num_hidden_layers transformers takes its default, whatever n_layers says: the count is written."""
    checkpoint = hf("llama", numbered(LAYERS, 32), {"n_layers": 32})
    assert changes(make_plan(checkpoint, range(30))) == {"num_hidden_layers": 30, "n_layers": 30}


def test_a_count_at_the_top_repeats_that_of_the_first_stack():
    tensors = [*numbered("language_model.model.layers.", 6), *numbered("vision_tower.vision_model.encoder.layers.", 4)]
    config = {"text_config": {"num_hidden_layers": 6}, "vision_config": {"num_hidden_layers": 4}}
    text = make_plan(hf("gemma3", tensors, config | {"num_hidden_layers": 6}), range(5))
    assert changes(text) == {"text_config.num_hidden_layers": 5, "num_hidden_layers": 5}


@pytest.mark.parametrize("architecture", ["llama", "qwen3_moe", "solar_open", "hunyuan_v1_moe"])
def test_any_decoder_may_have_prediction_layers(architecture):
    """DeepSeek's convention: they carry the numbers after the main ones."""
    checkpoint = decoder(architecture, more=1, num_nextn_predict_layers=1)
    plan = make_plan(checkpoint, without(1, 4))
    assert plan.layers.kept == (0, 2, 3, 5, 6)
    assert changes(plan) == {"num_hidden_layers": 4}


def test_layers_beyond_the_count_that_nothing_explains_contradict_it():
    with pytest.raises(CheckpointError, match="num_hidden_layers"):
        make_plan(decoder("llama", more=1), without(1, 4))
