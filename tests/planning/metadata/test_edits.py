"""How the metadata follows the layers, from the metadata alone: no file is opened here."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewriter.architectures.lookup import Stack
from rewriter.architectures.schema import StackRule
from rewriter.checkpoint import LongArray
from rewriter.errors import CheckpointError, RequestError, UnsupportedError
from rewriter.planning.metadata.edits import rules_by_key
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import effective, make_plan, result
from tests.support.checkpoints import (
    changes,
    gemma3,
    gemma3_gguf,
    gemma3_text,
    ggml,
    hf,
    llama,
    llama_gguf,
    names,
    numbered,
    with_metadata,
    without,
)

BARE = PlanOptions(provenance=False)


S, F = "sliding_attention", "full_attention"


# -- gemma 3: every sixth layer has full attention


@pytest.mark.parametrize("period", [{}, {"sliding_window_pattern": 6}, {"_sliding_window_pattern": 2}])
def test_an_irregular_drop_writes_the_list(period):
    plan = make_plan(gemma3_text(**period), without(0, 1, count=12))
    assert changes(plan) == {"num_hidden_layers": 10, "layer_types": [S, S, S, F, S, S, S, S, S, F]}


@pytest.mark.parametrize("period", [{}, {"sliding_window_pattern": 6}, {"_sliding_window_pattern": 2}])
@pytest.mark.parametrize("kept", [range(6), range(6, 12), range(11), range(5)])
def test_a_drop_that_keeps_the_period_leaves_it(period, kept):
    assert changes(make_plan(gemma3_text(**period), kept)) == {"num_hidden_layers": len(kept)}


def test_another_period_than_the_default():
    plan = make_plan(gemma3_text(6, sliding_window_pattern=2), [0, 1, 3, 5])
    assert changes(plan)["layer_types"] == [S, F, F, F]


def test_an_explicit_list_is_cut_and_the_period_beside_it_is_left():
    checkpoint = gemma3_text(6, sliding_window_pattern=2, layer_types=[F, S, S, F, S, S])
    assert changes(make_plan(checkpoint, [0, 3, 4])) == {"num_hidden_layers": 3, "layer_types": [F, F, S]}


@pytest.mark.parametrize("types", [[S] * 5, [S] * 7])
def test_an_explicit_list_of_another_length(types):
    with pytest.raises(CheckpointError, match=f"layer_types: has {len(types)} entries for 6 layers"):
        make_plan(gemma3_text(6, layer_types=types), [0])


@pytest.mark.parametrize("period", [True, "6", -1, 2.5])
def test_what_is_no_period(period):
    with pytest.raises(CheckpointError, match=r"sliding_window_pattern: .* is not a period"):
        make_plan(gemma3_text(6, sliding_window_pattern=period), [0])


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


@pytest.mark.parametrize("pattern", [None, 6])
def test_an_irregular_drop_writes_the_gguf_array(pattern):
    """True: the block looks through a window."""
    plan = make_plan(gemma3_gguf(12, pattern), without(0, 1, count=12))
    windows = [True, True, True, False, True, True, True, True, True, False]
    assert changes(plan) == {"gemma3.block_count": 10, "gemma3.attention.sliding_window_pattern": windows}
    assert all(type(value) is bool for value in changes(plan)["gemma3.attention.sliding_window_pattern"])


@pytest.mark.parametrize("pattern", [None, 6])
def test_a_regular_drop_leaves_the_gguf_period(pattern):
    assert changes(make_plan(gemma3_gguf(12, pattern), range(6, 12))) == {"gemma3.block_count": 6}


def test_a_gguf_array_is_cut():
    plan = make_plan(gemma3_gguf(4, (True, False, True, False)), [1, 2])
    assert changes(plan)["gemma3.attention.sliding_window_pattern"] == (False, True)


@pytest.mark.parametrize("window", [{"attention.sliding_window": 512}, {}])
@pytest.mark.parametrize("pattern", [{}, {"attention.sliding_window_pattern": (True, True, True, True, True, False)}])
def test_no_window_is_left_when_no_block_has_one(window, pattern):
    """llama.cpp aborts when the window has a width and no block looks through it."""
    plan = make_plan(ggml("gemma3", numbered("blk.", 6), {"block_count": 6, **window, **pattern}), [5])
    assert changes(plan).get("gemma3.attention.sliding_window") == (0 if window else None)
    assert changes(plan).get("gemma3.attention.sliding_window_pattern", (False,)) == (False,)


@pytest.mark.parametrize(("count", "keep"), [(62, 61), (63, 62), (64, 62)])
def test_62_blocks_mean_another_model(count, keep):
    with pytest.raises(UnsupportedError, match="for exactly 62 layers; "):
        make_plan(gemma3_gguf(count), range(keep))


@pytest.mark.parametrize(("count", "keep"), [(62, 62), (64, 61), (48, 36)])
def test_other_counts_do_not(count, keep):
    assert len(make_plan(gemma3_gguf(count), range(keep)).layers.kept) == keep


def test_a_pattern_written_out_equals_the_period_it_came_from():
    implicit, explicit = gemma3_text(6), gemma3_text(6, layer_types=[S, S, S, S, S, F])
    assert effective(implicit, BARE) == effective(explicit, BARE)
    assert effective(gemma3_text(6, layer_types=[S] * 6), BARE) != effective(implicit, BARE)


@given(st.sets(st.integers(0, 23), min_size=1), st.sampled_from([None, 1, 2, 5, 6]))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_every_kept_layer_keeps_its_kind_of_attention(kept, period):
    checkpoint = gemma3_text(24, sliding_window_pattern=period)
    before = effective(checkpoint, BARE)["layer_types"]
    after = effective(result(make_plan(checkpoint, kept, BARE)), BARE)["layer_types"]
    assert after == tuple(before[number] for number in sorted(kept))


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


def test_a_period_that_cannot_be_written_out_is_refused():
    with pytest.raises(
        UnsupportedError, match=r"full_attention_interval .* would work: --keep 0-4 or --keep 0,4-5 or --keep 3-5"
    ):
        make_plan(llama(full_attention_interval=3), without(1))
    assert changes(make_plan(llama(full_attention_interval=3), [0, 1, 2])) == {"num_hidden_layers": 3}


def test_a_period_that_a_list_overrides_is_left():
    plan = make_plan(llama(full_attention_interval=3, layer_types=list("abcdef")), without(1))
    assert changes(plan) == {"num_hidden_layers": 5, "layer_types": list("acdef")}


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
    ("config", "after"),
    [
        ({}, {"max_window_layers": 27}),  # Qwen2Config takes 28 where there is none
        ({"max_window_layers": None}, {"max_window_layers": 27}),
        ({"max_window_layers": 30}, {"max_window_layers": 29}),
        ({"max_window_layers": 1}, {}),
        ({"layer_types": [S] * 32}, {"layer_types": [S] * 31}),
    ],
)
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_windows_from_a_layer_on(architecture, config, after):
    checkpoint = hf(architecture, numbered("model.layers.", 32), {"num_hidden_layers": 32, **config})
    assert changes(make_plan(checkpoint, without(20, count=32))) == {"num_hidden_layers": 31, **after}


def test_windows_from_a_layer_on_that_is_not_there():
    checkpoint = hf("qwen2", numbered("model.layers.", 24), {"num_hidden_layers": 24})
    assert changes(make_plan(checkpoint, without(20, count=24))) == {"num_hidden_layers": 23}


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
    assert rules_by_key(checkpoint, (top, nested), top, BARE) == {"layer_types": "per_layer"}
    assert rules_by_key(checkpoint, (top, nested), nested, BARE) == {"vision_config.layer_types": "per_layer"}
