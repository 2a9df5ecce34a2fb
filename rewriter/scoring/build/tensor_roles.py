"""The role of a tensor in its layer, from its name: value projection, output projection, norm, gate, up, down.

Roles have llama.cpp's words: `attn_v`, `ffn_gate`, `post_attention_norm`, which the names in a GGUF are made of. For
Hugging Face names they come from gguf's own tensor-name maps: `model.layers.0.mlp.gate_proj` is `ffn_gate`. The map is
that of the same architecture, else the first one that has a word for every tensor of the layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from typing import Any

from rewriter.architectures.compute import compute_of
from rewriter.architectures.lookup import Stack, table_of
from rewriter.checkpoint import GGUF, HUGGINGFACE, Checkpoint

# what the maps lack: how one expert's or all experts' tensors are called before a converter has stacked them
_EXPERT_WORDS = {
    "w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps",
    "gate_proj": "ffn_gate_exps", "down_proj": "ffn_down_exps", "up_proj": "ffn_up_exps",
    "gate_up_proj": "ffn_gate_up_exps", "w1_proj": "ffn_gate_exps", "v1_proj": "ffn_up_exps",
    "w2_proj": "ffn_down_exps",
}  # fmt: skip
_EXPERT = re.compile(r".*\bexperts\.(?:([0-9]+)\.)?([a-z0-9_]+?)(_bias|\.bias|\.weight)?", re.ASCII)


def _endings(*rows: tuple[str, str]) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Expressions for how a name ends -> the word for it."""
    return tuple((re.compile(rf"(?:.*\.)?(?:{names})", re.ASCII), word) for names, word in rows)


# more that the maps lack, by the end of the name after the layer's number
_MORE = _endings(
    (r"e_score_correction_bias|e_score_correction", "exp_probs_b"),
    (r"sinks|attention_sink_bias", "attn_sinks"),
    (r"q_layernorm\.norms\.[0-9]+|q_layernorm|q_norm", "attn_q_norm"),
    (r"k_layernorm\.norms\.[0-9]+|k_layernorm|k_norm", "attn_k_norm"),
    (r"rotary_emb\.inv_freq|rotary_pos_emb\.inv_freq", "attn_rot_embd"),
    (r"attention\.output\.LayerNorm|attention\.LayerNorm", "attn_output_norm"),
    (r"output\.LayerNorm", "layer_output_norm"),
    (r"attn_sub_norm", "attn_sub_norm"),
    (r"ffn_sub_norm", "ffn_sub_norm"),
    (r"input_layernorm|layernorm_before|layer_norm1|norm1|norm_1|self_attn_layer_norm", "attn_norm"),
    (
        r"post_attention_layernorm|pre_ff_layernorm|layernorm_after|layer_norm2|norm2|norm_2|ln_2|mlp_norm|ffn_norm"
        r"|final_layer_norm|feedforward_layer_norm",
        "ffn_norm",
    ),
    (r"(?:attention|attn|self)\.(?:q_proj|query|query_proj|q)", "attn_q"),
    (r"(?:attention|attn|self)\.(?:k_proj|key|key_proj|k)", "attn_k"),
    (r"(?:attention|attn|self)\.(?:v_proj|value|value_proj|v)", "attn_v"),
    (r"attention\.output\.dense|(?:attention|attn)\.(?:out_proj|o_proj|o|proj)", "attn_output"),
    (r"(?:attention|attn)\.qkv(?:_proj)?", "attn_qkv"),
    (r"fc1|intermediate\.dense|intermediate_dense|mlp\.fc1", "ffn_up"),
    (r"fc2|output\.dense|output_dense|mlp\.fc2", "ffn_down"),
    (r"shared_expert_gate", "ffn_gate_inp_shexp"),
    (r"block_sparse_moe\.input_linear", "ffn_gate_up_exps"),
    (r"block_sparse_moe\.output_linear", "ffn_down_exps"),
    (r"shared_mlp\.input_linear", "ffn_up_shexp"),
    (r"shared_mlp\.output_linear", "ffn_down_shexp"),
    (r".*relative_position_bias.*", "attn_rel_b"),
    (r"(?:block_sparse_moe|mlp|moe|feed_forward)\.(?:router|gate)(?:\.layer)?", "ffn_gate_inp"),
)
# the same outside the layers
_MORE_OUTER = _endings(
    (r"embed_in|tokens_embed|token_embedding", "token_embd"),
    (r"positions_embed|position_embedding", "position_embd"),
    (r"layernorm_embedding", "token_embd_norm"),
    (r"embeddings_project|project_in", "token_embd_project"),
    (r"project_out", "output_project"),
    (r"final_layer_norm", "output_norm"),
)
_MASK = re.compile(r"(?:.*\.)?(?:attn|attention)\.(?:masked_)?bias", re.ASCII)  # causal masks, in old files
_PARTS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}  # TensorFlow's names last
_ENCODER_DECODER = re.compile(
    r"(?:.*\.)?(?:encoder_attn|encdecattention|crossattention|cross_attn)[._].*", re.IGNORECASE
)
_SAME = {"attn_o": "attn_output"}  # two words for one thing


