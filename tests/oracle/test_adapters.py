"""PEFT itself loads the pruned adapter on the pruned model, and computes what the kept layers computed with it.

The reference is the adapted model in memory, its layers deleted there. Results are compared exactly: the same torch
does the same arithmetic on the same weights.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rewriter import open_checkpoint, verify
from rewriter.planning.companions.peft_fields import BY_MODULE, INDEPENDENT, OTHERS, PROMPT_TYPES, RULED, SHARED
from tests.support.in_process import call, run

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.oracle

LAYERS = 6
KEPT = (1, 2, 4)
SIZES = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS}
LLAMA = transformers.LlamaConfig(
    **SIZES, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False
)
GPT2 = transformers.GPT2Config(vocab_size=32, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=64)
MIXTRAL = transformers.MixtralConfig(
    **SIZES, num_attention_heads=4, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2
)
T5 = transformers.T5Config(
    vocab_size=32, d_model=32, d_kv=8, d_ff=48, num_layers=LAYERS, num_decoder_layers=LAYERS, num_heads=4,
    decoder_start_token_id=0,
)  # fmt: skip
TOKENS = torch.tensor([[1, 5, 9, 2, 30, 7, 7, 3]])


def made(config: Any, folder: Path) -> Any:
    """A random model of `config`, saved in `folder`."""
    torch.manual_seed(0)
    kind = transformers.AutoModelForSeq2SeqLM if config.model_type == "t5" else transformers.AutoModelForCausalLM
    model = kind.from_config(copy.deepcopy(config)).float().eval()  # an adapter may change it
    model.save_pretrained(folder)
    return model


def loaded(folder: Path, config: Any) -> Any:
    kind = transformers.AutoModelForSeq2SeqLM if config.model_type == "t5" else transformers.AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: Any) -> Any:
    more = {"decoder_input_ids": TOKENS[:, :5]} if model.config.is_encoder_decoder else {"use_cache": False}
    if "POLY" in [config.peft_type for config in getattr(model, "peft_config", {}).values()]:
        more["task_ids"] = torch.zeros(1, dtype=torch.long)
    with torch.no_grad():
        return model(input_ids=TOKENS, **more).logits


def adapted(model: Any, config: Any, folder: Path) -> Any:
    """`model` with a random adapter, as it is after it was saved in `folder` and loaded again."""
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter) if parameter.is_floating_point() else 0)
                assert name
    wrapped.eval().save_pretrained(folder)
    return wrapped


def without(wrapped: Any, path: str, kept: Iterable[int]) -> Any:
    """`wrapped` with only the layers `kept` of the list at `path`."""
    parent = wrapped.get_base_model()
    *way, last = path.split(".")
    for name in way:
        parent = getattr(parent, name)
    left = [getattr(parent, last)[number] for number in kept]
    for new, layer in enumerate(left):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = new
    setattr(parent, last, torch.nn.ModuleList(left))
    return wrapped


def assert_follows(
    tmp_path: Path, model_config: Any, config: Any, path: str, kept: Sequence[int] = KEPT, stack: str = "main"
) -> dict[str, Any]:
    """Prune model and adapter, and compare what they compute. Returns the adapter's new config."""
    adapted(made(model_config, tmp_path / "model"), config, tmp_path / "lora")
    full = peft.PeftModel.from_pretrained(loaded(tmp_path / "model", model_config), tmp_path / "lora").eval()
    before = logits(full)
    expected = logits(without(full, path, kept))
    keep = ",".join(map(str, kept))
    run("prune", tmp_path / "model", tmp_path / "small", "--keep", keep, "--stack", stack,
        "--with", f"{tmp_path / 'lora'}={tmp_path / 'small-lora'}")  # fmt: skip
    base = loaded(tmp_path / "small", model_config)
    bare = logits(base)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        result = logits(peft.PeftModel.from_pretrained(base, tmp_path / "small-lora").eval())
    assert not [str(each.message) for each in warned if "adapter keys" in str(each.message)]
    assert torch.equal(result, expected)
    assert not torch.allclose(result, bare)
    assert not torch.allclose(expected, before)
    assert verify(tmp_path / "small-lora", source=tmp_path / "lora") == ()
    return json.loads((tmp_path / "small-lora" / "adapter_config.json").read_text())


