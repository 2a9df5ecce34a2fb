"""llama.cpp architectures: `general.architecture`, where the blocks are, what is hard-coded by block number.

Most rows are a name: what follows their blocks stands under keys that mean the same everywhere (field_table).
"""

from __future__ import annotations

from rewriter.architectures.schema import Architecture, LayerLimit, Pattern, SharedTensors, StackedTensor, StackRule

Fields = tuple[tuple[str, str], ...]


def _blocks(
    *names: str,
    patterns: tuple[Pattern, ...] = (),
    limits: tuple[LayerLimit, ...] = (),
    fields: Fields = (),
    pins: tuple[tuple[str, str], ...] = (),
    stacked: tuple[StackedTensor, ...] = (),
) -> tuple[Architecture, ...]:
    """One row for each of `names`: architectures with the single stack `blk.N`."""
    stack = StackRule(
        name="main",
        prefixes=("blk.",),
        count_key="block_count",
        patterns=patterns,
        limits=limits,
        fields=fields,
        pins=pins,
        stacked=stacked,
        mtp_key="nextn_predict_layers",
    )
    return tuple(Architecture(name=name, format="gguf", stacks=(stack,)) for name in names)


def _several(name: str, *stacks: StackRule) -> tuple[Architecture, ...]:
    return (Architecture(name=name, format="gguf", stacks=stacks),)


def _never(why: str, *names: str) -> tuple[Architecture, ...]:
    return _blocks(*names, limits=(LayerLimit(kind="keep_all", why=why),))


# ---- which blocks have a window

_WINDOWS = "attention.sliding_window_pattern"
_NO_WINDOW = "llama.cpp aborts when a window is left that no block has"
_SOME_WINDOW = LayerLimit(kind="keep_one_with", value=(_WINDOWS, True), why=_NO_WINDOW)
_SOME_FULL = LayerLimit(
    kind="keep_one_with", value=(_WINDOWS, False), why="llama.cpp aborts when all blocks have windows"
)


def _windows(period: int, *, first: bool = False, never_all: str = _NO_WINDOW, **more: object) -> tuple[Pattern, ...]:
    """Every `period`-th block has full attention; an array of booleans (true: window) overrides that."""
    pattern = Pattern(
        explicit=_WINDOWS,
        period_keys=(_WINDOWS,),
        default=period,
        special=False,
        other=True,
        first=first,
        beyond="pattern",
        never_all=never_all,
        **more,  # type: ignore[arg-type]
    )
    return (pattern,)


# A width of 0 says that there is no window.
_GEMMA3_WINDOWS = _windows(6, never_all="", none_left=(("attention.sliding_window", 0),))
_IF_WIDE = (("attention.sliding_window", 1),)

# ---- which blocks are recurrent

_RECURRENT = Pattern(
    explicit="attention.recurrent_layers",
    period_keys=("full_attention_interval",),
    default=4,
    special=False,
    other=True,
    beyond="special",
)

_ONE_KIND = "llama.cpp aborts when all blocks have attention, or all are recurrent"
_BOTH_KINDS = tuple(
    LayerLimit(kind="keep_one_with", value=(_RECURRENT.explicit, kind), why=_ONE_KIND) for kind in (True, False)
)
_KV = "attention.head_count_kv"
_SOME_ATTENTION = LayerLimit(kind="keep_one_without", value=(_KV, 0), why=_ONE_KIND)
_SOME_RECURRENT = LayerLimit(kind="keep_one_with", value=(_KV, 0), why=_ONE_KIND)
_HEADLESS = "llama.cpp takes sizes from the first block, which must have attention heads"
_FIRST_HAS_HEADS = LayerLimit(kind="not_first", value=("attention.head_count", 0), why=_HEADLESS)
_HYBRID = (_FIRST_HAS_HEADS, _SOME_ATTENTION, _SOME_RECURRENT)
_NEMOTRON = (
    _FIRST_HAS_HEADS,
    _SOME_ATTENTION,
    LayerLimit(kind="keep_one_with", value=(_KV, 0, "feed_forward_length", 0), why=_ONE_KIND),
)

# ---- which blocks choose the tokens that the sparse attention of the next ones looks at

