"""Decoders of the Hugging Face table, from names and metadata alone: the traps of their configs."""

from dataclasses import replace

import pytest

from rewriter.errors import UnsupportedError
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import make_plan, planned_checkpoint
from tests.support.checkpoints import changes, hf, llama, names, numbered, without

LAYERS = "model.layers."


def decoder(architecture, count=6, prefix=LAYERS, more=0, **config):
    tensors = ["model.norm.weight", *numbered(prefix, count + more)]
    return hf(architecture, tensors, {"num_hidden_layers": count, **config})


def after(architecture, keep, count=6, **config):
    """What the plan changes besides the count."""
    return {
        k: v for k, v in changes(make_plan(decoder(architecture, count, **config), keep)).items() if "num_h" not in k
    }


def types(pattern):
    full = {"s": "sliding_attention", "f": "full_attention", "l": "linear_attention", "h": "hybrid"}
    return [full[letter] for letter in pattern]


IRREGULAR = without(1, 4)


@pytest.mark.parametrize(
    ("architecture", "config", "wanted"),
    [
        ("gemma2", {}, {"layer_types": types("ssff")}),
        ("gpt_oss", {}, {"layer_types": types("ssff")}),
        ("cohere2", {}, {"layer_types": types("ssfs")}),
        ("cohere2", {"sliding_window_pattern": 2}, {"layer_types": types("ssff")}),
        ("olmo3", {}, {"layer_types": types("ssfs")}),
        ("exaone4", {"sliding_window_pattern": 3}, {"layer_types": types("sfsf")}),
        ("qwen3_next", {}, {"layer_types": types("llfl")}),
        ("qwen3_next", {"full_attention_interval": 2}, {"layer_types": types("llff")}),
        ("qwen3_5_text", {"layer_types": None}, {"layer_types": types("llfl")}),
        ("olmo_hybrid", {}, {"layer_types": types("llfl")}),
        ("minimax", {}, {"layer_types": types("ffll")}),
        ("gemma3n_text", {"num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0] * 6},
         {"activation_sparsity_pattern": [0.0] * 4}),
        ("smollm3", {}, {"no_rope_layers": [1, 1, 0, 1]}),
        ("llama4_text", {"no_rope_layers": []}, {"no_rope_layers": [1, 1, 0, 1]}),
        ("llama4_text", {"interleave_moe_layer_step": 2},
         {"no_rope_layers": [1, 1, 0, 1], "moe_layers": [2, 3]}),
        ("lfm2", {"full_attn_idxs": [1, 2, 5]}, {"full_attn_idxs": [1, 3]}),
        ("nemotron_h", {"hybrid_override_pattern": "M-*ME-"}, {"hybrid_override_pattern": "M*M-"}),
        ("recurrent_gemma", {"block_types": ["recurrent", "recurrent", "attention"]},
         {"block_types": ["recurrent", "attention", "recurrent", "attention"]}),
        ("qwen2_moe", {"use_sliding_window": True, "max_window_layers": 3}, {"layer_types": types("ssff")}),
    ],
)  # fmt: skip
def test_implicit_patterns_become_explicit(architecture, config, wanted):
    assert after(architecture, IRREGULAR, **config) == wanted


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("gemma2", {}),
        ("qwen2_moe", {"use_sliding_window": False, "max_window_layers": 3}),
        ("kimi_linear", {"first_k_dense_replace": 1}),
        ("llama4_text", {"no_rope_layer_interval": 2}),
    ],
)
def test_a_regular_drop_leaves_the_period(architecture, config):
    assert after(architecture, [0, 1, 2, 3, 4], **config) == {}


def test_gpt_neo_has_its_types_with_repetitions():
    checkpoint = hf("gpt_neo", numbered("h.", 4), {"num_layers": 4, "attention_types": [[["global", "local"], 2]]})
    assert changes(make_plan(checkpoint, [1, 3]))["attention_types"] == [[["local", "local"], 1]]


def test_gpt_neo_without_types_has_twelve_pairs():
    checkpoint = hf("gpt_neo", numbered("h.", 24), {"num_layers": 24})
    assert changes(make_plan(checkpoint, [1, 2, 4]))["attention_types"] == [[["local", "global", "global"], 1]]


