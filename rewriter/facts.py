"""What the metadata of a checkpoint, or only its loader, says about what a layer computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rewriter.architectures.stacks import Stack, table_of
from rewriter.checkpoint import GGUF, Checkpoint

# Tables by architecture, as either side calls it. What is not in a table is the usual.
ACTIVATION = {
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text", "gemma-embedding", "modern-bert", "t5"), "gelu_new"),
    **dict.fromkeys(("bloom", "gpt2", "gptj", "phi2", "starcoder", "starcoder2", "jais", "grok"), "gelu_new"),
    **dict.fromkeys(("nemotron", "arcee", "bitnet"), "relu2"),
    "opt": "relu",
    "xglm": "gelu",
    "gpt-oss": "quick_gelu",
    "gpt_oss": "quick_gelu",
}
TRANSPOSED = {"gpt2", "openai-gpt", "jais"}  # Conv1D, on the Hugging Face side
GROUPED = {"gpt_neox", "bloom", "persimmon", "internlm2"}  # fused as q, k, v of a head, then of the next
INTERLEAVED_EXPERTS = {"gpt_oss"}  # gate and up row by row
UNKNOWN = {
    "codegen": "its fused projection has a layout of its own",
    "diffllama": "it subtracts two attentions",
    "apertus": "its activation has weights of its own",
    "nanochat": "it norms without weights",
    "dbrx": "its experts are stacked in one matrix",
}
PLUS_ONE = {
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "vaultgemma",
    "nemotron",
    "paligemma",
}  # the gain is 1 + weight
PLAIN_NORMS = {"olmo"}  # LayerNorm without weights: no tensor shows it
RMS = {"t5", "mt5", "umt5", "t5encoder"}  # called layer norm, but without a mean
ROOT_OF_WIDTH = {"gemma", "gemma2", "gemma3", "gemma3_text", "gemma-embedding", "vaultgemma", "paligemma"}
PARALLEL = {"gptneox", "gpt_neox", "falcon", "phi2", "phi", "gptj", "command-r", "cohere", "cohere2", "plamo"}
NOT_NORMALISED = {"qwen2moe", "qwen2_moe", "olmoe", "deepseek", "deepseek2", "deepseek_v2", "llama4", "llama4_text"}
DIVIDES_LOGITS = ("granite", "minicpm")

_KEYS = {
    "heads": ("attention.head_count", "num_attention_heads", "n_head", "num_heads", "n_heads"),
    "kv_heads": (
        "attention.head_count_kv", "num_key_value_heads", "num_kv_heads", "n_head_kv", "attn_config.kv_n_heads",
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
    ),
    "normalise": ("expert_weights_norm", "norm_topk_prob"),
    "scale": ("expert_weights_scale", "routed_scaling_factor", "moe_router_scale"),
    "gating": ("expert_gating_func", "scoring_func", "score_function"),
    "embedding": ("embedding_scale", "embedding_multiplier", "scale_emb"),
    "residual": ("residual_scale", "residual_multiplier"),
    "logits": ("logit_scale", "logits_scaling", "logit_multiplier"),
    "softcap": ("final_logit_softcapping",),
    "parallel": ("use_parallel_residual", "parallel_attn"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Facts:
    """What the metadata says about a stack."""

    checkpoint: Checkpoint
    stack: Stack

    @property
    def kind(self) -> str:
        """The architecture; for a nested config the model type there."""
        nested = self.checkpoint.value(self.stack.key("model_type")) if table_of(self.checkpoint) != GGUF else None
        return str(nested or self.checkpoint.architecture)

    @property
    def hugging_face(self) -> bool:
        """Names and layouts are transformers', not a converter's."""
        return table_of(self.checkpoint) != GGUF

    def get(self, what: str, layer: int | None = None) -> Any:
        """The first of the keys for `what` that is there; of a per-layer list the entry."""
        for key in _KEYS[what]:
            found = self.checkpoint.value(self.stack.key(key))
            if isinstance(found, list | tuple):
                found = found[layer] if layer is not None and layer < len(found) else None
            if found is not None:
                return found
        return None

    def number(self, what: str, default: float, layer: int | None = None) -> float:
        """A number, or the default where there is none or something else."""
        found = self.get(what, layer)
        return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else default
