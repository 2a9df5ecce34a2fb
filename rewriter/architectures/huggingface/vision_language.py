"""Hugging Face model types: text and vision."""

from __future__ import annotations

from typing import Any

from rewriter.architectures.huggingface.builders import decoder, keep, several
from rewriter.architectures.huggingface.decoders import GEMMA3_UNREAD, GEMMA3_WINDOWS
from rewriter.architectures.huggingface.vision import SWIN_STAGES, swin_stage
from rewriter.architectures.schema import Architecture, LayerLimit, StackRule

_TEXT_IN = (
    "language_model.model.layers.", "model.language_model.layers.", "model.language_model.model.layers.",
    "language_model.layers.",
)  # fmt: skip
_TAPPED = (("/vision_feature_layer", "hidden_state"),)
_FEATURES = LayerLimit(
    kind="keep_one_before",
    value="/vision_feature_layer",
    why="of the layers before vision_feature_layer one must stay: transformers takes no features before the first",
)


def _within(prefix: str) -> tuple[str, ...]:
    return (prefix, f"model.{prefix}")


def _tower(*inner: str, fields: tuple[tuple[str, str], ...] = _TAPPED, **others: Any) -> StackRule:
    """The vision tower of a vision-language model, in a config and under a name of its own."""
    prefixes = tuple(prefix for each in inner for prefix in _within(f"vision_tower.{each}"))
    return StackRule(
        name="vision",
        prefixes=prefixes,
        count_key="vision_config.num_hidden_layers",
        like="vision_config",
        fields=fields,
        limits=(_FEATURES,),
        **others,
    )


def _text(prefixes: tuple[str, ...] = _TEXT_IN, **others: Any) -> StackRule:
    return StackRule(
        name="text", prefixes=prefixes, count_key="text_config.num_hidden_layers", like="text_config", **others
    )


_CLIP_TOWER = ("vision_model.encoder.layers.", "encoder.layers.")


def _two_towers(name: str, aliases: bool) -> tuple[Architecture, ...]:
    """The config of a tower may stand a second time, under a key that then wins."""
    return several(
        name,
        *(
            StackRule(
                name=each,
                prefixes=(f"{each}_model.encoder.layers.",),
                count_key=f"{each}_config.num_hidden_layers",
                aliases=(f"/{each}_config_dict.num_hidden_layers",) if aliases else (),
                optional=True,
            )
            for each in ("text", "vision")
        ),
    )


def _idefics(name: str) -> tuple[Architecture, ...]:
    return several(
        name,
        _text(("model.text_model.layers.", "text_model.layers.")),
        StackRule(
            name="vision",
            prefixes=("model.vision_model.encoder.layers.", "vision_model.encoder.layers."),
            count_key="vision_config.num_hidden_layers",
        ),
    )


def _qwen3_5(name: str) -> tuple[Architecture, ...]:
    return several(
        name,
        _text(),
        StackRule(name="vision", prefixes=_within("visual.blocks."), count_key="vision_config.depth", optional=True),
    )


# -- Qwen's vision-language models: on the hub the text's fields stand at the top

_QWEN_TEXT = ("model.layers.", "model.language_model.layers.", "language_model.layers.")
_QWEN_WINDOW = (("max_window_layers", 80),)


def _qwen_vl(
    name: str,
    text: tuple[str, ...] = _QWEN_TEXT,
    text_limits: tuple[LayerLimit, ...] = (),
    text_defaults: tuple[tuple[str, object], ...] = (),
    **vision: Any,
) -> tuple[Architecture, ...]:
    return several(
        name,
        *(
            StackRule(
                name="text",
                prefixes=text,
                count_key=f"{scope}num_hidden_layers",
                aliases=("/num_hidden_layers",) if scope else (),
                defaults=(*_QWEN_WINDOW, *text_defaults),
                limits=text_limits,
            )
            for scope in ("text_config.", "")
        ),
        StackRule(
            name="vision", prefixes=_within("visual.blocks."), count_key="vision_config.depth", optional=True, **vision
        ),
    )


_DEEPSTACK = "deepstack_visual_indexes"
_DEEPSTACK_DEFAULT = (8, 16, 24)
_INJECTED = LayerLimit(
    kind="must_keep_per_entry",
    value=f"/vision_config.{_DEEPSTACK}",
    why="the first text layers take the deepstack features by their number and must stay",
)
_DEEPSTACK_BLOCK = LayerLimit(
    kind="must_keep_listed",
    value=_DEEPSTACK,
    soft=True,
    why="a deepstack block goes and takes its merger along: the text layers get one feature less",
)


