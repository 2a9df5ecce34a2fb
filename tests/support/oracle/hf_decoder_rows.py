"""Conformance rows of the decoders: plain ones, mixtures of experts, hybrids and recurrent models.

A row whose id ends in `-hub` is saved as files on the hub are: without the list that newer releases write.
"""

from collections.abc import Collection
from typing import Any

from torch import nn

from tests.support.oracle.hf_models import (
    ABSENT,
    DECODER,
    MEMORY_NAMES,
    MODEL_LAYERS,
    SPECIAL,
    VOCABULARY,
    WINDOW,
    Row,
    pass_on,
)

ROUTED = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
TWELVE = {"num_hidden_layers": 12}
HEADS = {"head_dim": 8}
WINDOWED = DECODER | HEADS | {"sliding_window": WINDOW}
GPT = {"vocab_size": VOCABULARY, "n_embd": 32, "n_head": 4, "n_layer": 7, "n_positions": 64, "bos_token_id": 1}
NO_TYPES = {"layer_types": ABSENT}
# Latent attention, as DeepSeek has it.
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "num_key_value_heads": 4,
}  # fmt: skip
DEEPSEEK = DECODER | LATENT | {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_shared_experts": 1, "n_group": 2,
    "topk_group": 1, "first_k_dense_replace": 2,
}  # fmt: skip
LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 3,
}  # fmt: skip
QWEN_NEXT = DECODER | HEADS | LINEAR | ROUTED | {"shared_expert_intermediate_size": 24} | TWELVE
QWEN_MOE = DECODER | ROUTED | {"shared_expert_intermediate_size": 24}
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2}
MAMBA2 |= {"mamba_chunk_size": 8}
BLOCK_TYPES = ["linear_attention", "full_attention"]


def listed(pattern: str, names: dict[str, str]) -> list[str]:
    """One entry for each letter."""
    return [names[letter] for letter in pattern]


MIXED = {"m": "linear_attention", "a": "full_attention", "h": "hybrid", "c": "conv", "e": "moe", "-": "mlp"}
GEMMA_TYPES = {"s": "sliding_attention", "f": "full_attention"}


def shorter_diffllama(model: Any, keep: Collection[int]) -> Any:
    """As transformers would build it: each layer has the lambda of its new number."""
    layers = model.model.layers
    lambdas = [layer.self_attn.lambda_init for layer in layers]
    model.model.layers = nn.ModuleList(layers[index] for index in keep)
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx, layer.self_attn.lambda_init = index, lambdas[index]
    model.config.num_hidden_layers = len(keep)
    return model


def shorter_rwkv(model: Any, keep: Collection[int]) -> Any:
    """The first block normalises the embeddings: the first that is left does it instead."""
    blocks = model.rwkv.blocks
    blocks[min(keep)].pre_ln, blocks[min(keep)].layer_id = blocks[0].pre_ln, 0
    for index, block in enumerate(blocks):
        if index not in keep:
            block.register_forward_hook(pass_on, with_kwargs=True)
    return model


