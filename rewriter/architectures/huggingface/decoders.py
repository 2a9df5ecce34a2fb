"""Hugging Face model types: decoders: plain, mixtures of experts, hybrids and recurrent models."""

from __future__ import annotations

from dataclasses import replace

from rewriter.architectures.huggingface.builders import ALIAS, decoder
from rewriter.architectures.schema import Architecture, LayerLimit, Pattern, SharedTensors, StackedTensor

_TRANSFORMER = ("transformer.h.", "h.")
_BLOCKS = ("transformer.blocks.", "blocks.")
_BACKBONE = ("backbone.layers.", "model.layers.", "layers.")


def _windows(default: int, *period_keys: str, other: str = "sliding_attention") -> Pattern:
    """Every so many layers one has full attention, unless `layer_types` is there."""
    return Pattern(
        explicit="layer_types", period_keys=period_keys, default=default, special="full_attention", other=other
    )


def _blocks(default: int, *period_keys: str) -> Pattern:
    return _windows(default, *period_keys, other="linear_attention")


# A layer has experts if (i + 1) % decoder_sparse_step == 0 and it is not in mlp_only_layers.
_SPARSE_STEP = Pattern(
    explicit="mlp_only_layers",
    period_keys=("decoder_sparse_step",),
    default=1,
    special="experts",
    other="dense",
    form="other_indexes",
    resets=(("decoder_sparse_step", 1),),
)
# Every second layer has a window, below max_window_layers and only with use_sliding_window.
_QWEN2_MOE_WINDOWS = Pattern(
    explicit="layer_types",
    default=2,
    special="full_attention",
    other="sliding_attention",
    until_key="max_window_layers",
    until=28,
    when=(("use_sliding_window", 1),),
)
# no_rope_layers has a 1 for every layer *with* rotary positions.
_NO_ROPE = Pattern(
    explicit="no_rope_layers", period_keys=("no_rope_layer_interval",), default=4, special=0, other=1
)  # fmt: skip
_LLAMA4_EXPERTS = Pattern(
    explicit="moe_layers",
    period_keys=("interleave_moe_layer_step",),
    default=1,
    special="experts",
    other="dense",
    form="special_indexes",
)
# Hub files have attn_type_list instead, which remote code reads.
_MINIMAX = Pattern(
    explicit="layer_types", default=2, special="linear_attention", other="full_attention", unless="attn_type_list"
)
# Without a window all layers have full attention.
_EXAONE = replace(_windows(4, "sliding_window_pattern"), off="sliding_window")

# Gemma 3n and 4 keep the embeddings of all layers in one table, and their last layers reuse keys and values.
_PER_LAYER_INPUTS = (
    StackedTensor(name="embed_tokens_per_layer.weight", axis=1),
    StackedTensor(name="per_layer_model_projection.weight", axis=0),
)
_SHARED_TAIL = LayerLimit(
    kind="with_tail_kv_source",
    value=("num_kv_shared_layers", "layer_types"),
    why="the last num_kv_shared_layers layers reuse keys and values of the last layer of their type before them, "
    "which has to stay with them",
)
_FULL_AT_THE_END = LayerLimit(
    kind="not_last",
    value=("layer_types", "sliding_attention"),
    why="transformers forces full attention on the last layer, and a sliding one would become the last",
)

# Jamba: i % period == offset, and no list can say otherwise.
_JAMBA = (
    Pattern(period_keys=("attn_layer_period",), default=8, offset_key="attn_layer_offset", offset=4),
    Pattern(period_keys=("expert_layer_period",), default=2, offset_key="expert_layer_offset", offset=1),
)

_ZAMBA = Pattern(
    explicit="layers_block_type",
    period_keys=("attn_layer_period",),
    default=6,
    offset_key="attn_layer_offset",
    offset=4,
    special="hybrid",
    other="linear_attention",
    head=("linear_attention", "linear_attention", "hybrid"),
)
_M, _H = ("linear_attention",), ("hybrid",)
_ZAMBA2 = Pattern(  # for 54 layers, whatever the count says
    explicit="layers_block_type",
    special="hybrid",
    other="linear_attention",
    head=_M + (_M * 5 + _H) * 7 + _M * 4 + _H + _M * 3 + _H + _M * 2,
    fixed=True,
)
_TWO_HYBRIDS = LayerLimit(
    kind="keep_at_least",
    value=("layers_block_type", "hybrid", 2),
    why="transformers loads no Zamba with fewer than two hybrid layers",
)
_ZAMBA2_TURNS = LayerLimit(
    kind="round_robin",
    value=("layers_block_type", "hybrid", "num_mem_blocks"),
    why="hybrid layers use num_mem_blocks shared blocks in turn, and one would get another's",
)
_ZAMBA2_ADAPTERS = tuple(
    (f"{name}_adapter_list.", "layers_block_type", "hybrid")
    for name in ("gate_up_proj", "linear_q", "linear_k", "linear_v")
)