_INDEXERS = "attention.indexer.types"
_INDEXED = "a block without an indexer uses the choice of the last one before it that has one"
_SHARED_INDEXERS = LayerLimit(kind="with_source_layer", value=(_INDEXERS, 0), why=_INDEXED)
_GLM_INDEXERS = Pattern(
    explicit=_INDEXERS,
    default=4,
    offset=2,
    lead=2,
    special=1,
    other=0,
    when=(("context_length", 1 << 20),),
)

# ---- what no metadata can change


def _counts(*numbers: int, why: str) -> tuple[LayerLimit, ...]:
    return (LayerLimit(kind="special_counts", value=numbers, why=why),)


_ROPE_OFF = "llama.cpp turns rope off in every 4th block, by its number"
_ROPE_ON = "llama.cpp turns rope on in all blocks of exactly 4"
_ROPE_BY_4 = (LayerLimit(kind="aligned", value=4, why=_ROPE_OFF),)
_SCALE = "llama.cpp scales attention by another number for exactly %d layers"
_BAICHUAN = "llama.cpp uses rope for exactly 32 layers, ALiBi for exactly 40 and neither for others"
_EXAONE4 = "llama.cpp gives windows, and blocks without rope, to exactly 64 layers"
_DEEPSTACK = "the blocks that take in vision features must stay: the vision tower gives out as many"
_MAPPED = LayerLimit(kind="must_keep_marked", value="deepstack_mapping", why=_DEEPSTACK)
_VALUE_RESIDUAL = "block 0 makes the values that all others mix in"
_HALVED = "activations are halved every few blocks, and the weights are stored to match"
_BANKS = LayerLimit(kind="aligned", value="attn_res.block_size", why="blocks work in groups of attn_res.block_size")
_SOURCES = "the last blocks use the keys and values of the two before them"
_ENCODER = "llama.cpp loads no encoder shorter than its decoder (prune --stack decoder first)"
_LITE = "llama.cpp reads no attention.q_lora_rank for exactly 26 or 27 layers"
_GATING = "llama.cpp guesses the missing expert_gating_func by the number of layers, 47 or 48"

_RESCALED = LayerLimit(kind="suffix_only", value="rescale_every_n_layers", why=_HALVED)
_PER_LAYER_EMBEDDINGS = (
    StackedTensor(name="per_layer_token_embd.weight", axis=1),
    StackedTensor(name="per_layer_model_proj.weight", axis=0),
)
_XIELU: Fields = tuple((f"/xielu.{name}", "scalar_or_per_layer") for name in ("alpha_n", "alpha_p", "beta", "eps"))

# ---- several stacks

_T5_BIAS = (SharedTensors(names=("attn_rel_b.weight",)),)


def _t5_encoder(*limits: LayerLimit) -> StackRule:
    return StackRule(
        name="encoder", prefixes=("enc.blk.",), count_key="block_count", shared=_T5_BIAS, limits=limits, optional=True
    )


_T5_DECODER = StackRule(
    name="decoder",
    prefixes=("dec.blk.",),
    count_key="decoder_block_count",
    count_default="block_count",
    shared=_T5_BIAS,
)

# A file beside the language model; it may hold one tower only. What is a list here is about pictures, or another tower.
_MMPROJ: Fields = tuple(
    (name, "keep")
    for name in (
        "vision.image_mean", "vision.image_std", "vision.image_grid_pinpoints", "vision.wa_pattern_mode",
        "audio.wa_pattern_mode", "vision.feature_layer", "audio.feature_layer", "vision.wa_layer_indexes",
        "vision.is_deepstack_layers", "vision.projector.spatial_offsets",
    )
)  # fmt: skip


def _tower(name: str, prefix: str, count_key: str, fields: Fields = (), **more: object) -> StackRule:
    merged = tuple({**dict(_MMPROJ), **dict(fields)}.items())
    return StackRule(
        name=name,
        prefixes=(prefix,),
        count_key=count_key,
        fields=merged,
        optional=True,
        **more,  # type: ignore[arg-type]
    )


