"""llama.cpp architectures: `general.architecture`, where the blocks are, what is hard-coded by block number."""

from __future__ import annotations

from rewriter.architectures.entry import Architecture, LayerStack, Pattern


def _blocks(
    *names: str, patterns: tuple[Pattern, ...] = (), exact_counts: tuple[int, ...] = ()
) -> tuple[Architecture, ...]:
    """One row for each of `names`: architectures with the single stack `blk.N`."""
    stack = LayerStack(
        name="main", prefixes=("blk.",), count_key="block_count", patterns=patterns, exact_counts=exact_counts
    )
    return tuple(Architecture(name=name, format="gguf", stacks=(stack,)) for name in names)


_WINDOWS = "attention.sliding_window_pattern"

# Every sixth block has full attention; an array of booleans (true: window) overrides that. llama.cpp aborts when a
# window is left that no block has: a width of 0 says that there is none.
_GEMMA3_WINDOWS = Pattern(
    explicit=_WINDOWS,
    period_keys=(_WINDOWS,),
    default=6,
    special=False,
    other=True,
    none_left=(("attention.sliding_window", 0),),
)
_T5_BIAS = ("attn_rel_b.weight",)

ENTRIES: tuple[Architecture, ...] = (
    *_blocks("llama", "qwen2", "qwen3", "phi3", "gpt2", "bert"),
    # 62 blocks mean the 27B model to llama.cpp, which then scales attention by another number.
    *_blocks("gemma3", patterns=(_GEMMA3_WINDOWS,), exact_counts=(62,)),
    Architecture(
        name="t5",
        format="gguf",
        stacks=(
            LayerStack(
                name="decoder",
                prefixes=("dec.blk.",),
                count_key="decoder_block_count",
                count_default="block_count",
                first_layer_only=_T5_BIAS,
            ),
            LayerStack(
                name="encoder",
                prefixes=("enc.blk.",),
                count_key="block_count",
                first_layer_only=_T5_BIAS,
                at_least="decoder",  # llama.cpp sizes its list of blocks by the encoder's count
            ),
        ),
    ),
)
