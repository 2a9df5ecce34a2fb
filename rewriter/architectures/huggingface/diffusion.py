"""Checkpoints of other libraries: diffusers' transformers by their `_class_name`, files of image tools, Mistral's own.

Image tools count the blocks in the tensors: their lone files have no config, their GGUF files no block count.
"""

from __future__ import annotations

from rewriter.architectures.huggingface.builders import decoder, several
from rewriter.architectures.schema import Architecture, LayerLimit, StackRule

_LAST = LayerLimit(
    kind="must_keep", value=(-1,), why="the last block has no second half for the text, so it must stay the last"
)


_KEPT = (("axes_dims_rope", "keep"),)


def _stack(name: str, prefix: str, count_key: str) -> StackRule:
    return StackRule(name=name, prefixes=(prefix,), count_key=count_key, fields=_KEPT)


def _flux(name: str) -> tuple[Architecture, ...]:
    """Blocks with two streams, then blocks with one."""
    return several(
        name,
        _stack("main", "transformer_blocks.", "num_layers"),
        _stack("single", "single_transformer_blocks.", "num_single_layers"),
    )


_SQUARE = LayerLimit(kind="keep_all", why="image tools take the number of SD3's blocks from their width")


def _counted_by_tensors(
    name: str, *lists: str, limits: tuple[LayerLimit, ...] = (), shown: bool = False
) -> tuple[Architecture, ...]:
    """As a lone safetensors file and as GGUF. The first list is `main`, each goes by its own name too."""
    stacks = tuple(StackRule(name=each.strip("."), prefixes=(each,), count_key="", limits=limits) for each in lists)
    return (
        Architecture(name=name, format="huggingface", stacks=stacks, shown_by=lists if shown else ()),
        Architecture(name=name, format="gguf", stacks=stacks),
    )


ENTRIES: tuple[Architecture, ...] = (
    *_counted_by_tensors("flux", "double_blocks.", "single_blocks.", shown=True),
    *_counted_by_tensors("sd3", "joint_blocks.", limits=(_SQUARE,), shown=True),
    *_counted_by_tensors("wan", "blocks."),
    *_counted_by_tensors("qwen_image", "transformer_blocks."),
    *several(
        "mistral_native",
        StackRule(
            name="text", prefixes=("layers.",), count_key="params.json:n_layers", aliases=("/num_hidden_layers",)
        ),
        StackRule(
            name="vision",
            prefixes=("vision_encoder.transformer.layers.",),
            count_key="params.json:vision_encoder.num_hidden_layers",
            optional=True,
        ),
    ),
    *_flux("FluxTransformer2DModel"),
    *_flux("Flux2Transformer2DModel"),
    *decoder(
        "SD3Transformer2DModel",
        prefixes=("transformer_blocks.",),
        count_key="num_layers",
        fields=(("dual_attention_layers", "layer_indexes"),),
        limits=(_LAST,),
    ),
    *decoder(
        "QwenImageTransformer2DModel", "LTXVideoTransformer3DModel", "CogVideoXTransformer3DModel",
        "PixArtTransformer2DModel", prefixes=("transformer_blocks.",), count_key="num_layers", fields=_KEPT,
    ),
    *decoder("WanTransformer3DModel", prefixes=("blocks.",), count_key="num_layers", fields=_KEPT),
)  # fmt: skip
