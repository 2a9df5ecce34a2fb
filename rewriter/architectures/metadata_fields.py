"""The fields that mean the same in every architecture: key -> rule (see rewriter.planning.metadata.field_rules).

Keys are relative to a stack's scope. Arrays are followed by name, never by length alone: the keys under `keep`
are lists that have nothing to do with layers but may have as many entries.
"""

_HUGGINGFACE = {
    "per_layer": (
        "layer_types", "mlp_layer_types", "layers_block_type", "no_rope_layers", "activation_sparsity_pattern",
        "indexer_types", "num_attention_heads_per_layer", "attention_layers", "hybrid_override_pattern",
    ),
    "scalar_or_per_layer": (
        "intermediate_size", "attention_window", "num_attention_heads", "num_key_value_heads",
        "sliding_window", "moe_intermediate_size", "num_experts_per_tok",
    ),
    "layer_indexes": (
        "mlp_only_layers", "moe_layers", "cross_attention_layers", "attn_layer_indices", "hybrid_layer_ids",
        "full_attn_idxs", "fullatt_block_indexes", "global_attn_indexes",
    ),
    "leading_count": ("first_k_dense_replace", "num_dense_layers", "max_window_layers"),
    "trailing_count": ("num_kv_shared_layers",),
    "prediction_count": ("num_nextn_predict_layers",),
    "keyed": ("per_layer_config", "pruned_heads"),
    "period": (
        "sliding_window_pattern", "_sliding_window_pattern", "full_attention_interval",
        "global_attn_every_n_layers", "no_rope_layer_interval", "interleave_moe_layer_step",
        "decoder_sparse_step", "attn_layer_period", "expert_layer_period", "moe_layer_interval",
        "moe_layer_freq", "rescale_every", "moe_every_n_layers",
    ),
    "keep": (
        "architectures", "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id",
        "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "image_size", "patch_size",
        "image_mean", "image_std", "auto_map", "mrope_section", "task_specific_params", "id2label", "label2id",
        "time_step_limit", "mlp_multipliers", "ssm_multipliers", "mtp_layers_block_type", "_block_types",
    ),
}  # fmt: skip

_GGUF = {
    "per_layer": (
        "attention.recurrent_layers", "attention.rope_pattern", "attention.compress_ratios", "deepstack_mapping",
        "attention.indexer.types", "swiglu_clamp_exp", "swiglu_clamp_shexp",
    ),
    "scalar_or_per_layer": (
        "attention.head_count", "attention.head_count_kv", "feed_forward_length", "expert_feed_forward_length",
        "expert_used_count",
    ),
    "leading_count": ("leading_dense_block_count", "hash_layer_count"),
    "trailing_count": ("attention.shared_kv_layers",),
    "prediction_count": ("nextn_predict_layers",),
    "period": ("attention.sliding_window_pattern", "full_attention_interval", "interleave_moe_layer_step"),
    "layer_indexes": ("ple.layers",),
    "keep": (
        "rope.dimension_sections", "classifier.output_labels", "ple.layer_multipliers", "ple.head_offsets",
        "ple.head_vocab_sizes", "target_layers",
    ),
}  # fmt: skip

# A period or a default that a loader does not read once the list beside it is there.
OVERRIDDEN_BY = {
    "sliding_window_pattern": "layer_types",
    "_sliding_window_pattern": "layer_types",
    "full_attention_interval": "layer_types",
    "global_attn_every_n_layers": "layer_types",
    "no_rope_layer_interval": "no_rope_layers",
    "interleave_moe_layer_step": "moe_layers",
    "max_window_layers": "layer_types",
    "first_k_dense_replace": "mlp_layer_types",
}

# Where this is set and that list is missing, a loader may give the layers windows by a pattern of its own: without
# rules for the architecture nobody can tell.
GENERIC_DOUBTS = {
    "huggingface": ("sliding_window", "layer_types"),
    "gguf": ("attention.sliding_window", "attention.sliding_window_pattern"),
}

# Subtrees of a config.json that describe something else than the stack's layers, whatever they hold.
NOT_ABOUT_LAYERS = (
    "rope_scaling", "rope_parameters", "quantization_config", "task_specific_params", "id2label", "label2id",
    "auto_map", "generation_config", "backbone_config", "per_layer_config", "mtp_per_layer_config",
)  # fmt: skip


# What the keys of a GGUF begin with that say something of the file, its words or how it was made.
NOT_ABOUT_THE_MODEL = ("general.", "tokenizer.", "split.", "quantize.", "rewriter.")


def _by_key(table: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {key: rule for rule, keys in table.items() for key in keys}


DEFAULT_FIELDS: dict[str, dict[str, str]] = {
    "huggingface": _by_key(_HUGGINGFACE),
    "gguf": _by_key(_GGUF),
}

# Where the nested config of a first stack may stand once more: at the top, or under the names of remote code.
SECOND_SCOPES = ("", "text_config", "llm_config", "language_config", "language_model_config")

# Lists and objects of module names, by their whole key: they stand at the top whatever the stack.
ROOT_FIELDS: dict[str, dict[str, str]] = {
    # MLX: settings for all modules beside those of single ones, by their names; it writes them twice.
    "huggingface": {"quantization": "layer_names", "quantization_config": "layer_names"},
    "gguf": {"general.tensor_extra.name": "layer_names"},
}

# Where a config.json says how the weights are quantised, and the last part of the keys that name modules there: in
# compressed-tensors, FP8, AWQ, bitsandbytes, Quark, ModelOpt, HQQ, AQLM, AutoRound, VPTQ, SpQR, HIGGS, GPTQModel and
# torchao.
QUANTIZATION = ("quantization_config.", "compression_config.")
MODULE_NAMES = (
    "ignore", "targets", "ignored_layers", "modules_to_not_convert", "llm_int8_skip_modules", "exclude",
    "layer_quant_config", "exclude_modules", "quantized_layers", "skip_modules", "linear_weights_not_to_quantize",
    "extra_config", "config_for_layers", "shapes", "tune_metadata", "dynamic",
    "module_fqn_to_config", "fqn_to_config", "block_name_to_quantize", "to_quant_block_names",
)  # fmt: skip

# The same in files of their own: ModelOpt, AutoGPTQ and GPTQModel, AutoAWQ, AutoRound and ExLlamaV3, Mistral.
QUANTIZATION_FILES = (
    "hf_quant_config.json:", "quantize_config.json:", "quant_config.json:", "quantization_config.json:",
    "params.json:quantization",
)  # fmt: skip

# Lists whose entries belong to those of another list, by their whole keys: an entry goes with the other one.
PARALLEL = {"general.tensor_extra.prec_a4": "general.tensor_extra.name"}
