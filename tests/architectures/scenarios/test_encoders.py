"""Encoders, encoder-decoders, speech, vision and detection models, from names and metadata alone.

The numbers are those of the facts about Hugging Face checkpoints: each trap has a test that names it.
"""

import pytest

from rewriter.errors import CheckpointError, UnsupportedError
from rewriter.planning.open_model import open_model
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import make_plan
from tests.support.checkpoints import changes, hf, names, numbered, without

BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"
HEAD = "layers.0.weight"


def on(stack: str, **options) -> PlanOptions:
    return PlanOptions(stack=stack, provenance=False, **options)


def new_names(checkpoint, keep, options=None) -> set[str]:
    return set(names(make_plan(checkpoint, keep, options)).values())


# -- aligned lists


def test_longformer_windows_follow_their_layers():
    source = hf(
        "longformer",
        numbered("longformer.encoder.layer.", 4),
        {"num_hidden_layers": 4, "attention_window": [2, 4, 6, 8]},
    )
    assert changes(make_plan(source, [0, 2, 3])) == {"num_hidden_layers": 3, "attention_window": [2, 6, 8]}


def test_one_longformer_window_for_all_layers_stays():
    source = hf(
        "longformer", numbered("longformer.encoder.layer.", 4), {"num_hidden_layers": 4, "attention_window": 512}
    )
    assert changes(make_plan(source, [0, 2, 3])) == {"num_hidden_layers": 3}


# -- index lists


def qwen3_vl(indexes=(0, 2, 5), text=6, blocks=7):
    tensors = numbered("model.language_model.layers.", text) + numbered("model.visual.blocks.", blocks)
    tensors += numbered("model.visual.deepstack_merger_list.", len(indexes), "norm.weight")
    vision = {"depth": blocks, "deepstack_visual_indexes": list(indexes)}
    return hf("qwen3_vl", tensors, {"text_config": {"num_hidden_layers": text}, "vision_config": vision})


def test_a_dropped_deepstack_block_takes_its_merger_along():
    plan = make_plan(qwen3_vl(), without(2, count=7), on("vision"))
    assert changes(plan)["vision_config.deepstack_visual_indexes"] == [0, 4]
    mergers = {old: new for old, new in names(plan).items() if "merger" in old}
    assert mergers == {
        "model.visual.deepstack_merger_list.0.norm.weight": "model.visual.deepstack_merger_list.0.norm.weight",
        "model.visual.deepstack_merger_list.2.norm.weight": "model.visual.deepstack_merger_list.1.norm.weight",
    }
    assert len(plan.warnings) == 1
    assert "merger" in plan.warnings[0]


def test_a_dropped_deepstack_block_is_refused_by_strict():
    with pytest.raises(UnsupportedError, match="--strict"):
        make_plan(qwen3_vl(), without(2, count=7), on("vision", strict=True))


def test_other_vision_blocks_leave_the_mergers():
    plan = make_plan(qwen3_vl(), without(1, count=7), on("vision", strict=True))
    assert changes(plan)["vision_config.deepstack_visual_indexes"] == [0, 1, 4]
    assert sum("merger" in name for name in names(plan).values()) == 3


def test_the_text_layers_that_take_deepstack_features_stay():
    with pytest.raises(UnsupportedError, match=r"--keep 0-2,4-5"):
        make_plan(qwen3_vl(), without(1, 3), on("text"))
    assert changes(make_plan(qwen3_vl(), without(3), on("text"))) == {"text_config.num_hidden_layers": 5}


def test_qwen2_5_vl_full_attention_blocks_are_remapped():
    tensors = numbered("model.layers.", 4) + numbered("visual.blocks.", 6)
    vision = {"depth": 6, "fullatt_block_indexes": [1, 3, 5]}
    source = hf("qwen2_5_vl", tensors, {"text_config": {"num_hidden_layers": 4}, "vision_config": vision})
    plan = make_plan(source, without(0, 3), on("vision"))
    assert changes(plan) == {"vision_config.depth": 4, "vision_config.fullatt_block_indexes": [0, 3]}


def mllama():
    tensors = numbered("language_model.model.layers.", 6) + numbered("vision_model.transformer.layers.", 6)
    tensors += numbered("vision_model.global_transformer.layers.", 3)
    vision = {"num_hidden_layers": 6, "num_global_layers": 3, "intermediate_layers_indices": [2, 4]}
    vision["supported_aspect_ratios"] = [[1, 1], [1, 2], [2, 1]]
    text = {"num_hidden_layers": 6, "cross_attention_layers": [1, 4], "model_type": "mllama_text_model"}
    return hf("mllama", tensors, {"text_config": text, "vision_config": vision})


