"""From what the tensors of a layer are to what the layer computes: the stream that two metrics follow.

Laws:
- A layer is described only if every tensor of it has a known part in it, or none in what is followed (queries, keys,
  positions). Otherwise an UnsupportedError names the tensor, and the metric does not apply.
- What a checkpoint states (activation, heads, multipliers) is read from its metadata; what only the loader knows
  stands in the tables here, under the architecture's names on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rewriter.architectures.lookup import Stack, table_of
from rewriter.checkpoint import GGUF, Checkpoint
from rewriter.errors import UnsupportedError, printable
from rewriter.formats.dequantize import WeightMatrix
from rewriter.scoring.build.layer import build_layer, plain_norm
from rewriter.scoring.build.model_facts import (
    CLOSED_WITH_HEAD,
    DIVIDES_LOGITS,
    HEADLESS,
    LOGITS_OF_WIDTH,
    POSITIONS_AFTER_PADDING,
    POSITIONS_FROM,
    ROOT_OF_WIDTH,
    SINUSOIDS,
    STARTS_NORMED,
    UNKNOWN,
    ModelFacts,
)
from rewriter.scoring.build.norms_and_projections import LayerTensors, inputs, norm_of
from rewriter.scoring.build.tensor_roles import (
    TensorRole,
    is_around,
    is_elsewhere,
    layer_roles,
    outer_roles,
    reads_tokens,
)
from rewriter.scoring.forward.attention import Attention
from rewriter.scoring.forward.primitives import Floats, Linear, Norm
from rewriter.scoring.forward.residual_stream import ResidualStream
from rewriter.scoring.forward.transformer_layer import TransformerLayer

# parts of attention that say where a token looks, not what it gets there
_NOT_FOLLOWED = {
    "attn_q", "attn_k", "attn_q_norm", "attn_k_norm", "attn_sinks", "attn_rot_embd", "attn_rel_b", "rope_freqs",
    "attn_q_a", "attn_q_b", "attn_q_a_norm", "attn_k_b", "rope_factors_long", "rope_factors_short",
    "indexer.k_norm", "indexer.proj", "indexer.attn_k", "indexer.attn_q_b",
}  # fmt: skip
_FOLLOWED = {
    "attn_norm", "attn_norm_2", "attn_v", "attn_qkv", "attn_output", "attn_output_norm", "post_attention_norm",
    "attn_kv_a_mqa", "attn_kv_a_norm", "attn_kv_b", "attn_v_b", "attn_sub_norm", "ffn_sub_norm", "layer_output_norm",
    "ffn_norm", "ffn_gate", "ffn_up", "ffn_down", "post_ffw_norm", "ffn_gate_inp", "exp_probs_b", "ffn_gate_exps",
    "ffn_up_exps", "ffn_down_exps", "ffn_gate_up_exps", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp",
    "ffn_gate_inp_shexp", "ffn_gate_up", "xielu.alpha_p", "xielu.alpha_n", "xielu.beta", "xielu.eps",
}  # fmt: skip


def build_residual_stream(checkpoint: Checkpoint, stack: Stack, weights: Mapping[str, WeightMatrix]) -> ResidualStream:
    """What the layers of `stack` compute. Raises UnsupportedError that says what stands in the way."""
    facts = ModelFacts(checkpoint, stack)
    if facts.kind in UNKNOWN:
        raise UnsupportedError(f"{UNKNOWN[facts.kind]} ({facts.kind})")
    if not stack.entry.stored_layers:
        raise UnsupportedError("all layers share one set of weights")
    outside = _outside(checkpoint, stack, weights)
    if "token_embd" not in outside or not reads_tokens(stack.prefix):
        raise UnsupportedError("there are no token embeddings to start from")
    layers = _layers(stack, weights, layer_roles(checkpoint, stack, weights))
    return _stream(facts, tuple(build_layer(facts, layer) for layer in layers), outside)


# tensors beside the layers that change the stream between them
_BETWEEN = ((".encoder.conv.conv.", "a convolution stands after the first layer"),)


def _outside(checkpoint: Checkpoint, stack: Stack, weights: Mapping[str, WeightMatrix]) -> dict[str, WeightMatrix]:
    """What stands outside the layers and belongs to this stack, by its word."""
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
    roles = outer_roles(checkpoint, [name for name in names if not is_around(name, stack.prefix)], stack.prefix)
    words = {word: name for word, name in roles.items() if not _AT_THE_END.search(word)}
    words |= outer_roles(checkpoint, [name for name in names if is_around(name, stack.prefix)], stack.prefix)
    return {word: weights[name] for word, name in words.items()}


_AT_THE_END = re.compile(r"output|cls")


def _layers(
    stack: Stack, weights: Mapping[str, WeightMatrix], roles: Mapping[str, TensorRole | None]
) -> list[LayerTensors]:
    layers = [LayerTensors(number) for number in range(stack.count)]
    for name, role in roles.items():
        number = stack.layer_of(name)
        if number is None or number >= stack.count:
            continue  # MTP layers read the stream, they are not in it
        if role is None or role.word not in _FOLLOWED | _NOT_FOLLOWED:
            crossing = role is not None and role.word.startswith("cross_attn")
            why = "its layers read another stack" if crossing else "nothing is known about what it does in its layer"
            raise UnsupportedError(f"{why} ({printable(name, 80)})")
        _sort_in(layers[number], role, weights[name])
    return layers


def _sort_in(layer: LayerTensors, role: TensorRole, weight: WeightMatrix) -> None:
    if role.expert is not None:
        word = role.word if role.part == "weight" else f"{role.word}.bias"
        layer.experts.setdefault(word, {})[role.expert] = weight
    elif role.part == "bias" and role.word != "exp_probs_b":
        layer.biases[role.word] = weight
    else:
        layer.weights[role.word] = weight


def _stream(
    facts: ModelFacts, layers: tuple[TransformerLayer, ...], outside: Mapping[str, WeightMatrix]
) -> ResidualStream:
    embed = partial(_embed, facts, outside)
    body = layers[0].attention.body
    width = inputs(body.value) if isinstance(body, Attention) else 0
    found = embed(np.zeros((1, 1), np.intp)).shape[1]
    if found != width:
        raise UnsupportedError(f"the embeddings are {found} wide, the layers {width}")
    closed = layers[-1].feed_forward.closing is not None  # BERT ends with the norm of its last layer
    return ResidualStream(
        embed=embed,
        vocabulary=outside["token_embd"].rows,
        layers=layers,
        norm=None if closed else _final_norm(facts, outside),
        head=None if closed and facts.kind not in CLOSED_WITH_HEAD else _head(facts, outside),
        output_projection=Linear(outside["output_project"]) if "output_project" in outside else None,
        softcap=facts.number("softcap", 0.0),
        logit_scale=_logit_scale(facts, width),
    )


def _logit_scale(facts: ModelFacts, width: int) -> float:
    by_width = None if facts.hugging_face else LOGITS_OF_WIDTH.get(facts.kind)
    if by_width is not None and facts.get("logits") is None:
        return float(by_width(width))
    scale = facts.number("logits", 1.0) or 1.0
    return 1 / scale if facts.kind.startswith(DIVIDES_LOGITS) else scale


def _final_norm(facts: ModelFacts, outside: Mapping[str, WeightMatrix]) -> Norm | None:
    sides = {"decoder": ("dec.",), "encoder": ("enc.",)}.get(facts.stack.name, ("", "enc.", "dec."))
    words = ["output_norm", *(f"{side}output_norm" for side in sides)]
    word = next((word for word in words if word in outside), None)
    return plain_norm(facts) if word is None else norm_of(facts, outside[word], outside.get(word + "_bias"))


def _head(facts: ModelFacts, outside: Mapping[str, WeightMatrix]) -> Linear | None:
    """What turns states into logits: the embedding again where it is not stored, and None where there is none."""
    if not _has_head(facts):
        return None
    bias = outside.get("output_bias")
    return Linear(outside.get("output", outside["token_embd"]), None if bias is None else bias.whole().ravel())


def _has_head(facts: ModelFacts) -> bool:
    if facts.stack.name == "encoder":
        return False
    if not facts.hugging_face:
        return facts.kind not in HEADLESS and facts.checkpoint.value(facts.stack.key("attention.causal")) is not False
    classes = facts.checkpoint.value("architectures")
    names = [str(each) for each in classes] if isinstance(classes, list | tuple) else []
    return not names or any(word in name for name in names for word in ("CausalLM", "LMHead", "Conditional"))


def _embed(facts: ModelFacts, outside: Mapping[str, WeightMatrix], tokens: NDArray[np.intp]) -> Floats:
    """The rows of `tokens`, (sequences, length), at the first positions, as they enter the first layer."""
    table = outside["token_embd"]
    x = np.concatenate([table.read(number, number + 1) for number in tokens.ravel().tolist()])
    x = x * np.float32(_embedding_scale(facts, table.columns))
    x = _project(outside, x) if facts.kind == "opt" else x
    x = x + np.tile(_positions(facts, outside, tokens.shape[1], x.shape[1]), (tokens.shape[0], 1))
    if (types := outside.get("token_types")) is not None and types.columns == x.shape[1]:
        x = x + types.read(0, 1)
    norm = _first_norm(facts, outside)
    x = x if norm is None else norm(x)
    return x if facts.kind == "opt" else _project(outside, x)


def _project(outside: Mapping[str, WeightMatrix], x: Floats) -> Floats:
    """Narrow embeddings made as wide as the layers are (ELECTRA, OPT-350m)."""
    matrix, bias = outside.get("token_embd_project"), outside.get("token_embd_project_bias")
    x = x if matrix is None else x @ matrix.whole().T
    return x if bias is None else x + bias.whole()


def _first_norm(facts: ModelFacts, outside: Mapping[str, WeightMatrix]) -> Norm | None:
    gain = outside.get("token_embd_norm")
    if gain is not None:
        return norm_of(facts, gain, outside.get("token_embd_norm_bias"))
    return plain_norm(facts) if facts.kind in STARTS_NORMED else None


def _positions(facts: ModelFacts, outside: Mapping[str, WeightMatrix], count: int, width: int) -> Floats:
    """What the first `count` positions add; zeros where positions do not enter the stream."""
    positions = np.arange(count)
    if facts.hugging_face and facts.kind in SINUSOIDS:
        first, less = SINUSOIDS[facts.kind]
        return _sinusoids(positions + (_after_padding(facts) if first is None else first), width, less)
    table = outside.get("position_embd")
    if table is None or table.columns != width:
        return np.zeros((count, width), np.float32)
    first = _first_position(facts)
    return table.read(first, table.rows)[positions % (table.rows - first)]


def _first_position(facts: ModelFacts) -> int:
    if not facts.hugging_face:
        return 0
    if facts.kind in POSITIONS_AFTER_PADDING:
        return _after_padding(facts)
    return POSITIONS_FROM.get(facts.kind, 0)


def _after_padding(facts: ModelFacts) -> int:
    padding = facts.checkpoint.value(facts.stack.key("pad_token_id"))
    return 1 + (padding if isinstance(padding, int) else 1)


def _sinusoids(positions: NDArray[np.intp], width: int, less: int) -> Floats:
    """All sines, then all cosines."""
    half = width // 2
    angles = positions[:, None] * np.exp(np.arange(half) * -(np.log(10000) / (half - less)))
    return np.concatenate((np.sin(angles), np.cos(angles)), axis=1).astype(np.float32)


def _embedding_scale(facts: ModelFacts, width: int) -> float:
    scaled = facts.kind in ROOT_OF_WIDTH or facts.checkpoint.value(facts.stack.key("scale_embedding")) is True
    return width**0.5 if scaled else facts.number("embedding", 1.0)
