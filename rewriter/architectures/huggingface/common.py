"""Hugging Face model types: a name, where the layers are, which key counts them.

A prefix lists the spellings that files carry: base models save without `model.`, `bert.`, `transformer.`;
transformers 5 writes older names back on save, other files carry the newer ones.
"""

from __future__ import annotations

from rewriter.architectures.huggingface import decoders, diffusion, encoders, multimodal
from rewriter.architectures.huggingface.builders import decoder, several
from rewriter.architectures.schema import Architecture, Pattern, StackRule

# Gemma3TextConfig: every sixth layer has full attention unless `layer_types` says otherwise. It writes
# `_sliding_window_pattern` but never reads it.
_GEMMA3_WINDOWS = Pattern(
    explicit="layer_types",
    period_keys=("sliding_window_pattern",),
    default=6,
    special="full_attention",
    other="sliding_attention",
)
_GEMMA3_UNREAD = (("_sliding_window_pattern", "keep"),)
_ALIAS = ("num_hidden_layers",)
_BERT = ("encoder.layer.", "bert.encoder.layer.")
_VIT = ("vit.encoder.layer.", "encoder.layer.", "vit.layers.", "layers.")
_SIGLIP_IN = ("vision_tower.vision_model.encoder.layers.", "vision_tower.encoder.layers.")
_TEXT_IN = ("language_model.model.layers.", "model.language_model.layers.", "language_model.layers.")

ENTRIES: tuple[Architecture, ...] = (
    *decoder("llama", "mistral", "phi3", "mixtral"),
    # Layers from `max_window_layers` on have a window, if `use_sliding_window` and no `layer_types`.
    *decoder("qwen2", "qwen3", defaults=(("max_window_layers", 28),)),
    *decoder("gemma3_text", fields=_GEMMA3_UNREAD, patterns=(_GEMMA3_WINDOWS,)),
    *decoder(
        "gpt2",
        prefixes=("transformer.h.", "h."),
        count_key="n_layer",
        aliases=_ALIAS,
        warnings=(("scale_attn_by_inverse_layer_idx", "attention is scaled by the new layer number"),),
    ),
    *decoder("bert", prefixes=_BERT),
    *decoder("vit", prefixes=_VIT),
    *several(
        "gemma3",
        StackRule(
            name="text",
            prefixes=_TEXT_IN,
            count_key="text_config.num_hidden_layers",
            fields=_GEMMA3_UNREAD,
            patterns=(_GEMMA3_WINDOWS,),
        ),
        StackRule(
            name="vision",
            prefixes=(*_SIGLIP_IN, *(f"model.{prefix}" for prefix in _SIGLIP_IN)),
            count_key="vision_config.num_hidden_layers",
        ),
    ),
    *decoders.ENTRIES,
    *encoders.ENTRIES,
    *multimodal.ENTRIES,
    *diffusion.ENTRIES,
)