LINEARS = ["q_proj", "v_proj", "down_proj"]
FULL = [f"model.layers.{layer}.{name}" for layer in range(LAYERS) for name in ("self_attn.q_proj", "mlp.up_proj")]
SELECTIONS = {
    "ends": {"target_modules": LINEARS},
    "one-list": {"target_modules": LINEARS, "layers_to_transform": [1, 4, 5]},
    "one-layer": {"target_modules": LINEARS, "layers_to_transform": 2},
    "layers-pattern": {"target_modules": LINEARS, "layers_to_transform": [0, 2], "layers_pattern": "layers"},
    "names": {"target_modules": [FULL[2], FULL[5], FULL[8], "layers.2.self_attn.v_proj"]},
    "numbers-first": {"target_modules": ["2.self_attn.q_proj", "4.mlp.up_proj", "3.mlp.up_proj"]},
    "expression": {"target_modules": r".*\.(q_proj|up_proj)"},
    "expression-of-layers": {"target_modules": r"model\.layers\.[2-4]\..*(q_proj|up_proj)"},
    "exclude": {"target_modules": LINEARS, "exclude_modules": ["model.layers.2.mlp.down_proj"]},
    "exclude-expression": {"target_modules": LINEARS, "exclude_modules": r".*layers\.[1-3]\..*down_proj"},
    "rank-names": {
        "target_modules": LINEARS,
        "rank_pattern": {"model.layers.2.self_attn.q_proj": 2, "layers.3.mlp.down_proj": 3, "v_proj": 5},
        "alpha_pattern": {"layers.4.mlp.down_proj": 3, "model.layers.0.mlp.down_proj": 5},
    },
    "rank-expressions": {
        "target_modules": LINEARS,
        "rank_pattern": {r"model\.layers\.[1-3]\.mlp\.down_proj": 2, r"layers\.\d+\.self_attn.q_proj": 5},
        "alpha_pattern": {"^model.layers.(1|2).*q_proj": 3, ".*q_proj": 1, r"[0-4]\..*v_proj": 9},
    },
    "dora": {"target_modules": LINEARS, "use_dora": True},
    "rslora": {"target_modules": LINEARS, "use_rslora": True},
    "bias": {"target_modules": LINEARS, "lora_bias": True},
    "embeddings": {"target_modules": [*LINEARS, "embed_tokens"]},
    "saved": {"target_modules": ["q_proj"], "modules_to_save": ["model.layers.2.mlp", "lm_head"]},
    "tokens": {"target_modules": LINEARS, "trainable_token_indices": {"embed_tokens": [1, 2]}},
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_lora(name, tmp_path):
    config = peft.LoraConfig(r=4, lora_alpha=8, **SELECTIONS[name])
    after = assert_follows(tmp_path, LLAMA, config, "model.layers")
    assert after["peft_type"] == "LORA"


def test_what_the_fields_become(tmp_path):
    """Names are renumbered, expressions stay as long as they can, and whole names are written where they cannot."""
    config = peft.LoraConfig(r=4, **SELECTIONS["layers-pattern"])
    after = assert_follows(tmp_path, LLAMA, config, "model.layers")
    assert (after["layers_to_transform"], after["layers_pattern"]) == ([1], "layers")
    assert sorted(after["target_modules"]) == sorted(LINEARS)


def test_an_expression_that_would_select_others_is_written_out(tmp_path):
    config = peft.LoraConfig(r=4, target_modules=r"model\.layers\.[45]\..*(q_proj|up_proj)")
    after = assert_follows(tmp_path, LLAMA, config, "model.layers")
    assert after["target_modules"] == ["model.layers.2.mlp.up_proj", "model.layers.2.self_attn.q_proj"]


def test_replicated_layers(tmp_path):
    config = peft.LoraConfig(r=4, target_modules=LINEARS, layer_replication=[[0, 4], [2, 6]])
    adapted(made(LLAMA, tmp_path / "model"), config, tmp_path / "lora")
    full = peft.PeftModel.from_pretrained(loaded(tmp_path / "model", LLAMA), tmp_path / "lora").eval()
    order = [0, 1, 2, 3, 2, 3, 4, 5]
    expected = logits(without(full, "model.layers", [at for at, layer in enumerate(order) if layer in KEPT]))
    run("prune", tmp_path / "model", tmp_path / "small", "--keep", "1,2,4", "--with", f"{tmp_path / 'lora'}")
    after = json.loads((tmp_path / "lora-pruned" / "adapter_config.json").read_text())
    assert after["layer_replication"] == [[0, 2], [1, 3]]
    result = peft.PeftModel.from_pretrained(loaded(tmp_path / "small", LLAMA), tmp_path / "lora-pruned").eval()
    assert torch.equal(logits(result), expected)


def test_gpt2(tmp_path):
    config = peft.LoraConfig(
        r=4, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, rank_pattern={"transformer.h.4.attn.c_attn": 2}
    )
    after = assert_follows(tmp_path, GPT2, config, "transformer.h")
    assert after["rank_pattern"] == {"transformer.h.2.attn.c_attn": 2}


@pytest.mark.parametrize("targets", [["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
                                     ["model.layers.1.mlp.experts.down_proj", "layers.4.mlp.experts.gate_up_proj",
                                      "layers.5.mlp.experts.down_proj"]])  # fmt: skip
def test_experts(targets, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], target_parameters=targets)
    after = assert_follows(tmp_path, MIXTRAL, config, "model.layers")
    assert len(after["target_parameters"]) == 2


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
@pytest.mark.parametrize(
    "more",
    [
        {"target_modules": ["q", "v", "wo"]},
        {"target_modules": ["q", "v"], "layers_to_transform": [0, 1, 2, 4]},
        {"target_modules": ["q"], "rank_pattern": {"block.2.layer.0.SelfAttention.q": 2, "encoder.block.4.*": 3}},
        {"target_modules": ["relative_attention_bias", "q"]},
    ],
    ids=["ends", "layers", "rank", "shared"],
)
def test_t5(stack, more, tmp_path):
    assert_follows(tmp_path, T5, peft.LoraConfig(r=4, **more), f"{stack}.block", kept=(0, 2, 4), stack=stack)


CONFIGS = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING
TYPES = {str(kind).rpartition(".")[2]: config for kind, config in CONFIGS.items()}
ATTENTION = ["q_proj", "o_proj"]  # square ones: some types take nothing else
ARGUMENTS = {
    "ADALORA": {"target_modules": ATTENTION, "total_step": 10, "init_r": 4, "target_r": 2},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 5, "task_type": "CAUSAL_LM"},
    "FOURIERFT": {
        "target_modules": ATTENTION,
        "n_frequency": 20,
        "n_frequency_pattern": {"layers.2.self_attn.q_proj": 9},
    },
    "C3A": {"target_modules": ATTENTION, "block_size": 8, "block_size_pattern": {"layers.4.self_attn.q_proj": 4}},
    "IA3": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LN_TUNING": {"target_modules": ["input_layernorm", "norm"]},
    "TRAINABLE_TOKENS": {"target_modules": ["embed_tokens"], "token_indices": [1, 2]},
    "VBLORA": {"target_modules": ATTENTION, "num_vectors": 16, "vector_length": 8},
    "VERA": {"target_modules": ATTENTION, "r": 4},
    "BOFT": {"target_modules": ATTENTION, "boft_block_size": 4},
    "OFT": {"target_modules": ATTENTION, "oft_block_size": 4, "r": 0},
    "WAVEFT": {"target_modules": ATTENTION, "n_frequency": 20},
    "GRALORA": {"target_modules": ATTENTION, "r": 8},
    "POLY": {"target_modules": ATTENTION, "r": 4, "n_tasks": 1, "task_type": "CAUSAL_LM"},
    "MISS": {"target_modules": ATTENTION, "r": 4},
    "SHIRA": {"target_modules": ATTENTION, "r": 4},
    "ROAD": {"target_modules": ATTENTION, "group_size": 8},
}


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind in {*BY_MODULE, *SHARED} - {"LORA"}])
def test_every_type_that_follows(kind, tmp_path):
    config = TYPES[kind](**ARGUMENTS.get(kind, {"target_modules": ATTENTION}))
    assert_follows(tmp_path, LLAMA, config, "model.layers")


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"])
def test_prompts(kind, tmp_path):
    config = TYPES[kind](task_type="CAUSAL_LM", num_virtual_tokens=3)
    after = compared_prompt(tmp_path, config)
    assert after["num_layers"] == len(KEPT)


