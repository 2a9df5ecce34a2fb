"""What the metadata of a checkpoint, or only its loader, says about what a layer computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rewriter.architectures.lookup import Stack, table_of
from rewriter.checkpoint import GGUF, Checkpoint

# Tables by architecture, as either side calls it. What is not in a table is the usual.
ACTIVATION = {
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text", "gemma-embedding", "modern-bert"), "gelu_new"),
    **dict.fromkeys(("bloom", "gpt2", "gptj", "phi2", "starcoder", "starcoder2", "grok"), "gelu_new"),
    **dict.fromkeys(("nemotron", "arcee", "jais2", "plm"), "relu2"),
    **dict.fromkeys(("t5", "t5encoder"), "gelu_new"),
    **dict.fromkeys(("granitemoe", "ernie4_5-moe"), "silu"),
    "opt": "relu",
    "openai-gpt": "gelu_new",
    "xglm": "gelu",
    "gpt-oss": "quick_gelu",
    "gpt_oss": "quick_gelu",
}
ACTIVATION_WITHOUT_GATE = dict.fromkeys(("t5", "t5encoder"), "relu")  # where it is another one
NOT_AS_STATED = {"gpt_oss", "gpt-oss", "openai-gpt"}  # what the config calls the activation is another one
CLIPPED_GATES = {"gpt_oss", "gpt-oss"}  # clipped at 7, and one is added to what the gate lets through
TRANSPOSED = {"gpt2", "openai-gpt"}  # Conv1D, on the Hugging Face side
GROUPED = {"gpt_neox", "bloom", "persimmon", "internlm2"}  # fused as q, k, v of a head, then of the next
GROUPED_IF_MANY = {"falcon", "gpt_bigcode"}  # the same, but not where all heads share one key and value
PARTITIONED = {"codegen": (4, (0, 2, 1))}  # fused as so many parts, each of queries, values, keys
INTERLEAVED_EXPERTS = {"gpt_oss"}  # gate and up row by row
_ALL = ("ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps", "ffn_down_exps")
TRANSPOSED_EXPERTS = {  # stored as (inputs, outputs), on the Hugging Face side
    "gpt_oss": _ALL, "llama4": _ALL, "llama4_text": _ALL, "dbrx": ("ffn_down_exps",),
}  # fmt: skip
UNKNOWN = {
    "diffllama": "it subtracts two attentions",
    "gpt_neox_japanese": "the bias of its last attention stands in all layers",
    "smallthinker": "its router reads the stream before attention",
    "ctrl": "its layers normalise in an order of their own",
}
PLUS_ONE = {"gemma", "gemma2", "gemma3", "gemma3_text", "vaultgemma", "nemotron", "paligemma"}  # gain: 1 + weight
PLAIN_NORMS = {"olmo": False, "nanochat": True}  # norms without weights, RMS or not: no tensor shows them
STARTS_NORMED = {"nanochat"}  # the same norm on the embeddings
# where neither a bias nor a key shows it
LAYER_NORM = {"dbrx", "modernbert", "modern-bert", "command-r", "cohere2", "mpt"}
RMS = {"t5", "mt5", "umt5", "t5encoder"}  # called layer norm, but without a mean
RMS_IN_GGUF = {"phimoe"}  # in llama.cpp alone
EPS = {"distilbert": 1e-12, "biogpt": 1e-5}  # not the default, or not what the config says
FIRST_NOT_NORMED = {"modernbert", "modern-bert"}  # the first layer has no norm before attention
CLOSING = {"bart", "marian", "openai-gpt", "plbart", "nomic_bert"}  # the stream itself is normed, though names differ
CLOSED_WITH_HEAD = {"openai-gpt", "opt"}  # where the last layer's norm is the last one, and logits follow at once
ROOT_OF_WIDTH = {"gemma", "gemma2", "gemma3", "gemma3_text", "gemma-embedding", "vaultgemma", "paligemma"}
PARALLEL = {"gptneox", "gpt_neox", "falcon", "phi2", "phi", "gptj", "command-r", "cohere", "cohere2", "plamo"}
GROUPS_IF_SAID = {"deepseek_v2": "group_limited_greedy"}  # groups of experts count with this topk_method alone
NOT_NORMALISED = {  # unless a file says so
    "qwen2moe", "qwen2_moe", "olmoe", "deepseek", "deepseek2", "deepseek_v2", "llama4", "llama4_text", "llada-moe",
    "glm4moe", "bailingmoe", "bailingmoe2", "deepseek2-ocr", "dots1", "nomic-bert-moe", "exaone-moe", "mistral4",
    "deepseek32", "glm-dsa", "cohere2moe",
}  # fmt: skip
SOFTMAX_IN_GGUF = {  # whatever a file says
    "llama", "qwen2moe", "qwen3moe", "qwen3vlmoe", "dbrx", "hunyuan-moe", "llada-moe", "rnd1", "deepseek", "bailingmoe",
    "olmoe", "nomic-bert-moe", "mellum", "gpt-oss", "maple", "granitemoe", "grok", "phimoe",
    "ernie4_5-moe",
}  # fmt: skip
HALVED_WITH_SHARED = {"cohere2moe"}  # the mean of what experts and the shared one give
SIGMOID_INPUTS = {"llama4", "llama4_text"}  # sigmoid of the best logits, put on what the expert gets
SPARSEMIXER = {"phimoe"}
SOFTMAX_AND_BIAS = {"ernie4_5_moe", "ernie4_5-moe"}  # a bias for the choice, though scores are not sigmoids
# llama.cpp's, where a file does not say it
DEFAULTS = {
    ("grok", "embedding"): 78.38367176906169,
    ("grok", "logits"): 0.5773502691896257,
    ("gemma2", "softcap"): 30.0,
    ("minicpm", "embedding"): 12.0,
    ("minicpm3", "embedding"): 12.0,
}
DEPTH_SCALED = {"minicpm": 1.4, "minicpm3": 1.4}  # what branches give is multiplied by this / sqrt(layers), by default
LOGITS_OF_WIDTH = {"minicpm": lambda width: width / 256, "minicpm3": lambda width: 256 / width}  # scale, by default
HEADLESS = {"llama-embed", "gemma-embedding"}  # of the GGUF architectures that do not say so
DIVIDES_LOGITS = ("granite", "minicpm")
# where positions start in their table, on the Hugging Face side: converters drop the rows before
POSITIONS_FROM = dict.fromkeys(("opt", "biogpt", "bart", "mbart", "plbart", "mpnet"), 2)
POSITIONS_AFTER_PADDING = {"roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "longformer"}
# positions that are computed: where they start (None: after the padding), and by how much less than half of the width
# the steps between frequencies are divided
SINUSOIDS = {"xglm": (2, 1), "m2m_100": (None, 1), "marian": (0, 0)}

# Where tokens look. Kinds whose rotary pairs are neighbours; in a GGUF llama.cpp's rope type "norm".
NEIGHBOURS = {
    True: {  # on the Hugging Face side
        "gptj", "codegen", "cohere", "cohere2", "glm", "glm4", "ernie4_5", "ernie4_5_moe", "helium", "chatglm",
    },
    False: {
        "llama", "llada", "deci", "baichuan", "internlm2", "minicpm", "xverse", "command-r", "cohere2", "olmo",
        "arctic", "deepseek", "chatglm", "granite", "granitemoe", "chameleon", "bailingmoe", "neo-bert", "smollm3",
        "arcee", "ernie4_5", "ernie4_5-moe", "mistral3", "gptj", "glm4", "nanbeige", "maincoder", "llama-embed",
    },
}  # fmt: skip
NOT_TURNED = {  # positions enter the stream, not attention
    "gpt2", "gpt_neo", "gpt_bigcode", "starcoder", "opt", "openai-gpt", "biogpt", "xglm", "bert", "roberta",
    "xlm-roberta", "camembert", "electra", "distilbert", "bart", "mbart", "marian", "m2m_100", "pegasus", "xmod",
    "clip", "clip_text_model", "siglip", "siglip_text_model", "plbart",
}  # fmt: skip
ALIBI = {"bloom", "mpt", "refact", "jais", "jina-bert-v2"}
NORM_LAST = {  # queries are normed once turned
    "hunyuan_v1_dense", "hunyuan_v1_moe", "hunyuan-dense", "hunyuan-moe", "hunyuan_vl", "maincoder",
}  # fmt: skip
ONLY_SLIDING_TURNED = {"cohere2", "exaone4", "exaone_moe"}  # layers that see everything have no positions
UNSCALED = {"gpt_neo"}
THETAS = {  # the base of the frequencies where nothing states it: of layers that see all, and those that see a window
    **dict.fromkeys(("gemma3", "gemma3_text"), (1e6, 1e4)),
    **dict.fromkeys(("modernbert", "modern-bert"), (1.6e5, 1e4)),
}  # fmt: skip
BOTH_WAYS = {  # every token sees every other
    "bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "modernbert", "modern-bert", "nomic_bert",
    "nomic-bert", "neo-bert", "llada", "llada-moe", "eurobert", "gemma-embedding", "dream", "rnd1", "llama-embed",
    "siglip", "siglip_text_model",
}  # fmt: skip
NOT_LOOKED = {  # what their attention does is not known here
    "t5", "mt5", "umt5", "t5encoder", "llama4", "llama4_text", "nanochat", "mpnet", "xlnet", "mimo_v2_flash",
    "deberta-v2",    "ministral3", "mistral3", "paligemma", "gpt-oss", "modernbert", "modern-bert",
}  # fmt: skip
NOT_LOOKED_IN_GGUF = {  # which layers turn, slopes or caps that llama.cpp has built in
    "mpt", "jais", "grok", "gemma-embedding", "cohere2", "cohere2moe", "exaone-moe", "maple", "step35", "granite_swa",
    "smollm3", "baichuan",
}  # fmt: skip

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
    "normalise": ("expert_weights_norm", "norm_topk_prob"),
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

    def stated(self, key: str) -> Any:
        """The value under a key of the stack's own."""
        return self.checkpoint.value(self.stack.key(key))

    def number(self, what: str, default: float, layer: int | None = None) -> float:
        """A number; where there is none or something else, the architecture's default, or `default`."""
        found = self.get(what, layer)
        return (
            float(found)
            if isinstance(found, int | float) and not isinstance(found, bool)
            else self._default(what, default)
        )

    def _default(self, what: str, default: float) -> float:
        return default if self.hugging_face else DEFAULTS.get((self.kind, what), default)
