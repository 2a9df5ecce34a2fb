"""What a stack's layers compute, as its metadata states it and its architecture adds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rewriter.architectures.compute import Compute, compute_within
from rewriter.architectures.lookup import Stack, table_of
from rewriter.checkpoint import HUGGINGFACE, Checkpoint
from rewriter.planning.model import Model

# a quantity -> the keys that state it; the first one that is there counts
_KEYS = {
    "heads": (
        "attention.head_count", "num_attention_heads", "n_head", "num_heads", "n_heads", "encoder_attention_heads",
        "attention_heads", "decoder_attention_heads",
    ),
    "rms_eps": ("attention.layer_norm_rms_epsilon", "rms_norm_eps", "rms_norm_epsilon", "norm_eps"),
    "eps": (
        "attention.layer_norm_epsilon", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_epsilon",
        "layer_norm_rms_epsilon",
    ),
    "act": (
        "hidden_activation", "hidden_act", "activation_function", "activation", "mlp_hidden_act", "dense_act_fn",
        "ffn_config.ffn_act_fn.name",
    ),
    "used": (
        "expert_used_count", "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts",
        "ffn_config.moe_top_k",
    ),
    "groups": ("expert_group_count", "n_group"),
    "groups_used": ("expert_group_used_count", "topk_group"),
    "jitter": ("router_jitter_noise",),
    "clip": ("attention.clamp_kqv", "clip_qkv", "attn_config.clip_qkv"),
    "values": ("attention.value_scale", "attention_value_scale"),
    "normalize": ("expert_weights_norm", "norm_topk_prob"),
    "scale": ("expert_weights_scale", "routed_scaling_factor", "moe_router_scale"),
    "gating": ("expert_gating_func", "scoring_func", "score_function", "scoring_function"),
    "embedding": ("embedding_scale", "embedding_multiplier", "scale_emb"),
    "residual": ("residual_scale", "residual_multiplier"),
    "logits": ("logit_scale", "logits_scaling", "logit_multiplier"),
    "softcap": ("final_logit_softcapping",),
    "attention_softcap": ("attn_logit_softcapping",),
    "theta": ("rope.freq_base", "rope_parameters.rope_theta", "rope_theta", "rotary_emb_base"),
    "turned": ("rope.dimension_count", "rotary_dim"),
    "turned_share": (
        "rope_parameters.partial_rotary_factor", "partial_rotary_factor", "rotary_pct", "rotary_emb_fraction",
    ),
    "attention_scale": ("attention.scale", "attention_multiplier"),
    "query_size": ("query_pre_attn_scalar",),
    "parallel": ("use_parallel_residual", "parallel_attn"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What metadata and architecture say about a stack."""

    model: Model

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint."""
        return self.model.checkpoint

    @property
    def stack(self) -> Stack:
        """The stack whose layers are built."""
        return self.model.stack

    @property
    def compute(self) -> Compute:
        """What the metadata does not say."""
        return compute_within(table_of(self.checkpoint), self.checkpoint.architecture, self.kind)

    @property
    def kind(self) -> str:
        """The model type; of a nested config the one there."""
        nested = self.stated("model_type") if self.hugging_face else None
        return str(nested or self.checkpoint.architecture)

    @property
    def hugging_face(self) -> bool:
        """Names and layouts are those of transformers, not those of a converter."""
        return table_of(self.checkpoint) == HUGGINGFACE

    def get(self, quantity: str, layer: int | None = None) -> Any:
        """The first value under the keys of `quantity`; of a per-layer list the entry. None if there is none."""
        for key in _KEYS[quantity]:
            found = self.stated(key)
            if isinstance(found, list | tuple):
                found = found[layer] if layer is not None and layer < len(found) else None
            if found is not None:
                return found
        return None

    def stated(self, key: str) -> Any:
        """The value under a key of the stack's own."""
        return self.checkpoint.value(self.stack.key(key))

    def number(self, quantity: str, default: float, layer: int | None = None) -> float:
        """The quantity if the metadata states a number, else `default`."""
        found = self.get(quantity, layer)
        return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else default