def test_gemma3n_computes_a_list_from_the_count():
    config = {"num_kv_shared_layers": 0, "layer_types": types("s" * 12)}
    assert after("gemma3n_text", [0, 9, 10], 12, **config)["activation_sparsity_pattern"] == [0.95, 0.95, 0.0]


@pytest.mark.parametrize(
    ("architecture", "config", "wanted"),
    [
        ("qwen2_moe", {"mlp_only_layers": [0, 3]}, {"mlp_only_layers": [0, 2]}),
        ("llama4_text", {"moe_layers": [1, 3, 5], "no_rope_layers": [1] * 6},
         {"moe_layers": [2, 3], "no_rope_layers": [1] * 4}),
        ("bamba", {"attn_layer_indices": [1, 3]}, {"attn_layer_indices": [2]}),
        ("kimi_linear", {"linear_attn_config": {"full_attn_layers": [4], "kda_layers": [1, 2, 3, 5, 6]},
                         "first_k_dense_replace": 1},
         {"linear_attn_config.full_attn_layers": [3], "linear_attn_config.kda_layers": [1, 2, 4]}),
    ],
)  # fmt: skip
def test_index_lists_are_remapped(architecture, config, wanted):
    assert after(architecture, IRREGULAR, **config) == wanted


def test_a_list_of_no_layers_is_not_an_absent_one():
    """moe_layers [] means none: written when all go, and read so when the result is pruned again."""
    checkpoint = decoder("llama4_text", 4, interleave_moe_layer_step=2, no_rope_layers=[1] * 4)
    plan = make_plan(checkpoint, [0, 2])
    assert changes(plan)["moe_layers"] == []
    assert "moe_layers" not in changes(make_plan(planned_checkpoint(plan), [1]))


@pytest.mark.parametrize(
    ("architecture", "config", "wanted"),
    [
        ("deepseek_v2", {"first_k_dense_replace": 2}, {"first_k_dense_replace": 1}),
        ("deepseek_v3", {}, {"first_k_dense_replace": 2}),
        ("kimi_linear", {"layer_types": ["full_attention"] * 6},
         {"layer_types": ["full_attention"] * 4}),
        ("lfm2_moe", {}, {"num_dense_layers": 1}),
        ("ernie4_5_moe", {"moe_layer_start_index": 2, "moe_layer_end_index": 4},
         {"moe_layer_start_index": 1, "moe_layer_end_index": 2}),
        ("ernie4_5_moe", {"moe_layer_end_index": -1}, {}),
        ("qwen3_moe", {"decoder_sparse_step": 2}, {"decoder_sparse_step": 1, "mlp_only_layers": [0, 1]}),
        ("qwen3_moe", {"decoder_sparse_step": 2, "mlp_only_layers": [3]},
         {"decoder_sparse_step": 1, "mlp_only_layers": [0, 1, 2]}),
    ],
)  # fmt: skip
def test_thresholds_count_kept_layers(architecture, config, wanted):
    assert after(architecture, IRREGULAR, **config) == wanted


def test_a_shared_tail_is_counted_from_the_end():
    config = {"layer_types": types("s" * 6), "activation_sparsity_pattern": None, "num_kv_shared_layers": 2}
    assert after("gemma3n_text", without(1, 4), **config)["num_kv_shared_layers"] == 1


def test_an_empty_range_is_not_the_whole():
    """moe_layer_end_index -1 means the last layer: where no layer of the range is left, another number says so."""
    assert after("ernie4_5_moe", [4, 5], moe_layer_start_index=1, moe_layer_end_index=2) == {
        "moe_layer_start_index": 0,
        "moe_layer_end_index": -2,
    }


def test_per_layer_config_is_keyed_by_layer():
    checkpoint = decoder("gemma4_text", 4, layer_types=types("sfsf"), per_layer_config={"1": {"a": 1}, "3": {"a": 2}})
    plan = make_plan(checkpoint, [0, 2, 3])
    assert changes(plan)["per_layer_config"] == {"2": {"a": 2}}
    assert planned_checkpoint(plan).metadata["per_layer_config.2.a"] == 2
    assert "per_layer_config.3.a" not in planned_checkpoint(plan).metadata


