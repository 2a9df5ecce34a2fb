"""The models that transformers computes for our residual streams, and what goes into each of their layers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rewriter import open_checkpoint
from rewriter.formats.dequantize import open_weights
from rewriter.planning.open_model import open_model
from rewriter.planning.options import PlanOptions
from rewriter.scoring.build.residual_stream import build_residual_stream
from tests.support.oracle import hf_decoder_rows, hf_models, hf_other_rows
from tests.support.oracle.hf_decoder_rows import DEEPSEEK, GPT, HEADS, QWEN_MOE, ROUTED, WINDOWED
from tests.support.oracle.hf_models import (
    ABSENT,
    BERT,
    DECODER,
    GPT2,
    MODEL_LAYERS,
    SPECIAL,
    VOCABULARY,
    Row,
    module_list,
)
from tests.support.oracle.hf_other_rows import BART, MODERNBERT, T5_SIZES

FALCON = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3} | SPECIAL


NEW_FALCON = FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}


OPT = next(row.config for row in hf_decoder_rows.ROWS if row.id == "opt")


MPT = next(row.config for row in hf_decoder_rows.ROWS if row.id == "mpt")


DBRX = next(row.config for row in hf_decoder_rows.ROWS if row.id == "dbrx")


GRANITE = {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "logits_scaling": 5.0, "attention_multiplier": 0.1}


BIASES = {"attention_bias": True, "mlp_bias": True}


XLARGE = DECODER | {"num_hidden_layers": 3}


def variant(name: str, model: str, config: Mapping[str, Any], layers: str = MODEL_LAYERS, **others: Any) -> Row:
    return Row(f"{name}*", model, config, layers, **others)


# What the rows of the conformance tables leave at its default.
VARIANTS = (
    variant("llama-biases", "LlamaForCausalLM", XLARGE | BIASES),
    variant("llama-tied", "LlamaForCausalLM", XLARGE | {"tie_word_embeddings": True}),
    variant("llama-gelu", "LlamaForCausalLM", XLARGE | {"hidden_act": "gelu"}),
    variant("llama-square", "LlamaForCausalLM", XLARGE | {"intermediate_size": 32}),
    variant("mixtral-square", "MixtralForCausalLM", XLARGE | {"num_local_experts": 4, "intermediate_size": 32}),
    variant("granite-multiplied", "GraniteForCausalLM", XLARGE | GRANITE | BIASES),
    variant("granitemoe-multiplied", "GraniteMoeForCausalLM", XLARGE | ROUTED | GRANITE),
    variant("gpt_neox-serial", "GPTNeoXForCausalLM", XLARGE | {"use_parallel_residual": False}, "gpt_neox.layers"),
    variant("gpt_neox-unbiased", "GPTNeoXForCausalLM", XLARGE | {"attention_bias": False}, "gpt_neox.layers"),
    variant("falcon-new", "FalconForCausalLM", NEW_FALCON, "transformer.h"),
    variant("falcon-new-one-norm", "FalconForCausalLM", NEW_FALCON | {"num_ln_in_parallel_attn": 1}, "transformer.h"),
    variant(
        "falcon-rw", "FalconForCausalLM",
        FALCON | {"multi_query": False, "parallel_attn": False, "bias": True, "alibi": True}, "transformer.h",
    ),
    variant("falcon-serial", "FalconForCausalLM", FALCON | {"parallel_attn": False}, "transformer.h"),
    variant("gpt_bigcode-many", "GPTBigCodeForCausalLM", GPT | {"multi_query": False}, "transformer.h"),
    variant("stablelm-parallel", "StableLmForCausalLM", XLARGE | {"use_parallel_residual": True}),
    variant("stablelm-bias", "StableLmForCausalLM", XLARGE | {"use_qkv_bias": True, "qk_layernorm": True}),
    variant("cohere-scaled", "CohereForCausalLM", XLARGE | {"logit_scale": 0.3, "use_qk_norm": True}),
    variant("gemma2-capped", "Gemma2ForCausalLM", WINDOWED | {"final_logit_softcapping": 2.0}),
    variant("gemma-old", "GemmaForCausalLM", XLARGE | HEADS, config_edits={"hidden_act": "gelu_pytorch_tanh"}),
    variant("opt-350m", "OPTForCausalLM", OPT | {"do_layer_norm_before": False}, "model.decoder.layers"),
    variant(
        "opt-narrow", "OPTForCausalLM", OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 16},
        "model.decoder.layers",
    ),
    variant("olmo-clipped", "OlmoForCausalLM", XLARGE | {"clip_qkv": 0.5}),
    variant("olmoe-clipped", "OlmoeForCausalLM", XLARGE | ROUTED | {"clip_qkv": 0.5}),
    variant("mpt-clipped", "MptForCausalLM", MPT | {"attn_config": {"clip_qkv": 0.5}}, "transformer.blocks"),
    variant(
        "dbrx-clipped", "DbrxForCausalLM", DBRX | {"attn_config": DBRX["attn_config"] | {"clip_qkv": 0.5}},
        "transformer.blocks",
    ),
    variant("olmoe-normalised", "OlmoeForCausalLM", XLARGE | ROUTED | {"norm_topk_prob": True}),
    variant("qwen2_moe-normalised", "Qwen2MoeForCausalLM", QWEN_MOE | {"norm_topk_prob": True}),
    variant("qwen3_moe-normalised", "Qwen3MoeForCausalLM", QWEN_MOE | HEADS | {"norm_topk_prob": True}),
    variant(
        "deepseek_v2-groups", "DeepseekV2ForCausalLM",
        DEEPSEEK | {"topk_method": "group_limited_greedy", "routed_scaling_factor": 2.5, "q_lora_rank": None},
    ),
    variant(
        "deepseek_v3-plain", "DeepseekV3ForCausalLM",
        DEEPSEEK | {"norm_topk_prob": False, "routed_scaling_factor": 0.7, "attention_bias": True},
    ),
    variant("glm4_moe-groups", "Glm4MoeForCausalLM", DEEPSEEK | HEADS | {"n_group": 2}),
    variant("llama4_text-two", "Llama4ForCausalLM", XLARGE | HEADS | {
        "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size_mlp": 40, "attention_chunk_size": 8,
        "intermediate_size": 16,
    }),
    variant("gpt2-relu", "GPT2LMHeadModel", GPT2 | {"activation_function": "relu"}, "transformer.h"),
    variant("starcoder2-unbiased", "Starcoder2ForCausalLM", XLARGE | {"use_bias": False}),
    variant("biogpt-plain", "BioGptForCausalLM", XLARGE | {"max_position_embeddings": 64, "scale_embedding": False},
            "biogpt.layers"),
    variant("bert-relu", "BertModel", BERT | {"hidden_act": "relu"}, "encoder.layer"),
    variant("modernbert-biases", "ModernBertModel", MODERNBERT | BIASES | {"norm_bias": True}, "layers"),
    variant("t5-gated", "T5ForConditionalGeneration", T5_SIZES | {"num_layers": 3, "feed_forward_proj": "gated-gelu"},
            "encoder.block", inputs="encoder-decoder", stack="encoder"),
    variant("bart-scaled", "BartForConditionalGeneration",
            BART | {"scale_embedding": True, "activation_function": "relu"},
            "model.encoder.layers", inputs="encoder-decoder", stack="encoder"),
    variant("hunyuan_v1_moe-one", "HunYuanMoEV1ForCausalLM", XLARGE | HEADS | {"num_experts": 4, "moe_topk": 1}),
    variant("llama-no-architectures", "LlamaForCausalLM", XLARGE, config_edits={"architectures": ABSENT}),
)  # fmt: skip


ROWS = (*hf_models.ROWS, *hf_decoder_rows.ROWS, *hf_other_rows.ROWS, *VARIANTS)


VISION_SIDES = ("encoder", "trocr-encoder", "donut-stage2")


# Model type -> why its layers are not described. Every other type of ROWS is, and is equal.
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "jamba", "bamba", "falcon_h1"), "A_log"),
    **dict.fromkeys(("granitemoehybrid", "zamba", "zamba2", "nemotron_h", "mamba", "mamba2", "falcon_mamba"), "A_log"),
    **dict.fromkeys(("lfm2", "lfm2_moe"), "conv.conv"),
    **dict.fromkeys(("gemma3n_text",), "altup"),
    **dict.fromkeys(("t5", "mt5", "umt5", "bart", "mbart", "marian", "pegasus", "m2m_100"), "read another stack"),
    **dict.fromkeys(("whisper", "mllama", "mllama_text_model"), "read another stack"),
    "vision-encoder-decoder": "read another stack",
    **dict.fromkeys((f"vision-encoder-decoder-{name}" for name in VISION_SIDES), "token embeddings"),
    "mllama-global": "token embeddings",
    "minimax": "diagonal_decay",
    "gemma4_text": "layer_scalar",
    "recurrent_gemma": "channel_pre_norm",
    "rwkv": "attention.key",
    "olmo_hybrid": "attention_layer_norm",
    "kimi_linear": "block_sparse_moe",
    "afmoe": "gate_proj",
    "doge": "input_residual",
    "diffllama": "two attentions",
    "ctrl": "an order of their own",
    "gpt_neox_japanese": "bias of its last attention",
    "longformer": "key_global",
    "deberta-v2-convolution": "convolution",
    "xlnet": "token embeddings",
    **dict.fromkeys(("vit", "whisper-encoder", "wav2vec2", "hubert", "deit", "dinov2", "beit"), "token embeddings"),
    **dict.fromkeys(("vit_msn", "swin", "detr", "deformable_detr", "rt_detr", "clip_vision_model"), "token embeddings"),
}  # fmt: skip


def reason(row: Row) -> str | None:
    """Why it is refused, if it is."""
    if row.id.endswith("-vision") or "-tapped" in row.id or row.id in ("clip-classifier",):
        return "token embeddings"
    if row.stack == "encoder" and row.inputs == "encoder-decoder":
        return None
    named = [name for name in REFUSED if row.id == name or row.id.startswith(f"{name}-")]
    return REFUSED[max(named, key=len)] if named else None


def stream_of(folder: Path, stack: str, check: Any) -> None:
    checkpoint = open_checkpoint(folder)
    found = open_model(checkpoint, PlanOptions(stack=stack or "main"))
    with open_weights(checkpoint) as weights:
        check(build_residual_stream(found, weights))


def close(found: np.ndarray, wanted: np.ndarray, scale: Any) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 2e-5 * float(scale)


@torch.no_grad()
def states(row: Row, model: Any, ids: Any) -> tuple[list[Any], Any]:
    """What goes into each layer and what comes out of it, in turn; and the logits, or the last hidden states."""
    seen: list[Any] = []

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    def after(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: Any) -> None:
        seen.append(given[0] if isinstance(given, tuple | list) else given)

    hooks = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in module_list(row, model)]
    hooks += [layer.register_forward_hook(after, with_kwargs=True) for layer in module_list(row, model)]
    more = {"decoder_input_ids": ids} if row.inputs == "encoder-decoder" else {}
    reader = getattr(model, "text_model", model) if row.model in ("CLIPModel", "SiglipModel") else model
    given = reader(input_ids=ids, output_hidden_states=True, **more)
    for hook in hooks:
        hook.remove()
    return seen, answer_of(row, given)


def answer_of(row: Row, given: Any) -> Any:
    if row.stack == "encoder":
        return given.encoder_last_hidden_state
    if "logits" in given and ("CausalLM" in row.model or "LMHead" in row.model or "Conditional" in row.model):
        return given.logits
    return given.last_hidden_state if "last_hidden_state" in given else given.hidden_states[-1]
