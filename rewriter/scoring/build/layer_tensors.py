"""The tensors of each layer by what they do.

Law: a layer is described only if every tensor of it has a known part in it. Otherwise an UnsupportedError names the
tensor, and metrics that follow the stream do not apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rewriter.architectures.lookup import Stack
from rewriter.errors import UnsupportedError, printable
from rewriter.formats.dequantize import WeightMatrix
from rewriter.scoring.build.tensor_roles import TensorRole

# parts of a layer, in llama.cpp's words; the first row is about where a token attends, the others about what it gets
_KNOWN = {
    "attn_q", "attn_k", "attn_q_norm", "attn_k_norm", "attn_sinks", "attn_rot_embd", "attn_rel_b", "rope_freqs",
    "attn_q_a", "attn_q_b", "attn_q_a_norm", "attn_k_b", "rope_factors_long", "rope_factors_short",
    "indexer.k_norm", "indexer.proj", "indexer.attn_k", "indexer.attn_q_b",
    "attn_norm", "attn_norm_2", "attn_v", "attn_qkv", "attn_output", "attn_output_norm", "post_attention_norm",
    "attn_kv_a_mqa", "attn_kv_a_norm", "attn_kv_b", "attn_v_b", "attn_sub_norm", "ffn_sub_norm", "layer_output_norm",
    "ffn_norm", "ffn_gate", "ffn_up", "ffn_down", "post_ffw_norm", "ffn_gate_inp", "exp_probs_b", "ffn_gate_exps",
    "ffn_up_exps", "ffn_down_exps", "ffn_gate_up_exps", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp",
    "ffn_gate_inp_shexp", "ffn_gate_up", "xielu.alpha_p", "xielu.alpha_n", "xielu.beta", "xielu.eps",
}  # fmt: skip


@dataclass(slots=True)
class LayerTensors:
    """The tensors of one layer by the words of their roles."""

    number: int
    weights: dict[str, WeightMatrix] = field(default_factory=dict)
    biases: dict[str, WeightMatrix] = field(default_factory=dict)
    experts: dict[str, dict[int, WeightMatrix]] = field(default_factory=dict)  # one tensor for each expert

    def has(self, *words: str) -> bool:
        """Whether there are tensors for all of `words`."""
        return all(word in self.weights or word in self.experts for word in words)

    def add(self, role: TensorRole, weight: WeightMatrix) -> None:
        """Take in the tensor that has this role."""
        if role.expert is not None:
            word = role.word if role.part == "weight" else f"{role.word}.bias"
            self.experts.setdefault(word, {})[role.expert] = weight
        elif role.part == "bias" and role.word != "exp_probs_b":
            self.biases[role.word] = weight
        else:
            self.weights[role.word] = weight


def tensors_by_layer(
    stack: Stack, weights: Mapping[str, WeightMatrix], roles: Mapping[str, TensorRole | None]
) -> list[LayerTensors]:
    """The layers of `stack`. Raises UnsupportedError for a tensor whose role is unknown."""
    layers = [LayerTensors(number) for number in range(stack.count)]
    for name, role in roles.items():
        number = stack.layer_of(name)
        if number is None or number >= stack.count:
            continue  # MTP layers read the stream, they are not in it
        if role is None or role.word not in _KNOWN:
            crossing = role is not None and role.word.startswith("cross_attn")
            why = "its layers read another stack" if crossing else "nothing is known about what it does in its layer"
            raise UnsupportedError(f"{why} ({printable(name, 80)})")
        layers[number].add(role, weights[name])
    return layers