def compared_prompt(tmp_path: Path, config: Any) -> dict[str, Any]:
    """A prefix of a pruned model is the part of the kept layers; a prompt at the input stays."""
    adapted(made(LLAMA, tmp_path / "model"), config, tmp_path / "lora")
    run("prune", tmp_path / "model", tmp_path / "small", "--keep", "1,2,4", "--with", tmp_path / "lora")
    full = peft.PeftModel.from_pretrained(loaded(tmp_path / "model", LLAMA), tmp_path / "lora").eval()
    small = peft.PeftModel.from_pretrained(loaded(tmp_path / "small", LLAMA), tmp_path / "lora-pruned").eval()
    if config.peft_type == "PREFIX_TUNING":
        whole, left = full.get_prompt(1), small.get_prompt(1)
        assert (len(whole), len(left)) == (LAYERS, len(KEPT))
        for new, old in enumerate(KEPT):
            assert torch.equal(left.layers[new].keys, whole.layers[old].keys)
            assert torch.equal(left.layers[new].values, whole.layers[old].values)
    else:
        assert torch.equal(full.get_prompt(1), small.get_prompt(1))
        without(full, "model.layers", KEPT)
    assert logits(small).isfinite().all()
    if config.peft_type != "PREFIX_TUNING":
        assert torch.equal(logits(small), logits(full))
    return json.loads((tmp_path / "lora-pruned" / "adapter_config.json").read_text())


def test_the_table_knows_every_type_of_peft():
    assert set(TYPES) == {*BY_MODULE, *SHARED, *OTHERS, *PROMPT_TYPES}


def test_the_table_knows_every_field_of_the_types_that_follow():
    fields = {
        field.name for kind, config in TYPES.items() if kind not in OTHERS for field in dataclasses.fields(config)
    }
    assert fields - {*RULED} - INDEPENDENT == set()


def test_a_plan_for_the_gguf_of_the_model_fits_its_adapter(tmp_path):
    adapted(made(LLAMA, tmp_path / "model"), peft.LoraConfig(r=4, target_modules=LINEARS), tmp_path / "lora")
    source = Path(__file__).parents[2] / "fixtures" / "models" / "tiny-llama-12L-Q8_0.gguf"
    run("plan", source, "--drop", "6-11", "-o", tmp_path / "six.json")
    run("apply", tmp_path / "six.json", tmp_path / "lora", tmp_path / "out")
    assert {tensor.name for tensor in open_checkpoint(tmp_path / "out").tensors} == {
        tensor.name for tensor in open_checkpoint(tmp_path / "lora").tensors
    }
    refused = call("apply", tmp_path / "six.json", tmp_path / "lora", tmp_path / "out")
    assert refused.status == 1
