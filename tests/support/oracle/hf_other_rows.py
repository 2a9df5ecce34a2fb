"""Conformance rows: encoders, encoder-decoders, speech, vision, detection, vision-language."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.support.oracle.hf_models import (
    ABSENT,
    BERT,
    DECODER,
    ENCODER,
    IMAGE,
    IMAGE_TOKEN,
    INPUTS,
    MEMORY_NAMES,
    SPECIAL,
    T5_SIZES,
    VOCABULARY,
    WINDOW,
    Inputs,
    Row,
    image,
    module_list,
    only,
    tokens,
)


@dataclass(frozen=True, slots=True, eq=False)
class OtherRow(Row):
    """A row whose layers have more about them.

    `drops` are what is dropped, with layer 0 and the last layer where they may go; `reads` are the outputs that are
    compared, all that are tensors if empty. `beside` are module lists numbered like the layers: with them the
    reference is the model with shorter lists, the layers being told apart by the heads that follow them.
    """

    drops: tuple[tuple[int, ...], ...] = ()
    reads: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    silent: tuple[int, ...] = ()  # layers that nothing reads
    warns: tuple[int, ...] = ()  # layers whose drop is written with a warning


BART_SIZES = {"vocab_size": VOCABULARY, "d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
BART_HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
BART_IDS = {"decoder_start_token_id": 2, "forced_eos_token_id": 2, "max_position_embeddings": 64}
BART = SPECIAL | BART_SIZES | BART_HEADS | BART_IDS | {"encoder_layers": 7, "decoder_layers": 6}
SHORT_ENCODER = BART | {"encoder_layers": 5}
WHISPER = BART | {"num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 64}
CONVOLUTIONS = {"conv_dim": [16, 16], "conv_stride": [4, 2], "conv_kernel": [8, 4], "num_feat_extract_layers": 2}
SPEECH = ENCODER | CONVOLUTIONS | {"vocab_size": 32, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
VIT = ENCODER | IMAGE
DEBERTA = BERT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
MODERNBERT = BERT | {"cls_token_id": 1, "sep_token_id": 2, "local_attention": WINDOW}
DISTILBERT = {"vocab_size": VOCABULARY, "dim": 32, "n_layers": 7, "n_heads": 4, "hidden_dim": 48, "pad_token_id": 0}
XLNET = {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 7, "n_head": 4, "d_inner": 48}
XLM = {"vocab_size": VOCABULARY, "emb_dim": 32, "n_layers": 7, "n_heads": 4}
T5 = T5_SIZES | {"num_layers": 6, "num_decoder_layers": 5}
SWIN = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2, 4, 8],
    "num_heads": [2, 2, 2],
    "window_size": 2,
}

RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
RESNET_LAST = RESNET | {"out_features": ["stage4"]}
RESNET_TWO = RESNET | {"out_features": ["stage3", "stage4"]}
NO_TIMM = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "num_queries": 5}
DETR_SIZES = {"d_model": 32, "encoder_layers": 4, "decoder_layers": 6, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
DETR = NO_TIMM | DETR_SIZES | BART_HEADS | {"backbone_config": RESNET_LAST, "num_labels": 8}
DEFORMABLE = DETR | {"backbone_config": RESNET_TWO, "num_feature_levels": 2, "two_stage_num_proposals": 5}
REFINED = DEFORMABLE | {"with_box_refine": True}
TWO_STAGE = REFINED | {"two_stage": True}
RT_BACKBONE = RESNET_TWO | {"model_type": "rt_detr_resnet", "layer_type": "basic"}
RT_ENCODER = {
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [16, 16],
    "feat_strides": [16, 32],
    "encode_proj_layers": [1],
}
RT_DECODER = {"decoder_in_channels": [32, 32], "num_feature_levels": 2, "decoder_n_points": 2, "num_denoising": 0}
RT_DETR = DETR_SIZES | BART_HEADS | RT_ENCODER | RT_DECODER
RT_DETR |= {"backbone_config": RT_BACKBONE, "encoder_layers": 1, "num_queries": 5, "anchor_image_size": None}

CLIP_VISION = VIT | {"projection_dim": 16}
CLIP_TEXT = BERT | {"projection_dim": 16, "num_hidden_layers": 6}
CLIP = {"text_config": CLIP_TEXT, "vision_config": CLIP_VISION, "projection_dim": 16}
LLAMA = DECODER | {"model_type": "llama"}
FOUR_PATCHES = {"patch_size": 8}
LLAVA = {
    "text_config": LLAMA,
    "vision_config": CLIP_VISION | FOUR_PATCHES | {"model_type": "clip_vision_model"},
    "image_token_index": IMAGE_TOKEN,
    "vision_feature_layer": -1,
}
LLAVA_THIRD = LLAVA | {"vision_feature_layer": 5}
LLAVA_PAIR = LLAVA | {"vision_feature_layer": [3, -2]}
LLAVA_DEFAULT = LLAVA | {"vision_feature_layer": -2}
LLAVA_GEMMA = LLAVA | {"text_config": DECODER | {"model_type": "gemma3_text", "head_dim": 8, "sliding_window": WINDOW}}
PALIGEMMA = {
    "text_config": DECODER | {"model_type": "gemma", "head_dim": 8},
    "vision_config": VIT | FOUR_PATCHES | {"model_type": "siglip_vision_model", "projection_dim": 32},
    "image_token_index": IMAGE_TOKEN,
    "projection_dim": 32,
}
PAIRED = {"image_size": [16, 16], "patch_size": [4, 4]}
INTERNVL = {
    "text_config": DECODER | {"model_type": "qwen2"},
    "vision_config": ENCODER | PAIRED | {"model_type": "internvl_vision"},
    "image_token_id": IMAGE_TOKEN,
    "downsample_ratio": 0.5,
}
IDEFICS3 = {"text_config": LLAMA, "vision_config": VIT, "image_token_id": IMAGE_TOKEN, "scale_factor": 2}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}
QWEN_IDS = {"image_token_id": IMAGE_TOKEN, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93}
QWEN_EYE = {"depth": 6, "hidden_size": 32, "num_heads": 4, "patch_size": 4, "temporal_patch_size": 2}
QWEN2_VL = QWEN_IDS | {
    "text_config": DECODER | MROPE,
    "vision_config": QWEN_EYE | {"embed_dim": 32, "mlp_ratio": 2},
}
QWEN2_5_VL = QWEN_IDS | {
    "text_config": DECODER | MROPE,
    "vision_config": QWEN_EYE
    | {"intermediate_size": 48, "out_hidden_size": 32, "window_size": 8, "fullatt_block_indexes": [1, 3, 5]},
}
QWEN3_VL = QWEN_IDS | {
    "text_config": DECODER | MROPE | {"head_dim": 8},
    "vision_config": QWEN_EYE
    | {"intermediate_size": 48, "out_hidden_size": 32, "num_position_embeddings": 16}
    | {"deepstack_visual_indexes": [0, 2, 5], "depth": 7},
}
MLLAMA_TEXT = DECODER | {
    "cross_attention_layers": [1, 4],
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
MLLAMA = {
    "text_config": MLLAMA_TEXT,
    "image_token_index": IMAGE_TOKEN,
    "vision_config": {
        "hidden_size": 32,
        "attention_heads": 4,
        "intermediate_size": 48,
        "num_hidden_layers": 6,
        "num_global_layers": 4,
        "image_size": 16,
        "patch_size": 4,
        "max_num_tiles": 1,
        "supported_aspect_ratios": [[1, 1]],
        "intermediate_layers_indices": [2, 4],
        "vision_output_dim": 96,
    },
}
VIT_TO_BERT = {
    "encoder": VIT | {"model_type": "vit"},
    "decoder": BERT | {"model_type": "bert", "is_decoder": True, "add_cross_attention": True},
}
TROCR_SIZES = {"vocab_size": VOCABULARY, "d_model": 32, "decoder_layers": 6, "decoder_attention_heads": 4}
VIT_TO_TROCR = {
    "encoder": VIT | {"model_type": "deit"},
    "decoder": TROCR_SIZES
    | {"model_type": "trocr", "decoder_ffn_dim": 48, "max_position_embeddings": 64, "cross_attention_hidden_size": 32}
    | {"is_decoder": True, "add_cross_attention": True},
}
DONUT = {
    "encoder": SWIN | {"model_type": "donut-swin"},
    "decoder": BART | {"model_type": "mbart", "is_decoder": True, "add_cross_attention": True},
}

HUB_BART = {"num_hidden_layers": 7}
QWEN_FLAT_KEYS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")
QWEN_FLAT = {"text_config": ABSENT, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}, "rope_theta": 1e4}
QWEN_FLAT |= {key: DECODER[key] for key in (*QWEN_FLAT_KEYS, "num_key_value_heads")}

TEXT = "model.language_model.layers"
TOWER = "model.vision_tower.encoder.layers"
MAIN = ((1, 4), (0,), (-1,))
SEQUENCES = ((1, 4), (0,), (-1,))
DETR_DECODER = "model.decoder.layers"
BOXES = ("logits", "pred_boxes")
OLD_TOWER = ((r"^vision_tower\.", "vision_tower.vision_model."),)


def encoders(name: str, model: str, config: Mapping[str, Any], layers: str, **others: Any) -> OtherRow:
    return OtherRow(name, model, config, layers, drops=others.pop("drops", MAIN), **others)


def pair(
    name: str,
    model: str,
    config: Mapping[str, Any],
    lists: tuple[str, str] = ("model.decoder.layers", "model.encoder.layers"),
    inputs: str = "encoder-decoder",
    **others: Any,
) -> tuple[OtherRow, OtherRow]:
    """Both stacks of an encoder-decoder."""
    decoder, encoder = lists
    return (
        OtherRow(name, model, config, decoder, inputs, drops=SEQUENCES, **others),
        OtherRow(f"{name}-encoder", model, config, encoder, inputs, "encoder", drops=((1, 4), (0,)), **others),
    )


def both(
    name: str,
    model: str,
    config: Mapping[str, Any],
    lists: tuple[str, str] = (TEXT, TOWER),
    inputs: str = "picture",
    **others: Any,
) -> tuple[OtherRow, OtherRow]:
    """Both stacks of a vision-language model."""
    text, vision = lists
    return (
        OtherRow(name, model, config, text, inputs, drops=MAIN, **others),
        OtherRow(f"{name}-vision", model, config, vision, inputs, "vision", drops=MAIN, **others),
    )


ROWS: tuple[OtherRow, ...] = (
    encoders("roberta", "RobertaForMaskedLM", BERT, "roberta.encoder.layer"),
    encoders("roberta-base", "RobertaModel", BERT, "encoder.layer"),
    encoders("xlm-roberta", "XLMRobertaForMaskedLM", BERT, "roberta.encoder.layer"),
    encoders("electra", "ElectraForPreTraining", BERT | {"embedding_size": 16}, "electra.encoder.layer"),
    encoders("electra-base", "ElectraModel", BERT | {"embedding_size": 16}, "encoder.layer"),
    encoders("deberta-v2", "DebertaV2ForMaskedLM", DEBERTA, "deberta.encoder.layer"),
    encoders(
        "deberta-v2-convolution",
        "DebertaV2ForMaskedLM",
        DEBERTA | {"conv_kernel_size": 3},
        "deberta.encoder.layer",
        drops=((1, 4), (-1,)),
    ),
    encoders("mpnet", "MPNetForMaskedLM", BERT, "mpnet.encoder.layer"),
    encoders("modernbert", "ModernBertForMaskedLM", MODERNBERT, "model.layers", drops=((1, 4), (3, 4), (-1,))),
    encoders(
        "modernbert-period",
        "ModernBertModel",
        MODERNBERT,
        "layers",
        drops=((1, 4), (1, 2, 3), (-1,)),
        config_edits={"layer_types": ABSENT, "global_attn_every_n_layers": 3},
    ),
    encoders("nomic_bert", "NomicBertForMaskedLM", BERT, "nomic_bert.layers"),
    encoders("nomic_bert-base", "NomicBertModel", BERT, "layers"),
    encoders("nomic_bert-memory-names", "NomicBertForMaskedLM", BERT, "nomic_bert.layers", save=MEMORY_NAMES),
    encoders("distilbert", "DistilBertForMaskedLM", DISTILBERT, "distilbert.transformer.layer"),
    encoders("distilbert-base", "DistilBertModel", DISTILBERT, "transformer.layer"),
    encoders("xlnet", "XLNetLMHeadModel", XLNET, "transformer.layer"),
    encoders("xlnet-base", "XLNetModel", XLNET, "layer"),
    encoders(
        "longformer",
        "LongformerForMaskedLM",
        BERT | {"attention_window": [4, 4, 8, 8, 4, 4, 8]},
        "longformer.encoder.layer",
    ),
    *pair("mt5", "MT5ForConditionalGeneration", T5, ("decoder.block", "encoder.block")),
    *pair("umt5", "UMT5ForConditionalGeneration", T5, ("decoder.block", "encoder.block")),
    *pair("bart", "BartForConditionalGeneration", BART),
    *pair("bart-base", "BartModel", BART, ("decoder.layers", "encoder.layers"), config_edits=HUB_BART),
    OtherRow("bart-decoder", "BartForCausalLM", BART, "model.decoder.layers", drops=MAIN),
    *pair("mbart", "MBartForConditionalGeneration", BART),
    *pair("marian", "MarianMTModel", BART),
    *pair("pegasus", "PegasusForConditionalGeneration", BART),
    *pair("m2m_100", "M2M100ForConditionalGeneration", BART),
    *pair("whisper", "WhisperForConditionalGeneration", WHISPER, inputs="speech-decoder"),
    OtherRow("wav2vec2", "Wav2Vec2ForCTC", SPEECH, "wav2vec2.encoder.layers", "speech", drops=MAIN),
    OtherRow("wav2vec2-base", "Wav2Vec2Model", SPEECH, "encoder.layers", "speech", drops=MAIN),
    OtherRow("hubert", "HubertForCTC", SPEECH, "hubert.encoder.layers", "speech", drops=MAIN),
    encoders("deit", "DeiTForImageClassification", VIT, "deit.layers", inputs="image"),
    encoders("deit-base", "DeiTModel", VIT, "layers", inputs="image"),
    encoders("deit-memory-names", "DeiTForImageClassification", VIT, "deit.layers", inputs="image", save=MEMORY_NAMES),
    encoders("dinov2", "Dinov2ForImageClassification", VIT, "dinov2.encoder.layer", inputs="image"),
    encoders(
        "dinov2-backbone",
        "Dinov2Backbone",
        VIT | {"out_features": ["stage2", "stage4", "stage7"]},
        "encoder.layer",
        inputs="image",
        drops=((0, 2), (0,), (4,)),
    ),
    encoders(
        "beit", "BeitForImageClassification", VIT | {"use_relative_position_bias": True}, "beit.layers", inputs="image"
    ),
    encoders(
        "beit-backbone",
        "BeitBackbone",
        VIT | {"out_indices": [1, 3, 5, 7], "use_relative_position_bias": True},
        "beit.layers",
        inputs="image",
        drops=((1, 3), (5,)),
    ),
    encoders("vit_msn", "ViTMSNForImageClassification", VIT, "vit.layers", inputs="image"),
    encoders("vit_msn-base", "ViTMSNModel", VIT, "layers", inputs="image"),
    encoders(
        "swin",
        "SwinForImageClassification",
        SWIN,
        "swin.encoder.layers.2.blocks",
        inputs="big image",
        drops=((2, 3), (1, 2, 5, 6), (0, 1), (6, 7)),
    ),
    encoders(
        "swin-base-stage1",
        "SwinModel",
        SWIN,
        "encoder.layers.1.blocks",
        inputs="big image",
        stack="stage1",
        drops=((1, 2), (0, 1)),
    ),
    encoders(
        "swin-backbone-stage2",
        "SwinBackbone",
        SWIN | {"out_features": ["stage2", "stage3"]},
        "swin.encoder.layers.2.blocks",
        inputs="big image",
        stack="stage2",
        drops=((3, 4), (6, 7)),
    ),
    encoders("detr", "DetrForObjectDetection", DETR, DETR_DECODER, inputs="detection", reads=BOXES),
    encoders(
        "detr-encoder",
        "DetrForObjectDetection",
        DETR,
        "model.encoder.layers",
        inputs="detection",
        stack="encoder",
        reads=BOXES,
        drops=((1,), (0,), (-1,)),
        config_edits={"num_hidden_layers": 4},
    ),
    encoders("detr-base", "DetrModel", DETR, "decoder.layers", inputs="detection", reads=("last_hidden_state",)),
    encoders(
        "deformable_detr", "DeformableDetrForObjectDetection", DEFORMABLE, DETR_DECODER, inputs="detection", reads=BOXES
    ),
    encoders(
        "deformable_detr-encoder",
        "DeformableDetrForObjectDetection",
        DEFORMABLE,
        "model.encoder.layers",
        inputs="detection",
        stack="encoder",
        reads=BOXES,
        drops=((1,), (0,), (-1,)),
    ),
    encoders(
        "deformable_detr-refined",
        "DeformableDetrForObjectDetection",
        REFINED,
        DETR_DECODER,
        inputs="detection",
        reads=BOXES,
        beside=("model.decoder.bbox_embed", "bbox_embed", "class_embed"),
    ),
    encoders(
        "deformable_detr-two-stage",
        "DeformableDetrForObjectDetection",
        TWO_STAGE,
        DETR_DECODER,
        inputs="detection",
        reads=BOXES,
        beside=("model.decoder.bbox_embed", "bbox_embed", "model.decoder.class_embed", "class_embed"),
    ),
    encoders(
        "rt_detr",
        "RTDetrForObjectDetection",
        RT_DETR,
        DETR_DECODER,
        inputs="detection",
        reads=BOXES,
        beside=("model.decoder.bbox_embed", "model.decoder.class_embed"),
    ),
    *both("clip", "CLIPModel", CLIP, ("text_model.encoder.layers", "vision_model.encoder.layers"), "text and image"),
    encoders(
        "clip-classifier",
        "CLIPForImageClassification",
        CLIP,
        "vision_model.encoder.layers",
        inputs="image",
        stack="vision",
    ),
    encoders("clip_text_model", "CLIPTextModel", CLIP_TEXT, "encoder.layers"),
    encoders("clip_text_model-projected", "CLIPTextModelWithProjection", CLIP_TEXT, "text_model.encoder.layers"),
    encoders("clip_vision_model", "CLIPVisionModel", CLIP_VISION, "encoder.layers", inputs="image"),
    encoders(
        "clip_vision_model-hub",
        "CLIPVisionModel",
        CLIP_VISION,
        "encoder.layers",
        inputs="image",
        renames=((r"^", "vision_model."),),
    ),
    *both(
        "siglip",
        "SiglipModel",
        {"text_config": CLIP_TEXT, "vision_config": VIT},
        ("text_model.encoder.layers", "vision_model.encoder.layers"),
        "text and image",
    ),
    *both("llava", "LlavaForConditionalGeneration", LLAVA),
    *both("llava-memory-names", "LlavaForConditionalGeneration", LLAVA, save=MEMORY_NAMES),
    *both("llava-hub", "LlavaForConditionalGeneration", LLAVA, renames=OLD_TOWER),
    encoders(
        "llava-tapped",
        "LlavaForConditionalGeneration",
        LLAVA_THIRD,
        TOWER,
        inputs="picture",
        stack="vision",
        drops=((1, 3), (0,), (6,)),
        silent=(5, 6),
    ),
    encoders(
        "llava-tapped-twice",
        "LlavaForConditionalGeneration",
        LLAVA_PAIR,
        TOWER,
        inputs="picture",
        stack="vision",
        drops=((1, 4), (0,), (6,), (5, 6)),
        silent=(6,),
    ),
    encoders(
        "llava-tapped-by-default",
        "LlavaForConditionalGeneration",
        LLAVA_DEFAULT,
        TOWER,
        inputs="picture",
        stack="vision",
        drops=((1, 3), (6,)),
        silent=(6,),
        config_edits={"vision_feature_layer": ABSENT},
    ),
    encoders(
        "llava-gemma",
        "LlavaForConditionalGeneration",
        LLAVA_GEMMA,
        TEXT,
        inputs="picture",
        config_edits={"text_config.layer_types": ABSENT},
    ),
    *both("paligemma", "PaliGemmaForConditionalGeneration", PALIGEMMA, inputs="paligemma"),
    *both("internvl", "InternVLForConditionalGeneration", INTERNVL, (TEXT, "model.vision_tower.encoder.layer")),
    *both(
        "idefics3",
        "Idefics3ForConditionalGeneration",
        IDEFICS3,
        ("model.text_model.layers", "model.vision_model.encoder.layers"),
        "idefics3",
    ),
    *both("qwen2_vl", "Qwen2VLForConditionalGeneration", QWEN2_VL, (TEXT, "model.visual.blocks"), "patches"),
    encoders("qwen2_vl-base", "Qwen2VLModel", QWEN2_VL, "language_model.layers", inputs="patches"),
    encoders(
        "qwen2_vl-hub", "Qwen2VLForConditionalGeneration", QWEN2_VL, TEXT, inputs="patches", config_edits=QWEN_FLAT
    ),
    *both("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", QWEN2_5_VL, (TEXT, "model.visual.blocks"), "patches"),
    encoders("qwen3_vl", "Qwen3VLForConditionalGeneration", QWEN3_VL, TEXT, inputs="patches", drops=((3, 5), (-1,))),
    encoders(
        "qwen3_vl-vision",
        "Qwen3VLForConditionalGeneration",
        QWEN3_VL,
        "model.visual.blocks",
        inputs="patches",
        stack="vision",
        drops=((1, 4), (-1,)),
    ),
    encoders(
        "mllama_text_model",
        "MllamaForCausalLM",
        MLLAMA_TEXT,
        "model.layers",
        drops=((0, 3), (5,), (-1,)),
        silent=(1, 4),
    ),
    encoders("mllama", "MllamaForConditionalGeneration", MLLAMA, TEXT, inputs="tiles", drops=((0, 1, 5), (4,), (-1,))),
    encoders(
        "mllama-vision",
        "MllamaForConditionalGeneration",
        MLLAMA,
        "model.vision_model.transformer.layers",
        inputs="tiles",
        stack="vision",
        drops=((0, 3), (0,), (5,)),
    ),
    encoders(
        "mllama-global",
        "MllamaForConditionalGeneration",
        MLLAMA,
        "model.vision_model.global_transformer.layers",
        inputs="tiles",
        stack="vision_global",
        drops=((1,), (0, 2), (-1,)),
    ),
    *pair(
        "vision-encoder-decoder",
        "VisionEncoderDecoderModel",
        VIT_TO_BERT,
        ("decoder.bert.encoder.layer", "encoder.layers"),
        "image-decoder",
    ),
    *pair(
        "vision-encoder-decoder-trocr",
        "VisionEncoderDecoderModel",
        VIT_TO_TROCR,
        ("decoder.model.decoder.layers", "encoder.layers"),
        "image-decoder",
    ),
    OtherRow(
        "vision-encoder-decoder-donut",
        "VisionEncoderDecoderModel",
        DONUT,
        "decoder.model.decoder.layers",
        "big image-decoder",
        drops=SEQUENCES,
    ),
    OtherRow(
        "vision-encoder-decoder-donut-stage2",
        "VisionEncoderDecoderModel",
        DONUT,
        "encoder.encoder.layers.2.blocks",
        "big image-decoder",
        "stage2",
        drops=((2, 3), (1, 2)),
    ),
)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def picture_tokens(count: int) -> Inputs:
    """One sequence with the tokens of one image in it."""
    ids = tokens()["input_ids"][:1].clone()
    ids[0, 3 : 3 + count] = IMAGE_TOKEN
    return {"input_ids": ids}


def with_types(inputs: Inputs) -> Inputs:
    return {**inputs, "token_type_ids": (inputs["input_ids"] == IMAGE_TOKEN).long()}


def patches() -> Inputs:
    """16 patches of 3 x 2 frames x 4 x 4 pixels, merged by 4 into 4 tokens."""
    inputs = picture_tokens(4)
    grid = {
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
        "mm_token_type_ids": (inputs["input_ids"] == IMAGE_TOKEN).int(),
    }
    return {**inputs, **grid, "pixel_values": noise(16, 96)}


def tiles() -> Inputs:
    ids = picture_tokens(1)["input_ids"]
    mask = torch.ones(1, ids.shape[1], 1, 1, dtype=torch.long)
    ratio = {
        "aspect_ratio_ids": torch.ones(1, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.ones(1, 1, 1, dtype=torch.long),
    }
    return {"input_ids": ids, "pixel_values": noise(1, 1, 1, 3, 16, 16), "cross_attention_mask": mask, **ratio}


def after(inputs: Inputs) -> Inputs:
    return {**inputs, "decoder_input_ids": tokens()["input_ids"][: next(iter(inputs.values())).shape[0]]}


OTHER_INPUTS: Mapping[str, Callable[[], Inputs]] = {
    "mel": lambda: {"input_features": noise(2, 8, 20)},
    "speech-decoder": lambda: after({"input_features": noise(2, 8, 20)}),
    "speech": lambda: {"input_values": noise(2, 400)},
    "big image": lambda: {"pixel_values": noise(2, 3, 32, 32)},
    "detection": lambda: {"pixel_values": noise(1, 3, 64, 64)},
    "text and image": lambda: {**tokens(), **image()},
    "picture": lambda: {**picture_tokens(4), **image(1)},
    "paligemma": lambda: with_types({**picture_tokens(4), **image(1)}),
    "idefics3": lambda: {**picture_tokens(4), "pixel_values": image(1)["pixel_values"][None]},
    "patches": patches,
    "tiles": tiles,
    "image-decoder": lambda: after(image()),
    "big image-decoder": lambda: after({"pixel_values": noise(2, 3, 32, 32)}),
}
ALL_INPUTS = {**INPUTS, **OTHER_INPUTS}


def settled(model: Any) -> Any:
    """The model with each weight where PyTorch puts it: a few kernels round by where a weight lies in its file."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


@torch.no_grad()
def outputs(row: OtherRow, model: nn.Module) -> Tensor:
    """What the model gives out, in one row: the named outputs, or the first and what a backbone adds to it."""
    found = model(**ALL_INPUTS[row.inputs]())
    wanted = [found[name] for name in row.reads] or [found[0]]
    parts = [part for each in wanted for part in (each if isinstance(each, tuple) else (each,))]
    return torch.cat([part.flatten() for part in parts])


def reference(row: OtherRow, model: nn.Module, keep: tuple[int, ...]) -> Tensor:
    """What the model answers with the kept layers alone, their heads with them."""
    if not row.beside:
        with only(module_list(row, model), keep):
            return outputs(row, model)
    shorter, count = deepcopy(model), len(module_list(row, model))
    for path in (row.layers, *row.beside):
        parent, _, name = path.rpartition(".")
        modules = shorter.get_submodule(path)
        setattr(
            shorter.get_submodule(parent), name, nn.ModuleList([*(modules[index] for index in keep), *modules[count:]])
        )
    return outputs(row, shorter)
