"""Hugging Face model types: a name, where the layers are, which key counts them. One module for each family.

A prefix lists the spellings that files carry: base models save without `model.`, `bert.`, `transformer.`;
transformers 5 writes older names back on save, other files carry the newer ones.
"""

from __future__ import annotations

from rewriter.architectures.huggingface import (
    decoders,
    diffusion,
    encoder_decoders,
    multimodal,
    speech,
    text_encoders,
    vision,
    vision_language,
)
from rewriter.architectures.schema import Architecture

_FAMILIES = (decoders, text_encoders, encoder_decoders, speech, vision, vision_language, multimodal, diffusion)
ENTRIES: tuple[Architecture, ...] = tuple(entry for family in _FAMILIES for entry in family.ENTRIES)
