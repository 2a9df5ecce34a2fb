"""llama.cpp architectures: `general.architecture`, where the blocks are, what is hard-coded by block number."""

from __future__ import annotations

from rewriter.architectures.entry import Architecture, LayerStack, Limit, Pattern, Shared


def _blocks(
    *names: str, patterns: tuple[Pattern, ...] = (), limits: tuple[Limit, ...] = ()
) -> tuple[Architecture, ...]:
    """One row for each of `names`: architectures with the single stack `blk.N`."""
    stack = LayerStack(
        name="main",
        prefixes=("blk.",),
        count_key="block_count",
        patterns=patterns,
        limits=limits,
        prediction_key="nextn_predict_layers",
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
_T5_BIAS = (Shared(names=("attn_rel_b.weight",)),)

_NO_SHORTER = "llama.cpp loads no encoder shorter than its decoder (prune --stack decoder first)"
_SCALE = "llama.cpp scales attention by another number for exactly 62 layers"

ENTRIES: tuple[Architecture, ...] = (
    *_blocks("llama", "qwen2", "qwen3", "phi3", "gpt2", "bert"),
    *_blocks("gemma3", patterns=(_GEMMA3_WINDOWS,), limits=(Limit(kind="counts", value=(62,), why=_SCALE),)),
    Architecture(
        name="t5",
        format="gguf",
        stacks=(
            LayerStack(
                name="decoder",
                prefixes=("dec.blk.",),
                count_key="decoder_block_count",
                count_default="block_count",
                shared=_T5_BIAS,
            ),
            LayerStack(
                name="encoder",
                prefixes=("enc.blk.",),
                count_key="block_count",
                shared=_T5_BIAS,
                limits=(Limit(kind="as_long_as", value="decoder", why=_NO_SHORTER),),
            ),
        ),
    ),
)
