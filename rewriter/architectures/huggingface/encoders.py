"""Hugging Face model types: encoders, encoder-decoders, speech, vision, detection, vision-language.

Prefixes: with and without the outer name, as transformers 5 writes them back and as it holds them in memory.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from rewriter.architectures.huggingface.builders import decoder, several
from rewriter.architectures.schema import Architecture, LayerLimit, Pattern, SharedTensors, StackedTensor, StackRule

_ALIAS = ("num_hidden_layers",)


def _keep(*keys: str) -> tuple[tuple[str, str], ...]:
    """Lists that have nothing to do with the layers, however many entries they have."""
    return tuple((key, "keep") for key in keys)


def _encoder(*names: str, outer: str, inner: str = "encoder.layer.", **others: Any) -> tuple[Architecture, ...]:
    """Model types with one stack, `inner` with or without the name `outer` before it."""
    return decoder(*names, prefixes=(f"{outer}.{inner}", inner), **others)


def _vit(outer: str) -> tuple[str, ...]:
    """The names of old and of transformers 5."""
    return (f"{outer}.encoder.layer.", "encoder.layer.", f"{outer}.layers.", "layers.")


# -- text encoders

# ModernBertConfig: layers 0, 3, 6, ... have full attention unless `layer_types` says otherwise.
_MODERNBERT = Pattern(
    explicit="layer_types",
    period_keys=("global_attn_every_n_layers",),
    default=3,
    first=True,
    special="full_attention",
    other="sliding_attention",
)
_DEBERTA_CONV = LayerLimit(
    kind="stay_with", value=("conv_kernel_size", 0), why="the convolution takes the output of layer 0, which must stay"
)
_ALBERT_GROUPS = LayerLimit(
    kind="never_with", value=("num_hidden_groups", 1), why="layers find their group by the number of layers"
)

_TEXT = (
    *_encoder("roberta", "xlm-roberta", outer="roberta"),
    *_encoder("electra", outer="electra"),
    *_encoder("camembert", "xlm-roberta-xl", "xmod", outer="roberta"),
    *_encoder("ernie", outer="ernie"),
    *_encoder("data2vec-text", outer="data2vec_text"),
    *_encoder("roberta-prelayernorm", outer="roberta_prelayernorm"),
    *_encoder("roc_bert", outer="roc_bert"),
    *_encoder("roformer", outer="roformer"),
    *_encoder("megatron-bert", outer="bert"),
    *_encoder("rembert", outer="rembert"),
    *_encoder("bert-generation", outer="bert"),
    *_encoder("esm", outer="esm"),
    *_encoder("layoutlm", outer="layoutlm"),
    *_encoder("splinter", outer="splinter"),
    *_encoder("deberta", outer="deberta", fields=_keep("pos_att_type")),
    *_encoder("deberta-v2", outer="deberta", fields=_keep("pos_att_type"), limits=(_DEBERTA_CONV,)),
    *_encoder("mpnet", outer="mpnet"),
    *chain.from_iterable(
        _encoder(name, outer=name)
        for name in (
            "convbert",
            "nystromformer",
            "ibert",
            "lilt",
            "layoutlmv3",
            "markuplm",
            "luke",
            "tapas",
            "visual_bert",
            "fnet",
            "mobilebert",
        )
    ),
    *_encoder("squeezebert", outer="transformer", inner="encoder.layers."),
    *_encoder("big_bird", outer="bert"),
    *decoder(
        "jina_embeddings_v3", prefixes=("roberta.encoder.layers.", "encoder.layers.", "roberta.layers.", "layers.")
    ),
    *decoder("gte", prefixes=_vit("gte")),
    *decoder("eurobert"),
    *_encoder("longformer", outer="longformer"),
    *_encoder("distilbert", outer="distilbert", inner="transformer.layer.", count_key="n_layers", aliases=_ALIAS),
    *_encoder("xlnet", outer="transformer", inner="layer.", count_key="n_layer", aliases=_ALIAS),
    # The layers are parallel lists of their parts.
    *_encoder(
        "xlm",
        "flaubert",
        outer="transformer",
        inner="attentions.",
        count_key="n_layers",
        aliases=_ALIAS,
        beside=("layer_norm1.", "ffns.", "layer_norm2."),
    ),
    *decoder(
        "modernbert",
        "modernbert-decoder",
        patterns=(_MODERNBERT,),
        absent_in_first=("attn_norm.weight", "attn_norm.bias"),
    ),
    *decoder(
        "nomic_bert",
        aliases=("n_layer",),
        prefixes=("nomic_bert.encoder.layers.", "nomic_bert.layers.", "encoder.layers.", "layers."),
        patterns=(),
    ),
    *decoder(
        "albert", prefixes=("albert.encoder.albert_layer_groups.",), stored_layers=False, limits=(_ALBERT_GROUPS,)
    ),
)


# -- encoder-decoders

# transformers sizes the cache by `num_hidden_layers`, which is the encoder's count here: all releases for T5, some
# for the others.
_SHORT_ENCODER = LayerLimit(
    kind="as_long_as",
    value="decoder",
    soft=True,
    why="the encoder is shorter than the decoder: transformers may size the cache of generate() by it and fail; "
    "use_cache=False works",
)
_T5_BIAS = (SharedTensors(names=("layer.0.SelfAttention.relative_attention_bias.weight",)),)
_LONG_T5_BIAS = (
    *_T5_BIAS,
    SharedTensors(names=("layer.0.LocalSelfAttention.relative_attention_bias.weight",)),
    SharedTensors(
        names=(
            "layer.0.TransientGlobalSelfAttention.relative_attention_bias.weight",
            "layer.0.TransientGlobalSelfAttention.global_relative_attention_bias.weight",
        )
    ),
)
_STAGGERED = LayerLimit(
    kind="aligned", value=2, why="every other layer of the encoder shifts its blocks: only pairs may go"
)
_WEIGHTED = (StackedTensor(name="/layer_weights", axis=0, lead=1),)  # entry 0 is that of the embeddings


def _t5(name: str, shared: tuple[SharedTensors, ...]) -> tuple[Architecture, ...]:
    return several(
        name,
        StackRule(
            name="decoder",
            prefixes=("decoder.block.",),
            count_key="num_decoder_layers",
            count_default="num_layers",
            shared=shared,
            optional=True,
        ),
        StackRule(
            name="encoder",
            prefixes=("encoder.block.",),
            count_key="num_layers",
            aliases=_ALIAS,
            shared=shared,
            limits=(_SHORT_ENCODER,),
            optional=True,
        ),
    )


def _bart(
    *names: str,
    limits: tuple[LayerLimit, ...] = (_SHORT_ENCODER,),
    fields: tuple[tuple[str, str], ...] = (),
    stacked: tuple[StackedTensor, ...] = (),
) -> tuple[Architecture, ...]:
    """Model types whose `num_hidden_layers` is another name for `encoder_layers`."""
    stacks = (
        StackRule(
            name="decoder",
            prefixes=("model.decoder.layers.", "decoder.layers."),
            count_key="decoder_layers",
            fields=fields,
            optional=True,
        ),
        StackRule(
            name="encoder",
            prefixes=("model.encoder.layers.", "encoder.layers."),
            count_key="encoder_layers",
            aliases=_ALIAS,
            limits=limits,
            stacked=stacked,
            optional=True,
        ),
    )
    return tuple(Architecture(name=name, format="huggingface", stacks=stacks) for name in names)


_SEQUENCES = (
    *_t5("t5", _T5_BIAS),
    *_t5("mt5", _T5_BIAS),
    *_t5("umt5", ()),
    *_t5("longt5", _LONG_T5_BIAS),
    *_bart("bart", "mbart", "marian", "pegasus", "m2m_100", "blenderbot", "blenderbot-small", "plbart", "mvp"),
    *_bart("fsmt", "bigbird_pegasus", "speech_to_text"),
    *_bart("pegasus_x", limits=(_STAGGERED, _SHORT_ENCODER)),
    *_bart("led", fields=_keep("attention_window")),  # of the encoder's layers
    # It sizes its cache by the decoder.
    *_bart(
        "whisper", limits=(), fields=(("generation_config.json:alignment_heads", "layer_pairs"),), stacked=_WEIGHTED
    ),
    *decoder(
        "trocr", prefixes=("model.decoder.layers.", "decoder.layers."), count_key="decoder_layers", aliases=_ALIAS
    ),
)


# -- speech

_SPEECH = _keep("conv_dim", "conv_stride", "conv_kernel", "tdnn_dim", "tdnn_kernel", "tdnn_dilation")

_AUDIO = (
    *_encoder("wav2vec2", outer="wav2vec2", inner="encoder.layers.", fields=_SPEECH, stacked=_WEIGHTED),
    *_encoder("hubert", outer="hubert", inner="encoder.layers.", fields=_SPEECH, stacked=_WEIGHTED),
    *_encoder("data2vec-audio", outer="data2vec_audio", inner="encoder.layers.", fields=_SPEECH, stacked=_WEIGHTED),
    *_encoder("unispeech", outer="unispeech", inner="encoder.layers.", fields=_SPEECH, stacked=_WEIGHTED),
    *_encoder("sew", outer="sew", inner="encoder.layers.", fields=_SPEECH, stacked=_WEIGHTED),
    *_encoder("wav2vec2-bert", outer="wav2vec2_bert", inner="encoder.layers.", fields=_SPEECH, stacked=_WEIGHTED),
    *_encoder(
        "wav2vec2-conformer", outer="wav2vec2_conformer", inner="encoder.layers.", fields=_SPEECH, stacked=_WEIGHTED
    ),
    *_encoder(
        "wavlm",
        outer="wavlm",
        inner="encoder.layers.",
        fields=_SPEECH,
        stacked=_WEIGHTED,
        shared=(SharedTensors(names=("attention.rel_attn_embed.",)),),
    ),
    *_encoder("unispeech-sat", outer="unispeech_sat", inner="encoder.layers.", fields=_SPEECH, stacked=_WEIGHTED),
)


# -- vision

_STAGES = (("stage_names", "stage_names"), ("out_features", "stage_names"), ("out_indices", "stage_indexes"))
_MAPS = LayerLimit(
    kind="states_apart",
    value="out_indices",
    soft=True,
    why="feature maps of out_indices fall together: as a backbone it gives out fewer",
)
_SHIFTED = LayerLimit(kind="aligned", value=2, why="every other layer of a stage shifts its windows: only pairs may go")


def _swin_stage(number: int, outer: str, scope: str = "") -> StackRule:
    inner = f"encoder.layers.{number}.blocks."
    return StackRule(
        name=f"stage{number}",
        prefixes=(f"{outer}.{inner}", inner) if not scope else (f"{outer}.{inner}",),
        count_key=f"{scope}depths[{number}]",
        fields=_keep("depths", "num_heads", "stage_names", "out_features", "out_indices"),
        limits=(_SHIFTED,),
    )


_SWIN_STAGES = (2, 0, 1, 3)  # the third is the deep one


def _swin(name: str, outer: str = "swin") -> tuple[Architecture, ...]:
    return several(name, *(_swin_stage(number, outer) for number in _SWIN_STAGES))


_SEGMENTS = LayerLimit(
    kind="never_named",
    value=("/architectures", "BeitForSemanticSegmentation"),
    why="BeitForSemanticSegmentation counts out_indices from 1, Beit's backbone from the embedding: no list says both",
)
_VISION = (
    *_encoder("timesformer", outer="timesformer"),
    *decoder("ijepa", prefixes=_vit("ijepa")),
    *decoder("vivit", prefixes=_vit("vivit")),
    *(
        each
        for name, outer in (("vit_mae", "vit"), ("videomae", "videomae"))
        for each in several(
            name,
            StackRule(
                name="encoder",
                prefixes=(f"{outer}.encoder.layer.", "encoder.layer.", f"{outer}.layers."),
                count_key="num_hidden_layers",
            ),
            StackRule(
                name="decoder",
                prefixes=("decoder.decoder_layers.", "decoder.decoder_encoder.layer."),
                count_key="decoder_num_hidden_layers",
                optional=True,
            ),
        )
    ),
    *decoder("deit", prefixes=_vit("deit")),
    *decoder("vit_msn", prefixes=_vit("vit")),
    *decoder("dinov2_with_registers", prefixes=_vit("dinov2_with_registers"), fields=_STAGES, limits=(_MAPS,)),
    *decoder("dinov2", prefixes=_vit("dinov2"), fields=_STAGES, limits=(_MAPS,)),
    *decoder(
        "beit",
        prefixes=_vit("beit"),
        fields=(*_STAGES, *_keep("pool_scales", "segmentation_indices", "conv_channels")),
        limits=(_MAPS, _SEGMENTS),
    ),
    *_swin("swin"),
    *_swin("donut-swin", outer="donut"),
)


# -- detection

_DETR_LISTS = _keep(
    "encoder_in_channels", "feat_strides", "encode_proj_layers", "decoder_in_channels", "anchor_image_size",
    "backbone_kwargs", "dilation", "num_feature_levels",
)  # fmt: skip


_TIED = LayerLimit(
    kind="counts_without",
    value=("two_stage", 1),
    why="transformers ties the heads of the other decoder layers to the first one's and loads no single one",
)


def _detr(
    name: str, outer: tuple[str, ...] = ("model.", ""), limits: tuple[LayerLimit, ...] = (), **encoder: Any
) -> tuple[Architecture, ...]:
    """Heads may stand once for all layers, once per layer, or once more: the last makes the proposals."""
    return several(
        name,
        StackRule(
            name="decoder",
            prefixes=tuple(f"{each}decoder.layers." for each in outer),
            count_key="decoder_layers",
            fields=_DETR_LISTS,
            beside=("class_embed.", "bbox_embed.", "/class_embed.", "/bbox_embed."),
            limits=limits,
        ),
        *(
            StackRule(
                name="encoder",
                prefixes=tuple(f"{each}encoder.layers." for each in outer),
                count_key="encoder_layers",
                fields=_DETR_LISTS,
                **each,
            )
            for each in encoder.values()
        ),
    )


_DETECTION = (
    *_detr("detr", encoder={"aliases": _ALIAS}),
    *_detr("deformable_detr", limits=(_TIED,), encoder={}),
    *_detr("rt_detr"),
)


# -- text and vision

_TEXT_IN = (
    "language_model.model.layers.", "model.language_model.layers.", "model.language_model.model.layers.",
    "language_model.layers.",
)  # fmt: skip
_TAPPED = (("/vision_feature_layer", "hidden_state"),)
_FEATURES = LayerLimit(
    kind="some_before",
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
    kind="stay_per_entry",
    value=f"/vision_config.{_DEEPSTACK}",
    why="the first text layers take the deepstack features by their number and must stay",
)
_DEEPSTACK_BLOCK = LayerLimit(
    kind="stay_listed",
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
    kind="stay_listed",
    value="intermediate_layers_indices",
    why="intermediate_layers_indices takes the outputs of layers, which must stay",
)
_MLLAMA_TEXT = ("language_model.model.layers.", "model.language_model.layers.", "language_model.layers.")
_MLLAMA_CROSS = (("cross_attention_layers", (3, 8, 13, 18, 23, 28, 33, 38)),)
_MLLAMA_VISION = _keep("supported_aspect_ratios")

_VISION_LANGUAGE = (
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
            fields=(*_keep("intermediate_layers_indices"), *_MLLAMA_VISION),
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
        *(_swin_stage(number, "encoder", "encoder.") for number in _SWIN_STAGES),
    ),
)

ENTRIES: tuple[Architecture, ...] = (*_TEXT, *_SEQUENCES, *_AUDIO, *_VISION, *_DETECTION, *_VISION_LANGUAGE)
