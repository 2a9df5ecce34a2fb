"""From the tensors of a checkpoint to its residual stream: embedding, layers, final norm, head.

Law: what a checkpoint states (activation, heads, multipliers) is read from its metadata; what only the loader knows is
the `compute` of its architecture's entry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

import numpy as np

from rewriter.architectures.lookup import Stack, table_of
from rewriter.checkpoint import GGUF, Checkpoint
from rewriter.errors import UnsupportedError, printable
from rewriter.formats.dequantize import WeightMatrix
from rewriter.planning.model import Model
from rewriter.scoring.build.embedding import embed
from rewriter.scoring.build.layer import build_layer
from rewriter.scoring.build.layer_tensors import tensors_by_layer
from rewriter.scoring.build.model_facts import ModelFacts
from rewriter.scoring.build.norms_and_projections import make_norm, vector, weightless_norm
from rewriter.scoring.build.tensor_roles import is_around, is_elsewhere, layer_roles, outer_roles, reads_tokens
from rewriter.scoring.forward.attention import Attention
from rewriter.scoring.forward.primitives import Linear, Norm
from rewriter.scoring.forward.residual_stream import ResidualStream
from rewriter.scoring.forward.transformer_layer import TransformerLayer

# tensors beside the layers that change the stream between them
_BETWEEN = ((".encoder.conv.conv.", "a convolution stands after the first layer"),)
_AT_THE_END = re.compile(r"output|cls")
_HEADED = ("CausalLM", "LMHead", "Conditional")  # in the names of transformers' classes that have a head


def build_residual_stream(model: Model, weights: Mapping[str, WeightMatrix]) -> ResidualStream:
    """What the layers of `stack` compute. Raises UnsupportedError that says why it is not known."""
    facts, checkpoint, stack = ModelFacts(model), model.checkpoint, model.stack
    if facts.compute.unsupported:
        raise UnsupportedError(f"{facts.compute.unsupported} ({facts.kind})")
    if not stack.entry.stored_layers:
        raise UnsupportedError("all layers share one set of weights")
    outer = _outer_tensors(checkpoint, stack, weights)
    if "token_embd" not in outer or not reads_tokens(stack.prefix):
        raise UnsupportedError("there are no token embeddings to start from")
    tensors = tensors_by_layer(stack, weights, layer_roles(checkpoint, stack, weights))
    return _stream(facts, tuple(build_layer(facts, layer) for layer in tensors), outer)


def _outer_tensors(
    checkpoint: Checkpoint, stack: Stack, weights: Mapping[str, WeightMatrix]
) -> dict[str, WeightMatrix]:
    """The tensors beside the layers that belong to this stack, by their words."""
    names = [name for name in weights if stack.layer_of(name) is None]
    for part, why in _BETWEEN:
        found = next((name for name in names if part in f".{name}"), None)
        if found is not None:
            raise UnsupportedError(f"{why} ({printable(found)})")
    if table_of(checkpoint) == GGUF:
        words = outer_roles(checkpoint, names)
        if "output" in words:
            words.setdefault("token_embd", words["output"])  # CodeShell's
        return {word: weights[name] for word, name in words.items()}
    names = [name for name in names if not is_elsewhere(name, stack.prefix)]
    around = {name: is_around(name, stack.prefix) for name in names}
    roles = outer_roles(checkpoint, [name for name in names if not around[name]], stack.prefix)
    words = {word: name for word, name in roles.items() if not _AT_THE_END.search(word)}
    words |= outer_roles(checkpoint, [name for name in names if around[name]], stack.prefix)
    return {word: weights[name] for word, name in words.items()}


def _stream(
    facts: ModelFacts, layers: tuple[TransformerLayer, ...], outer: Mapping[str, WeightMatrix]
) -> ResidualStream:
    enter = partial(embed, facts, outer)
    body = layers[0].attention.body
    width = body.value.shape[1] if isinstance(body, Attention) else 0
    found = enter(np.zeros((1, 1), np.intp)).shape[1]
    if found != width:
        raise UnsupportedError(f"the embeddings are {found} wide, the layers {width}")
    closed = layers[-1].feed_forward.closing is not None  # BERT ends with the norm of its last layer
    return ResidualStream(
        embed=enter,
        vocabulary=outer["token_embd"].rows,
        layers=layers,
        norm=None if closed else _final_norm(facts, outer),
        head=None if closed and not facts.compute.head_after_post_norm else _head(facts, outer),
        output_projection=Linear(outer["output_project"]) if "output_project" in outer else None,
        softcap=facts.number("softcap", facts.compute.softcap),
        logit_scale=_logit_scale(facts, width),
    )


def _logit_scale(facts: ModelFacts, width: int) -> float:
    by_width = facts.compute.logit_scale_by_width
    if by_width and facts.get("logits") is None:
        return width / 256 if by_width == "width / 256" else 256 / width
    scale = facts.number("logits", facts.compute.logit_scale) or 1.0
    return 1 / scale if facts.compute.divides_logits else scale


def _final_norm(facts: ModelFacts, outer: Mapping[str, WeightMatrix]) -> Norm | None:
    sides = {"decoder": ("dec.",), "encoder": ("enc.",)}.get(facts.stack.name, ("", "enc.", "dec."))
    words = ["output_norm", *(f"{side}output_norm" for side in sides)]
    word = next((word for word in words if word in outer), None)
    return weightless_norm(facts) if word is None else make_norm(facts, outer[word], outer.get(word + "_bias"))


def _head(facts: ModelFacts, outer: Mapping[str, WeightMatrix]) -> Linear | None:
    """The projection of states to logits: the embedding again if it is not stored, None if the model has none."""
    if not _has_head(facts):
        return None
    return Linear(outer.get("output", outer["token_embd"]), vector(outer.get("output_bias")))


def _has_head(facts: ModelFacts) -> bool:
    if facts.stack.name == "encoder":
        return False
    if not facts.hugging_face:
        return not facts.compute.headless and facts.stated("attention.causal") is not False
    classes = facts.checkpoint.value("architectures")
    names = [str(each) for each in classes] if isinstance(classes, list | tuple) else []
    return not names or any(word in name for name in names for word in _HEADED)