@pytest.mark.parametrize("config", [{"layer_types": types("ssfssf")}, {"sliding_window": 4}], ids=["list", "default"])
def test_gemma4_wants_full_attention_at_the_end(config):
    checkpoint = decoder("gemma4_text", 6, **config)
    with pytest.raises(UnsupportedError, match=r"forces full attention on the last layer.*--keep"):
        make_plan(checkpoint, [0, 1, 2, 3, 4])
    assert changes(make_plan(checkpoint, [3, 5]))["num_hidden_layers"] == 2


def test_a_tail_needs_its_sources():
    checkpoint = decoder("gemma3n_text", 6, num_kv_shared_layers=2, layer_types=types("sfssfs"))
    with pytest.raises(UnsupportedError, match=r"reuse keys and values.*--keep"):
        make_plan(checkpoint, [0, 2, 3, 4, 5])
    with pytest.raises(UnsupportedError, match="reuse keys and values"):
        make_plan(checkpoint, [0, 1, 2, 4, 5])
    assert make_plan(checkpoint, [0, 2, 3, 5]).edits  # the source of layer 4 may go with it


def test_embeddings_of_all_layers_are_cut():
    checkpoint = decoder("gemma3n_text", 3, num_kv_shared_layers=0)
    plain = checkpoint.tensors[0]
    table = plain._replace(name="model.embed_tokens_per_layer.weight", shape=(5, 6), nbytes=120)
    projection = plain._replace(name="model.per_layer_model_projection.weight", shape=(6, 2), nbytes=48)
    plan = make_plan(replace(checkpoint, tensors=(*checkpoint.tensors, table, projection)), [0, 2])
    cut = {copy.name: copy.tensor.shape for copy in plan.tensors}
    assert cut[table.name] == (5, 4)
    assert cut[projection.name] == (4, 2)


def test_the_first_norm_of_rwkv_moves():
    tensors = ["rwkv.blocks.0.pre_ln.weight", "rwkv.blocks.0.pre_ln.bias", *numbered("rwkv.blocks.", 4, "ln1.weight")]
    plan = make_plan(hf("rwkv", tensors, {"num_hidden_layers": 4, "rescale_every": 6}), [2, 3])
    assert names(plan) == {
        "rwkv.blocks.0.pre_ln.weight": "rwkv.blocks.0.pre_ln.weight",
        "rwkv.blocks.0.pre_ln.bias": "rwkv.blocks.0.pre_ln.bias",
        "rwkv.blocks.2.ln1.weight": "rwkv.blocks.0.ln1.weight",
        "rwkv.blocks.3.ln1.weight": "rwkv.blocks.1.ln1.weight",
    }
    assert changes(plan) == {"num_hidden_layers": 2}


def test_zamba_shared_block_moves():
    tensors = [*numbered(LAYERS, 6, "mamba.w"), "model.layers.1.shared_transf.w", "model.layers.1.linear.w"]
    checkpoint = hf("zamba", tensors, {"num_hidden_layers": 6, "layers_block_type": types("lhlhlh")})
    moved = names(make_plan(checkpoint, [0, 2, 3, 5]))
    assert moved["model.layers.1.shared_transf.w"] == "model.layers.2.shared_transf.w"
    assert "model.layers.1.linear.w" not in moved


def test_zamba_without_a_list_of_types():
    """Hybrid are layer 2 and then every sixth, counted from 3: 7, 13."""
    tensors = [*numbered(LAYERS, 14, "mamba.w"), "model.layers.2.shared_transf.w"]
    plan = make_plan(hf("zamba", tensors, {"num_hidden_layers": 14}), [0, 7, 8, 13])
    assert changes(plan)["layers_block_type"] == types("lhlh")
    assert names(plan)["model.layers.2.shared_transf.w"] == "model.layers.1.shared_transf.w"


@pytest.mark.parametrize(("keep", "works"), [([0, 1, 3, 4, 5], True), ([0, 1, 2], False), ([3, 5], False)])
def test_zamba_needs_two_hybrid_layers(keep, works):
    checkpoint = decoder("zamba", layers_block_type=types("lhlhll"))
    if works:
        assert make_plan(checkpoint, keep)
    else:
        with pytest.raises(UnsupportedError, match="two hybrid layers"):
            make_plan(checkpoint, keep)


