"""How the metadata follows the layers, from the metadata alone: no file is opened here."""

from dataclasses import replace

import pytest

from rewriter.architectures.lookup import Stack
from rewriter.architectures.schema import StackRule
from rewriter.checkpoint import LongArray
from rewriter.errors import CheckpointError, RequestError, UnsupportedError
from rewriter.planning.metadata.edits import rules_by_key
from rewriter.planning.open_model import open_model
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import make_plan
from tests.support.checkpoints import (
    changes,
    gemma3,
    gemma3_gguf,
    hf,
    llama,
    llama_gguf,
    names,
    numbered,
    with_metadata,
)

BARE = PlanOptions(provenance=False)


S, F = "sliding_attention", "full_attention"


# -- gemma 3: every sixth layer has full attention


def test_the_text_stack_is_main_and_nested():
    plan = make_plan(gemma3(12), [0, 5, 6, 11])
    assert plan.layers.stack == "text"
    assert changes(plan) == {"text_config.num_hidden_layers": 4, "text_config.layer_types": [S, F, S, F]}


def test_the_vision_stack_leaves_the_text_alone():
    plan = make_plan(gemma3(6, 4, layer_types=[S] * 6), [0, 3], PlanOptions(stack="vision"))
    assert changes(plan) == {"vision_config.num_hidden_layers": 2}
    assert names(plan)["vision_tower.vision_model.encoder.layers.3.weight"].endswith("layers.1.weight")
    assert names(plan)["language_model.model.layers.3.weight"] == "language_model.model.layers.3.weight"


def test_stacks_of_the_same_length_follow_their_own_fields():
    checkpoint = gemma3(
        4, 4, layer_types=[S, S, F, F], vision_config={"num_hidden_layers": 4, "image_size": [1, 2, 3, 4]}
    )
    assert changes(make_plan(checkpoint, [1, 2]))["text_config.layer_types"] == [S, F]
    assert changes(make_plan(checkpoint, [1, 2], PlanOptions(stack="vision"))) == {"vision_config.num_hidden_layers": 2}


@pytest.mark.parametrize(("count", "keep"), [(62, 61), (63, 62), (64, 62)])
def test_62_blocks_mean_another_model(count, keep):
    with pytest.raises(UnsupportedError, match="for exactly 62 layers; "):
        make_plan(gemma3_gguf(count), range(keep))


@pytest.mark.parametrize(("count", "keep"), [(62, 62), (64, 61), (48, 36)])
def test_other_counts_do_not(count, keep):
    assert len(make_plan(gemma3_gguf(count), range(keep)).layers.kept) == keep


# -- fields


@pytest.mark.parametrize(
    ("config", "after"),
    [
        ({"layer_types": list("abcdef")}, {"layer_types": ["a", "c", "f"]}),
        ({"mlp_only_layers": [0, 1, 5]}, {"mlp_only_layers": [0, 2]}),
        ({"max_window_layers": 3}, {"max_window_layers": 2}),
        ({"first_k_dense_replace": 1}, {}),
        ({"num_kv_shared_layers": 3}, {"num_kv_shared_layers": 1}),
        ({"intermediate_size": [1, 2, 3, 4, 5, 6]}, {"intermediate_size": [1, 3, 6]}),
        ({"intermediate_size": 64, "sliding_window": None}, {}),
        ({"hybrid_override_pattern": "M-*ME-"}, {"hybrid_override_pattern": "M*-"}),
    ],
)
def test_hugging_face_fields(config, after):
    assert changes(make_plan(llama(**config), [0, 2, 5])) == {"num_hidden_layers": 3, **after}


@pytest.mark.parametrize(
    ("fields", "after"),
    [
        ({"attention__head_count_kv": (1, 2, 3, 4, 5, 6)}, {"llama.attention.head_count_kv": (1, 3, 6)}),
        ({"attention__head_count": (1, 2, 3, 4, 5, 6)}, {"llama.attention.head_count": (1, 3, 6)}),
        ({"attention__head_count": 6}, {}),
        ({"feed_forward_length": (1, 2, 3, 4, 5, 6)}, {"llama.feed_forward_length": (1, 3, 6)}),
        ({"leading_dense_block_count": 3}, {"llama.leading_dense_block_count": 2}),
        ({"attention__shared_kv_layers": 3}, {"llama.attention.shared_kv_layers": 1}),
        ({"attention__recurrent_layers": (True,) * 6}, {"llama.attention.recurrent_layers": (True,) * 3}),
    ],
)
def test_gguf_fields(fields, after):
    assert changes(make_plan(llama_gguf(**fields), [0, 2, 5])) == {"llama.block_count": 3, **after}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layer_types": ["a"] * 5}, "layer_types: has 5 entries for 6 layers"),
        ({"mlp_only_layers": [6]}, "mlp_only_layers: names layer 6 of 6"),
        ({"max_window_layers": "3"}, "max_window_layers: expected a number"),
    ],
)
def test_a_field_that_contradicts_the_tensors(config, message):
    with pytest.raises(CheckpointError, match=message):
        make_plan(llama(**config), [0])


KNOWN_LISTS = {"architectures": ["A", "B", "C", "D"], "eos_token_id": [1, 2, 3, 4], "image_size": [1, 2, 3, 4]}


