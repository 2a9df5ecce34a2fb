"""A tiny random model of any model type, from the defaults of its config: sizes by the names of the keys."""

import inspect
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig

torch.set_num_threads(1)  # the models are tiny: threads only wait for each other

COUNT = re.compile(r"(^|_)(num_hidden_layers|n_layers?|num_layers|layers|depth)$")
NO_COUNT = re.compile(
    r"dense|shared|window|feature|feat|conv|adapter|skip|norm|mtp|nextn|cross_attention|head|proj|upsamp"
)
SIZES = {
    r"vocab_size$|num_embeddings$": 96,
    r"(^|_)(intermediate_size|ffn_dim|d_ff|hidden_dim|d_inner|dim_feedforward)$": 64,
    r"(^|_)(hidden_size|d_model|n_embd|dim|embed_dim|embedding_size|width|projection_dim|out_hidden_size)$": 32,
    r"(^|_)(num_key_value_heads|num_kv_heads)$": 2,
    r"(^|_)(num_attention_heads|n_heads?|num_heads|attention_heads)$": 4,
    r"(^|_)(head_dim|d_kv|attention_head_size|v_head_dim|qk_nope_head_dim)$": 8,
    r"qk_rope_head_dim$": 4,
    r"(^|_)(kv_lora_rank|q_lora_rank)$": 16,
    r"(^|_)(num_experts|n_routed_experts|num_local_experts|moe_num_experts)$": 4,
    r"(^|_)(num_experts_per_tok|moe_k|moe_topk)$": 2,
    r"(^|_)(n_group|topk_group)$": 1,
    r"(moe|shared_expert)_intermediate_size$": 16,
    r"(^|_)(max_position_embeddings|n_positions|max_source_positions|max_target_positions)$": 64,
    r"^image_size$": 32,
    r"^patch_size$": 8,
    r"^num_mel_bins$": 8,
    r"^(sliding_window|attention_window)$": 4,
    r"token_?i(d|ndex)$|_id$": 90,
}  # pattern of a key -> the most that its value is


def config(cls: Any, overrides: Mapping[str, Any], counts: Iterator[int] | None = None) -> Any:
    """A config of `cls` with few layers, another number of them in each stack. `overrides` have dotted keys."""
    counts = counts or itertools.cycle((6, 7, 5, 8, 9))
    values, default = {}, cls()
    names = {*default.to_dict(), *inspect.signature(cls.__init__).parameters, *getattr(cls, "__annotations__", {})}
    for name in sorted(names - set(getattr(cls, "attribute_map", {}))):
        value = getattr(default, name, None)
        nested = {key.removeprefix(f"{name}."): each for key, each in overrides.items() if key.startswith(f"{name}.")}
        if isinstance(value, PretrainedConfig):
            values[name] = config(type(value), nested, counts)
        elif isinstance(value, int) and not isinstance(value, bool):
            values[name] = small(name, value, counts)
        elif name.endswith("layer_types"):
            values[name] = None
    return cls(**values | {key: value for key, value in overrides.items() if "." not in key})


def small(name: str, value: int, counts: Iterator[int]) -> int:
    if COUNT.search(name) and not NO_COUNT.search(name) and value > 0:
        return next(counts)
    return next((min(most, value) for pattern, most in SIZES.items() if re.search(pattern, name)), value)


def model(kind: str, class_name: str, overrides: Mapping[str, Any]) -> Any:
    """The model in evaluation mode, with noise on every weight: also norms and biases tell layers apart."""
    torch.manual_seed(0)
    made = getattr(transformers, class_name)(config(transformers.CONFIG_MAPPING[kind], overrides)).eval()
    with torch.no_grad():
        for weight in (each for each in made.parameters() if each.is_floating_point()):
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return made
