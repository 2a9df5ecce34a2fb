"""PEFT's types of adapters and the fields of their adapter_config.json, as of peft 0.21: which follow layers, and how.

A test asks peft for its types and their fields, so that none is missing here.
"""

PREFIX_TYPES = ("PREFIX_TUNING", "CARTRIDGE")  # keys and values of all layers side by side in one tensor
PROMPT_TYPES = (*PREFIX_TYPES, "PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT")

# What a type holds stands under the modules' names, and no module needs what another has.
BY_MODULE = (
    "ADALORA", "ADAMSS", "ADAPTION_PROMPT", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "GLORA", "GRALORA",
    "HIRA", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "LORA", "MISS", "OFT", "PEANUT", "POLY", "PSOFT", "ROAD",
    "SHIRA", "SUPERTUNING", "TRAINABLE_TOKENS", "VBLORA", "WAVEFT",
)  # fmt: skip

# Modules share a projection as large as the largest of them.
SHARED = ("PVERA", "RANDLORA", "VERA")

# Types that cannot follow single layers, and why.
OTHERS = {
    "FROD": "its projections are made from the weights of all layers together",
    "LILY": "neighbouring layers share its matrices",
    "OSF": "it is a part of the weights it was made from",
    "SHADOW": "it has a model of its own beside the layers",
    "TINYLORA": "its projections are made from a module's place among all",
    "UNILORA": "its vector is spread over all modules together",
    "XLORA": "its classifier has an output for each layer",
}

# Fields with a rule: see rewriter.adapters.
SELECTION = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
PATTERNS = ("rank_pattern", "alpha_pattern", "lambda_pattern", "n_frequency_pattern", "block_size_pattern")
LISTS = ("modules_to_save", "feedforward_modules")
LITERAL = ("target_parameters", "trainable_token_indices")
REFUSED = ("megatron_config",)  # the configuration of a whole model
RULED = (*SELECTION, *PATTERNS, *LISTS, *LITERAL, *REFUSED, "layer_replication", "num_layers", "adapter_layers")

# Fields that say nothing about layers.
INDEPENDENT = frozenset((
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "init_weights", "r", "bias", "fan_in_fan_out", "num_virtual_tokens", "token_dim", "num_transformer_submodules",
    "num_attention_heads", "save_projection", "alpha", "module_dropout", "scaling", "projection_prng_key",
    "lora_alpha", "lora_dropout", "random_seed", "tokenizer_name_or_path", "use_rslora", "init_lora_weights",
    "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "use_dora", "velora_config",
    "alora_invocation_tokens", "use_qalora", "qalora_group_size", "monteclora_config", "runtime_config", "lora_bias",
    "use_bdlora", "arrow_config", "kasa_config", "ensure_weight_tying", "n_frequency", "random_loc_seed",
    "rank_dropout", "use_effective_conv2d", "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_kwargs",
    "use_cayley_neumann", "num_cayley_neumann_terms", "encoder_hidden_size", "d_initial", "target_r", "init_r",
    "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step", "num_subspaces", "subspace_rank",
    "use_asa", "asa_target_subspaces", "init_warmup", "final_warmup", "mask_interval", "asa_importance_beta",
    "asa_uncertainty_beta", "asa_schedule_exponent", "use_dynamic_rank", "svd_threshold", "adapter_len",
    "boft_block_size", "boft_block_num", "boft_n_butterfly_factor", "boft_dropout", "block_size", "num_frozen_tokens",
    "cpt_token_ids", "cpt_mask", "cpt_tokens_type_mask", "opt_weighted_loss_type", "opt_loss_decay_factor",
    "opt_projection_epsilon", "opt_projection_format_epsilon", "decomposition_method", "init_scale", "para",
    "deft_dropout", "delora_lambda", "frod_dropout", "sparse_rate", "regularization_alpha", "progressbar",
    "runtime_offload_base_weight", "config_A_B", "config_C", "config_D_E", "hybrid_r", "gralora_dropout", "gralora_k",
    "hira_dropout", "apply_GS", "init_ia3_weights", "decompose_both", "decompose_factor", "rank_dropout_scale",
    "miss_dropout", "mini_r", "prompt_tuning_init_state_dict_path", "prompt_tuning_init_task", "num_ranks",
    "num_tasks", "oft_block_size", "coft", "eps", "block_share", "depth", "act_fn", "poly_type", "n_tasks",
    "n_skills", "n_splits", "prefix_projection", "psoft_alpha", "psoft_dropout", "ab_svd_init", "psoft_svd",
    "psoft_svd_lowrank_niter", "psoft_orth", "psoft_mag_b", "psoft_mag_a", "cayley_neumann_eps", "pvera_dropout",
    "sample_at_inference", "generator_seed", "encoder_reparameterization_type", "encoder_num_layers",
    "encoder_dropout", "sparse", "very_sparse", "randlora_dropout", "randlora_alpha", "variant", "group_size",
    "mask_type", "sparsity", "select_top", "save_precomputed_indices", "token_indices", "num_vectors",
    "vector_length", "topk", "save_only_topk_weights", "vblora_dropout", "init_vector_bank_bound", "init_logits_std",
    "vera_dropout", "wavelet_family", "use_idwt", "proportional_parameters",
))  # fmt: skip

# How the names of an adapter's own parts begin, after the module's.
PARTS = (
    "lora_", "hada_", "lokr_", "ia3_", "oft_", "boft_", "vera_", "pvera_", "vblora_", "hra_", "fourierft_", "c3a_",
    "miss_", "bone_", "ln_tuning_", "randlora_", "road_", "shira_", "trainable_tokens_", "poly_", "waveft_",
    "delora_", "osf_", "adamss_", "beft_", "deft_", "frod_", "glora_", "gralora_", "hira_", "peanut_", "psoft_",
    "supertuning_", "adaption_", "token_adapter", "base_layer", "modules_to_save",
)  # fmt: skip