PLAIN = (
    Row("gemma", "GemmaForCausalLM", DECODER | HEADS, MODEL_LAYERS),
    Row("starcoder2", "Starcoder2ForCausalLM", DECODER, MODEL_LAYERS),
    Row("stablelm", "StableLmForCausalLM", DECODER, MODEL_LAYERS),
    Row("olmo", "OlmoForCausalLM", DECODER, MODEL_LAYERS),
    Row("olmo2", "Olmo2ForCausalLM", DECODER, MODEL_LAYERS),
    Row("granite", "GraniteForCausalLM", DECODER, MODEL_LAYERS),
    Row("cohere", "CohereForCausalLM", DECODER, MODEL_LAYERS),
    Row("nemotron", "NemotronForCausalLM", DECODER | HEADS, MODEL_LAYERS),
    Row("glm4", "Glm4ForCausalLM", DECODER | HEADS, MODEL_LAYERS),
    Row("ernie4_5", "Ernie4_5ForCausalLM", DECODER | HEADS, MODEL_LAYERS),
    Row("helium", "HeliumForCausalLM", DECODER | HEADS, MODEL_LAYERS),
    Row("seed_oss", "SeedOssForCausalLM", DECODER | HEADS, MODEL_LAYERS),
    Row("arcee", "ArceeForCausalLM", DECODER, MODEL_LAYERS),
    Row("glm", "GlmForCausalLM", DECODER | HEADS, MODEL_LAYERS),
    Row("apertus", "ApertusForCausalLM", DECODER, MODEL_LAYERS),
    Row("phi", "PhiForCausalLM", DECODER, MODEL_LAYERS),
    Row("ministral", "MinistralForCausalLM", WINDOWED, MODEL_LAYERS),
    Row("ministral-hub", "MinistralForCausalLM", WINDOWED, MODEL_LAYERS, config_edits=NO_TYPES),
    Row("diffllama", "DiffLlamaForCausalLM", DECODER, MODEL_LAYERS, shortened=shorter_diffllama),
    Row("gpt_bigcode", "GPTBigCodeForCausalLM", GPT, "transformer.h"),
    Row("gpt_bigcode-base", "GPTBigCodeModel", GPT, "h"),
    Row("gptj", "GPTJForCausalLM", GPT | {"rotary_dim": 4}, "transformer.h"),
    Row("codegen", "CodeGenForCausalLM", GPT | {"rotary_dim": 4}, "transformer.h"),
    Row("openai-gpt", "OpenAIGPTLMHeadModel", GPT, "transformer.h"),
    Row("openai-gpt-hub", "OpenAIGPTLMHeadModel", GPT, "transformer.h", renames=((r"^transformer\.", ""),)),
    Row("gpt_neox", "GPTNeoXForCausalLM", DECODER, "gpt_neox.layers"),
    Row("gpt_neox-base", "GPTNeoXModel", DECODER, "layers"),
    Row(
        "opt",
        "OPTForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "ffn_dim": 48,
            "num_attention_heads": 4,
            "num_hidden_layers": 7,
            "max_position_embeddings": 64,
        }
        | SPECIAL,
        "model.decoder.layers",
    ),
    Row(
        "bloom",
        "BloomForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "n_head": 4, "n_layer": 7} | SPECIAL,
        "transformer.h",
    ),
    Row(
        "bloom-hub",
        "BloomForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "n_head": 4, "n_layer": 7} | SPECIAL,
        "transformer.h",
        renames=((r"^transformer\.", ""),),
    ),
    Row(
        "falcon",
        "FalconForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 7} | SPECIAL,
        "transformer.h",
    ),
    Row(
        "mpt",
        "MptForCausalLM",
        {"vocab_size": VOCABULARY, "d_model": 32, "n_heads": 4, "n_layers": 7, "max_seq_len": 64},
        "transformer.blocks",
    ),
    Row(
        "xglm",
        "XGLMForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "ffn_dim": 48,
            "attention_heads": 4,
            "num_layers": 7,
            "max_position_embeddings": 64,
        }
        | SPECIAL,
        "model.layers",
    ),
)

