"""Checkpoints as values, for what needs no file: names and metadata decide a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from rewriter.checkpoint import GGUF, HUGGINGFACE, Checkpoint, TensorInfo
from rewriter.formats.json_edit import flatten
from rewriter.planning.plan import Plan

SHA256 = "5" * 64


def numbered(prefix: str, count: int, *parts: str) -> list[str]:
    """The names of `count` layers with one tensor for each of `parts`."""
    return [f"{prefix}{layer}.{part}" for layer in range(count) for part in parts or ("weight",)]


def checkpoint(
    kind: str, architecture: str, names: Iterable[str], metadata: Mapping[str, Any] | None = None, **rest: Any
) -> Checkpoint:
    """A checkpoint of 2x3 F32 tensors called `names`."""
    tensors = tuple(TensorInfo(name, "F32", (2, 3), 0, 24 * at, 24) for at, name in enumerate(names))
    settings: dict[str, Any] = {"name": "model", "path": "model", "header_sha256": SHA256, **rest}
    return Checkpoint(
        format=kind, architecture=architecture, shards=(), tensors=tensors, metadata=metadata or {}, **settings
    )


def hf(architecture: str, names: Iterable[str], config: Mapping[str, Any] | None = None, **rest: Any) -> Checkpoint:
    """A Hugging Face checkpoint; `config` is nested as in config.json."""
    return checkpoint(HUGGINGFACE, architecture, names, flatten(config or {}), **rest)


def ggml(architecture: str, names: Iterable[str], fields: Mapping[str, Any] | None = None, **rest: Any) -> Checkpoint:
    """A GGUF checkpoint; `fields` are keys without the architecture."""
    metadata = {f"{architecture}.{key}": value for key, value in (fields or {}).items()}
    return checkpoint(GGUF, architecture, names, {"general.architecture": architecture, **metadata}, **rest)


def llama(
    count: int = 6, prefix: str = "model.layers.", rest: Mapping[str, Any] | None = None, **config: Any
) -> Checkpoint:
    """A Hugging Face llama of `count` layers with one tensor before and one after them."""
    names = ["model.embed_tokens.weight", *numbered(prefix, count), "lm_head.weight"]
    return hf("llama", names, {"num_hidden_layers": count, **config}, **(rest or {}))


def llama_gguf(count: int = 6, rest: Mapping[str, Any] | None = None, **fields: Any) -> Checkpoint:
    """The same as GGUF; dots in keys are written as two underscores."""
    names = ["token_embd.weight", *numbered("blk.", count), "output.weight"]
    dotted = {key.replace("__", "."): value for key, value in fields.items()}
    return ggml("llama", names, {"block_count": count, **dotted}, **(rest or {}))


def t5(decoder: int = 6, encoder: int = 6, bias: Iterable[int] = (0,), **config: Any) -> Checkpoint:
    """A T5 with a position bias in the layers `bias` of both stacks."""
    attention = "layer.0.SelfAttention.relative_attention_bias.weight"
    tensors = [*numbered("encoder.block.", encoder, "layer.0.w"), *numbered("decoder.block.", decoder, "layer.0.w")]
    tensors += [f"{side}.block.{layer}.{attention}" for side in ("encoder", "decoder") for layer in bias]
    return hf("t5", ["shared.weight", *tensors], config or {"num_layers": encoder, "num_decoder_layers": decoder})


def t5_gguf(decoder: int = 6, encoder: int = 6, **fields: Any) -> Checkpoint:
    """The same as GGUF, the bias in block 0."""
    tensors = [*numbered("enc.blk.", encoder, "w"), *numbered("dec.blk.", decoder, "w")]
    tensors += ["enc.blk.0.attn_rel_b.weight", "dec.blk.0.attn_rel_b.weight"]
    return ggml("t5", tensors, fields or {"block_count": encoder, "decoder_block_count": decoder})


def gemma3_text(count: int = 12, **config: Any) -> Checkpoint:
    """A text-only Gemma 3."""
    return hf("gemma3_text", numbered("model.layers.", count), {"num_hidden_layers": count, **config})


def gemma3(
    count: int = 6, vision: int = 2, vision_config: Mapping[str, Any] | None = None, **config: Any
) -> Checkpoint:
    """A Gemma 3 with two stacks; `config` goes into its text_config."""
    tensors = numbered("language_model.model.layers.", count)
    tensors += numbered("vision_tower.vision_model.encoder.layers.", vision)
    vision_config = vision_config or {"num_hidden_layers": vision}
    text_config = {"num_hidden_layers": count, **config}
    return hf("gemma3", tensors, {"text_config": text_config, "vision_config": vision_config})


def gemma3_gguf(count: int = 6, pattern: object = None) -> Checkpoint:
    """The text stack as GGUF, with a period or an array of windows."""
    extra = {} if pattern is None else {"attention.sliding_window_pattern": pattern}
    return ggml("gemma3", numbered("blk.", count), {"block_count": count, **extra})


def with_metadata(checkpoint: Checkpoint, metadata: Mapping[str, Any]) -> Checkpoint:
    """The same checkpoint with other metadata, by whole keys."""
    return replace(checkpoint, metadata={**checkpoint.metadata, **metadata})


def changes(plan: Plan) -> dict[str, Any]:
    """Whole key -> new value of everything that a plan changes."""
    return {edit.key: edit.after for edit in plan.edits}


def names(plan: Plan) -> dict[str, str]:
    """Old -> new name of every tensor that stays."""
    return {copy.tensor.name: copy.name for copy in plan.tensors}


def without(*dropped: int, count: int = 6) -> list[int]:
    """The numbers of the layers that are left."""
    return [number for number in range(count) if number not in dropped]