def test_mllama_cross_attention_layers_are_remapped():
    plan = make_plan(mllama(), without(0, 1), on("text"))
    assert changes(plan) == {"text_config.num_hidden_layers": 4, "text_config.cross_attention_layers": [2]}


def test_mllama_tapped_layers_stay():
    with pytest.raises(UnsupportedError, match="intermediate_layers_indices"):
        make_plan(mllama(), without(2), on("vision"))
    plan = make_plan(mllama(), without(1, 3), on("vision"))
    assert changes(plan) == {"vision_config.num_hidden_layers": 4, "vision_config.intermediate_layers_indices": [1, 2]}


def test_mllama_global_layers_are_a_stack_of_their_own():
    plan = make_plan(mllama(), [0, 2], on("vision_global"))
    assert changes(plan) == {"vision_config.num_global_layers": 2}


# -- stacked tensors, the rest by transformers


def test_no_weights_of_layers_no_cut():
    source = hf("wav2vec2", ["layer_norm.weight", *numbered("wav2vec2.encoder.layers.", 5)], {"num_hidden_layers": 5})
    assert all(copy.tensor.cut is None for copy in make_plan(source, [0, 4]).tensors)


# -- tensors of the first layer alone


def sequences(model_type, decoder=4, encoder=5, bias=(0,), **config):
    tensors = [*numbered("encoder.block.", encoder, "w"), *numbered("decoder.block.", decoder, "w")]
    tensors += [f"{side}.block.{layer}.{BIAS}" for side in ("encoder", "decoder") for layer in bias]
    return hf(model_type, tensors, config or {"num_layers": encoder, "num_decoder_layers": decoder})


@pytest.mark.parametrize("model_type", ["t5", "mt5"])
@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_the_position_bias_moves_to_the_new_first_block(model_type, stack):
    plan = make_plan(sequences(model_type), [1, 2, 3], on(stack))
    assert names(plan)[f"{stack}.block.0.{BIAS}"] == f"{stack}.block.0.{BIAS}"
    assert names(plan)[f"{stack}.block.1.w"] == f"{stack}.block.0.w"


def test_umt5_has_a_bias_in_every_block_and_none_moves():
    source = sequences("umt5", decoder=4, encoder=4, bias=range(4))
    plan = make_plan(source, [1, 2, 3], on("decoder"))
    assert f"decoder.block.0.{BIAS}" not in names(plan)
    assert names(plan)[f"decoder.block.1.{BIAS}"] == f"decoder.block.0.{BIAS}"


def test_modernbert_has_no_norm_before_its_first_attention():
    layers = [
        name for name in numbered("model.layers.", 4, "attn_norm.weight", "mlp.Wi.weight") if ".0.attn" not in name
    ]
    source = hf("modernbert", layers, {"num_hidden_layers": 4})
    plan = make_plan(source, [1, 3])
    assert set(names(plan).values()) == {
        "model.layers.0.mlp.Wi.weight",
        "model.layers.1.attn_norm.weight",
        "model.layers.1.mlp.Wi.weight",
    }
    assert len(plan.warnings) == 1
    with pytest.raises(UnsupportedError, match="--strict"):
        make_plan(source, [1, 3], PlanOptions(strict=True))
    assert make_plan(source, [0, 3], PlanOptions(strict=True)).warnings == ()


# -- weights stored once


def albert(**config):
    group = "albert.encoder.albert_layer_groups.0.albert_layers.0."
    return hf("albert", [f"{group}ffn.weight", "albert.pooler.weight"], {"num_hidden_layers": 12, **config})


def test_albert_drops_no_tensor_but_changes_the_count():
    plan = make_plan(albert(num_hidden_groups=1), [0, 3, 5])
    assert changes(plan) == {"num_hidden_layers": 3}
    assert plan.dropped == ()


def test_albert_with_groups_is_refused():
    with pytest.raises(UnsupportedError, match="group"):
        make_plan(albert(num_hidden_groups=2), [0, 3, 5])


# -- heads of detection models


def detr(*heads: str, model_type="deformable_detr", layers=4):
    tensors = numbered("model.decoder.layers.", layers) + numbered("model.encoder.layers.", 2)
    backbone = numbered("model.backbone.conv_encoder.model.encoder.stages.", 4, "layers.0.w", "layers.1.w")
    return hf(model_type, [*tensors, *backbone, *heads], {"encoder_layers": 2, "decoder_layers": layers})


