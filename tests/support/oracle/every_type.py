"""The types of tests/oracle/test_every_type.py: a class of each, its stacks, and what it takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.support.oracle.hf_models import image, tokens, tokens_twice

INPUTS: Mapping[str, Callable[[], Mapping[str, Any]]] = {
    "": dict,
    "tokens": tokens,
    "encoder-decoder": tokens_twice,
    "sound": lambda: {"input_values": torch.randn(2, 1600, generator=torch.Generator().manual_seed(1))},
    "image": lambda: image() | {"pixel_values": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))},
}


@dataclass(frozen=True, slots=True, eq=False)
class Type:
    """`model` is a class for the model type `name`; `config` are dotted keys besides the defaults made small.

    `inputs` are those of INPUTS that the model takes, if any. `refused` are drops that the tool does not make: (stack,
    first dropped layer) -> a word of the reason. `first` are stacks that store something for all in their first layer.
    """

    name: str
    model: str
    stacks: tuple[str, ...] = ("main",)
    inputs: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[tuple[str, int], str] = field(default_factory=dict)
    first: tuple[str, ...] = ()


SEQUENCES = ("decoder", "encoder")
BOTH = ("text", "vision")
CROSSED = {("qformer", 1): "cross_attention_frequency", ("qformer", 0): "cross_attention_frequency"}
PAIRS = {("encoder", 0): "only pairs", ("encoder", 1): "only pairs"}

TYPES = (
    Type("convbert", "ConvBertForMaskedLM", inputs="tokens"),
    Type("nystromformer", "NystromformerForMaskedLM", inputs="tokens"),
    Type("ibert", "IBertForMaskedLM", inputs="tokens"),
    Type("lilt", "LiltModel"),
    Type("layoutlmv3", "LayoutLMv3Model"),
    Type("markuplm", "MarkupLMModel", inputs="tokens"),
    Type("luke", "LukeForMaskedLM", inputs="tokens"),
    Type("tapas", "TapasForMaskedLM", inputs="tokens"),
    Type("visual_bert", "VisualBertForPreTraining", inputs="tokens"),
    Type("fnet", "FNetForMaskedLM", inputs="tokens"),
    Type("mobilebert", "MobileBertForMaskedLM"),
    Type("gte", "GteForMaskedLM", inputs="tokens"),
    Type("squeezebert", "SqueezeBertForMaskedLM"),
    Type("big_bird", "BigBirdForMaskedLM", config={"attention_type": "original_full"}, inputs="tokens"),
    Type("eurobert", "EuroBertForMaskedLM", inputs="tokens"),
    Type("longt5", "LongT5ForConditionalGeneration", SEQUENCES, "encoder-decoder", first=SEQUENCES),
    Type("fsmt", "FSMTForConditionalGeneration", SEQUENCES, "encoder-decoder"),
    Type("bigbird_pegasus", "BigBirdPegasusModel", SEQUENCES, config={"attention_type": "original_full"}),
    Type("pegasus_x", "PegasusXForConditionalGeneration", SEQUENCES, "encoder-decoder", refused=PAIRS),
    Type("led", "LEDForConditionalGeneration", SEQUENCES, "encoder-decoder"),
    Type("wav2vec2-bert", "Wav2Vec2BertModel"),
    Type("wav2vec2-conformer", "Wav2Vec2ConformerModel", inputs="sound"),
    Type("wavlm", "WavLMModel", inputs="sound", first=("main",)),
    Type("timesformer", "TimesformerModel"),
    Type("vivit", "VivitModel"),
    Type("vit_mae", "ViTMAEForPreTraining", ("encoder", "decoder")),
    Type("videomae", "VideoMAEForPreTraining", ("encoder", "decoder")),
    Type("mistral4", "Mistral4ForCausalLM"),
    Type("internlm3", "LlamaForCausalLM", inputs="tokens"),
    Type("iquestcoder", "LlamaForCausalLM", inputs="tokens"),
    Type("qwen2_vl_text", "Qwen2VLTextModel"),
    Type("qwen2_5_vl_text", "Qwen2_5_VLTextModel"),
    Type("glm4v_text", "Glm4vTextModel"),
    Type("glm4v_moe_text", "Glm4vMoeTextModel"),
    Type("glm4v_vision", "Glm4vVisionModel"),
    Type("qwen2_audio_encoder", "Qwen2AudioEncoder"),
    Type("voxtral_encoder", "VoxtralEncoder"),
    Type("parakeet_encoder", "ParakeetEncoder"),
    Type("glm4v", "Glm4vForConditionalGeneration", BOTH),
    Type("glm4v_moe", "Glm4vMoeForConditionalGeneration", BOTH),
    Type("aya_vision", "AyaVisionForConditionalGeneration", BOTH, "tokens"),
    Type("vipllava", "VipLlavaForConditionalGeneration", BOTH, "tokens", {"vision_feature_layer": [-1, -3, 2]}),
    Type("blip-2", "Blip2ForConditionalGeneration", (*BOTH, "qformer"), refused=CROSSED),
    Type("instructblip", "InstructBlipForConditionalGeneration", (*BOTH, "qformer"), refused=CROSSED),
    Type("florence2", "Florence2ForConditionalGeneration", SEQUENCES, "encoder-decoder"),
    Type("altclip", "AltCLIPModel", BOTH),
    Type("chinese_clip", "ChineseCLIPModel", BOTH),
    Type("owlvit", "OwlViTModel", BOTH),
    Type("owlv2", "Owlv2Model", BOTH),
    Type("lxmert", "LxmertModel", (*BOTH, "cross")),
    Type("qwen2_audio", "Qwen2AudioForConditionalGeneration", ("text", "audio"), "tokens"),
    Type("voxtral", "VoxtralForConditionalGeneration", ("text", "audio"), "tokens"),
    Type("parakeet_ctc", "ParakeetForCTC"),
    Type("dia", "DiaForConditionalGeneration", SEQUENCES),
    Type("t5gemma", "T5GemmaForConditionalGeneration", SEQUENCES, "encoder-decoder"),
    Type(
        "qwen2_5_omni_thinker",
        "Qwen2_5OmniThinkerForConditionalGeneration",
        (*BOTH, "audio"),
        "",
        {"vision_config.fullatt_block_indexes": [1, 3]},
    ),
    Type("llava_next_video", "LlavaNextVideoForConditionalGeneration", BOTH, "tokens"),
    Type("llava_onevision", "LlavaOnevisionForConditionalGeneration", BOTH, "tokens"),
    Type("deepseek_vl", "DeepseekVLForConditionalGeneration", BOTH, "tokens"),
    Type("ovis2", "Ovis2ForConditionalGeneration", BOTH, "tokens"),
    Type("glm46v", "Glm46VForConditionalGeneration", BOTH),
    Type("fuyu", "FuyuForCausalLM", ("text",), "tokens"),
    Type("idefics2", "Idefics2ForConditionalGeneration", BOTH, "tokens"),
    Type("siglip2", "Siglip2Model", BOTH),
    Type("metaclip_2", "MetaClip2Model", BOTH),
    Type("mlcd_vision_model", "MLCDVisionModel", inputs="image"),
    Type("idefics3_vision", "Idefics3VisionTransformer", inputs="image"),
    Type("smolvlm_vision", "SmolVLMVisionTransformer", inputs="image"),
    Type("internvl_vision", "InternVLVisionModel"),
    Type("moonshine", "MoonshineForConditionalGeneration", SEQUENCES),
    Type("jina_embeddings_v3", "JinaEmbeddingsV3ForMaskedLM", inputs="tokens"),
    Type("ijepa", "IJepaForImageClassification", inputs="image"),
    Type("speech_to_text", "Speech2TextForConditionalGeneration", SEQUENCES),
    Type("sew", "SEWForCTC", inputs="sound"),
)
