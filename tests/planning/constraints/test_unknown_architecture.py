"""What may be about single layers and has no rule: refused or warned of, never left without a word."""

from dataclasses import replace

import pytest

from rewriter.errors import CheckpointError, UnsupportedError
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import make_plan
from tests.support.checkpoints import changes, ggml, hf, llama, llama_gguf, numbered

LLAVA = {
    "text_config": {"model_type": "llama", "num_hidden_layers": 4},
    "vision_config": {"model_type": "clip_vision_model", "num_hidden_layers": 3},
}
LLAVA_NAMES = [
    *numbered("language_model.model.layers.", 4),
    *numbered("vision_tower.vision_model.encoder.layers.", 3),
]


@pytest.mark.parametrize(
    ("checkpoint", "key"),
    [
        pytest.param(llama(4, early_exit_layers=[1, 3]), "early_exit_layers", id="numbers"),
        pytest.param(llama(4, adapter={"block_ids": [0]}), "adapter.block_ids", id="nested"),
        pytest.param(hf("llava", LLAVA_NAMES, LLAVA | {"scales": [1, 2, 3, 4]}), "scales", id="beside the scope"),
        pytest.param(hf("llava", LLAVA_NAMES, LLAVA | {"taps": {"0": 1}}), "taps", id="keys beside the scope"),
        pytest.param(llama_gguf(4, sparse_layers=(0, 2)), "sparse_layers", id="numbers in gguf"),
        pytest.param(
            ggml("glm4moe", numbered("blk.", 5), {"block_count": 5, "nextn_predict_layers": 1, "new": (1,) * 5}), "new",
            id="with the MTP layer",
        ),
        pytest.param(
            ggml("glm4moe", numbered("blk.", 5), {"block_count": 5, "nextn_predict_layers": 1, "new": (1,) * 4}), "new",
            id="without the MTP layer",
        ),
    ],
)  # fmt: skip
def test_what_may_be_about_layers_is_refused_until_somebody_says_what_it_is(checkpoint, key):
    with pytest.raises(UnsupportedError, match=rf"{key} .*no rule says .*--keep-field {key} leaves it"):
        make_plan(checkpoint, [0, 1, 3])
    assert key not in changes(make_plan(checkpoint, [0, 1, 3], PlanOptions(keep_fields=(key,))))


@pytest.mark.parametrize("name", ["xielu.new", "qwen2.attention.head_count_kv"])
def test_a_list_under_another_word_of_a_gguf_may_be_about_its_blocks(name):
    checkpoint = llama_gguf(4)
    metadata = checkpoint.metadata | {name: (1, 2, 3, 4), "general.tags": list("abcd"), "tokenizer.x": (1, 2, 3, 4)}
    with pytest.raises(UnsupportedError, match=f"^{name} has one entry for each"):
        make_plan(replace(checkpoint, metadata=metadata), [0, 1, 3])


@pytest.mark.parametrize("key", ["vision_feature_layer", "sizes_by_block"])
def test_lists_that_are_no_layer_numbers_stay(key):
    """They belong to the other stack, or go down, or beyond the layers."""
    value = {"vision_feature_layer": [1, 2], "sizes_by_block": [1, 9]}[key]
    plan = make_plan(hf("llava", LLAVA_NAMES, LLAVA | {key: value}), [0, 1, 3], PlanOptions(stack="text"))
    assert changes(plan) == {"text_config.num_hidden_layers": 3}


@pytest.mark.parametrize("prefix", ["ema.model.layers.", "model.heads."])
def test_a_list_of_tensors_that_nothing_explains_stays_with_a_warning(prefix):
    checkpoint = hf("llama", [*numbered("model.layers.", 4), *numbered(prefix, 4)], {"num_hidden_layers": 4})
    plan = make_plan(checkpoint, [0, 1, 3])
    assert [prefix in warning for warning in plan.warnings] == [True]
    assert sum(copy.name.startswith(prefix) for copy in plan.tensors) == 4
    with pytest.raises(UnsupportedError, match="--strict"):
        make_plan(checkpoint, [0, 1, 3], PlanOptions(strict=True))


def test_towers_of_one_length_are_no_surprise():
    towers = {name: {"num_hidden_layers": 4} for name in ("text_config", "vision_config")}
    lists = [*numbered("text_model.encoder.layers.", 4), *numbered("vision_model.encoder.layers.", 4)]
    assert make_plan(hf("clip", lists, towers), [0, 1, 3]).warnings == ()


def test_a_nested_config_that_does_not_say_what_it_is():
    """Loaders take the wrapper's own kind, whose layers differ by their number."""
    config = {"text_config": {"num_hidden_layers": 8}, "vision_config": {"num_hidden_layers": 2}}
    names = [*numbered("language_model.model.layers.", 8), *numbered("vision_model.model.layers.", 2)]
    assert changes(make_plan(hf("llama4", names, config), range(1, 8)))["text_config.no_rope_layers"] == [
        1, 1, 0, 1, 1, 1, 0,
    ]  # fmt: skip


def test_a_value_that_does_not_fit_another_stack_is_said_before_anything_is_written():
    vision = {"depth": 2, "fullatt_block_indexes": [1, 7]}
    config = {"text_config": {"num_hidden_layers": 4}, "vision_config": vision}
    lists = [*numbered("model.layers.", 4), *numbered("visual.blocks.", 2)]
    with pytest.raises(CheckpointError, match=r"^vision_config\.fullatt_block_indexes: names layer 7 of 2"):
        make_plan(hf("qwen2_5_vl", lists, config), [0, 1, 3])