def test_plain_heads_are_stored_once_and_stay():
    source = detr(f"bbox_embed.0.{HEAD}", "class_embed.0.weight")
    assert {f"bbox_embed.0.{HEAD}", "class_embed.0.weight"} <= new_names(source, [1, 3])


def test_box_refinement_heads_follow_their_layers():
    heads = numbered("model.decoder.bbox_embed.", 4, HEAD)
    plan = make_plan(detr(*heads, "class_embed.0.weight"), [1, 3])
    assert {old: new for old, new in names(plan).items() if "embed" in old} == {
        f"model.decoder.bbox_embed.1.{HEAD}": f"model.decoder.bbox_embed.0.{HEAD}",
        f"model.decoder.bbox_embed.3.{HEAD}": f"model.decoder.bbox_embed.1.{HEAD}",
        "class_embed.0.weight": "class_embed.0.weight",
    }


def test_two_stage_proposal_head_stays_last():
    boxes, classes = numbered("model.decoder.bbox_embed.", 5, HEAD), numbered("model.decoder.class_embed.", 5)
    plan = make_plan(detr(*boxes, *classes), [0, 3])
    assert {old: new for old, new in names(plan).items() if "embed" in old} == {
        f"model.decoder.{kind}_embed.{old}.{rest}": f"model.decoder.{kind}_embed.{new}.{rest}"
        for old, new in ((0, 0), (3, 1), (4, 2))
        for kind, rest in (("bbox", HEAD), ("class", "weight"))
    }


def test_rt_detr_has_both_heads_per_layer():
    heads = [*numbered("model.decoder.bbox_embed.", 4, HEAD), *numbered("model.decoder.class_embed.", 4)]
    kept = new_names(detr(*heads, "model.enc_score_head.weight", model_type="rt_detr"), [1, 2])
    assert {name for name in kept if "embed" in name} == {
        *numbered("model.decoder.bbox_embed.", 2, HEAD),
        *numbered("model.decoder.class_embed.", 2),
    }
    assert "model.enc_score_head.weight" in kept


def test_tied_heads_may_stand_under_two_names():
    """Of two tied tensors one is saved, and which one may differ from head to head."""
    heads = [f"bbox_embed.0.{HEAD}", *numbered("model.decoder.bbox_embed.", 4, HEAD)[1:]]
    plan = make_plan(detr(*heads), [0, 2])
    assert names(plan)[f"bbox_embed.0.{HEAD}"] == f"bbox_embed.0.{HEAD}"
    assert names(plan)[f"model.decoder.bbox_embed.2.{HEAD}"] == f"model.decoder.bbox_embed.1.{HEAD}"
    assert f"bbox_embed.0.{HEAD}" not in names(make_plan(detr(*heads), [1, 2]))


def test_heads_of_old_files_stand_at_the_top():
    heads = [*numbered("bbox_embed.", 4, HEAD), *numbered("class_embed.", 4)]
    assert names(make_plan(detr(*heads), [1, 3]))["class_embed.3.weight"] == "class_embed.1.weight"


def test_too_few_heads_are_an_error():
    with pytest.raises(CheckpointError, match="3 entries beside 4 layers"):
        make_plan(detr(*numbered("model.decoder.bbox_embed.", 3, HEAD)), [1, 3])


def test_the_encoder_has_no_heads():
    heads = numbered("model.decoder.bbox_embed.", 4, HEAD)
    assert set(heads) <= new_names(detr(*heads), [1], on("encoder"))


# -- one count for two stacks


def test_a_decoder_without_a_count_of_its_own_gets_one():
    source = sequences("mt5", decoder=5, encoder=5, num_layers=5)
    assert changes(make_plan(source, without(2, count=5), on("encoder"))) == {"num_layers": 4, "num_decoder_layers": 5}
    assert changes(make_plan(source, without(2, count=5), on("decoder"))) == {"num_decoder_layers": 4}


# -- an encoder shorter than its decoder


