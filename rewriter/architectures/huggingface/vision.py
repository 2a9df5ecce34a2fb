"""Hugging Face model types: image and video encoders, detection."""

from __future__ import annotations

from typing import Any

from rewriter.architectures.huggingface.builders import ALIAS, decoder, encoder, keep, several, vit_prefixes
from rewriter.architectures.schema import Architecture, LayerLimit, StackRule

_STAGES = (("stage_names", "stage_names"), ("out_features", "stage_names"), ("out_indices", "stage_indexes"))
_MAPS = LayerLimit(
    kind="distinct_states",
    value="out_indices",
    soft=True,
    why="feature maps of out_indices fall together: as a backbone it gives out fewer",
)
_SHIFTED = LayerLimit(kind="aligned", value=2, why="every other layer of a stage shifts its windows: only pairs may go")


def swin_stage(number: int, outer: str, scope: str = "") -> StackRule:
    """One stage of a Swin transformer; `scope` is where its config is nested, with a dot."""
    inner = f"encoder.layers.{number}.blocks."
    return StackRule(
        name=f"stage{number}",
        prefixes=(f"{outer}.{inner}", inner) if not scope else (f"{outer}.{inner}",),
        count_key=f"{scope}depths[{number}]",
        fields=keep("depths", "num_heads", "stage_names", "out_features", "out_indices"),
        limits=(_SHIFTED,),
    )


SWIN_STAGES = (2, 0, 1, 3)  # the third is the deep one


def _swin(name: str, outer: str = "swin") -> tuple[Architecture, ...]:
    return several(name, *(swin_stage(number, outer) for number in SWIN_STAGES))


_SEGMENTS = LayerLimit(
    kind="keep_all_if_listed",
    value=("/architectures", "BeitForSemanticSegmentation"),
    why="BeitForSemanticSegmentation counts out_indices from 1, Beit's backbone from the embedding: no list says both",
)
_VISION = (
    *decoder("vit", prefixes=("vit.encoder.layer.", "encoder.layer.", "vit.layers.", "layers.")),
    *encoder("timesformer", outer="timesformer"),
    *decoder("ijepa", prefixes=vit_prefixes("ijepa")),
    *decoder("vivit", prefixes=vit_prefixes("vivit")),
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
    *decoder("deit", prefixes=vit_prefixes("deit")),
    *decoder("vit_msn", prefixes=vit_prefixes("vit")),
    *decoder("dinov2_with_registers", prefixes=vit_prefixes("dinov2_with_registers"), fields=_STAGES, limits=(_MAPS,)),
    *decoder("dinov2", prefixes=vit_prefixes("dinov2"), fields=_STAGES, limits=(_MAPS,)),
    *decoder(
        "beit",
        prefixes=vit_prefixes("beit"),
        fields=(*_STAGES, *keep("pool_scales", "segmentation_indices", "conv_channels")),
        limits=(_MAPS, _SEGMENTS),
    ),
    *_swin("swin"),
    *_swin("donut-swin", outer="donut"),
)


# -- detection

_DETR_LISTS = keep(
    "encoder_in_channels", "feat_strides", "encode_proj_layers", "decoder_in_channels", "anchor_image_size",
    "backbone_kwargs", "dilation", "num_feature_levels",
)  # fmt: skip


_TIED = LayerLimit(
    kind="special_counts_if_unset",
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
    *_detr("detr", encoder={"aliases": ALIAS}),
    *_detr("deformable_detr", limits=(_TIED,), encoder={}),
    *_detr("rt_detr"),
)

ENTRIES: tuple[Architecture, ...] = (*_VISION, *_DETECTION)