WINDOWS = (
    Row("gemma2", "Gemma2ForCausalLM", WINDOWED, MODEL_LAYERS),
    Row("gemma2-hub", "Gemma2ForCausalLM", WINDOWED, MODEL_LAYERS, config_edits=NO_TYPES),
    Row("gpt_oss", "GptOssForCausalLM", WINDOWED | {"num_local_experts": 4, "num_experts_per_tok": 2}, MODEL_LAYERS),
    Row(
        "gpt_oss-hub",
        "GptOssForCausalLM",
        WINDOWED | {"num_local_experts": 4, "num_experts_per_tok": 2},
        MODEL_LAYERS,
        config_edits=NO_TYPES,
    ),
    Row("cohere2", "Cohere2ForCausalLM", WINDOWED | TWELVE, MODEL_LAYERS),
    Row("cohere2-hub", "Cohere2ForCausalLM", WINDOWED | TWELVE, MODEL_LAYERS, config_edits=NO_TYPES),
    Row(
        "cohere2-pattern",
        "Cohere2ForCausalLM",
        WINDOWED | TWELVE | {"sliding_window_pattern": 3},
        MODEL_LAYERS,
        config_edits=NO_TYPES | {"sliding_window_pattern": 3},
    ),
    Row("exaone4", "Exaone4ForCausalLM", WINDOWED | TWELVE, MODEL_LAYERS),
    Row("exaone4-hub", "Exaone4ForCausalLM", WINDOWED | TWELVE, MODEL_LAYERS, config_edits=NO_TYPES),
    Row("olmo3", "Olmo3ForCausalLM", WINDOWED | TWELVE, MODEL_LAYERS),
    Row("olmo3-hub", "Olmo3ForCausalLM", WINDOWED | TWELVE, MODEL_LAYERS, config_edits=NO_TYPES),
    Row("smollm3", "SmolLM3ForCausalLM", DECODER | TWELVE, MODEL_LAYERS),
    Row(
        "smollm3-hub",
        "SmolLM3ForCausalLM",
        DECODER | TWELVE | {"use_sliding_window": True, "sliding_window": WINDOW},
        MODEL_LAYERS,
        config_edits=NO_TYPES | {"no_rope_layers": ABSENT},
    ),
    Row(
        "gpt_neo",
        "GPTNeoForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_heads": 4,
            "num_layers": 8,
            "window_size": WINDOW,
            "max_position_embeddings": 64,
            "attention_types": [[["global", "local"], 4]],
        },
        "transformer.h",
        irregular=(1, 4, 5),
    ),
    Row(
        "gpt_neo-types-only",
        "GPTNeoForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_heads": 4,
            "num_layers": 8,
            "window_size": WINDOW,
            "max_position_embeddings": 64,
            "attention_types": [[["global", "local"], 3], [["local"], 2]],
        },
        "transformer.h",
        irregular=(1, 4, 5),
        config_edits={"attention_layers": ABSENT},
    ),
    Row(
        "gpt_neo-nothing",
        "GPTNeoForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "num_heads": 2,
            "num_layers": 24,
            "window_size": WINDOW,
            "max_position_embeddings": 64,
        },
        "transformer.h",
        irregular=(1, 4, 5),
        config_edits={"attention_layers": ABSENT, "attention_types": ABSENT},
    ),
)