@pytest.mark.parametrize("model_type", ["bart", "mbart", "marian", "pegasus", "m2m_100"])
def test_an_encoder_shorter_than_its_decoder_is_written_with_a_warning(model_type):
    tensors = numbered("model.encoder.layers.", 4) + numbered("model.decoder.layers.", 4)
    source = hf(model_type, tensors, {"encoder_layers": 4, "decoder_layers": 4, "num_hidden_layers": 4})
    plan = make_plan(source, [0, 3], on("encoder"))
    assert changes(plan) == {"encoder_layers": 2, "num_hidden_layers": 2}
    assert len(plan.warnings) == 1
    with pytest.raises(UnsupportedError, match="shorter"):
        make_plan(source, [0, 3], on("encoder", strict=True))
    decoder = make_plan(source, [0, 3], on("decoder", strict=True))
    assert changes(decoder) == {"decoder_layers": 2}


# -- backbones


@pytest.mark.parametrize("model_type", ["dinov2", "beit"])
def test_stage_names_and_indexes_follow(model_type):
    stages = {"stage_names": ["stem", *(f"stage{number}" for number in range(1, 7))]}
    stages |= {"out_features": ["stage2", "stage4", "stage6"], "out_indices": [2, 4, 6]}
    source = hf(model_type, numbered("encoder.layer.", 6), {"num_hidden_layers": 6, **stages})
    assert changes(make_plan(source, without(0, 4))) == {
        "num_hidden_layers": 4,
        "stage_names": ["stem", "stage1", "stage2", "stage3", "stage4"],
        "out_features": ["stage1", "stage3", "stage4"],
        "out_indices": [1, 3, 4],
    }


# -- two nested configs


def llava(layers=4, blocks=6, text=None, vision=None, **config):
    tensors = numbered("language_model.model.layers.", layers)
    tensors += numbered("vision_tower.vision_model.encoder.layers.", blocks)
    text = {"num_hidden_layers": layers, "model_type": "llama"} if text is None else text
    vision = {"num_hidden_layers": blocks, "model_type": "clip_vision_model"} if vision is None else vision
    return hf("llava", tensors, {"text_config": text, "vision_config": vision, **config})


def test_text_and_vision_are_two_stacks():
    assert [stack.name for stack in open_model(llava()).stacks] == ["text", "vision"]
    assert changes(make_plan(llava(), [0, 2])) == {"text_config.num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("layer", "dropped", "after"),
    [(5, (1, 3), 3), (-2, (5,), -1), (-2, (0,), None), ([2, 5], (1,), [1, 4]), (-1, (5,), None)],
)
def test_the_feature_layer_is_remapped(layer, dropped, after):
    plan = make_plan(llava(vision_feature_layer=layer), without(*dropped), on("vision"))
    assert changes(plan).get("vision_feature_layer") == after


def test_the_feature_layer_that_the_loader_assumes():
    assert changes(make_plan(llava(), without(5), on("vision")))["vision_feature_layer"] == -1
    assert "vision_feature_layer" not in changes(make_plan(llava(), without(1), on("vision")))


def test_a_count_that_is_left_out_is_written():
    source = llava(text={"model_type": "llama"}, vision={"model_type": "clip_vision_model"}, vision_feature_layer=-1)
    assert changes(make_plan(source, [0, 2], on("text"))) == {"text_config.num_hidden_layers": 2}
    assert changes(make_plan(source, [0, 2], on("vision"))) == {"vision_config.num_hidden_layers": 2}


def test_the_text_has_the_rules_of_its_own_model_type():
    text = {"model_type": "gemma3_text", "num_hidden_layers": 7}
    plan = make_plan(llava(7, text=text), without(0, count=7))
    assert changes(plan)["text_config.layer_types"] == [
        *["sliding_attention"] * 4,
        "full_attention",
        "sliding_attention",
    ]


def test_the_second_config_of_a_clip_tower_follows():
    tensors = numbered("text_model.encoder.layers.", 4) + numbered("vision_model.encoder.layers.", 4)
    nested = {f"{each}_config": {"num_hidden_layers": 4} for each in ("text", "vision")}
    source = hf("clip", tensors, {**nested, "vision_config_dict": {"num_hidden_layers": 4}})
    assert changes(make_plan(source, [0, 3], on("vision"))) == {
        "vision_config.num_hidden_layers": 2,
        "vision_config_dict.num_hidden_layers": 2,
    }
    assert changes(make_plan(source, [0, 3])) == {"text_config.num_hidden_layers": 2}


def test_text_fields_may_stand_at_the_top():
    tensors = numbered("model.layers.", 4) + numbered("visual.blocks.", 3)
    flat = hf("qwen2_vl", tensors, {"num_hidden_layers": 4, "max_window_layers": 3, "vision_config": {"depth": 3}})
    assert changes(make_plan(flat, [0, 3])) == {"num_hidden_layers": 2, "max_window_layers": 1}
    assert changes(make_plan(flat, [0, 2], on("vision"))) == {"vision_config.depth": 2}