def test_lists_that_are_not_about_layers_are_left_whatever_their_length():
    apart = {
        "rope_scaling": {"long_factor": [1.0] * 4, "short_factor": [1.0] * 4},
        "rope_parameters": {"f": [1] * 4},
        "quantization_config": {"weight_block_size": [128] * 4},
        "task_specific_params": {"a": {"b": [1] * 4}},
        "id2label": {"0": "a", "1": "b", "2": "c", "3": "d"},
        "other": [1, 2, 3],
        "nested": {"other": []},
    }
    assert changes(make_plan(llama(4, **KNOWN_LISTS, **apart), [0, 1])) == {"num_hidden_layers": 2}


def test_gguf_lists_that_are_not_about_layers():
    outside = {
        "general.tags": ("a",) * 4,
        "tokenizer.ggml.tokens": ("t",) * 4,
        "tokenizer.ggml.scores": LongArray("f32", 4),
    }
    checkpoint = llama_gguf(4, rope__dimension_sections=(1, 2, 3, 4))
    plan = make_plan(with_metadata(checkpoint, outside), [0, 1])
    assert changes(plan) == {"llama.block_count": 2}


UNKNOWN = [
    (llama(new_thing=[1] * 6), "new_thing", "new_thing"),
    (llama(nested={"deeper": {"thing": [1] * 6}}), "nested.deeper.thing", "nested.deeper.thing"),
    (llama_gguf(attention__new_thing=(1,) * 6), "attention.new_thing", "llama.attention.new_thing"),
    (gemma3(6, 2, new_thing=[1] * 6), "new_thing", "text_config.new_thing"),
]


@pytest.mark.parametrize(
    ("checkpoint", "key"), [(llama_gguf(what=LongArray("u32", 6)), "what"), *((row[0], row[1]) for row in UNKNOWN)]
)
def test_an_unknown_list_as_long_as_the_stack_is_refused_with_both_ways_out(checkpoint, key):
    with pytest.raises(UnsupportedError) as caught:
        make_plan(checkpoint, [0, 2])
    assert f"--per-layer-field {key} cuts it" in str(caught.value)
    assert f"--keep-field {key} leaves it" in str(caught.value)


@pytest.mark.parametrize(("checkpoint", "key", "whole"), UNKNOWN)
def test_the_ways_out_take_keys_with_their_scope_and_without(checkpoint, key, whole):
    for name in (key, whole):
        kept = changes(make_plan(checkpoint, [0, 2], PlanOptions(keep_fields=(name,))))
        cut = changes(make_plan(checkpoint, [0, 2], PlanOptions(per_layer_fields=(name,))))
        assert list(kept.values()) == [2]
        assert list(cut.pop(whole)) == [1, 1]
        assert cut == kept


@pytest.mark.parametrize("way", ["keep_fields", "per_layer_fields"])
def test_a_way_out_for_a_field_that_is_not_there(way):
    with pytest.raises(RequestError, match="no field 'typo' in the metadata"):
        make_plan(llama(), [0], PlanOptions(**{way: ("typo",)}))


def test_a_way_out_is_stronger_than_a_rule():
    checkpoint = llama(layer_types=list("abcdef"), eos_token_id=[1, 2, 3, 4, 5, 6])
    options = PlanOptions(keep_fields=("layer_types",), per_layer_fields=("eos_token_id",))
    assert changes(make_plan(checkpoint, [0, 2], options)) == {"num_hidden_layers": 2, "eos_token_id": [1, 3]}


def test_a_per_layer_field_must_be_as_long_as_the_stack():
    with pytest.raises(CheckpointError, match="eos_token_id: has 2 entries for 6 layers"):
        make_plan(llama(eos_token_id=[1, 2]), [0], PlanOptions(per_layer_fields=("eos_token_id",)))


@pytest.mark.parametrize(
    ("config", "keep", "warned"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, [0, 2], True),
        ({"scale_attn_by_inverse_layer_idx": True}, [0, 1], False),  # no layer gets another number
        ({"scale_attn_by_inverse_layer_idx": False}, [0, 2], False),
        ({}, [0, 2], False),
    ],
)
def test_gpt2_attention_scaled_by_the_layer_number(config, keep, warned):
    plan = make_plan(hf("gpt2", numbered("h.", 4), {"n_layer": 4, **config}), keep)
    assert [warning.split(" is set")[0] for warning in plan.warnings] == ["scale_attn_by_inverse_layer_idx"] * warned


def test_a_key_that_only_begins_like_the_scope_is_not_in_it():
    checkpoint = with_metadata(gemma3(6), {"text_configuration.layer_types": [S] * 6, "text_config_old": [1] * 6})
    options = PlanOptions(keep_fields=("text_config_old",))  # it stands at the top, and may be about any layers
    assert changes(make_plan(checkpoint, range(5), options)) == {"text_config.num_hidden_layers": 5}


def test_the_fields_of_a_stack_at_the_top_are_not_those_of_a_nested_one():
    entries = {scope: StackRule(name=scope, prefixes=("x.",), count_key="n") for scope in ("", "vision_config")}
    top, nested = (Stack(entry, "x.", 4, scope) for scope, entry in entries.items())
    config = {"layer_types": [S] * 4, "vision_config": {"layer_types": [S] * 4, "what": [1] * 4}}
    checkpoint = hf("x", numbered("x.", 4), config)
    model = replace(open_model(gemma3(6), BARE), checkpoint=checkpoint, stacks=(top, nested))
    assert rules_by_key(model.of(top)) == {"layer_types": "per_layer"}
    assert rules_by_key(model.of(nested)) == {"vision_config.layer_types": "per_layer"}
