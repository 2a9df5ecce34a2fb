"""The Hugging Face conformance table: one row is one saved form of one tiny random model.

A new architecture is a new row. The reference of a row never renumbers anything: a dropped layer stays where it is
and passes its input on, so every kept layer has its own index, mask and cache slot, as before.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

torch.set_num_threads(1)  # the models are tiny: threads only wait for each other
ABSENT = object()
Inputs = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A tiny model, how it is saved, and which stack of it is pruned.

    `layers` is the stack's module list in the model; `stack` is what --stack gets, empty where the tool's default is
    meant. `irregular` are drops that break every period. `config_edits` turn the saved config.json into a form that
    hub files have (dotted keys, ABSENT removes), `renames` do so with the tensors' names, and `extra` are tensors of
    such files that the loader ignores. `refused` are drops that the tool does not make, `first` or `last`. `tolerance`
    is for models that scale by a layer's number what they later divide out, and `shortened` for those that compute a
    little else by it, with a warning: then the reference is `shortened(model, keep)`, the model made shorter by hand.
    """

    id: str
    model: str
    config: Mapping[str, Any]
    layers: str
    inputs: str = "tokens"
    stack: str = ""
    irregular: tuple[int, ...] = (1, 4)
    save: Mapping[str, Any] = field(default_factory=dict)
    config_edits: Mapping[str, Any] = field(default_factory=dict)
    renames: tuple[tuple[str, str], ...] = ()
    extra: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    tolerance: float = 0.0
    shortened: Callable[[Any, Collection[int]], Any] | None = None


# The sequence is longer than the sliding window (4), or its pattern would not matter.
LENGTH, WINDOW, VOCABULARY, IMAGE_TOKEN = 14, 4, 96, 90
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
IMAGE = {"image_size": 16, "patch_size": 4}
ENCODER = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 7}
DECODER = ENCODER | SPECIAL | {"vocab_size": VOCABULARY, "num_key_value_heads": 2}
BERT = ENCODER | SPECIAL | {"vocab_size": VOCABULARY, "max_position_embeddings": 64}
QWEN = DECODER | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 3}
# 12 layers hold two full ones (5 and 11) of the pattern of 6: without 1 and 4 no pattern has them.
GEMMA3 = DECODER | {"num_hidden_layers": 12, "head_dim": 8, "sliding_window": WINDOW}
GEMMA3_THIRDS = GEMMA3 | {"sliding_window_pattern": 3}
GEMMA3_VISION = {
    "text_config": GEMMA3,
    "vision_config": ENCODER | IMAGE | {"num_hidden_layers": 6},
    "mm_tokens_per_image": 4,
    "image_token_index": IMAGE_TOKEN,
    "boi_token_index": IMAGE_TOKEN + 1,
    "eoi_token_index": IMAGE_TOKEN + 2,
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_head": 4, "n_layer": 7, "n_positions": 64}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 2}
T5_SIZES = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4}
T5 = T5_SIZES | {"num_layers": 6, "num_decoder_layers": 7}
T5_EVEN = T5_SIZES | {"num_layers": 6}
MIXTRAL = DECODER | {"num_local_experts": 4}

INV_FREQ = {f"model.layers.{index}.self_attn.rotary_emb.inv_freq": (4,) for index in range(7)}

MODEL_LAYERS = "model.layers"
GEMMA3_TEXT = "model.language_model.layers"
GEMMA3_TOWER = "model.vision_tower.encoder.layers"
MEMORY_NAMES = {"save_original_format": False}

LIST_ABSENT = {"layer_types": ABSENT}
QWEN_SWITCHED_OFF = LIST_ABSENT | {"sliding_window": WINDOW, "max_window_layers": 3}
# Gemma 3 as it was uploaded: the list is implied, the two rope bases are plain keys.
GEMMA3_NO_LIST = {
    "layer_types": ABSENT,
    "_sliding_window_pattern": ABSENT,
    "rope_parameters": ABSENT,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
}
GEMMA3_PATTERN = GEMMA3_NO_LIST | {"sliding_window_pattern": 6}
GEMMA3_NESTED = {f"text_config.{key}": value for key, value in GEMMA3_NO_LIST.items()}
GEMMA3_DEFAULT_COUNTS = GEMMA3_VISION | {
    "text_config": GEMMA3 | {"num_hidden_layers": 26},
    "vision_config": ENCODER | IMAGE | {"num_hidden_layers": 12},
}
NO_COUNTS = {"text_config.num_hidden_layers": ABSENT, "vision_config.num_hidden_layers": ABSENT}