# -- swin


def swin(depths=(2, 2, 6, 2), prefix="swin.encoder.layers."):
    tensors = [name for stage, depth in enumerate(depths) for name in numbered(f"{prefix}{stage}.blocks.", depth)]
    config = {"depths": list(depths), "num_heads": [3, 6, 12, 24], "stage_names": ["stem", "stage1", "stage2"]}
    return hf("swin", tensors, config)


@pytest.mark.parametrize("prefix", ["swin.encoder.layers.", "encoder.layers."])
def test_swin_counts_a_stage_in_a_list_and_drops_pairs(prefix):
    plan = make_plan(swin(prefix=prefix), without(1, 2), on("stage2"))
    assert changes(plan) == {"depths": [2, 2, 4, 2]}
    assert names(plan)[f"{prefix}2.blocks.3.weight"] == f"{prefix}2.blocks.1.weight"
    assert names(plan)[f"{prefix}3.blocks.1.weight"] == f"{prefix}3.blocks.1.weight"


def test_single_blocks_are_refused():
    with pytest.raises(UnsupportedError, match="only pairs"):
        make_plan(swin(), without(1), on("stage2"))


def test_the_principal_stage_is_the_deep_one():
    assert make_plan(swin(), without(4, 5)).stack.name == "stage2"


# -- other lists


def test_xlm_layers_are_parallel_lists():
    parts = ("attentions", "layer_norm1", "ffns", "layer_norm2")
    tensors = [name for part in parts for name in numbered(f"transformer.{part}.", 4)]
    plan = make_plan(hf("xlm", tensors, {"n_layers": 4}), [1, 3])
    assert set(names(plan).values()) == {f"transformer.{part}.{layer}.weight" for part in parts for layer in (0, 1)}
    assert names(plan)["transformer.ffns.3.weight"] == "transformer.ffns.1.weight"


def test_convolutions_and_backbones_are_other_lists():
    tensors = numbered("wav2vec2.feature_extractor.conv_layers.", 7, "conv.weight")
    source = hf(
        "wav2vec2", [*tensors, *numbered("wav2vec2.encoder.layers.", 7)], {"num_hidden_layers": 7, "conv_dim": [1] * 7}
    )
    plan = make_plan(source, [0, 6])
    assert set(tensors) <= set(names(plan).values())
    assert changes(plan) == {"num_hidden_layers": 2}
    backbone = {name for name in new_names(detr(), [1, 3]) if "backbone" in name}
    assert len(backbone) == 8


def test_lists_of_the_backbone_are_not_about_the_layers():
    tensors = numbered("model.decoder.layers.", 4) + numbered("model.encoder.layers.", 4)
    config = {"encoder_layers": 4, "decoder_layers": 4, "num_hidden_layers": 4}
    config["backbone_config"] = {
        "depths": [3, 4, 6, 3],
        "stage_names": ["stem", "stage1", "stage2", "stage3", "stage4"],
    }
    source = hf("detr", tensors, config)
    assert changes(make_plan(source, [0, 2], on("decoder"))) == {"decoder_layers": 2}
    assert changes(make_plan(source, [0, 2], on("encoder"))) == {"encoder_layers": 2, "num_hidden_layers": 2}


# -- side files


def test_whisper_alignment_heads_follow_the_decoder():
    tensors = numbered("model.encoder.layers.", 4) + numbered("model.decoder.layers.", 4)
    heads = "generation_config.json:alignment_heads"
    source = hf("whisper", tensors, {"encoder_layers": 4, "decoder_layers": 4})
    source.metadata[heads] = [[1, 0], [2, 5], [3, 1], [3, 2]]
    plan = make_plan(source, without(1, count=4), on("decoder"))
    edit = next(edit for edit in plan.edits if edit.file == "generation_config.json")
    assert (edit.key, edit.after) == ("alignment_heads", [[1, 5], [2, 1], [2, 2]])
    assert not [edit for edit in make_plan(source, without(1, count=4), on("encoder")).edits if "heads" in edit.key]


# -- prefixes

