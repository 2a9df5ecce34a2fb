"""From what the tensors of a layer are to what the layer computes: the stream that two metrics follow.

Laws:
- A layer is described only if every tensor of it has a known part in it, or none in what is followed (queries, keys,
  positions). Otherwise an UnsupportedError names the tensor, and the metric does not apply.
- What a checkpoint states (activation, heads, multipliers) is read from its metadata; what only the loader knows
  stands in the tables here, under the architecture's names on both sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np

from rewriter.architectures.stacks import Stack
from rewriter.blocks import Layer, block, norm_of
from rewriter.checkpoint import Checkpoint
from rewriter.errors import UnsupportedError, shown
from rewriter.facts import (
    DIVIDES_LOGITS,
    PLAIN_NORMS,
    ROOT_OF_WIDTH,
    UNKNOWN,
    Facts,
)
from rewriter.formats.decode import Weight
from rewriter.metrics.model import (
    Block,
    Floats,
    Linear,
    Norm,
    Stream,
)
from rewriter.roles import Role, layer_roles, outer_roles

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
    "ffn_gate_inp_shexp",
}  # fmt: skip


def describe_stream(checkpoint: Checkpoint, stack: Stack, weights: Mapping[str, Weight]) -> Stream:
    """What the layers of `stack` compute. Raises UnsupportedError that says what stands in the way."""
    facts = Facts(checkpoint, stack)
    if facts.kind in UNKNOWN:
        raise UnsupportedError(f"{UNKNOWN[facts.kind]} ({facts.kind})")
    if not stack.entry.stored_layers:
        raise UnsupportedError("all layers share one set of weights")
    outside = {word: weights[name] for word, name in outer_roles(checkpoint, _outside(stack, weights)).items()}
    if "token_embd" not in outside:
        raise UnsupportedError("there are no token embeddings to start from")
    layers = _layers(stack, weights, layer_roles(checkpoint, stack, weights))
    blocks = tuple(block(facts, layer) for layer in layers)
    return _stream(facts, blocks, outside)


def _outside(stack: Stack, weights: Iterable[str]) -> list[str]:
    return [name for name in weights if stack.layer_of(name) is None]


def _layers(stack: Stack, weights: Mapping[str, Weight], roles: Mapping[str, Role | None]) -> list[Layer]:
    layers = [Layer(number) for number in range(stack.count)]
    for name, role in roles.items():
        number = stack.layer_of(name)
        if number is None or number >= stack.count:
            continue  # prediction layers read the stream, they are not in it
        if role is None or role.word not in _FOLLOWED | _NOT_FOLLOWED:
            raise UnsupportedError(f"nothing is known about what {shown(name)} does in its layer")
        layer = layers[number]
        if role.expert is not None:
            layer.experts.setdefault(role.word, {})[role.expert] = weights[name]
        else:
            (layer.biases if role.part == "bias" and role.word != "exp_probs_b" else layer.weights)[role.word] = (
                weights[name]
            )
    return layers


def _stream(facts: Facts, blocks: tuple[Block, ...], outside: Mapping[str, Weight]) -> Stream:
    side = "dec." if facts.stack.name == "decoder" else "enc."
    named = next((word for word in ("output_norm", side + "output_norm") if word in outside), None)
    closed = blocks[-1].feed_forward.closing is not None  # BERT ends with the norm of its last layer
    norm = None if named is None or closed else norm_of(facts, outside[named], outside.get(named + "_bias"))
    if norm is None and facts.kind in PLAIN_NORMS:
        norm = Norm(None, None, rms=False, eps=1e-5)
    start = partial(_start, facts, outside)
    head = None if closed else Linear(outside.get("output", outside["token_embd"]))
    scale = facts.number("logits", 1.0) or 1.0
    return Stream(
        start=start,
        blocks=blocks,
        norm=norm,
        head=head,
        softcap=facts.number("softcap", 0.0),
        logit_scale=1 / scale if facts.kind.startswith(DIVIDES_LOGITS) else scale,
        embedding_power=lambda: float(np.square(start(4096).astype(np.float64)).mean()),
    )


def _start(facts: Facts, outside: Mapping[str, Weight], count: int) -> Floats:
    """`count` rows of the embedding, evenly spaced over the vocabulary, as they enter the first layer."""
    table = outside["token_embd"]
    count = min(count, table.rows)
    numbers = (np.arange(count) * table.rows) // count + table.rows // (2 * count)
    x = np.concatenate([table.read(number, number + 1) for number in numbers.tolist()])
    x = x * np.float32(_embedding_scale(facts, table.columns))
    if (positions := outside.get("position_embd")) is not None and positions.columns == x.shape[1]:
        x = x + positions.read(0, positions.rows)[np.arange(count) % positions.rows]
    if (types := outside.get("token_types")) is not None and types.columns == x.shape[1]:
        x = x + types.read(0, 1)
    gain = outside.get("token_embd_norm")
    return x if gain is None else norm_of(facts, gain, outside.get("token_embd_norm_bias"))(x)


def _embedding_scale(facts: Facts, width: int) -> float:
    scaled = facts.kind in ROOT_OF_WIDTH or facts.checkpoint.value(facts.stack.key("scale_embedding")) is True
    return width**0.5 if scaled else facts.number("embedding", 1.0)
