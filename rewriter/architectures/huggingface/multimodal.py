"""Hugging Face model types that hold several models: text, pictures and sound side by side, each with its config."""

from __future__ import annotations

from rewriter.architectures.huggingface.builders import decoder, part, several
from rewriter.architectures.schema import Architecture, LayerLimit, Pattern, StackRule

# Every second layer has full attention, unless `layer_types` is there (T5Gemma, as Gemma 2).
_WINDOWS = Pattern(explicit="layer_types", default=2, special="full_attention", other="sliding_attention")


_TEXT_IN = ("language_model.model.layers.", "language_model.layers.")
_TEXT = "text_config.num_hidden_layers"
_VISION = "vision_config.num_hidden_layers"
_AUDIO = "audio_config.num_hidden_layers"
_CLIP_TOWER = ("vision_tower.vision_model.encoder.layers.", "vision_tower.encoder.layers.")
_TAPPED = (("/vision_feature_layer", "hidden_state"),)
_SEVERAL_TAPPED = ("/vision_feature_layer", "/vision_feature_layers")  # of new and of older files
_NOT_SAID = "without vision_feature_layers transformers takes five layers that it has in mind"
_FEATURES = LayerLimit(
    kind="keep_one_before",
    value="/vision_feature_layer",
    why="of the layers before vision_feature_layer one must stay: transformers takes no features before the first",
)
_CROSSED = LayerLimit(
    kind="aligned",
    value="cross_attention_frequency",
    why="every cross_attention_frequency-th layer looks at the picture, by its number",
)
_FREQUENCY = ("cross_attention_frequency", 2)


def _text(*prefixes: str) -> StackRule:
    return part("text", _TEXT, *(prefixes or _TEXT_IN), like="text_config")


def _tapped_tower(default: int) -> StackRule:
    return part(
        "vision", _VISION, *_CLIP_TOWER, like="vision_config", fields=_TAPPED, limits=(_FEATURES,),
        defaults=(("/vision_feature_layer", default),),
    )  # fmt: skip


def _blip(name: str) -> tuple[Architecture, ...]:
    """The language model is an OPT or a T5, of which the decoder is offered."""
    return several(
        name,
        _text(*(f"language_model.{each}." for each in ("model.decoder.layers", "decoder.layers", "decoder.block"))),
        part("vision", _VISION, "vision_model.encoder.layers."),
        part(
            "qformer", "qformer_config.num_hidden_layers", "qformer.encoder.layer.", limits=(_CROSSED,),
            fields=((_FREQUENCY[0], "keep"),), defaults=(_FREQUENCY,),
        ),
    )  # fmt: skip


def _two_towers(name: str, *text: str) -> tuple[Architecture, ...]:
    vision = ("vision_model.encoder.layers.", "vision_model.encoder.layer.")
    return several(name, part("text", _TEXT, *text, optional=True), part("vision", _VISION, *vision, optional=True))


def _speaks(name: str, outer: str, scope: str, *more: StackRule, **vision: object) -> tuple[Architecture, ...]:
    """Qwen's omni models: text, pictures and sound, under a name and in a config of the whole."""
    return several(
        name,
        part(
            "text", f"{scope}text_config.num_hidden_layers", f"{outer}model.layers.", f"{outer}language_model.layers.",
            defaults=(("max_window_layers", 28),), fields=((f"/{_ACCEPTED}", "hidden_state"),),
        ),
        part("vision", f"{scope}vision_config.depth", f"{outer}visual.blocks.", optional=True, **vision),
        part("audio", f"{scope}audio_config.encoder_layers", f"{outer}audio_tower.layers.", optional=True,
             aliases=("num_hidden_layers",)),
        *more,
    )  # fmt: skip


_ACCEPTED = "talker_config.accept_hidden_layer"  # the talker hears what comes out of this layer