ROWS = (
    Row("llama", "LlamaForCausalLM", DECODER, MODEL_LAYERS),
    Row("llama-base", "LlamaModel", DECODER, "layers"),
    Row("llama-sharded", "LlamaForCausalLM", DECODER, MODEL_LAYERS, save={"max_shard_size": "20KB"}),
    # Older transformers saved the rotary frequencies of every layer.
    Row("llama-inv-freq", "LlamaForCausalLM", DECODER, MODEL_LAYERS, extra=INV_FREQ),
    # 12 layers: layers.1 is a prefix of layers.10 and layers.11.
    Row(
        "llama-12",
        "LlamaForCausalLM",
        DECODER | {"num_hidden_layers": 12},
        MODEL_LAYERS,
        irregular=(1, 4, 5, 10),
    ),
    Row("mistral", "MistralForCausalLM", DECODER | {"sliding_window": WINDOW}, MODEL_LAYERS),
    Row("qwen2", "Qwen2ForCausalLM", QWEN, MODEL_LAYERS),
    Row("qwen2-threshold", "Qwen2ForCausalLM", QWEN, MODEL_LAYERS, config_edits=LIST_ABSENT),
    # Qwen 2 as it was uploaded: a window and a threshold that are switched off.
    Row("qwen2-hub", "Qwen2ForCausalLM", DECODER, MODEL_LAYERS, config_edits=QWEN_SWITCHED_OFF),
    Row("qwen3", "Qwen3ForCausalLM", QWEN | {"head_dim": 8}, MODEL_LAYERS),
    Row("qwen3-threshold", "Qwen3ForCausalLM", QWEN, MODEL_LAYERS, config_edits=LIST_ABSENT),
    Row("gemma3_text", "Gemma3ForCausalLM", GEMMA3, MODEL_LAYERS),
    Row("gemma3_text-base", "Gemma3TextModel", GEMMA3, "layers"),
    Row("gemma3_text-pattern", "Gemma3ForCausalLM", GEMMA3, MODEL_LAYERS, config_edits=GEMMA3_PATTERN),
    Row("gemma3_text-pattern-3", "Gemma3ForCausalLM", GEMMA3_THIRDS, MODEL_LAYERS, config_edits=LIST_ABSENT),
    Row("gemma3_text-null", "Gemma3ForCausalLM", GEMMA3, MODEL_LAYERS, config_edits={"layer_types": None}),
    Row("gemma3_text-no-pattern", "Gemma3ForCausalLM", GEMMA3, MODEL_LAYERS, config_edits=GEMMA3_NO_LIST),
    Row("gemma3", "Gemma3ForConditionalGeneration", GEMMA3_VISION, GEMMA3_TEXT, "tokens+image"),
    Row(
        "gemma3-vision",
        "Gemma3ForConditionalGeneration",
        GEMMA3_VISION,
        GEMMA3_TOWER,
        "tokens+image",
        "vision",
    ),
    Row(
        "gemma3-no-list",
        "Gemma3ForConditionalGeneration",
        GEMMA3_VISION,
        GEMMA3_TEXT,
        "tokens+image",
        "text",
        config_edits=GEMMA3_NESTED,
    ),
    Row(
        "gemma3-no-count",
        "Gemma3ForConditionalGeneration",
        GEMMA3_DEFAULT_COUNTS,
        GEMMA3_TEXT,
        "tokens+image",
        "text",
        config_edits=GEMMA3_NESTED | NO_COUNTS,
    ),
    Row(
        "gemma3-no-count-vision",
        "Gemma3ForConditionalGeneration",
        GEMMA3_DEFAULT_COUNTS,
        GEMMA3_TOWER,
        "tokens+image",
        "vision",
        config_edits=GEMMA3_NESTED | NO_COUNTS,
    ),
    Row(
        "gemma3-memory-names",
        "Gemma3ForConditionalGeneration",
        GEMMA3_VISION,
        GEMMA3_TEXT,
        "tokens+image",
        save=MEMORY_NAMES,
    ),
    # The tower's name in the files of Gemma 3's release.
    Row(
        "gemma3-hub-vision",
        "Gemma3ForConditionalGeneration",
        GEMMA3_VISION,
        GEMMA3_TOWER,
        "tokens+image",
        "vision",
        renames=((r"^vision_tower\.", "vision_tower.vision_model."),),
    ),
    Row("phi3", "Phi3ForCausalLM", DECODER | {"sliding_window": WINDOW}, MODEL_LAYERS),
    Row("gpt2", "GPT2LMHeadModel", GPT2, "transformer.h"),
    Row("gpt2-base", "GPT2Model", GPT2, "h"),
    # A language model's weights under a base model's names, with the causal masks: how gpt2 itself lies on the hub.
    Row(
        "gpt2-hub",
        "GPT2LMHeadModel",
        GPT2,
        "transformer.h",
        renames=((r"^transformer\.", ""),),
        extra={f"h.{index}.attn.bias": (1, 1, 64, 64) for index in range(7)},
    ),
    Row("bert", "BertForMaskedLM", BERT, "bert.encoder.layer"),
    Row("bert-base", "BertModel", BERT, "encoder.layer"),
    # TensorFlow's names for the norms, as in bert-base-uncased.
    Row(
        "bert-hub",
        "BertForMaskedLM",
        BERT,
        "bert.encoder.layer",
        renames=((r"LayerNorm\.weight$", "LayerNorm.gamma"), (r"LayerNorm\.bias$", "LayerNorm.beta")),
    ),
    Row("vit", "ViTForImageClassification", ENCODER | IMAGE, "vit.layers", "image"),
    Row("vit-base", "ViTModel", ENCODER | IMAGE, "layers", "image"),
    Row(
        "vit-memory-names",
        "ViTForImageClassification",
        ENCODER | IMAGE,
        "vit.layers",
        "image",
        save=MEMORY_NAMES,
    ),
    Row("t5", "T5ForConditionalGeneration", T5, "decoder.block", "encoder-decoder"),
    Row("t5-encoder", "T5ForConditionalGeneration", T5, "encoder.block", "encoder-decoder", "encoder"),
    Row(
        "t5-one-count",
        "T5ForConditionalGeneration",
        T5_EVEN,
        "decoder.block",
        "encoder-decoder",
        "decoder",
        config_edits={"num_decoder_layers": ABSENT},
    ),
    Row(
        "t5-one-count-encoder",
        "T5ForConditionalGeneration",
        T5_EVEN,
        "encoder.block",
        "encoder-decoder",
        "encoder",
        config_edits={"num_decoder_layers": ABSENT},
    ),
    # t5-small has the bias of the first block's cross-attention too, which nothing reads.
    Row(
        "t5-hub",
        "T5ForConditionalGeneration",
        T5,
        "decoder.block",
        "encoder-decoder",
        extra={"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": (32, 4)},
    ),
    Row("mixtral", "MixtralForCausalLM", MIXTRAL, MODEL_LAYERS),
    Row("mixtral-fused", "MixtralForCausalLM", MIXTRAL, MODEL_LAYERS, save=MEMORY_NAMES),
)