def _qwen3_vl(name: str) -> tuple[Architecture, ...]:
    return _qwen_vl(
        name,
        text=("model.language_model.layers.", "language_model.layers."),
        text_limits=(_INJECTED,),
        text_defaults=((f"/vision_config.{_DEEPSTACK}", _DEEPSTACK_DEFAULT),),
        defaults=((_DEEPSTACK, _DEEPSTACK_DEFAULT),),
        fields=((_DEEPSTACK, "layer_indexes"),),
        by_position=(("deepstack_merger_list.", _DEEPSTACK, ""),),
        limits=(_DEEPSTACK_BLOCK,),
    )


# -- Mllama

_MLLAMA_TAPPED = LayerLimit(
    kind="must_keep_listed",
    value="intermediate_layers_indices",
    why="intermediate_layers_indices takes the outputs of layers, which must stay",
)
_MLLAMA_TEXT = ("language_model.model.layers.", "model.language_model.layers.", "language_model.layers.")
_MLLAMA_CROSS = (("cross_attention_layers", (3, 8, 13, 18, 23, 28, 33, 38)),)
_MLLAMA_VISION = keep("supported_aspect_ratios")

_SIGLIP_IN = ("vision_tower.vision_model.encoder.layers.", "vision_tower.encoder.layers.")
_GEMMA3_TEXT = ("language_model.model.layers.", "model.language_model.layers.", "language_model.layers.")

ENTRIES: tuple[Architecture, ...] = (
    *several(
        "gemma3",
        StackRule(
            name="text",
            prefixes=_GEMMA3_TEXT,
            count_key="text_config.num_hidden_layers",
            fields=GEMMA3_UNREAD,
            patterns=(GEMMA3_WINDOWS,),
        ),
        StackRule(
            name="vision",
            prefixes=(*_SIGLIP_IN, *(f"model.{prefix}" for prefix in _SIGLIP_IN)),
            count_key="vision_config.num_hidden_layers",
        ),
    ),
    *_two_towers("clip", aliases=True),
    *_two_towers("siglip", aliases=False),
    *decoder("clip_text_model", "siglip_text_model", prefixes=("text_model.encoder.layers.", "encoder.layers.")),
    *decoder("clip_vision_model", "siglip_vision_model", "siglip2_vision_model", prefixes=_CLIP_TOWER),
    *decoder("pixtral", prefixes=("transformer.layers.",)),
    *several("llava", _text(), _tower(*_CLIP_TOWER, defaults=(("/vision_feature_layer", -2),))),
    *several("llava_next", _text(), _tower(*_CLIP_TOWER, defaults=(("/vision_feature_layer", -2),))),
    *several("mistral3", _text(), _tower("transformer.layers.", defaults=(("/vision_feature_layer", -1),))),
    *several("cohere2_vision", _text(), _tower(*_CLIP_TOWER, fields=())),
    *several("lfm2_vl", _text(), _tower(*_CLIP_TOWER, fields=())),
    *several("paligemma", _text(), _tower(*_CLIP_TOWER)),
    *several("internvl", _text(), _tower("encoder.layer.")),
    *_idefics("idefics3"),
    *_idefics("smolvlm"),
    *_qwen3_5("qwen3_5"),
    *_qwen3_5("qwen3_5_moe"),
    *several(
        "llama4",
        _text(),
        StackRule(
            name="vision",
            prefixes=("vision_model.model.layers.",),
            count_key="vision_config.num_hidden_layers",
            fields=_TAPPED,
        ),
    ),
    *_qwen_vl("qwen2_vl"),
    *_qwen_vl("qwen2_5_vl", defaults=(("fullatt_block_indexes", (7, 15, 23, 31)),)),
    *_qwen3_vl("qwen3_vl"),
    *_qwen3_vl("qwen3_vl_moe"),
    *decoder("mllama_text_model", defaults=_MLLAMA_CROSS),
    *several(
        "mllama",
        _text(_MLLAMA_TEXT, defaults=_MLLAMA_CROSS),
        StackRule(
            name="vision",
            prefixes=_within("vision_model.transformer.layers."),
            count_key="vision_config.num_hidden_layers",
            fields=(("intermediate_layers_indices", "layer_indexes"), *_MLLAMA_VISION),
            defaults=(("intermediate_layers_indices", (3, 7, 15, 23, 30)),),
            limits=(_MLLAMA_TAPPED,),
        ),
        StackRule(
            name="vision_global",
            prefixes=_within("vision_model.global_transformer.layers."),
            count_key="vision_config.num_global_layers",
            fields=(*keep("intermediate_layers_indices"), *_MLLAMA_VISION),
        ),
    ),
    *several(
        "vision-encoder-decoder",
        StackRule(
            name="decoder",
            prefixes=("decoder.model.decoder.layers.", "decoder.bert.encoder.layer."),
            count_key="decoder.num_hidden_layers",
            like="decoder",
        ),
        StackRule(
            name="encoder",
            prefixes=("encoder.encoder.layer.", "encoder.layers."),
            count_key="encoder.num_hidden_layers",
            like="encoder",
        ),
        *(swin_stage(number, "encoder", "encoder.") for number in SWIN_STAGES),
    ),
)