ENTRIES: tuple[Architecture, ...] = (
    # Parts that are saved alone.
    *decoder("qwen2_vl_text", "qwen2_5_vl_text", defaults=(("max_window_layers", 80),)),
    *decoder("glm4v_text"),
    *decoder("glm4v_moe_text", defaults=(("first_k_dense_replace", 1),)),
    *decoder("glm4v_vision", prefixes=("blocks.",), count_key="depth"),
    *decoder("qwen2_audio_encoder", prefixes=("layers.",), count_key="encoder_layers", aliases=("num_hidden_layers",)),
    *decoder("voxtral_encoder", "parakeet_encoder", prefixes=("layers.",)),
    # Text and pictures.
    *several("glm4v", _text("language_model.layers."), part("vision", "vision_config.depth", "visual.blocks.")),
    *several("glm4v_moe", _text("language_model.layers."), part("vision", "vision_config.depth", "visual.blocks.")),
    *several("aya_vision", _text(), _tapped_tower(-1)),
    *several(
        "vipllava",
        _text(),
        part(
            "vision",
            _VISION,
            *_CLIP_TOWER,
            like="vision_config",
            fields=tuple((key, "apart_states") for key in _SEVERAL_TAPPED),
            limits=(LayerLimit(kind="keep_all_if_unset", value=_SEVERAL_TAPPED, why=_NOT_SAID),),
        ),
    ),
    *_blip("blip-2"),
    *_blip("instructblip"),
    *several(
        "florence2",
        part("decoder", "text_config.decoder_layers", "language_model.model.decoder.layers.",
             "language_model.decoder.layers."),
        part("encoder", "text_config.encoder_layers", "language_model.model.encoder.layers.",
             "language_model.encoder.layers.", aliases=("num_hidden_layers",)),
    ),
    *_two_towers("altclip", "text_model.roberta.encoder.layer.", "text_model.roberta.encoder.layers."),
    *_two_towers("chinese_clip", "text_model.encoder.layer."),
    *_two_towers("owlvit", "text_model.encoder.layers."),
    *_two_towers("owlv2", "text_model.encoder.layers."),
    *several(
        "lxmert",
        part("text", "l_layers", "lxmert.encoder.layer.", "encoder.layer.", aliases=("num_hidden_layers.language",)),
        part("vision", "r_layers", "lxmert.encoder.r_layers.", "encoder.r_layers.",
             aliases=("num_hidden_layers.vision",)),
        part("cross", "x_layers", "lxmert.encoder.x_layers.", "encoder.x_layers.",
             aliases=("num_hidden_layers.cross_encoder",)),
    ),
    *several("llava_next_video", _text(), _tapped_tower(-2)),
    *several("llava_onevision", _text(), _tapped_tower(-1)),
    *several("deepseek_vl", _text(), part("vision", _VISION, "vision_model.encoder.layers.")),
    *several("ovis2", _text(), part("vision", _VISION, "vision_tower.transformer.encoder.layers.")),
    *several("glm46v", _text("language_model.layers."), part("vision", "vision_config.depth", "visual.blocks.")),
    *several("fuyu", _text()),
    *several("idefics2", _text("text_model.layers."), part("vision", _VISION, "vision_model.encoder.layers.")),
    *_two_towers("siglip2", "text_model.encoder.layers."),
    *_two_towers("metaclip_2", "text_model.encoder.layers."),
    *decoder(
        "mlcd_vision_model", "idefics3_vision", "smolvlm_vision",
        prefixes=("vision_model.encoder.layers.", "encoder.layers."),
    ),
    *decoder("internvl_vision", prefixes=("encoder.layer.",)),
    *several(
        "moonshine",
        part("decoder", "decoder_num_hidden_layers", "decoder.layers."),
        part("encoder", "encoder_num_hidden_layers", "encoder.layers."),
    ),
    # Text and sound.
    *several(
        "qwen2_audio", _text(),
        part("audio", "audio_config.encoder_layers", "audio_tower.layers.", aliases=("num_hidden_layers",)),
    ),
    *several("voxtral", _text(), part("audio", _AUDIO, "audio_tower.layers.", aliases=("encoder_layers",))),
    *several("parakeet_ctc", part("main", "encoder_config.num_hidden_layers", "encoder.layers.")),
    *several(
        "dia",
        part("decoder", "decoder_config.num_hidden_layers", "decoder.layers."),
        part("encoder", "encoder_config.num_hidden_layers", "encoder.layers."),
    ),
    *several(
        "t5gemma",
        part("decoder", "decoder.num_hidden_layers", "decoder.layers.", patterns=(_WINDOWS,)),
        part("encoder", "encoder.num_hidden_layers", "encoder.layers.", patterns=(_WINDOWS,)),
    ),
    # All of them.
    *_speaks("qwen2_5_omni_thinker", "", "", defaults=(("fullatt_block_indexes", (7, 15, 23, 31)),)),
)  # fmt: skip