EXPERTS = (
    Row("granitemoe", "GraniteMoeForCausalLM", DECODER | ROUTED, MODEL_LAYERS),
    Row("olmoe", "OlmoeForCausalLM", DECODER | ROUTED, MODEL_LAYERS),
    Row("phimoe", "PhimoeForCausalLM", DECODER | ROUTED, MODEL_LAYERS),
    Row("minimax_m2", "MiniMaxM2ForCausalLM", DECODER | HEADS | ROUTED, MODEL_LAYERS),
    Row(
        "dbrx",
        "DbrxForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 7,
            "max_seq_len": 64,
            "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
            "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
        },
        "transformer.blocks",
    ),
    Row("qwen2_moe", "Qwen2MoeForCausalLM", QWEN_MOE | {"mlp_only_layers": [0, 3]}, MODEL_LAYERS),
    Row("qwen2_moe-fused", "Qwen2MoeForCausalLM", QWEN_MOE, MODEL_LAYERS, save=MEMORY_NAMES),
    Row("qwen2_moe-step", "Qwen2MoeForCausalLM", QWEN_MOE | {"decoder_sparse_step": 2}, MODEL_LAYERS),
    Row(
        "qwen2_moe-hub",
        "Qwen2MoeForCausalLM",
        QWEN_MOE | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 5},
        MODEL_LAYERS,
        config_edits=NO_TYPES,
    ),
    Row("qwen3_moe", "Qwen3MoeForCausalLM", QWEN_MOE | HEADS, MODEL_LAYERS),
    Row(
        "qwen3_moe-step",
        "Qwen3MoeForCausalLM",
        QWEN_MOE | HEADS | {"decoder_sparse_step": 2, "mlp_only_layers": [3]},
        MODEL_LAYERS,
    ),
    Row("qwen3_next", "Qwen3NextForCausalLM", QWEN_NEXT, MODEL_LAYERS),
    Row("qwen3_next-hub", "Qwen3NextForCausalLM", QWEN_NEXT, MODEL_LAYERS, config_edits=NO_TYPES),
    Row(
        "qwen3_next-interval",
        "Qwen3NextForCausalLM",
        QWEN_NEXT | {"full_attention_interval": 3},
        MODEL_LAYERS,
        config_edits=NO_TYPES | {"full_attention_interval": 3},
        extra={"mtp.layers.0.input_layernorm.weight": (32,), "mtp.fc.weight": (32, 64)},
    ),
    Row("qwen3_5_text", "Qwen3_5ForCausalLM", DECODER | HEADS | LINEAR | TWELVE, MODEL_LAYERS),
    Row(
        "qwen3_5_text-hub", "Qwen3_5ForCausalLM", DECODER | HEADS | LINEAR | TWELVE, MODEL_LAYERS, config_edits=NO_TYPES
    ),
    Row("deepseek_v2", "DeepseekV2ForCausalLM", DEEPSEEK, MODEL_LAYERS),
    Row("deepseek_v3", "DeepseekV3ForCausalLM", DEEPSEEK, MODEL_LAYERS),
    Row(
        "deepseek_v3-default",
        "DeepseekV3ForCausalLM",
        DEEPSEEK | {"first_k_dense_replace": 3},
        MODEL_LAYERS,
        config_edits={"first_k_dense_replace": ABSENT},
    ),
    Row("glm4_moe", "Glm4MoeForCausalLM", DEEPSEEK | HEADS | {"n_group": 1}, MODEL_LAYERS),
    Row(
        "ernie4_5_moe",
        "Ernie4_5_MoeForCausalLM",
        DECODER
        | {
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_intermediate_size": 24,
            "moe_layer_start_index": 2,
            "moe_layer_end_index": 5,
        },
        MODEL_LAYERS,
    ),
    Row(
        "ernie4_5_moe-default",
        "Ernie4_5_MoeForCausalLM",
        DECODER | {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24},
        MODEL_LAYERS,
        config_edits={"moe_layer_start_index": ABSENT, "moe_layer_end_index": -1},
    ),
    Row("minimax", "MiniMaxForCausalLM", DECODER | ROUTED | HEADS | {"block_size": 8}, MODEL_LAYERS),
    Row(
        "minimax-hub",
        "MiniMaxForCausalLM",
        DECODER | ROUTED | HEADS | {"block_size": 8},
        MODEL_LAYERS,
        config_edits=NO_TYPES,
    ),
    Row(
        "llama4_text",
        "Llama4ForCausalLM",
        DECODER | HEADS | TWELVE | {"num_local_experts": 4, "intermediate_size_mlp": 40, "attention_chunk_size": 8},
        MODEL_LAYERS,
    ),
    Row(
        "llama4_text-hub",
        "Llama4ForCausalLM",
        DECODER
        | HEADS
        | TWELVE
        | {
            "num_local_experts": 4,
            "intermediate_size_mlp": 40,
            "attention_chunk_size": 8,
            "interleave_moe_layer_step": 2,
        },
        MODEL_LAYERS,
        config_edits=NO_TYPES | {"no_rope_layers": [], "moe_layers": ABSENT},
    ),
)

GEMMA3N = WINDOWED | {
    "num_hidden_layers": 10, "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 4,
    "laurel_rank": 4, "num_kv_shared_layers": 3, "altup_num_inputs": 2,
    "layer_types": listed("ssfsfssfsf", GEMMA_TYPES),
    "intermediate_size": [48, 40, 48, 32, 48, 48, 24, 48, 40, 48],
    "activation_sparsity_pattern": [0.95, 0.0, 0.5, 0.0, 0.0, 0.0, 0.9, 0.0, 0.0, 0.0],
}  # fmt: skip
GEMMA4 = WINDOWED | {
    "num_hidden_layers": 9, "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 4,
    "num_kv_shared_layers": 3, "global_head_dim": 16, "layer_types": listed("sfssfssff", GEMMA_TYPES),
}  # fmt: skip
GEMMA = (
    Row("gemma3n_text", "Gemma3nForCausalLM", GEMMA3N, MODEL_LAYERS, irregular=(1, 3, 8)),
    Row(
        "gemma3n_text-hub",
        "Gemma3nForCausalLM",
        GEMMA3N
        | {
            "num_hidden_layers": 15,
            "layer_types": None,
            "intermediate_size": 48,
            "activation_sparsity_pattern": None,
            "num_kv_shared_layers": 4,
        },
        MODEL_LAYERS,
        config_edits=NO_TYPES | {"activation_sparsity_pattern": ABSENT, "intermediate_size": 48},
        irregular=(1, 3, 12),
    ),
    Row("gemma4_text", "Gemma4ForCausalLM", GEMMA4, MODEL_LAYERS, irregular=(0, 2, 7)),
    Row(
        "gemma4_text-hub",
        "Gemma4ForCausalLM",
        GEMMA4 | TWELVE | {"layer_types": None, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0},
        MODEL_LAYERS,
        config_edits=NO_TYPES | {"per_layer_config": ABSENT, "global_head_dim": 16},
        refused=("last",),
    ),
)