def _attention(*keys: str, first: int = 0) -> tuple[LayerLimit, ...]:
    """A hybrid without any attention layer loads, but fails as soon as it is called."""
    why = "without an attention layer transformers cannot call the model: its cache asks one for the length"
    return (
        LayerLimit(
            kind="keep_one_of", value=(keys, ("full_attention", "attention", "*", "hybrid", True), first), why=why
        ),
    )


def _one_of(key: str, entry: str) -> LayerLimit:
    return LayerLimit(
        kind="keep_at_least", value=(key, entry, 1), why=f"transformers wants a layer of type {entry} at least"
    )


_RECURRENT_GEMMA = Pattern(explicit="block_types", default=3, special="attention", other="recurrent", form="cycle")
# Every fourth layer but the first. Hub files have two lists that count from 1 instead.
_KIMI_LINEAR = Pattern(
    explicit="layer_types",
    default=4,
    special="full_attention",
    other="linear_attention",
    head=("linear_attention",),
    unless="linear_attn_config.kda_layers",
)
_KIMI_LISTS = (
    ("linear_attn_config.full_attn_layers", "one_based_indexes"),
    ("linear_attn_config.kda_layers", "one_based_indexes"),
)

_TYPED = _attention("layer_types")
_SHARED_KEYS = LayerLimit(
    kind="aligned_if_set",
    value=("use_cla", 2),
    why="use_cla lets every other layer use the keys and values of the one before it: only pairs may go",
)
_INDEXERS_ALONE = LayerLimit(
    kind="keep_all_if_above",
    value=("index_topk_freq", 1),
    why="index_topk_freq lets layers share indexers by their number: write indexer_types out first",
)
_INDEXERS_SHARED = LayerLimit(
    kind="with_source_layer",
    value=("indexer_types", "shared"),
    why="a layer without an indexer of its own uses that of the last one before it, which has to stay with it",
)
_DECAYS = LayerLimit(
    kind="keep_all",
    soft=True,
    why="the saved decay slopes stay right; a loader that computes its own makes them of the new number and count",
)
_NEMOTRON_TYPES = LayerLimit(
    kind="keep_all_if_unset",
    value=("layers_block_type", "layer_types", "hybrid_override_pattern"),
    why="without a list of their types transformers takes four layers, whatever the count says",
)
_NOT_ALONE = LayerLimit(kind="special_counts", value=(1,), why="transformers divides by the number of layers less one")
_LAST_HAS_BIAS = LayerLimit(
    kind="must_keep", value=-1, why="only the last layer has a dense_bias, and transformers wants one there"
)
# The first layer is dense, and the others have experts.
_FIRST_DENSE = Pattern(explicit="mlp_layer_types", default=1, special="sparse", other="dense", head=("dense",))

# Gemma3TextConfig: every sixth layer has full attention unless `layer_types` says otherwise. It writes
# `_sliding_window_pattern` but never reads it.
GEMMA3_WINDOWS = Pattern(
    explicit="layer_types",
    period_keys=("sliding_window_pattern",),
    default=6,
    special="full_attention",
    other="sliding_attention",
)
GEMMA3_UNREAD = (("_sliding_window_pattern", "keep"),)