def zamba2(blocks, pattern="lhlhhh"):
    hybrids = [layer for layer, letter in enumerate(pattern) if letter == "h"]
    tensors = numbered(LAYERS, len(pattern), "mamba.w")
    for block in range(blocks):
        shared = f"{LAYERS}{hybrids[block]}.shared_transformer."
        tensors += [
            f"{shared}w",
            *(f"{shared}linear_q_adapter_list.{i}.0.w" for i in range(block, len(hybrids), blocks)),
        ]
    config = {"num_hidden_layers": len(pattern), "layers_block_type": types(pattern), "num_mem_blocks": blocks}
    return hf("zamba2", tensors, config)


def shared_names(plan):
    return {old[13:]: new[13:] for old, new in names(plan).items() if "shared" in old}


def test_zamba2_adapters_are_numbered_by_hybrid_layers():
    assert shared_names(make_plan(zamba2(1), [0, 2, 3, 5])) == {
        "1.shared_transformer.w": "2.shared_transformer.w",
        "1.shared_transformer.linear_q_adapter_list.1.0.w": "2.shared_transformer.linear_q_adapter_list.0.0.w",
        "1.shared_transformer.linear_q_adapter_list.3.0.w": "2.shared_transformer.linear_q_adapter_list.1.0.w",
    }


def test_zamba2_blocks_take_turns():
    assert shared_names(make_plan(zamba2(2), [0, 2, 4, 5])) == {
        "1.shared_transformer.w": "2.shared_transformer.w",
        "1.shared_transformer.linear_q_adapter_list.2.0.w": "2.shared_transformer.linear_q_adapter_list.0.0.w",
        "3.shared_transformer.w": "3.shared_transformer.w",
        "3.shared_transformer.linear_q_adapter_list.3.0.w": "3.shared_transformer.linear_q_adapter_list.1.0.w",
    }
    with pytest.raises(UnsupportedError, match=r"in turn.*--keep"):
        make_plan(zamba2(2), [0, 2, 3, 4, 5])


def test_jamba_has_periods_and_offsets_alone():
    config = {"attn_layer_period": 4, "attn_layer_offset": 2, "expert_layer_period": 2, "expert_layer_offset": 1}
    checkpoint = decoder("jamba", 8, **config)
    assert changes(make_plan(checkpoint, without(0, 1, count=8))) == {"num_hidden_layers": 6, "attn_layer_offset": 0}
    with pytest.raises(UnsupportedError, match=r"only periods.*--keep"):
        make_plan(checkpoint, without(1, 4, count=8))


def test_jamba_defaults():
    """Every eighth layer from 4 on has attention, every second from 1 on experts."""
    changed = changes(make_plan(decoder("jamba", 16), without(0, 1, 2, 3, count=16)))
    assert changed == {"num_hidden_layers": 12, "attn_layer_period": 8, "attn_layer_offset": 0} | {
        "expert_layer_period": 2, "expert_layer_offset": 1,
    }  # fmt: skip


def with_mtp_layers(architecture="deepseek_v3", main=4, mtp_layers=1, **config):
    tensors = [*numbered(LAYERS, main + mtp_layers, "input_layernorm.w"), f"{LAYERS}{main}.eh_proj.weight"]
    config = {"num_hidden_layers": main, "num_nextn_predict_layers": mtp_layers, "first_k_dense_replace": 1, **config}
    return hf(architecture, tensors, config)


@pytest.mark.parametrize("architecture", ["deepseek_v3", "glm4_moe"])
def test_mtp_layers_follow_the_main_ones(architecture):
    plan = make_plan(with_mtp_layers(architecture), [0, 3])
    assert names(plan)["model.layers.4.eh_proj.weight"] == "model.layers.2.eh_proj.weight"
    assert changes(plan) == {"num_hidden_layers": 2}
    dropped = make_plan(with_mtp_layers(architecture), [0, 3], PlanOptions(drop_mtp=True))
    assert "model.layers.4.eh_proj.weight" not in names(dropped)
    assert changes(dropped) == {"num_hidden_layers": 2, "num_nextn_predict_layers": 0}


def test_drop_mtp_is_stronger_than_a_list_with_mtp_layers():
    plan = make_plan(with_mtp_layers(), [0, 3, 4], PlanOptions(drop_mtp=True))
    assert changes(plan)["num_nextn_predict_layers"] == 0