SPELLINGS = [
    ("roberta", "roberta.encoder.layer."), ("roberta", "encoder.layer."), ("electra", "electra.encoder.layer."),
    ("distilbert", "transformer.layer."), ("xlnet", "layer."), ("nomic_bert", "nomic_bert.layers."),
    ("nomic_bert", "encoder.layers."), ("deit", "deit.encoder.layer."), ("deit", "deit.layers."), ("deit", "layers."),
    ("vit_msn", "vit.layers."), ("vit_msn", "encoder.layer."), ("wav2vec2", "encoder.layers."),
    ("clip_vision_model", "vision_model.encoder.layers."), ("clip_vision_model", "encoder.layers."),
    ("bert", "outer.bert.encoder.layer."), ("roberta", "text_encoder.roberta.encoder.layer."),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "prefix"), SPELLINGS)
def test_prefixes_are_found_in_the_tensors(model_type, prefix):
    count = {"distilbert": "n_layers", "xlnet": "n_layer"}.get(model_type, "num_hidden_layers")
    source = hf(model_type, ["embeddings.weight", *numbered(prefix, 12)], {count: 12})
    plan = make_plan(source, without(1, count=12))
    assert names(plan)[f"{prefix}10.weight"] == f"{prefix}9.weight"


@pytest.mark.parametrize("text", ["language_model.model.", "model.language_model.", "model.language_model.model."])
@pytest.mark.parametrize("tower", ["vision_tower.vision_model.", "vision_tower.", "model.vision_tower."])
def test_all_name_styles_of_llava(text, tower):
    tensors = numbered(f"{text}layers.", 3) + numbered(f"{tower}encoder.layers.", 4)
    config = {"text_config": {"num_hidden_layers": 3}, "vision_config": {"num_hidden_layers": 4}}
    source = hf("llava", tensors, config)
    assert names(make_plan(source, [0, 2]))[f"{text}layers.2.weight"] == f"{text}layers.1.weight"
    moved = names(make_plan(source, [0, 3], on("vision")))
    assert moved[f"{tower}encoder.layers.3.weight"] == f"{tower}encoder.layers.1.weight"


# -- other limits


def test_debertas_convolution_needs_layer_0():
    layers = numbered("deberta.encoder.layer.", 4)
    source = hf("deberta-v2", layers, {"num_hidden_layers": 4, "conv_kernel_size": 3})
    with pytest.raises(UnsupportedError, match="convolution"):
        make_plan(source, [1, 3])
    assert changes(make_plan(source, [0, 3])) == {"num_hidden_layers": 2}
    assert changes(make_plan(hf("deberta-v2", layers, {"num_hidden_layers": 4}), [1, 3])) == {"num_hidden_layers": 2}


def test_both_halves_of_a_composite_have_the_rules_of_their_types():
    tensors = numbered("encoder.encoder.layer.", 4) + numbered("decoder.transformer.h.", 3)
    config = {"encoder": {"model_type": "vit", "num_hidden_layers": 4}, "decoder": {"model_type": "gpt2", "n_layer": 3}}
    source = hf("vision-encoder-decoder", tensors, config)
    assert changes(make_plan(source, [0, 2])) == {"decoder.n_layer": 2}
    assert changes(make_plan(source, [0, 2], on("encoder"))) == {"encoder.num_hidden_layers": 2}


def test_feature_maps_that_fall_together_are_warned_of():
    config = {"num_hidden_layers": 6, "out_indices": [2, 4, 6], "out_features": ["stage2", "stage4", "stage6"]}
    source = hf("dinov2", numbered("encoder.layer.", 6), config)
    plan = make_plan(source, [0, 1, 4, 5])
    assert changes(plan)["out_indices"] == [2, 4]
    assert len(plan.warnings) == 1
    with pytest.raises(UnsupportedError, match="out_indices"):
        make_plan(source, [0, 1, 4, 5], PlanOptions(strict=True))
    assert make_plan(source, [0, 2, 5], PlanOptions(strict=True)).warnings == ()


def test_some_layer_stays_before_the_feature_layer():
    with pytest.raises(UnsupportedError, match="vision_feature_layer"):
        make_plan(llava(vision_feature_layer=2), [2, 3, 4, 5], on("vision"))
    assert changes(make_plan(llava(vision_feature_layer=2), [1, 5], on("vision")))["vision_feature_layer"] == 1


@pytest.mark.parametrize("config", [{}, {"two_stage": False}])
def test_tied_heads_need_two_layers(config):
    source = detr("class_embed.0.weight")
    source.metadata.update(config)
    with pytest.raises(UnsupportedError, match="ties the heads"):
        make_plan(source, [3])
    source.metadata["two_stage"] = True
    assert changes(make_plan(source, [3])) == {"decoder_layers": 1}