_VISION = _tower(
    "vision",
    "v.blk.",
    "vision.block_count",
    fields=(
        ("vision.feature_layer", "apart_states"),
        ("vision.wa_layer_indexes", "layer_indexes"),
        ("vision.n_wa_pattern", "period"),
        ("vision.wa_pattern_mode", "per_layer"),
        ("vision.is_deepstack_layers", "per_layer"),
    ),
    named_after=("v.deepstack.",),
    limits=(
        LayerLimit(
            kind="must_keep_named", value="v.deepstack.", why="the language model expects what this block gives out"
        ),
    ),
)
_AUDIO = _tower(
    "audio",
    "a.blk.",
    "audio.block_count",
    fields=(("audio.feature_layer", "apart_states"), ("audio.wa_pattern_mode", "per_layer")),
)
_SAM = _tower(
    "sam",
    "v.sam.blk.",
    "vision.sam.block_count",
    limits=(LayerLimit(kind="keep_all", why="llama.cpp knows the blocks with global attention by their numbers"),),
)
_LOCAL_AUDIO = _tower("audio_local", "mm.a.local_blk.", "audio.local_block_count")

_POSNET = StackRule(
    name="posnet",
    prefixes=("posnet.",),
    count_key="posnet.block_count",
    limits=(LayerLimit(kind="keep_all", why="the six blocks are of different kinds, by their numbers"),),
)