def test_one_of_two_mtp_layers_goes():
    plan = make_plan(with_mtp_layers(mtp_layers=2), [0, 3, 5])
    assert changes(plan) == {"num_hidden_layers": 2, "num_nextn_predict_layers": 1}


def test_a_count_without_tensors_is_left():
    assert after("deepseek_v3", [0, 1, 2, 4], num_nextn_predict_layers=1) == {}


def test_modules_of_mtp_layers_are_renumbered_too():
    ignored = ["model.layers.1.q", "model.layers.4.eh_proj", "model.layers.4.mlp.gate", "lm_head"]
    plan = make_plan(with_mtp_layers("glm4_moe", quantization_config={"ignore": ignored}), [0, 3])
    assert changes(plan)["quantization_config.ignore"] == [
        "model.layers.2.eh_proj",
        "model.layers.2.mlp.gate",
        "lm_head",
    ]


# -- quantised weights: names follow, and so do the lists of modules

PARTS = {
    "fp8": ["weight", "weight_scale_inv"],
    "gptq": ["qweight", "qzeros", "scales", "g_idx"],
    "awq": ["qweight", "qzeros", "scales"],
    "bitsandbytes-4": [
        "weight", "weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map",
        "weight.quant_state.bitsandbytes__nf4",
    ],
    "bitsandbytes-8": ["weight", "SCB", "weight_format"],
    "compressed-tensors": ["weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"],
    "compressed-tensors-fp8": ["weight", "weight_scale", "input_scale", "k_scale", "v_scale"],
    "nvfp4": ["weight", "weight_scale", "weight_scale_2", "input_scale"],
    "hqq": ["W_q", "scale", "zero", "meta"],
}  # fmt: skip


@pytest.mark.parametrize("scheme", PARTS)
def test_quantised_tensors_follow(scheme):
    parts = [f"mlp.experts.3.up_proj.{part}" for part in PARTS[scheme]]
    tensors = numbered(LAYERS, 12, *parts)
    plan = make_plan(hf("qwen3_moe", tensors, {"num_hidden_layers": 12}), [0, 10, 11])
    assert [name for name in names(plan).values() if name.startswith("model.layers.2.")] == [
        f"model.layers.2.{part}" for part in parts
    ]
    assert names(plan)[f"model.layers.10.{parts[-1]}"] == f"model.layers.1.{parts[-1]}"
    assert len(plan.tensors) == 3 * len(parts)


def test_mxfp4_blocks_and_scales_follow():
    experts = [f"mlp.experts.{part}" for part in ("gate_up_proj_blocks", "gate_up_proj_scales", "down_proj_bias")]
    excluded = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    config = {
        "num_hidden_layers": 4,
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": excluded},
    }
    plan = make_plan(hf("gpt_oss", numbered(LAYERS, 4, *experts), config), [2, 3])
    assert set(names(plan).values()) == set(numbered(LAYERS, 2, *experts))
    assert changes(plan) == {"num_hidden_layers": 2}  # sliding, full: the pattern itself gives it
    assert plan.warnings == ()  # the patterns name every layer


@pytest.mark.parametrize(
    "key",
    ["ignore", "modules_to_not_convert", "ignored_layers", "llm_int8_skip_modules", "exclude", "exclude_modules",
     "skip_modules", "linear_weights_not_to_quantize", "sparsity_config.ignore", "config_groups.group_0.targets"],
)  # fmt: skip
@pytest.mark.parametrize("section", ["quantization_config", "compression_config"])
def test_lists_of_modules_are_filtered(section, key):
    value = ["model.layers.0.mlp.gate", "model.layers.1.mlp.gate", "model.layers.3.mlp.gate", "lm_head", "Linear"]
    for part in reversed(key.split(".")):
        value = {part: value}
    plan = make_plan(llama(4, **{section: value}), [0, 3])
    kept = ["model.layers.0.mlp.gate", "model.layers.1.mlp.gate", "lm_head", "Linear"]
    assert changes(plan) == {"num_hidden_layers": 2, f"{section}.{key}": kept}


