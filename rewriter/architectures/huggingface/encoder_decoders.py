"""Hugging Face model types: encoder-decoders of text, and of speech to text."""

from __future__ import annotations

from rewriter.architectures.huggingface.builders import ALIAS, decoder, keep, several
from rewriter.architectures.huggingface.speech import WEIGHTED_STATES
from rewriter.architectures.schema import Architecture, LayerLimit, SharedTensors, StackedTensor, StackRule

# transformers sizes the cache by `num_hidden_layers`, which is the encoder's count here: all releases for T5, some
# for the others.
_SHORT_ENCODER = LayerLimit(
    kind="no_shorter_than",
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
            aliases=ALIAS,
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
            aliases=ALIAS,
            limits=limits,
            stacked=stacked,
            optional=True,
        ),
    )
    return tuple(Architecture(name=name, format="huggingface", stacks=stacks) for name in names)


ENTRIES: tuple[Architecture, ...] = (
    *_t5("t5", _T5_BIAS),
    *_t5("mt5", _T5_BIAS),
    *_t5("umt5", ()),
    *_t5("longt5", _LONG_T5_BIAS),
    *_bart("bart", "mbart", "marian", "pegasus", "m2m_100", "blenderbot", "blenderbot-small", "plbart", "mvp"),
    *_bart("fsmt", "bigbird_pegasus", "speech_to_text"),
    *_bart("pegasus_x", limits=(_STAGGERED, _SHORT_ENCODER)),
    *_bart("led", fields=keep("attention_window")),  # of the encoder's layers
    # It sizes its cache by the decoder.
    *_bart(
        "whisper",
        limits=(),
        fields=(("generation_config.json:alignment_heads", "layer_pairs"),),
        stacked=WEIGHTED_STATES,
    ),
    *decoder("trocr", prefixes=("model.decoder.layers.", "decoder.layers."), count_key="decoder_layers", aliases=ALIAS),
)