@dataclass(frozen=True, slots=True)
class TensorRole:
    """`word` is llama.cpp's name of the module, `part` its `weight` or `bias`; `expert` the number of a lone expert."""

    word: str
    part: str = "weight"
    expert: int | None = None


def layer_roles(checkpoint: Checkpoint, stack: Stack, names: Iterable[str]) -> dict[str, TensorRole | None]:
    """The role of every tensor of the stack's layers among `names`, None if it is unknown."""
    inside = {name: layer for name in names if (layer := stack.layer_of(name)) is not None}
    endings = {name: stack.after(name, layer)[1:] for name, layer in inside.items()}
    if table_of(checkpoint) == GGUF:
        return {name: _gguf_role(ending) for name, ending in endings.items()}
    roles = _best_roles(checkpoint.architecture, stack.prefix, frozenset(endings.values()))
    return {name: roles[ending] for name, ending in endings.items()}


def outer_roles(checkpoint: Checkpoint, names: Iterable[str], prefix: str = "") -> dict[str, str]:
    """The word -> the name of each tensor beside the layers: `token_embd`, `output_norm`, `output`, ...

    If several have one word, the nearest to `prefix` counts, where the layers are.
    """
    if table_of(checkpoint) == GGUF:
        return {name.removesuffix(".weight").replace(".bias", "_bias"): name for name in names}
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda name: -len(_common(name, prefix))):
        words = (_outer_word(architecture, name) for architecture in _candidates(checkpoint.architecture))
        if word := next(filter(None, words), None):
            found.setdefault(word, name)
    return found


def _common(name: str, prefix: str) -> list[str]:
    """The first parts of the name that are also those of the prefix."""
    pairs = zip(name.split("."), prefix.rstrip(".").split("."), strict=False)
    return [mine for mine, other in takewhile(lambda pair: pair[0] == pair[1], pairs)]


_SIDES = {"encoder", "decoder", "model", "language_model", "text_model"}
_OTHER_INPUTS = re.compile(r"(?:^|[._])(?:vision|visual|image|audio|speech)")


def reads_tokens(prefix: str) -> bool:
    """Whether the names of the layers are not those of a tower for images or sound."""
    return not _OTHER_INPUTS.search(prefix)


def is_elsewhere(name: str, prefix: str) -> bool:
    """Whether the tensor belongs to another stack of the model than the one whose layers begin with `prefix`."""
    common = len(_common(name, prefix))
    mine, other = prefix.rstrip(".").split(".")[common:-1], name.split(".")[common:]
    return not reads_tokens(name) or (bool(mine) and other[0] in _SIDES)


def is_around(name: str, prefix: str) -> bool:
    """Whether the tensor is beside the list of layers, or beside a module that holds the list."""
    parent = name.split(".")[:-2]
    return prefix.split(".")[: len(parent)] == parent


def _gguf_role(ending: str) -> TensorRole:
    module, _, part = ending.rpartition(".")
    if part not in ("weight", "bias"):
        return TensorRole(ending)
    return TensorRole(_SAME.get(module, module), part)