@pytest.mark.parametrize(
    "key", ["extra_config", "config_for_layers", "layer_quant_config", "quantized_layers", "dynamic"]
)
def test_objects_keyed_by_modules_are_filtered(key):
    modules = {f"model.layers.{layer}.q": {"bits": layer} for layer in range(4)}
    plan = make_plan(llama(4, quantization_config={key: {**modules, "lm_head": {"bits": 16}}}), [0, 3])
    assert changes(plan)[f"quantization_config.{key}"] == {
        "model.layers.0.q": {"bits": 0}, "model.layers.1.q": {"bits": 3}, "lm_head": {"bits": 16},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("ignore", "re:model.layers.3.*"),
        ("ignore", r"re:.*layers\.[01]\..*"),
        ("exclude_modules", "*layers.3*"),
        ("dynamic", r"-:model\.layers\.1\..*"),
        ("dynamic", r"+:.*\.(?:2|3)\..*"),
    ],
)
def test_expressions_that_would_mean_other_layers_are_refused(key, name):
    value = {name: {}} if key == "dynamic" else [name]
    checkpoint = llama(4, quantization_config={key: value})
    with pytest.raises(UnsupportedError, match=f"quantization_config.{key} has .*other layers; --keep-field"):
        make_plan(checkpoint, [0, 3])
    kept = PlanOptions(keep_fields=(f"quantization_config.{key}",))
    assert changes(make_plan(checkpoint, [0, 3], kept)) == {"num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("name", "keep"),
    [
        ("re:.*lm_head", [0, 3]),
        (r"re:.*layers\.\d+\.mlp", [0, 3]),
        (r"re:.*experts\.[0-9]+\..*", [0, 3]),
        (r"re:.*layers\.[0-1]\..*", [0, 1]),
        ("model.layers.1*", [0, 1]),
    ],
)
def test_expressions_that_mean_the_same_stay(name, keep):
    plan = make_plan(llama(20, quantization_config={"ignore": [name]}), keep)
    assert changes(plan) == {"num_hidden_layers": 2}


def test_a_wildcard_after_a_number_is_that_layer():
    """ModelOpt excludes `model.layers.61*`: no other layer can be meant."""
    checkpoint = decoder("deepseek_v3", 61, more=1, num_nextn_predict_layers=1, quantization_config={
        "ignore": ["model.layers.61*", "model.layers.7*"],
    })  # fmt: skip
    plan = make_plan(checkpoint, without(60, 40, count=61))
    assert changes(plan)["quantization_config.ignore"] == ["model.layers.59.*", "model.layers.7.*"]


# -- what is written with a warning, and names


@pytest.mark.parametrize(
    ("architecture", "words", "by_count"), [("diffllama", "lambda_init", False), ("minimax", "decay slopes", True)]
)
def test_what_follows_the_new_number_is_reported(architecture, words, by_count):
    """MiniMax's slopes depend on the number of layers too."""
    checkpoint = decoder(architecture, 4, layer_types=["full_attention"] * 4)
    assert any(words in warning for warning in make_plan(checkpoint, [0, 2, 3]).warnings)
    assert any(words in warning for warning in make_plan(checkpoint, [0, 1, 2]).warnings) is by_count
    with pytest.raises(UnsupportedError, match="--strict"):
        make_plan(checkpoint, [0, 2, 3], PlanOptions(strict=True))


@pytest.mark.parametrize(
    ("architecture", "prefix", "key"),
    [
        ("gptj", "transformer.h.", "n_layer"),
        ("bloom", "h.", "n_layer"),
        ("codegen", "h.", "n_layer"),
        ("openai-gpt", "h.", "n_layer"),
        ("gpt_neox", "gpt_neox.layers.", "num_hidden_layers"),
        ("gpt_neox", "layers.", "num_hidden_layers"),
        ("opt", "model.decoder.layers.", "num_hidden_layers"),
        ("opt", "decoder.layers.", "num_hidden_layers"),
        ("falcon", "transformer.h.", "num_hidden_layers"),
        ("mpt", "transformer.blocks.", "n_layers"),
        ("dbrx", "blocks.", "n_layers"),
        ("mamba", "backbone.layers.", "num_hidden_layers"),
        ("mamba2", "model.layers.", "num_hidden_layers"),
        ("nemotron_h", "backbone.layers.", "num_hidden_layers"),
        ("rwkv", "blocks.", "num_hidden_layers"),
        ("gemma2", "layers.", "num_hidden_layers"),
    ],
)
def test_prefixes_are_found_in_the_tensors(architecture, prefix, key):
    plan = make_plan(
        hf(architecture, numbered(prefix, 12), {key: 12, "hybrid_override_pattern": "M*" * 6}), [0, 1, 10, 11]
    )
    assert list(names(plan).values()) == numbered(prefix, 4)
    assert changes(plan)[key] == 4


