"""From the tensors of one layer to what it computes: which norm is where.

Words mean different positions in different architectures, and the other tensors decide: `post_attention_norm` ends the
attention branch in Gemma 2 and comes before the feed-forward in gpt-oss.
"""

from __future__ import annotations

from functools import partial

from rewriter.errors import UnsupportedError
from rewriter.scoring.build.attention import build_attention
from rewriter.scoring.build.feed_forward import build_feed_forward
from rewriter.scoring.build.layer_tensors import LayerTensors
from rewriter.scoring.build.model_facts import ModelFacts
from rewriter.scoring.build.norms_and_projections import first_norm, weightless_norm
from rewriter.scoring.forward.primitives import Norm
from rewriter.scoring.forward.transformer_layer import ResidualBranch, TransformerLayer

_Norms = tuple[Norm | None, Norm | None, Norm | None]  # before, after, closing
# BERT's first
_CLOSING_PAIRS = (
    ("attn_output_norm", "layer_output_norm"), ("post_attention_norm", "post_ffw_norm"), ("attn_norm", "ffn_norm"),
)  # fmt: skip


def build_layer(facts: ModelFacts, layer: LayerTensors) -> TransformerLayer:
    """What the layer computes. Raises UnsupportedError that names what is missing or unknown."""
    first, second = _norms(facts, layer)
    return TransformerLayer(
        ResidualBranch(build_attention(facts, layer), *first),
        ResidualBranch(build_feed_forward(facts, layer), *second),
        _is_parallel(facts, layer),
        _multiplier(facts),
    )


def _multiplier(facts: ModelFacts) -> float:
    """MiniCPM's depends on the depth."""
    depth, stated = facts.compute.depth_scale, facts.stated("scale_depth")
    if isinstance(stated, int | float):
        return float(stated / facts.stack.count**0.5)
    return facts.number("residual", depth / facts.stack.count**0.5 if depth else 1.0)


def _is_serial_falcon(facts: ModelFacts, layer: LayerTensors) -> bool:
    """Falcon's second norm feeds the feed-forward there, not attention."""
    return layer.has("attn_norm_2") and facts.get("parallel") is False


def _is_parallel(facts: ModelFacts, layer: LayerTensors) -> bool:
    if _is_serial_falcon(facts, layer):
        return False
    if not layer.has("ffn_norm") and not layer.has("post_attention_norm") and not layer.has("attn_output_norm"):
        return not facts.compute.weightless_norm
    stated = facts.get("parallel")
    return bool(stated) if stated is not None else facts.compute.parallel


def _norms(facts: ModelFacts, layer: LayerTensors) -> tuple[_Norms, _Norms]:
    """Those of attention and those of the feed-forward."""
    weightless = weightless_norm(facts)
    if weightless is not None:
        return (weightless, None, None), (weightless, None, None)
    closing = _closing(facts, layer)
    if closing is not None:
        first, second = (first_norm(facts, layer, word) for word in closing)
        return (None, None, first), (None, None, second)
    return _open_norms(facts, layer)


def _closing(facts: ModelFacts, layer: LayerTensors) -> tuple[str, str] | None:
    """The words of the norms that the stream itself goes through, if there are such."""
    if facts.stated("do_layer_norm_before") is False:  # OPT
        return "attn_norm", "ffn_norm"
    pair = next((pair for pair in _CLOSING_PAIRS if layer.has(*pair)), None)
    is_bert = pair == _CLOSING_PAIRS[0] and not layer.has("attn_norm")
    return pair if facts.compute.post_norm or is_bert else None


def _open_norms(facts: ModelFacts, layer: LayerTensors) -> tuple[_Norms, _Norms]:
    norm = partial(first_norm, facts, layer)
    before, second = norm("attn_norm_2", "attn_norm"), norm("ffn_norm")
    after, after_second = norm("post_attention_norm", "attn_output_norm"), norm("post_ffw_norm", "layer_output_norm")
    if after is not None and second is None and after_second is None:
        after, second = None, after  # gpt-oss, GLM-4.5 and others: the norm after attention feeds the feed-forward
    if _is_serial_falcon(facts, layer):
        before, second = second or norm("attn_norm"), before
    elif layer.has("attn_norm_2") or second is None:
        second = second or norm("attn_norm")  # both branches read one norm, or Falcon's two
    if before is None and after is None:
        if facts.compute.first_layer_unnormed and layer.number == 0 and second is not None:
            return (None, None, None), (second, after_second, None)
        raise UnsupportedError(f"layer {layer.number} has no norm that is known")
    second = None if before is None else second  # OLMo 2: normed after the branches alone
    return (before, after, None), (second, after_second, None)
