"""From the tensors of one layer to what it computes: which norm stands where.

Words mean different places in different architectures: which other tensors are there decides (a norm called
`post_attention_norm` closes attention in Gemma 2 and feeds the feed-forward in gpt-oss).
"""

from __future__ import annotations

from functools import partial

from rewriter.errors import UnsupportedError
from rewriter.scoring.build.attention import attention
from rewriter.scoring.build.feed_forward import feed_forward
from rewriter.scoring.build.model_facts import (
    CLOSING,
    DEPTH_SCALED,
    FIRST_NOT_NORMED,
    PARALLEL,
    PLAIN_NORMS,
    ModelFacts,
)
from rewriter.scoring.build.norms_and_projections import LayerTensors, eps_of, norm_in
from rewriter.scoring.forward.primitives import Norm
from rewriter.scoring.forward.transformer_layer import ResidualBranch, TransformerLayer

_Norms = tuple[Norm | None, Norm | None, Norm | None]  # before, after, closing


def build_layer(facts: ModelFacts, layer: LayerTensors) -> TransformerLayer:
    """What the layer computes. Raises UnsupportedError that names what is missing or unknown."""
    first, second = _norms(facts, layer)
    return TransformerLayer(
        ResidualBranch(attention(facts, layer), *first),
        ResidualBranch(feed_forward(facts, layer), *second),
        _is_parallel(facts, layer),
        _multiplier(facts),
    )


def _multiplier(facts: ModelFacts) -> float:
    depth = facts.checkpoint.value(facts.stack.key("scale_depth"))
    if isinstance(depth, int | float) and facts.kind.startswith("minicpm"):
        return float(depth / facts.stack.count**0.5)
    scaled = None if facts.hugging_face else DEPTH_SCALED.get(facts.kind)
    return facts.number("residual", 1.0 if scaled is None else scaled / facts.stack.count**0.5)


def _is_serial_falcon(facts: ModelFacts, layer: LayerTensors) -> bool:
    """Falcon's second norm feeds the feed-forward there, not attention."""
    return layer.has("attn_norm_2") and facts.get("parallel") is False


def _is_parallel(facts: ModelFacts, layer: LayerTensors) -> bool:
    if _is_serial_falcon(facts, layer):
        return False
    if not layer.has("ffn_norm") and not layer.has("post_attention_norm") and not layer.has("attn_output_norm"):
        return facts.kind not in PLAIN_NORMS
    stated = facts.get("parallel")
    return bool(stated) if stated is not None else facts.kind in PARALLEL


def plain_norm(facts: ModelFacts) -> Norm | None:
    """The norm that has no weights, where the architecture has that one alone."""
    if facts.kind not in PLAIN_NORMS:
        return None
    rms = PLAIN_NORMS[facts.kind]
    return Norm(None, None, rms, eps_of(facts, rms))


def _norms(facts: ModelFacts, layer: LayerTensors) -> tuple[_Norms, _Norms]:
    """Those of attention and those of the feed-forward."""
    plain = plain_norm(facts)
    if plain is not None:
        return (plain, None, None), (plain, None, None)
    closing = _closing(facts, layer)
    if closing is not None:
        first, second = (norm_in(facts, layer, word) for word in closing)
        return (None, None, first), (None, None, second)
    return _open_norms(facts, layer)


def _closing(facts: ModelFacts, layer: LayerTensors) -> tuple[str, str] | None:
    """The words of the norms that the stream itself goes through, where there are such."""
    if facts.checkpoint.value(facts.stack.key("do_layer_norm_before")) is False:  # OPT
        return "attn_norm", "ffn_norm"
    there = [pair for pair in _CLOSING_PAIRS if layer.has(*pair)]
    if facts.kind in CLOSING and there:
        return there[0]
    return there[0] if there[:1] == list(_CLOSING_PAIRS[:1]) and not layer.has("attn_norm") else None


# BERT's first
_CLOSING_PAIRS = (
    ("attn_output_norm", "layer_output_norm"), ("post_attention_norm", "post_ffw_norm"), ("attn_norm", "ffn_norm"),
)  # fmt: skip


def _open_norms(facts: ModelFacts, layer: LayerTensors) -> tuple[_Norms, _Norms]:
    norm = partial(norm_in, facts, layer)
    before, second = norm("attn_norm_2") or norm("attn_norm"), norm("ffn_norm")
    after, after_second = norm("post_attention_norm", "attn_output_norm"), norm("post_ffw_norm", "layer_output_norm")
    if after is not None and second is None and after_second is None:
        after, second = None, after  # gpt-oss, GLM-4.5 and others: the norm after attention feeds the feed-forward
    if _is_serial_falcon(facts, layer):
        before, second = second or norm("attn_norm"), before
    elif layer.has("attn_norm_2") or second is None:
        second = second or norm("attn_norm")  # both branches read one norm, or Falcon's two
    if before is None and after is None:
        if facts.kind in FIRST_NOT_NORMED and layer.number == 0 and second is not None:
            return (None, None, None), (second, after_second, None)
        raise UnsupportedError(f"layer {layer.number} has no norm that is known")
    second = None if before is None else second  # OLMo 2: normed after the branches alone
    return (before, after, None), (second, after_second, None)