@cache
def _best_roles(model_type: str, prefix: str, endings: frozenset[str]) -> dict[str, TensorRole | None]:
    """The roles by the map that has a word for the most tensors, the first if several have."""
    best: dict[str, TensorRole | None] = dict.fromkeys(endings)
    for architecture in _candidates(model_type):
        roles = {ending: _role(architecture, prefix, ending) for ending in endings}
        if sum(role is not None for role in roles.values()) > sum(role is not None for role in best.values()):
            best = roles
        if all(best.values()):
            break
    return best


def _candidates(model_type: str) -> Iterator[str]:
    """The architecture of that name first, then the commonest, then all others."""
    from gguf import MODEL_ARCH_NAMES

    names = {name.replace("-", "").replace("_", "").replace(".", ""): name for name in MODEL_ARCH_NAMES.values()}
    first = compute_of(HUGGINGFACE, model_type).tensor_names or names.get(model_type.replace("-", "").replace("_", ""))
    return iter(dict.fromkeys((*([first] if first else []), "llama", *sorted(names.values()))))


def _role(architecture: str, prefix: str, ending: str) -> TensorRole | None:
    expert = _EXPERT.fullmatch(ending)
    if expert and expert[2] in _EXPERT_WORDS and "shared" not in ending:
        part = "bias" if expert[3] in ("_bias", ".bias") else "weight"
        return TensorRole(_EXPERT_WORDS[expert[2]], part, int(expert[1]) if expert[1] else None)
    if _MASK.fullmatch(ending):
        return TensorRole("attn_rot_embd")
    if ending.startswith("mlp.act_fn."):
        return TensorRole("xielu." + ending.rpartition(".")[2])
    module, part = _module(ending)
    words = (_asked(architecture, f"{each}0.{module}") for each in _spellings(prefix))
    word = next(filter(None, words), None)
    if word is None and _ENCODER_DECODER.match(module):
        word = "cross_attn"
    word = word or _first(_MORE, module)
    return None if word is None else TensorRole(_SAME.get(word, word), part)


def _module(name: str) -> tuple[str, str]:
    """Without the part that it ends in, and that part."""
    module, _, part = name.rpartition(".")
    return (module, _PARTS[part]) if part in _PARTS else (name, "weight")


def _first(table: tuple[tuple[re.Pattern[str], str], ...], module: str) -> str | None:
    return next((word for pattern, word in table if pattern.fullmatch(module)), None)


def _spellings(prefix: str) -> tuple[str, ...]:
    """The prefix and its ends: `model.language_model.layers.`, `language_model.layers.`, `layers.`, `model.layers.`."""
    parts = prefix.rstrip(".").split(".")
    ends = [".".join(parts[index:]) + "." for index in range(len(parts))]
    heads = ("model.", "transformer.", "encoder.", "bert.")
    return tuple(dict.fromkeys((*ends, *(head + ends[-1] for head in heads), "model.layers.", "transformer.h.")))


@cache
def _map(architecture: str) -> dict[str, Any]:
    """The map of a llama.cpp architecture, made by a class of its own: making a map changes the class's table."""
    from gguf import MODEL_ARCH_NAMES, TensorNameMap

    number = next(number for number, name in MODEL_ARCH_NAMES.items() if name == architecture)
    fresh = type("Fresh", (TensorNameMap,), {"block_mappings_cfg": dict(TensorNameMap.block_mappings_cfg)})
    mapping: dict[str, Any] = fresh(number, 1).mapping
    return mapping


def _asked(architecture: str, name: str) -> str | None:
    """The word for a tensor of layer 0."""
    found = _map(architecture).get(name)
    if found is None:
        return None
    match = re.fullmatch(r"(?:enc\.|dec\.)?blk\.0\.(.+)", str(found[1]))
    return match[1] if match else None


def _outer_word(architecture: str, name: str) -> str | None:
    module, part = _module(name)
    pieces = module.split(".")
    ends = (".".join(pieces[index:]) for index in range(len(pieces)))
    asked = (_map(architecture).get(spelling) for end in ends for spelling in (end, "model." + end))
    word = next((str(found[1]) for found in asked if found is not None and "blk." not in str(found[1])), None)
    word = word or _first(_MORE_OUTER, module)
    return word and word + ("" if part == "weight" else "_bias")