def model_class(row: Row) -> Any:
    return getattr(transformers, row.model)


def build(row: Row) -> Any:
    """The row's model in evaluation mode, with noise on every weight: also norms and biases tell layers apart."""
    torch.manual_seed(0)
    model = model_class(row)(model_class(row).config_class(**row.config)).eval()
    with torch.no_grad():
        for weight in (each for each in model.parameters() if each.requires_grad):
            weight.add_(torch.randn_like(weight), alpha=0.2)
    return model


def save(row: Row, model: Any, folder: Path) -> None:
    """Save the model in the form the row describes."""
    model.save_pretrained(folder, **row.save)
    if row.config_edits:
        edit_config(folder / "config.json", row.config_edits)
    if row.renames or row.extra:
        edit_tensors(folder / "model.safetensors", row)


def edit_config(path: Path, edits: Mapping[str, Any]) -> None:
    config = json.loads(path.read_text())
    for dotted, value in edits.items():
        *parents, key = dotted.split(".")
        owner = reduce(dict.__getitem__, parents, config)
        if value is ABSENT:
            del owner[key]
        else:
            owner[key] = value
    path.write_text(json.dumps(config, indent=2))


def edit_tensors(path: Path, row: Row) -> None:
    def renamed(name: str) -> str:
        return reduce(lambda text, rename: re.sub(rename[0], rename[1], text), row.renames, name)

    extra = {name: torch.ones(shape) for name, shape in row.extra.items()}
    save_file({renamed(name): tensor for name, tensor in load_file(path).items()} | extra, path, {"format": "pt"})