ENTRIES: tuple[Architecture, ...] = (
    *decoder("llama", "mistral", "phi3", "mixtral"),
    # Layers from `max_window_layers` on have a window, if `use_sliding_window` and no `layer_types`.
    *decoder("qwen2", "qwen3", defaults=(("max_window_layers", 28),)),
    *decoder("gemma3_text", fields=GEMMA3_UNREAD, patterns=(GEMMA3_WINDOWS,)),
    *decoder(
        "gpt2",
        prefixes=("transformer.h.", "h."),
        count_key="n_layer",
        aliases=ALIAS,
        warnings=(("scale_attn_by_inverse_layer_idx", "attention is scaled by the new layer number"),),
    ),
    *decoder("gemma", "starcoder2", "stablelm", "olmo", "olmo2", "granite", "cohere", "nemotron", "glm4", "ernie4_5"),
    *decoder("helium", "seed_oss", "arcee", "glm", "apertus", "phi", "ministral"),
    *decoder(
        "diffllama", warnings=(("", "lambda_init follows the new layer number: kept layers compute a little else"),)
    ),
    *decoder("gemma2", "gpt_oss", patterns=(_windows(2),)),
    *decoder("cohere2", patterns=(_windows(4, "sliding_window_pattern"),)),
    *decoder("exaone4", patterns=(_EXAONE,)),
    *decoder("olmo3", patterns=(_windows(4),)),
    *decoder("smollm3", patterns=(_NO_ROPE,)),
    # Mixtures of experts.
    *decoder("granitemoe", "olmoe", "phimoe"),
    *decoder("minimax_m2", fields=(("attn_type_list", "per_layer"),)),
    *decoder("dbrx", prefixes=_BLOCKS, count_key="n_layers", aliases=ALIAS),
    *decoder("qwen2_moe", patterns=(_QWEN2_MOE_WINDOWS, _SPARSE_STEP)),
    *decoder("qwen3_moe", patterns=(_SPARSE_STEP,)),
    *decoder("qwen3_next", patterns=(_blocks(4, "full_attention_interval"), _SPARSE_STEP), limits=_TYPED),
    *decoder("qwen3_5_text", patterns=(_blocks(4, "full_attention_interval"),), limits=_TYPED),
    *decoder("deepseek_v2"),
    *decoder("deepseek_v3", defaults=(("first_k_dense_replace", 3),)),
    *decoder("glm4_moe", defaults=(("first_k_dense_replace", 1),)),
    *decoder(
        "ernie4_5_moe",
        fields=(("moe_layer_start_index", "leading_count"), ("moe_layer_end_index", "last_index")),
        defaults=(("moe_layer_start_index", 1),),
    ),
    *decoder(
        "minimax",
        patterns=(_MINIMAX,),
        fields=(("attn_type_list", "per_layer"),),
        limits=(_DECAYS,),
    ),
    *decoder("llama4_text", patterns=(_NO_ROPE, _LLAMA4_EXPERTS)),
    *decoder(
        "gemma3n_text",
        patterns=(_windows(5),),
        limits=(_SHARED_TAIL,),
        stacked=_PER_LAYER_INPUTS,
        defaults=(("num_kv_shared_layers", 15),),
        pins=(("activation_sparsity_pattern", "0.95 for 10 of more"),),
    ),
    *decoder(
        "gemma4_text", patterns=(_windows(6),), limits=(_FULL_AT_THE_END, _SHARED_TAIL), stacked=_PER_LAYER_INPUTS
    ),
    # Hybrids and recurrent models.
    *decoder("jamba", patterns=_JAMBA, limits=_attention("attn_layer_period")),
    *decoder("falcon_h1"),
    *decoder("bamba", limits=_attention("attn_layer_indices")),
    *decoder("granitemoehybrid", limits=_TYPED),
    *decoder("lfm2", limits=_attention("layer_types", "full_attn_idxs")),
    *decoder("lfm2_moe", limits=_TYPED, defaults=(("num_dense_layers", 2),)),
    *decoder(
        "zamba",
        patterns=(_ZAMBA,),
        limits=(_TWO_HYBRIDS,),
        shared=(SharedTensors(names=("shared_transf.",), key="layers_block_type", kind="hybrid"),),
    ),
    *decoder(
        "zamba2",
        patterns=(_ZAMBA2,),
        limits=(_ZAMBA2_TURNS, *_attention("layers_block_type")),
        shared=(
            SharedTensors(
                names=("shared_transformer.",), key="layers_block_type", kind="hybrid", turns_key="num_mem_blocks"
            ),
        ),
        by_position=_ZAMBA2_ADAPTERS,
    ),
    *decoder(
        "nemotron_h",
        prefixes=_BACKBONE,
        counted_by="layers_block_type",
        limits=(_NEMOTRON_TYPES, *_attention("layers_block_type", "hybrid_override_pattern")),
    ),
    *decoder("recurrent_gemma", patterns=(_RECURRENT_GEMMA,), limits=_attention("block_types")),
    *decoder("mamba", "mamba2", prefixes=_BACKBONE, aliases=("n_layer",)),
    *decoder(
        "rwkv",
        prefixes=("rwkv.blocks.", "blocks."),
        shared=(SharedTensors(names=("pre_ln.",)),),
        limits=(_NOT_ALONE,),
        fields=(("rescale_every", "keep"),),  # a scale that the next norms undo
    ),
    *decoder(
        "olmo_hybrid",
        patterns=(_blocks(4),),
        limits=(_one_of("layer_types", "linear_attention"), _one_of("layer_types", "full_attention")),
    ),
    *decoder(
        "kimi_linear",
        patterns=(_KIMI_LINEAR,),
        fields=_KIMI_LISTS,
        limits=_attention("linear_attn_config.full_attn_layers", "layer_types", first=1),
        defaults=(("first_k_dense_replace", 1),),
    ),
    # transformers judges these too: tests/oracle/test_hf_decoders.py.
    *decoder("bitnet", "granitemoeshared", "flex_olmo", "persimmon", "nanochat"),
    *decoder("jais2", "doge", "solar_open", "ministral3", "falcon_mamba", prefixes=_BACKBONE),
    *decoder("vaultgemma", patterns=(_windows(2),)),
    *decoder("cwm", patterns=(replace(_windows(4), first=True),)),
    *decoder("afmoe", patterns=(_windows(4, "global_attn_every_n_layers"),), defaults=(("num_dense_layers", 1),)),
    *decoder(
        "exaone_moe",
        patterns=(_EXAONE,),
        defaults=(("first_k_dense_replace", 1),),
    ),
    *decoder("qwen3_5_moe_text", patterns=(_blocks(4, "full_attention_interval"),), limits=_TYPED),
    *decoder("glm4_moe_lite", patterns=(_FIRST_DENSE,)),
    *decoder(
        "hunyuan_v1_dense",
        "hunyuan_v1_moe",
        fields=(
            ("moe_topk", "scalar_or_per_layer"),
            ("num_experts", "scalar_or_per_layer"),
            ("num_shared_expert", "scalar_or_per_layer"),
            ("moe_layer_num_skipped", "leading_count"),
        ),
        limits=(_SHARED_KEYS,),
    ),
    *decoder(
        "mimo_v2_flash",
        patterns=(replace(_windows(6), lead=1), _FIRST_DENSE),
        fields=(("hybrid_layer_pattern", "per_layer"),),
    ),
    *decoder("deepseek_v32", defaults=(("first_k_dense_replace", 3),)),
    *decoder("dots1", defaults=(("max_window_layers", 62),)),
    *decoder("mistral4", "internlm3", "iquestcoder", "aria_text", "jetmoe", "hyperclovax", "youtu", "mellum"),
    *decoder("minicpm3", fields=(("scale_depth", "root_of_count"),), defaults=(("scale_depth", 1.4),)),
    *decoder("axk1", "axk2", defaults=(("first_k_dense_replace", 1),)),
    *decoder("hy_v3", patterns=(_FIRST_DENSE,)),
    *decoder("laguna", patterns=(_FIRST_DENSE,)),
    *decoder("kolibri1", patterns=(_windows(5),)),
    *decoder(
        "bailing_hybrid",
        patterns=(_blocks(6, "layer_group_size"),),
        limits=_TYPED,
        defaults=(("first_k_dense_replace", 2),),
    ),
    *decoder(
        "granite_swa",
        "granitemoe_swa",
        patterns=(replace(_windows(4), first=True),),
        fields=(("layer_rope_theta", "per_layer"),),
    ),
    *decoder(
        "glm_moe_dsa",
        fields=(("index_topk_pattern", "per_layer"),),
        defaults=(("first_k_dense_replace", 3),),
        limits=(_INDEXERS_ALONE, _INDEXERS_SHARED),
    ),
    # Older ones with names of their own.
    *decoder("cpmant", prefixes=("cpmant.encoder.layers.", "encoder.layers.")),
    *decoder("ctrl", prefixes=_TRANSFORMER, count_key="n_layer", aliases=ALIAS),
    *decoder("biogpt", prefixes=("biogpt.layers.", "layers.")),
    *decoder("gpt_neox_japanese", prefixes=("gpt_neox_japanese.layers.", "layers."), limits=(_LAST_HAS_BIAS,)),
    *decoder("gpt_bigcode", "gptj", "codegen", "bloom", prefixes=_TRANSFORMER, count_key="n_layer", aliases=ALIAS),
    *decoder("openai-gpt", prefixes=_TRANSFORMER, count_key="n_layer", aliases=ALIAS),
    *decoder(
        "gpt_neo",
        prefixes=_TRANSFORMER,
        count_key="num_layers",
        aliases=ALIAS,
        fields=(("attention_types", "run_length"),),
        pins=(("attention_types", "global, local x 12"),),
    ),
    *decoder("gpt_neox", prefixes=("gpt_neox.layers.", "layers.")),
    *decoder("opt", prefixes=("model.decoder.layers.", "decoder.layers.")),
    *decoder("falcon", prefixes=_TRANSFORMER, aliases=("n_layer",)),
    *decoder("mpt", prefixes=_BLOCKS, count_key="n_layers", aliases=ALIAS),
    *decoder("xglm", count_key="num_layers", aliases=ALIAS),
)
