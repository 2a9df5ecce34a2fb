"""What the layers of a model type compute, as far as neither tensors nor metadata say it.

One row is one family: its names on the Hugging Face side and in GGUF, what holds on both sides, and what one side alone
has (weights are stored in another order, or llama.cpp computes something else). The entry of either side has it as its
`compute`. A usual decoder has no row: RMSNorm before each branch, rotary positions, SiLU with a gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """What a model type computes. The defaults are those of a usual decoder; a layer states the rest itself."""

    unsupported: str = ""  # why the layers cannot be described
    tensor_names: str = ""  # the llama.cpp architecture that has words for the tensors, if it has another name
    # norms
    norm: str = ""  # layer or rms; "": as biases and keys show
    weightless_norm: str = ""  # layer or rms: the norms have no weights, so that no tensor shows them
    gain_offset: float = 0.0  # the gain is this plus the stored weight
    norm_eps: float | None = None  # not what the metadata says
    normed_embedding: bool = False  # the embeddings go through a weightless norm
    first_layer_unnormed: bool = False  # the first layer has no norm before attention
    post_norm: bool = False  # the norms of a layer normalize the stream itself, whatever their names
    head_after_post_norm: bool = False  # the last layer's norm is the final one, and logits follow
    parallel: bool = False  # attention and feed-forward read the same stream, unless the metadata says otherwise
    # attention
    positions: str = "rotary"  # rotary, alibi, or embedded: they enter the stream, not attention
    interleaved_rotary: bool = False  # rotary pairs are neighbours (llama.cpp's rope type "norm")
    rotary_bases: tuple[float, float] | None = None  # of layers that see everything, and of those with a window
    rotary_in_windows_only: bool = False  # layers that see everything have no positions
    norm_after_rotary: bool = False  # of queries and keys
    unscaled_attention: bool = False
    bidirectional: bool = False  # every token sees every other
    unknown_attention: bool = False  # where tokens attend is not known here; llama.cpp may have slopes or caps built in
    unknown_attention_if: str = ""  # the same, if this key is set
    fused_qkv: str = ""  # grouped: queries, keys, values of a head, then of the next; grouped_if_many; partitioned
    # feed-forward
    activation: str = ""  # if the metadata states none
    ungated_activation: str = ""  # the same without a gate, if it is another one
    ignores_stated_activation: bool = False
    clipped_gates: bool = False  # at 7; and 1 is added to what the gate is multiplied with (gpt-oss)
    transposed: bool = False  # projections are stored as (inputs, outputs): Conv1D
    transposed_experts: tuple[str, ...] = ()  # the experts' tensors stored so
    interleaved_experts: bool = False  # gate and up alternate row by row
    # routing
    normalize_experts: bool = True  # the weights of the chosen experts sum to one, unless the metadata says otherwise
    expert_score: str = ""  # softmax: whatever the metadata says; softmax_unless_stated: despite a bias of the choice
    group_method: str = ""  # groups of experts count with this topk_method alone
    router_scales_inputs: bool = False  # sigmoids, put on what an expert gets (Llama 4)
    sparsemixer: bool = False
    mean_with_shared: bool = False  # half of what the experts and the shared one give
    # embedding and head
    first_position: int | None = 0  # row of the position table that positions start at; None: after the padding
    sinusoids: int | None = None  # positions are sinusoids; half of the width less this divides the frequencies
    projects_before_positions: bool = False  # narrow embeddings are made wide before positions are added
    embedding_times_sqrt_width: bool = False
    embedding_scale: float = 1.0  # these four if the metadata states none
    logit_scale: float = 1.0
    logit_scale_by_width: str = ""  # width / 256, or 256 / width
    softcap: float = 0.0
    divides_logits: bool = False  # by the stated scale
    depth_scale: float = 0.0  # what branches give is multiplied by this / sqrt(layers); 0: by 1
    headless: bool = False  # there is no output head, though the metadata does not say so


_EXPERTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps", "ffn_down_exps")
_Row = tuple[tuple[str, str], Compute]


def _models(
    huggingface: str,
    gguf: str,
    in_huggingface: Mapping[str, Any] | None = None,
    in_gguf: Mapping[str, Any] | None = None,
    **both: Any,
) -> tuple[_Row, ...]:
    """One row: names on both sides, separated by blanks; what holds on both, and what on one alone."""
    sides = (("huggingface", huggingface, in_huggingface), ("gguf", gguf, in_gguf))
    return tuple(((side, name), Compute(**both, **(own or {}))) for side, names, own in sides for name in names.split())


_ROWS: tuple[_Row, ...] = (
    *_models("arcee", "arcee", activation="relu2", in_gguf={"interleaved_rotary": True}),
    *_models("", "arctic chameleon deci internlm2 nanbeige xverse", interleaved_rotary=True),
    *_models("", "baichuan smollm3", interleaved_rotary=True, unknown_attention=True),
    *_models("", "bailingmoe deepseek", normalize_experts=False, expert_score="softmax", interleaved_rotary=True),
    *_models("", "bailingmoe2 deepseek2-ocr glm4moe glm-dsa", normalize_experts=False),
    *_models("bart plbart", "", post_norm=True, first_position=2, positions="embedded"),
    *_models("bert", "bert", positions="embedded", bidirectional=True),
    *_models("biogpt", "", norm_eps=1e-5, first_position=2, positions="embedded"),
    *_models("bloom", "bloom", activation="gelu_new", positions="alibi", in_huggingface={"fused_qkv": "grouped"}),
    *_models("camembert roberta xlm-roberta", "", tensor_names="bert", first_position=None, positions="embedded",
        bidirectional=True),
    *_models("glm", "chatglm", interleaved_rotary=True, in_huggingface={"tensor_names": "chatglm"}),
    *_models("clip", "clip", positions="embedded"),
    *_models("clip_text_model pegasus xmod", "", positions="embedded"),
    *_models("codegen", "", fused_qkv="partitioned", interleaved_rotary=True),
    *_models("cohere", "command-r", parallel=True, interleaved_rotary=True,
        in_huggingface={"tensor_names": "command-r"}, in_gguf={"norm": "layer"}),
    *_models("cohere2", "cohere2", norm="layer", parallel=True, interleaved_rotary=True,
        rotary_in_windows_only=True, in_gguf={"unknown_attention": True}),
    *_models("", "cohere2moe", normalize_experts=False, mean_with_shared=True, unknown_attention=True),
    *_models("ctrl", "", unsupported="its layers normalise in an order of their own"),
    *_models("cwm ministral mistral mixtral", "", tensor_names="llama"),
    *_models("dbrx", "dbrx", norm="layer", in_huggingface={"transposed_experts": ("ffn_down_exps",)},
        in_gguf={"expert_score": "softmax"}),
    *_models("deberta-v2 mimo_v2_flash mistral3 xlnet", "", unknown_attention=True),
    *_models("deepseek_v2", "deepseek2", normalize_experts=False, in_huggingface={"tensor_names": "deepseek2",
        "group_method": "group_limited_greedy"}),
    *_models("deepseek_v32", "deepseek32", in_huggingface={"tensor_names": "deepseek2"},
        in_gguf={"normalize_experts": False}),
    *_models("deepseek_v3", "", tensor_names="deepseek2"),
    *_models("diffllama", "", unsupported="it subtracts two attentions"),
    *_models("distilbert", "", tensor_names="bert", norm_eps=1e-12, positions="embedded", bidirectional=True),
    *_models("dots1 mistral4", "dots1 mistral4", normalize_experts=False),
    *_models("", "dream", bidirectional=True),
    *_models("electra", "", tensor_names="bert", positions="embedded", bidirectional=True),
    *_models("ernie4_5 glm4", "ernie4_5 glm4", interleaved_rotary=True),
    *_models("ernie4_5_moe", "ernie4_5-moe", interleaved_rotary=True,
        in_huggingface={"expert_score": "softmax_unless_stated"}, in_gguf={"activation": "silu",
        "expert_score": "softmax"}),
    *_models("eurobert", "eurobert", bidirectional=True),
    *_models("exaone4", "exaone4", rotary_in_windows_only=True),
    *_models("exaone_moe", "exaone-moe", in_huggingface={"rotary_in_windows_only": True},
        in_gguf={"normalize_experts": False, "unknown_attention": True}),
    *_models("falcon", "falcon", parallel=True, in_huggingface={"fused_qkv": "grouped_if_many"}),
    *_models("flex_olmo", "", tensor_names="olmoe"),
    *_models("gemma", "gemma", activation="gelu_new", embedding_times_sqrt_width=True,
        in_huggingface={"gain_offset": 1.0}),
    *_models("gemma2", "gemma2", activation="gelu_new", embedding_times_sqrt_width=True,
        in_huggingface={"gain_offset": 1.0}, in_gguf={"softcap": 30.0}),
    *_models("gemma3", "gemma3", activation="gelu_new", embedding_times_sqrt_width=True, rotary_bases=(1e6, 1e4),
        in_huggingface={"gain_offset": 1.0}),
    *_models("gemma3_text", "", tensor_names="gemma3", gain_offset=1.0, activation="gelu_new",
        embedding_times_sqrt_width=True, rotary_bases=(1e6, 1e4)),
    *_models("gemma4_text", "", tensor_names="gemma4"),
    *_models("", "gemma-embedding", activation="gelu_new", embedding_times_sqrt_width=True, headless=True,
        bidirectional=True, unknown_attention=True),
    *_models("gpt2", "gpt2", activation="gelu_new", positions="embedded", in_huggingface={"transposed": True}),
    *_models("gpt_bigcode", "starcoder", positions="embedded", in_huggingface={"tensor_names": "starcoder",
        "fused_qkv": "grouped_if_many"}, in_gguf={"activation": "gelu_new"}),
    *_models("gptj", "", parallel=True, activation="gelu_new", interleaved_rotary=True),
    *_models("gpt_neo", "", positions="embedded", unscaled_attention=True),
    *_models("gpt_neox", "gptneox", parallel=True, in_huggingface={"fused_qkv": "grouped"}),
    *_models("gpt_neox_japanese", "", unsupported="the bias of its last attention stands in all layers"),
    *_models("gpt_oss", "gpt-oss", activation="quick_gelu", ignores_stated_activation=True, clipped_gates=True,
        in_huggingface={"transposed_experts": _EXPERTS, "interleaved_experts": True},
        in_gguf={"expert_score": "softmax", "unknown_attention": True}),
    *_models("granite", "granite", divides_logits=True, in_gguf={"interleaved_rotary": True}),
    *_models("granitemoehybrid", "granitehybrid", divides_logits=True,
        in_huggingface={"tensor_names": "granitehybrid"}),
    *_models("granitemoe", "granitemoe", activation="silu", divides_logits=True,
        in_gguf={"expert_score": "softmax", "interleaved_rotary": True}),
    *_models("granitemoeshared", "", tensor_names="granitemoe", divides_logits=True),
    *_models("granitemoe_swa", "", divides_logits=True),
    *_models("granite_swa", "granite_swa", divides_logits=True, in_gguf={"unknown_attention": True}),
    *_models("", "graniteswitch", divides_logits=True),
    *_models("", "grok", activation="gelu_new", expert_score="softmax", embedding_scale=78.38367176906169,
        logit_scale=0.5773502691896257, unknown_attention=True),
    *_models("helium", "", tensor_names="llama", interleaved_rotary=True),
    *_models("hunyuan_v1_dense", "hunyuan-dense", norm_after_rotary=True,
        in_huggingface={"tensor_names": "hunyuan-dense"}),
    *_models("hunyuan_v1_moe", "hunyuan-moe", norm_after_rotary=True,
        in_huggingface={"tensor_names": "hunyuan-moe"}, in_gguf={"expert_score": "softmax"}),
    *_models("", "hunyuan_vl", norm_after_rotary=True),
    *_models("", "jais", positions="alibi", unknown_attention=True),
    *_models("jais2", "jais2", activation="relu2"),
    *_models("", "jina-bert-v2 refact", positions="alibi"),
    *_models("", "llada neo-bert", interleaved_rotary=True, bidirectional=True),
    *_models("", "llada-moe", normalize_experts=False, expert_score="softmax", bidirectional=True),
    *_models("", "llama", expert_score="softmax", interleaved_rotary=True),
    *_models("llama4", "llama4", normalize_experts=False, router_scales_inputs=True, unknown_attention=True,
        in_huggingface={"transposed_experts": _EXPERTS}),
    *_models("llama4_text", "", tensor_names="llama4", transposed_experts=_EXPERTS, normalize_experts=False,
        router_scales_inputs=True, unknown_attention=True),
    *_models("", "llama-embed", headless=True, interleaved_rotary=True, bidirectional=True),
    *_models("longformer xlm-roberta-xl", "", first_position=None),
    *_models("m2m_100", "", first_position=None, sinusoids=1, positions="embedded"),
    *_models("", "maincoder", interleaved_rotary=True, norm_after_rotary=True),
    *_models("", "maple", expert_score="softmax", unknown_attention=True),
    *_models("marian", "", post_norm=True, sinusoids=0, positions="embedded"),
    *_models("mbart", "", first_position=2, positions="embedded"),
    *_models("", "mellum qwen3moe qwen3vlmoe", expert_score="softmax"),
    *_models("", "minicpm", embedding_scale=12.0, depth_scale=1.4, logit_scale_by_width="width / 256",
        divides_logits=True, interleaved_rotary=True),
    *_models("minicpm3", "minicpm3", divides_logits=True, in_gguf={"embedding_scale": 12.0, "depth_scale": 1.4,
        "logit_scale_by_width": "256 / width"}),
    *_models("ministral3", "mistral3", unknown_attention=True, in_huggingface={"tensor_names": "mistral3"},
        in_gguf={"interleaved_rotary": True}),
    *_models("modernbert", "modern-bert", norm="layer", first_layer_unnormed=True, rotary_bases=(1.6e5, 1e4),
        bidirectional=True, unknown_attention=True, in_huggingface={"tensor_names": "modern-bert"},
        in_gguf={"activation": "gelu_new"}),
    *_models("mpnet", "", first_position=2, unknown_attention=True),
    *_models("mpt", "mpt", norm="layer", positions="alibi", in_gguf={"unknown_attention": True}),
    *_models("mt5 umt5", "", tensor_names="t5", norm="rms", unknown_attention=True),
    *_models("nanochat", "", weightless_norm="rms", normed_embedding=True, unknown_attention=True),
    *_models("nemotron", "nemotron", activation="relu2", in_huggingface={"gain_offset": 1.0}),
    *_models("nomic_bert", "nomic-bert", bidirectional=True, in_huggingface={"post_norm": True}),
    *_models("", "nomic-bert-moe", normalize_experts=False, expert_score="softmax"),
    *_models("olmo", "olmo", weightless_norm="layer", in_gguf={"interleaved_rotary": True}),
    *_models("olmo3", "", tensor_names="olmo2"),
    *_models("olmoe qwen2_moe", "olmoe qwen2moe", normalize_experts=False, in_gguf={"expert_score": "softmax"}),
    *_models("openai-gpt", "", post_norm=True, head_after_post_norm=True, activation="gelu_new",
        ignores_stated_activation=True, transposed=True, positions="embedded"),
    *_models("opt", "", head_after_post_norm=True, activation="relu", first_position=2,
        projects_before_positions=True, positions="embedded"),
    *_models("paligemma", "", gain_offset=1.0, embedding_times_sqrt_width=True, unknown_attention=True),
    *_models("persimmon", "", fused_qkv="grouped"),
    *_models("phi", "phi2", parallel=True, in_huggingface={"tensor_names": "phi2"},
        in_gguf={"activation": "gelu_new"}),
    *_models("phimoe", "phimoe", in_huggingface={"sparsemixer": True}, in_gguf={"norm": "rms",
        "expert_score": "softmax"}),
    *_models("", "plamo", parallel=True),
    *_models("", "plm", activation="relu2"),
    *_models("", "rnd1", expert_score="softmax", bidirectional=True),
    *_models("siglip siglip_text_model", "", positions="embedded", bidirectional=True),
    *_models("", "smallthinker", unsupported="its router reads the stream before attention"),
    *_models("stablelm", "stablelm", unknown_attention_if="qk_layernorm"),
    *_models("starcoder2", "starcoder2", activation="gelu_new"),
    *_models("", "step35", unknown_attention=True),
    *_models("t5", "t5", norm="rms", activation="gelu_new", ungated_activation="relu", unknown_attention=True),
    *_models("", "t5encoder", norm="rms", activation="gelu_new", ungated_activation="relu", unknown_attention=True),
    *_models("vaultgemma", "", tensor_names="gemma2", gain_offset=1.0, embedding_times_sqrt_width=True),
    *_models("xglm", "", activation="gelu", first_position=2, sinusoids=1, positions="embedded"),
)  # fmt: skip
_COMPUTE = dict(_ROWS)
_USUAL = Compute()


def compute_of(table: str, name: str) -> Compute:
    """What the model type `name` of a table, `huggingface` or `gguf`, computes: a usual decoder if it has no row."""
    return _COMPUTE.get((table, name), _USUAL)


def compute_within(table: str, whole: str, own: str) -> Compute:
    """What a stack computes whose model type is `own`, in a model of the type `whole` (PaliGemma's text is a Gemma).

    If the attention of the whole model is unknown, so is that of the stack.
    """
    found = compute_of(table, own)
    return replace(found, unknown_attention=True) if compute_of(table, whole).unknown_attention else found