@pytest.mark.parametrize("experts", [["experts.gate_up_proj", "experts.down_proj"], ["experts.0.w1", "experts.11.w1"]])
@pytest.mark.parametrize("architecture", ["qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "jamba", "minimax_m2"])
def test_split_and_fused_experts(architecture, experts):
    parts = [f"mlp.{part}" for part in experts]
    plan = make_plan(hf(architecture, numbered(LAYERS, 4, *parts), {"num_hidden_layers": 4}), [0, 2])
    assert list(names(plan).values()) == numbered(LAYERS, 2, *parts)


@pytest.mark.parametrize(("architecture", "key"), [("bloom", "n_layer"), ("xglm", "num_layers"), ("mpt", "n_layers")])
@pytest.mark.parametrize("both", [True, False])
def test_both_names_of_a_count_follow(architecture, key, both):
    """attribute_map: a loader prefers num_hidden_layers where both are there."""
    prefix = {"bloom": "h.", "xglm": "model.layers.", "mpt": "blocks."}[architecture]
    config = {"num_hidden_layers": 4} | ({key: 4} if both else {})
    assert changes(make_plan(hf(architecture, numbered(prefix, 4), config), [0, 2])) == dict.fromkeys(config, 2)


def test_nemotron_h_is_counted_by_its_list():
    checkpoint = hf("nemotron_h", numbered("backbone.layers.", 4), {"layers_block_type": types("lfll")})
    assert changes(make_plan(checkpoint, [1, 2])) == {"layers_block_type": types("fl")}
    mtp = {"layers_block_type": types("lf"), "mtp_layers_block_type": types("fl")}
    assert changes(make_plan(hf("nemotron_h", numbered("backbone.layers.", 2), mtp), [1])) == {
        "layers_block_type": types("f")
    }


@pytest.mark.parametrize(
    ("architecture", "config", "attention"),
    [
        ("qwen3_next", {}, [3]),
        ("qwen3_5_text", {"full_attention_interval": 3}, [2, 5]),
        ("jamba", {"attn_layer_period": 3, "attn_layer_offset": 1, "expert_layer_period": 1}, [1, 4]),
        ("bamba", {"attn_layer_indices": [2, 5]}, [2, 5]),
        ("granitemoehybrid", {"layer_types": ["mamba", "attention"] * 3}, [1, 3, 5]),
        ("lfm2", {"full_attn_idxs": [2]}, [2]),
        ("lfm2_moe", {"layer_types": ["conv", "full_attention", "conv"] * 2}, [1, 4]),
        ("zamba2", {"layers_block_type": types("lhlhll")}, [1, 3]),
        ("nemotron_h", {"hybrid_override_pattern": "M-*ME-"}, [2]),
        ("recurrent_gemma", {}, [2, 5]),
        ("olmo_hybrid", {}, [3]),
        ("kimi_linear", {"linear_attn_config": {"full_attn_layers": [4], "kda_layers": [1, 2, 3, 5, 6]}}, [3]),
    ],
)  # fmt: skip
def test_a_hybrid_without_attention_is_refused(architecture, config, attention):
    """It loads, but transformers' cache asks an attention layer for the length."""
    checkpoint = decoder(architecture, **config)
    with pytest.raises(UnsupportedError, match=r"attention.*--keep"):
        make_plan(checkpoint, without(*attention))
    if architecture != "jamba":
        assert make_plan(checkpoint, without(*attention[1:], 0))


def test_an_rwkv_of_one_block_is_refused():
    with pytest.raises(UnsupportedError, match=r"less one.*--keep"):
        make_plan(hf("rwkv", numbered("rwkv.blocks.", 3), {"num_hidden_layers": 3}), [1])


def test_short_lists_that_are_not_about_layers():
    """Falcon-H1 has multipliers for parts of a layer, Mamba 2 a range of time steps."""
    config = {"time_step_limit": [0.0, 1.0], "mlp_multipliers": [1.0, 2.0]}
    assert after("falcon_h1", [1], 2, **config) == {}
    assert after("falcon_h1", [1], 5, ssm_multipliers=[1.0] * 5) == {}