ENTRIES: tuple[Architecture, ...] = (
    *_blocks(
        "llama", "llama-embed", "falcon", "grok", "gpt2", "gptneox", "mpt", "starcoder", "starcoder2", "refact",
        "bloom", "stablelm", "qwen", "qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen3moe", "phi2", "phi3", "phimoe",
        "plamo", "codeshell", "orion", "internlm2", "gemma", "mamba", "mamba2", "falcon-h1", "xverse",
        "command-r", "dbrx", "olmo", "olmoe", "openelm", "arctic", "chatglm", "glm4", "bitnet", "jais", "jais2",
        "nemotron", "exaone", "granitemoe", "plm", "arcee",
        "hunyuan-moe", "hunyuan-dense", "hunyuan_vl", "hy_v3", "dream", "llada", "llada-moe", "seed_oss", "grovemoe",
        "minimax-m2", "cogvlm", "rnd1", "pangu-embedded", "mistral3", "maincoder", "talkie", "pockettts", "chameleon",
        "nanbeige",
    ),
    *_blocks(
        "bert", "nomic-bert", "neo-bert", "jina-bert-v2", "jina-bert-v3", "eurobert",
    ),
    # the first blocks are dense
    *_blocks(
        "deepseek", "deepseek2-ocr", "deepseek32", "glm4moe", "bailingmoe", "bailingmoe2", "dots1",
        "minimax-m3", "ernie4_5", "ernie4_5-moe", "paddleocr",
    ),
    # the metadata says which blocks have windows
    *_blocks("maple", "mimo2", "step35", "spark2_5", "dflash", limits=(_SOME_WINDOW,)),
    *_blocks("nomic-bert-moe", fields=(("moe_every_n_layers", "period"),)),
    *_blocks(
        "jamba", "lfm2", "lfm2moe", "plamo2", "granitehybrid", "kimi-linear", "bailingmoe3", limits=_HYBRID,
    ),
    *_blocks("nemotron_h", "nemotron_h_moe", limits=_NEMOTRON),
    *_blocks(
        "deci",
        limits=(
            _FIRST_HAS_HEADS,
            LayerLimit(
                kind="not_last", value=("feed_forward_length", 0), why="the last block must have a feed-forward"
            ),
        ),
    ),
    *_blocks("apertus", fields=_XIELU),
    *_blocks("gemma2", patterns=_windows(2), limits=_counts(46, why=_SCALE % 46)),
    *_blocks("gemma3", patterns=_GEMMA3_WINDOWS, limits=_counts(62, why=_SCALE % 62)),
    *_blocks("gemma-embedding", patterns=_windows(6), limits=(_SOME_FULL,)),
    *_blocks(
        "gemma3n",
        patterns=_windows(5),
        limits=(
            LayerLimit(kind="must_keep_first", value=20, why="llama.cpp knows the first 20 blocks by their numbers"),
        ),
        fields=(("activation_sparsity_scale", "per_layer"),),
        stacked=_PER_LAYER_EMBEDDINGS,
    ),
    *_blocks(
        "gemma4",
        limits=(
            LayerLimit(kind="must_keep_before_tail", value=("attention.shared_kv_layers", 2), why=_SOURCES),
            _SOME_WINDOW,
            _SOME_FULL,
        ),
        stacked=_PER_LAYER_EMBEDDINGS,
    ),
    *_blocks("gpt-oss", patterns=_windows(2)),
    *_blocks("cohere2", "exaone-moe", "mellum", "muse-glimmer", patterns=_windows(4)),
    *_blocks("olmo2", patterns=_windows(4, when=_IF_WIDE)),
    *_blocks("plamo3", patterns=_windows(8, when=_IF_WIDE)),
    *_blocks("cohere2moe", "laguna", patterns=_windows(4, first=True)),
    *_blocks("modern-bert", patterns=_windows(3, first=True), limits=(_SOME_FULL,)),
    *_blocks("smollm3", "afmoe", limits=_ROPE_BY_4),
    *_blocks("llama4", patterns=_windows(4), limits=(*_ROPE_BY_4, _SOME_FULL)),
    *_blocks(
        "smallthinker",
        patterns=_windows(4, first=True, when=_IF_WIDE),
        limits=(
            LayerLimit(kind="aligned_if_set", value=("attention.sliding_window", 4), why=_ROPE_OFF),
            LayerLimit(kind="special_counts_if_set", value=("attention.sliding_window", 4), why=_ROPE_ON),
        ),
    ),
    *_blocks("qwen3next", "qwen35", "qwen35moe", patterns=(_RECURRENT,), limits=_BOTH_KINDS),
    *_blocks(
        "qwen4exp",
        patterns=(_RECURRENT,),
        limits=(
            LayerLimit(
                kind="must_keep_listed", value="ple.layers", why="the block with the n-gram embeddings must stay"
            ),
            *_BOTH_KINDS,
        ),
    ),
    *_blocks(
        "qwen3vl",
        "qwen3vlmoe",
        "qwen3tts",
        limits=(LayerLimit(kind="must_keep_first", value="n_deepstack_layers", why=_DEEPSTACK),),
    ),
    *_blocks("granite", limits=(_MAPPED,)),
    *_blocks("granite_swa", limits=(_MAPPED, _SOME_WINDOW)),
    *_blocks("rwkv6", "rwkv6qwen2", limits=(_RESCALED,)),
    *_blocks("rwkv7", "arwkv7", limits=(LayerLimit(kind="must_keep", value=0, why=_VALUE_RESIDUAL),)),
    *_blocks("kimi-k3", limits=(_BANKS, *_HYBRID)),
    *_blocks("glm-dsa", patterns=(_GLM_INDEXERS,), limits=(_SHARED_INDEXERS,)),
    *_blocks("hy_v4", limits=(_SHARED_INDEXERS,)),
    *_blocks("glm5-next", limits=(_SHARED_INDEXERS, *_HYBRID)),
    *_blocks("dots3note", limits=(_SHARED_INDEXERS, _SOME_WINDOW, _SOME_FULL)),
    *_blocks("deepseek4", fields=(("attention.compress_ratios", "per_layer_and_more"),)),
    *_blocks(
        "deepseek2",
        "mistral4",
        pins=(("attention.q_lora_rank", "0"),),
        limits=(
            LayerLimit(kind="special_counts_if_set", value=("attention.q_lora_rank", 26, 27), why=_LITE),
            LayerLimit(kind="special_counts_if_unset", value=("expert_gating_func", 47, 48), why=_GATING),
        ),
    ),
    *_blocks("minicpm", pins=(("residual_scale", "1.4/sqrt(count)"),)),
    *_blocks("baichuan", limits=_counts(32, 40, why=_BAICHUAN)),
    *_blocks("exaone4", limits=_counts(64, why=_EXAONE4)),
    *_never("llama.cpp scales every block by the number of blocks, which no key can say otherwise", "minicpm3"),
    *_never("the decay of the linear attention is computed from a block's place among all blocks", "minimax-01"),
    *_never("the number of blocks is a product of cycles, and blocks are used several times", "hrm_text"),
    *_never("a draft model has one block only", "eagle3"),
    *_never("a draft model uses keys and values of its target's blocks", "gemma4-assistant"),
    *_never("a router stands after the last block, under its number", "graniteswitch"),
    *_several("t5", _T5_DECODER, _t5_encoder(LayerLimit(kind="no_shorter_than", value="decoder", why=_ENCODER))),
    *_several("t5encoder", _t5_encoder()),
    *_several(
        "wavtokenizer-dec",
        StackRule(name="convnext", prefixes=("convnext.",), count_key="convnext.block_count"),
        _POSNET,
    ),
    *_several("clip", _VISION, _AUDIO, _SAM, _LOCAL_AUDIO),
)  # fmt: skip
