"""Hugging Face model types: speech encoders."""

from __future__ import annotations

from rewriter.architectures.huggingface.builders import encoder, keep
from rewriter.architectures.schema import Architecture, SharedTensors, StackedTensor

WEIGHTED_STATES = (StackedTensor(name="/layer_weights", axis=0, lead=1),)  # entry 0 is that of the embeddings
_SPEECH = keep("conv_dim", "conv_stride", "conv_kernel", "tdnn_dim", "tdnn_kernel", "tdnn_dilation")

ENTRIES: tuple[Architecture, ...] = tuple(
    entry
    for name in (
        "wav2vec2", "hubert", "data2vec-audio", "unispeech", "sew", "wav2vec2-bert", "wav2vec2-conformer", "wavlm",
        "unispeech-sat",
    )
    for entry in encoder(
        name,
        outer=name.replace("-", "_"),
        inner="encoder.layers.",
        fields=_SPEECH,
        stacked=WEIGHTED_STATES,
        shared=(SharedTensors(names=("attention.rel_attn_embed.",)),) if name == "wavlm" else (),
    )
)  # fmt: skip