JAMBA = DECODER | {
    "num_hidden_layers": 9, "attn_layer_period": 4, "attn_layer_offset": 2, "num_experts": 4, "num_experts_per_tok": 2,
    "mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False,
}  # fmt: skip
ZAMBA = DECODER | {
    "num_hidden_layers": 9, "mamba_d_state": 8, "mamba_dt_rank": 4, "n_mamba_heads": 2, "use_mamba_kernels": False,
    "layers_block_type": listed("mhmhmmhhm", MIXED), "num_key_value_heads": 4,
}  # fmt: skip
ZAMBA2 = DECODER | {
    "num_hidden_layers": 10, "mamba_d_state": 8, "n_mamba_heads": 8, "mamba_ngroups": 1, "chunk_size": 8,
    "layers_block_type": listed("mhmhmhhmhm", MIXED), "num_key_value_heads": 4, "adapter_rank": 4,
    "use_shared_attention_adapter": True, "num_mem_blocks": 1,
}  # fmt: skip
NEMOTRON = {key: value for key, value in DECODER.items() if key != "num_hidden_layers"} | {
    "head_dim": 8, "mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 8,
    "layers_block_type": listed("m-ame-mae", MIXED), "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 24, "moe_shared_expert_intermediate_size": 24,
}  # fmt: skip
LFM2_MOE = DECODER | ROUTED | {"num_dense_layers": 3, "layer_types": listed("ccaccac", MIXED)}
KIMI = DECODER | LATENT | {
    "head_dim": 16, "linear_head_dim": 8, "linear_num_heads": 4, "linear_conv_kernel_dim": 3, "num_experts": 4,
    "num_experts_per_token": 2, "moe_intermediate_size": 24, "num_shared_experts": 1, "num_expert_group": 1,
    "topk_group": 1, "layer_types": listed("mmammam", MIXED),
    "mlp_layer_types": ["dense", "dense", *["sparse"] * 5],
}  # fmt: skip
HYBRIDS = (
    Row("jamba", "JambaForCausalLM", JAMBA, MODEL_LAYERS, irregular=(0, 1)),
    Row(
        "bamba",
        "BambaForCausalLM",
        DECODER | MAMBA2 | {"attn_layer_indices": [1, 3, 5]},
        MODEL_LAYERS,
        irregular=(1, 4),
    ),
    Row("falcon_h1", "FalconH1ForCausalLM", DECODER | MAMBA2 | HEADS | {"mamba_d_ssm": 64}, MODEL_LAYERS),
    Row(
        "granitemoehybrid",
        "GraniteMoeHybridForCausalLM",
        DECODER | MAMBA2 | ROUTED | {"layer_types": listed("mammaam", MIXED), "shared_intermediate_size": 24},
        MODEL_LAYERS,
    ),
    Row(
        "granitemoehybrid-hub",
        "GraniteMoeHybridForCausalLM",
        DECODER | MAMBA2 | ROUTED | {"layer_types": listed("mammaam", MIXED), "shared_intermediate_size": 24},
        MODEL_LAYERS,
        config_edits={"layer_types": ["mamba" if letter == "m" else "attention" for letter in "mammaam"]},
    ),
    Row("lfm2", "Lfm2ForCausalLM", DECODER | {"layer_types": listed("ccaccac", MIXED)}, MODEL_LAYERS),
    Row(
        "lfm2-hub",
        "Lfm2ForCausalLM",
        DECODER | {"full_attn_idxs": [2, 5]},
        MODEL_LAYERS,
        config_edits=NO_TYPES | {"full_attn_idxs": [2, 5]},
    ),
    Row("lfm2_moe", "Lfm2MoeForCausalLM", LFM2_MOE, MODEL_LAYERS),
    Row(
        "lfm2_moe-default",
        "Lfm2MoeForCausalLM",
        LFM2_MOE | {"num_dense_layers": 2},
        MODEL_LAYERS,
        config_edits={"num_dense_layers": ABSENT},
    ),
    Row("zamba", "ZambaForCausalLM", ZAMBA, MODEL_LAYERS, irregular=(1, 4, 6)),
    Row(
        "zamba-hub",
        "ZambaForCausalLM",
        ZAMBA | {"num_hidden_layers": 12, "layers_block_type": None, "attn_layer_period": 4, "attn_layer_offset": 1},
        MODEL_LAYERS,
        irregular=(2, 5),
        config_edits={"layers_block_type": ABSENT},
    ),
    Row("zamba2", "Zamba2ForCausalLM", ZAMBA2, MODEL_LAYERS, irregular=(1, 4, 6)),
    Row("zamba2-two-blocks", "Zamba2ForCausalLM", ZAMBA2 | {"num_mem_blocks": 2}, MODEL_LAYERS, irregular=(1, 3, 4)),
    Row("nemotron_h", "NemotronHForCausalLM", NEMOTRON, MODEL_LAYERS),
    Row(
        "nemotron_h-hub",
        "NemotronHForCausalLM",
        NEMOTRON,
        MODEL_LAYERS,
        config_edits={"layers_block_type": ABSENT, "hybrid_override_pattern": "M-*ME-M*E", "num_hidden_layers": 9},
    ),
    Row(
        "recurrent_gemma",
        "RecurrentGemmaForCausalLM",
        DECODER | {"lru_width": 32, "attention_window_size": WINDOW},
        MODEL_LAYERS,
    ),
    Row(
        "recurrent_gemma-default",
        "RecurrentGemmaForCausalLM",
        DECODER | {"lru_width": 32, "attention_window_size": WINDOW},
        MODEL_LAYERS,
        config_edits={"block_types": ABSENT},
    ),
    Row(
        "mamba",
        "MambaForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 7, "time_step_rank": 4},
        "backbone.layers",
        config_edits={"n_layer": 7},
    ),
    Row(
        "mamba2",
        "Mamba2ForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "state_size": 8,
            "num_hidden_layers": 7,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 1,
            "chunk_size": 8,
        },
        "backbone.layers",
    ),
    Row(
        "rwkv",
        "RwkvForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "attention_hidden_size": 32,
            "intermediate_size": 48,
            "context_length": 64,
            "num_hidden_layers": 7,
            "rescale_every": 0,
        },
        "rwkv.blocks",
        shortened=shorter_rwkv,
    ),
    Row(
        "rwkv-rescaled",
        "RwkvForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "attention_hidden_size": 32,
            "intermediate_size": 48,
            "context_length": 64,
            "num_hidden_layers": 7,
            "rescale_every": 3,
        },
        "rwkv.blocks",
        tolerance=1e-4,
        shortened=shorter_rwkv,
    ),
    Row("olmo_hybrid", "OlmoHybridForCausalLM", DECODER | LINEAR | {"num_hidden_layers": 9}, MODEL_LAYERS),
    Row(
        "olmo_hybrid-hub",
        "OlmoHybridForCausalLM",
        DECODER | LINEAR | {"num_hidden_layers": 9},
        MODEL_LAYERS,
        config_edits=NO_TYPES,
    ),
    Row("kimi_linear", "KimiLinearForCausalLM", KIMI, MODEL_LAYERS),
    Row(
        "kimi_linear-hub",
        "KimiLinearForCausalLM",
        KIMI,
        MODEL_LAYERS,
        config_edits=NO_TYPES
        | {
            "mlp_layer_types": ABSENT,
            "first_k_dense_replace": 2,
            "linear_attn_config": {
                "full_attn_layers": [3, 6],
                "kda_layers": [1, 2, 4, 5, 7],
                "head_dim": 8,
                "num_heads": 4,
                "short_conv_kernel_size": 3,
            },
        },
    ),
)