def tokens() -> Inputs:
    return {"input_ids": torch.arange(7, 7 + 2 * LENGTH * 5, 5).reshape(2, LENGTH) % (IMAGE_TOKEN - 4) + 4}


def image(count: int = 2) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    return {"pixel_values": torch.randn(count, 3, 16, 16, generator=generator)}


def tokens_and_image() -> Inputs:
    """One sequence with the four tokens of one image in it."""
    ids = tokens()["input_ids"][:1].clone()
    ids[0, 3:7] = IMAGE_TOKEN
    return {"input_ids": ids, "token_type_ids": (ids == IMAGE_TOKEN).long(), **image(1)}


def tokens_twice() -> Inputs:
    ids = tokens()["input_ids"]
    return {"input_ids": ids, "decoder_input_ids": ids.flip(1)}


INPUTS: Mapping[str, Callable[[], Inputs]] = {
    "tokens": tokens,
    "image": image,
    "tokens+image": tokens_and_image,
    "encoder-decoder": tokens_twice,
}


@torch.no_grad()
def outputs(row: Row, model: nn.Module) -> Tensor:
    """The logits, or the last hidden state of a model without a head."""
    first: Tensor = model(**INPUTS[row.inputs]())[0]
    return first


def depth(row: Row, model: nn.Module) -> int:
    return len(module_list(row, model))


def module_list(row: Row, model: nn.Module) -> nn.ModuleList:
    layers = model.get_submodule(row.layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def reference(row: Row, model: nn.Module, keep: Collection[int]) -> Tensor:
    """What the model answers with the kept layers alone."""
    if row.shortened and len(keep) < depth(row, model):
        return outputs(row, row.shortened(deepcopy(model), keep))
    with only(module_list(row, model), keep):
        return outputs(row, model)


@contextmanager
def only(layers: nn.ModuleList, keep: Collection[int]) -> Iterator[None]:
    """Within, the layers that are not kept pass their input on."""
    dropped = [layer for index, layer in enumerate(layers) if index not in keep]
    hooks = [layer.register_forward_hook(pass_on, prepend=True, with_kwargs=True) for layer in dropped]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def pass_on(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
    """The hidden states as they came in. What else the layer returns stays: T5's first block owns the position bias."""
    hidden = args[0] if args else kwargs["hidden_states"]
    return type(output)((hidden, *output[1:])) if isinstance(output, tuple | list) else hidden


def drops(row: Row, model: nn.Module) -> Mapping[str, tuple[int, ...]]:
    return {"irregular": row.irregular, "first": (0,), "last": (depth(row, model) - 1,)}


def is_same(row: Row, found: Tensor, wanted: Tensor) -> bool:
    """Bit for bit, but for the rows that say otherwise."""
    if row.tolerance:
        return torch.allclose(found, wanted, rtol=row.tolerance, atol=row.tolerance)
    return torch.equal(found, wanted)