EXAONE_MOE = DEEPSEEK | HEADS | TWELVE | {"sliding_window": WINDOW, "num_experts": 4, "num_key_value_heads": 2}
EXAONE_MOE |= {"n_group": 1, "first_k_dense_replace": 2}
LITE = DEEPSEEK | {"n_group": 1}
MIMO = WINDOWED | TWELVE | {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_group": 1, "topk_group": 1,
    "v_head_dim": 8, "num_global_key_value_heads": 1,
}  # fmt: skip
NO_KINDS = NO_TYPES | {"mlp_layer_types": ABSENT}
MORE = (
    Row("bitnet", "BitNetForCausalLM", DECODER, MODEL_LAYERS),
    Row(
        "granitemoeshared",
        "GraniteMoeSharedForCausalLM",
        DECODER | ROUTED | {"shared_intermediate_size": 24},
        MODEL_LAYERS,
    ),
    Row("hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", DECODER | HEADS, MODEL_LAYERS),
    Row("hunyuan_v1_moe", "HunYuanMoEV1ForCausalLM", DECODER | HEADS | {"num_experts": 4, "moe_topk": 2}, MODEL_LAYERS),
    Row("flex_olmo", "FlexOlmoForCausalLM", DECODER | ROUTED, MODEL_LAYERS),
    Row("persimmon", "PersimmonForCausalLM", DECODER, MODEL_LAYERS),
    Row("nanochat", "NanoChatForCausalLM", DECODER | HEADS, MODEL_LAYERS),
    Row("jais2", "Jais2ForCausalLM", DECODER | HEADS, MODEL_LAYERS),
    Row("doge", "DogeForCausalLM", DECODER | HEADS, MODEL_LAYERS),
    Row("solar_open", "SolarOpenForCausalLM", DEEPSEEK | HEADS | {"n_group": 1}, MODEL_LAYERS),
    Row("ministral3", "Ministral3ForCausalLM", DECODER | HEADS, MODEL_LAYERS),
    Row(
        "falcon_mamba",
        "FalconMambaForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 7, "time_step_rank": 4},
        "backbone.layers",
    ),
    Row("vaultgemma", "VaultGemmaForCausalLM", WINDOWED, MODEL_LAYERS, config_edits=NO_TYPES),
    Row("cwm", "CwmForCausalLM", WINDOWED | TWELVE, MODEL_LAYERS, config_edits=NO_TYPES),
    Row(
        "afmoe",
        "AfmoeForCausalLM",
        WINDOWED | ROUTED | TWELVE,
        MODEL_LAYERS,
        config_edits=NO_TYPES | {"num_dense_layers": ABSENT},
    ),
    Row("exaone_moe", "ExaoneMoeForCausalLM", EXAONE_MOE, MODEL_LAYERS),
    Row("exaone_moe-hub", "ExaoneMoeForCausalLM", EXAONE_MOE, MODEL_LAYERS, config_edits=NO_KINDS),
    Row("qwen3_5_moe_text", "Qwen3_5MoeForCausalLM", QWEN_NEXT, MODEL_LAYERS, config_edits=NO_TYPES),
    Row("glm4_moe_lite", "Glm4MoeLiteForCausalLM", LITE, MODEL_LAYERS),
    Row("glm4_moe_lite-hub", "Glm4MoeLiteForCausalLM", LITE, MODEL_LAYERS, config_edits={"mlp_layer_types": ABSENT}),
    Row("mimo_v2_flash", "MiMoV2FlashForCausalLM", MIMO, MODEL_LAYERS),
    Row("mimo_v2_flash-hub", "MiMoV2FlashForCausalLM", MIMO, MODEL_LAYERS, config_edits=NO_KINDS),
    Row(
        "deepseek_v32",
        "DeepseekV32ForCausalLM",
        LITE | {"index_topk": 4, "index_head_dim": 16, "index_n_heads": 2},
        MODEL_LAYERS,
    ),
    Row(
        "dots1",
        "Dots1ForCausalLM",
        LITE | HEADS | {"sliding_window": WINDOW, "max_window_layers": 4},
        MODEL_LAYERS,
        config_edits=NO_TYPES,
    ),
    Row("ctrl", "CTRLLMHeadModel", GPT | {"dff": 48}, "transformer.h"),
    Row("biogpt", "BioGptForCausalLM", DECODER | {"max_position_embeddings": 64}, "biogpt.layers"),
    Row(
        "gpt_neox_japanese",
        "GPTNeoXJapaneseForCausalLM",
        DECODER,
        "gpt_neox_japanese.layers",
        refused=("last",),
    ),
)

ROWS = (*PLAIN, *WINDOWS, *EXPERTS, *GEMMA, *HYBRIDS, *MORE)
