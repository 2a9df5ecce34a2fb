"""What transformers ties to a layer's number in decoders: what is refused and why, and what every drop keeps."""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.modeling_layers import MtpModel  # noqa: E402

from rewriter.checkpoint import Checkpoint  # noqa: E402
from rewriter.errors import UnsupportedError  # noqa: E402
from rewriter.formats.json_edit import edit  # noqa: E402
from rewriter.planning.plan import Plan, make_plan  # noqa: E402
from tests.support.checkpoints import changes, hf, numbered  # noqa: E402
from tests.support.in_process import call, prune, refused  # noqa: E402
from tests.support.oracle.hf_decoder_rows import (  # noqa: E402
    DEEPSEEK,
    GEMMA3N,
    GEMMA4,
    GEMMA_TYPES,
    JAMBA,
    MIXED,
    ROWS,
    ZAMBA,
    ZAMBA2,
    listed,
)
from tests.support.oracle.hf_models import (  # noqa: E402
    DECODER,
    GPT2,
    MODEL_LAYERS,
    Row,
    build,
    edit_config,
    model_class,
    outputs,
    reference,
    save,
)
from tests.support.oracle.loading import load  # noqa: E402

pytestmark = pytest.mark.oracle

OLMO_HYBRID = next(row for row in ROWS if row.id == "olmo_hybrid").config
ERNIE = next(row for row in ROWS if row.id == "ernie4_5_moe-default").config
SLIDING_AT_8 = GEMMA4 | {"layer_types": listed("sfssfsssf", GEMMA_TYPES), "num_kv_shared_layers": 0}
TWO_BLOCKS = ZAMBA2 | {"num_mem_blocks": 2}
SCALED = GPT2 | {"scale_attn_by_inverse_layer_idx": True}
ALTERNATE = ERNIE | {"moe_layer_interval": 2}
ONE_FULL = OLMO_HYBRID | {"layer_types": listed("mmmmammmm", MIXED)}

QWEN_NEXT = next(row for row in ROWS if row.id == "qwen3_next")
RWKV = next(row for row in ROWS if row.id == "rwkv")

# Row, what is dropped, and words of the rule that forbids it.
REFUSED = [
    pytest.param(Row("", "JambaForCausalLM", JAMBA, MODEL_LAYERS), "1,4", "only periods", id="fact_11_jamba"),
    pytest.param(
        Row("", "Gemma4ForCausalLM", SLIDING_AT_8, MODEL_LAYERS), "8", "attention on the last", id="fact_06_gemma4_last"
    ),
    pytest.param(
        Row("", "Gemma4ForCausalLM", GEMMA4, MODEL_LAYERS), "4", "reuse keys and values", id="fact_06_gemma4_tail"
    ),
    pytest.param(
        Row("", "Gemma3nForCausalLM", GEMMA3N, MODEL_LAYERS), "1,6", "reuse keys and values", id="fact_06_gemma3n_tail"
    ),
    pytest.param(
        Row("", "ZambaForCausalLM", ZAMBA, MODEL_LAYERS), "1,3,6", "two hybrid layers", id="fact_09_zamba_one_hybrid"
    ),
    pytest.param(
        Row("", "Zamba2ForCausalLM", TWO_BLOCKS, MODEL_LAYERS), "3", "in turn", id="fact_09_zamba2_turns"
    ),
    pytest.param(
        Row("", "OlmoHybridForCausalLM", ONE_FULL, MODEL_LAYERS), "4", "full_attention", id="olmo_hybrid"
    ),
    pytest.param(
        Row("", "Ernie4_5_MoeForCausalLM", ALTERNATE, MODEL_LAYERS), "1,4", "moe_layer_interval",
        id="ernie_interval",
    ),
    pytest.param(QWEN_NEXT, "3,7,11", "without an attention layer", id="hybrid_without_attention"),
    pytest.param(replace(RWKV, config=RWKV.config | {"num_hidden_layers": 3}), "0,1", "less one", id="rwkv_one_block"),
    pytest.param(
        Row("", "GPTNeoXJapaneseForCausalLM", DECODER, "gpt_neox_japanese.layers"), "6", "dense_bias",
        id="gpt_neox_japanese",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("row", "drop", "why"), REFUSED)
def test_what_cannot_be_said_is_refused(row: Row, drop: str, why: str, tmp_path: Path) -> None:
    """One line, nothing written, and every alternative that it names works; --align takes the first."""
    model, source = build(row), tmp_path / "source"
    save(row, model, source)
    line = refused(source, tmp_path / "out", drop)
    assert why in line
    others = re.findall(r"--keep ([0-9,-]+)", line)
    assert 1 <= len(others) <= 3
    for number, keep in enumerate(others):
        assert call("prune", source, tmp_path / f"{number}", f"--keep={keep}").errors == ""
        kept = expanded(keep)
        pruned = load(model_class(row), tmp_path / f"{number}")
        assert torch.equal(outputs(row, pruned), reference(row, model, kept))
    prune(source, tmp_path / "aligned", drop, "", "--align")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "aligned" / name).stat().st_size == (tmp_path / "0" / name).stat().st_size
    aligned = load(model_class(row), tmp_path / "aligned")
    assert torch.equal(outputs(row, aligned), reference(row, model, expanded(others[0])))


def expanded(keep: str) -> tuple[int, ...]:
    """`0,2-4` as numbers."""
    ends = [part.partition("-") for part in keep.split(",")]
    return tuple(number for low, _, high in ends for number in range(int(low), int(high or low) + 1))


@pytest.mark.parametrize(("row", "drop", "why"), REFUSED)
def test_force_writes_it_with_a_warning(row: Row, drop: str, why: str, tmp_path: Path) -> None:
    model = build(row)
    save(row, model, tmp_path / "source")
    printed = prune(tmp_path / "source", tmp_path / "out", drop, "", "--force")
    assert why in printed
    assert "--force" in printed
    record = json.loads((tmp_path / "out" / "rewriter.json").read_text())
    assert why in json.dumps(record)


WARNED = [
    pytest.param(Row("", "DiffLlamaForCausalLM", DECODER, MODEL_LAYERS), "lambda_init", id="fact_19_diffllama"),
    pytest.param(
        Row("", "GPT2LMHeadModel", SCALED, "transformer.h"), "new layer number",
        id="fact_19_gpt2",
    ),
    pytest.param(next(row for row in ROWS if row.id == "minimax"), "decay slopes", id="fact_19_minimax"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "why"), WARNED)
def test_what_changes_a_little_is_written_with_a_warning(row: Row, why: str, tmp_path: Path) -> None:
    save(row, build(row), tmp_path / "source")
    assert why in prune(tmp_path / "source", tmp_path / "out", "1,4")
    load(model_class(row), tmp_path / "out")
    assert why in refused(tmp_path / "source", tmp_path / "strict", "1,4", "--strict")
    end = prune(tmp_path / "source", tmp_path / "end", "6")  # no kept layer gets another number
    assert (why in end) == (row.id == "minimax")  # whose slopes depend on the count too


# -- MTP layers (fact 16)

MTP = DEEPSEEK | {"num_nextn_predict_layers": 1}


@pytest.fixture(scope="module", params=["DeepseekV3ForCausalLM", "Glm4MoeForCausalLM"])
def predicting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Row, Any, Path]:
    """A model saved with an MTP layer after its seven layers, as such checkpoints lie on the hub."""
    row = Row("", request.param, MTP | {"n_group": 1, "head_dim": 8}, MODEL_LAYERS)
    model, folder = build(row), tmp_path_factory.mktemp("mtp")
    last = {name: tensor for name, tensor in saved_tensors(model, folder).items() if ".layers.6." in name}
    block = {name.replace(".layers.6.", ".layers.7."): torch.randn_like(tensor) for name, tensor in last.items()}
    extra = {"eh_proj.weight": (32, 64), "enorm.weight": (32,), "hnorm.weight": (32,), "shared_head.norm.weight": (32,)}
    block |= {f"model.layers.7.{name}": torch.randn(shape) for name, shape in extra.items()}
    rewrite(folder, block)
    return row, model, folder


def saved_tensors(model: Any, folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def rewrite(folder: Path, more: dict[str, Any]) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file({**load_file(path), **more}, path, {"format": "pt"})


def mtp_names(folder: Path, layer: int) -> set[str]:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name for name in file.keys() if f".layers.{layer}." in name}  # noqa: SIM118


def test_mtp_layers_follow(predicting: tuple[Row, Any, Path], tmp_path: Path) -> None:
    """Kept by default: they come after the layers that are left, and the count stays true."""
    row, model, source = predicting
    prune(source, tmp_path / "out", "1,4")
    loaded, report = model_class(row).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    # transformers passes over MTP layers by the numbers that released models have.
    assert {name.split(".")[2] for name in report["unexpected_keys"]} == {"5"}
    assert torch.equal(outputs(row, loaded), reference(row, model, (0, 2, 3, 5, 6)))
    assert loaded.config.num_nextn_predict_layers == 1
    assert len(mtp_names(tmp_path / "out", 5)) == len(mtp_names(source, 7))


def test_transformers_finds_the_mtp_layers(
    predicting: tuple[Row, Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the number it looks for, transformers loads them, from the source as from the output."""
    row, _, source = predicting
    prune(source, tmp_path / "out", "1,4")
    weights = []
    for folder, number in ((source, 7), (tmp_path / "out", 5)):
        patterns = [rf"model\.layers\.{number}\..*"]
        monkeypatch.setattr(model_class(row), "_keys_to_ignore_on_load_unexpected", patterns)
        mtp = MtpModel.from_pretrained(load(model_class(row), folder))
        weights.append({name: tensor for name, tensor in mtp.named_parameters() if name.startswith("layers.0.")})
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


@pytest.mark.parametrize("how", [["--drop=1,4", "--drop-mtp"], ["--drop=1,4,7"]], ids=["drop-mtp", "by number"])
def test_mtp_layers_go(predicting: tuple[Row, Any, Path], how: list[str], tmp_path: Path) -> None:
    row, model, source = predicting
    assert call("prune", source, tmp_path / "out", *how).errors == ""
    loaded = load(model_class(row), tmp_path / "out")
    assert loaded.config.num_nextn_predict_layers == 0
    assert torch.equal(outputs(row, loaded), reference(row, model, (0, 2, 3, 5, 6)))


def test_saved_again(tmp_path: Path) -> None:
    """transformers writes the count without the tensors: that is how it was, and how it stays."""
    row = Row("", "DeepseekV3ForCausalLM", MTP, MODEL_LAYERS)
    save(row, build(row), tmp_path / "source")
    prune(tmp_path / "source", tmp_path / "out", "1,4")
    assert load(model_class(row), tmp_path / "out").config.num_nextn_predict_layers == 1


# -- every drop, by what the config says of the layers

LISTS = (
    "layer_types", "layers_block_type", "mlp_layer_types", "no_rope_layers", "attention_layers", "layers_num_experts",
    "activation_sparsity_pattern", "intermediate_size",
)  # fmt: skip


def kinds(config: Any) -> list[tuple[Any, ...]]:
    """What the model's code makes of each layer, as far as the config decides it."""
    count = config.num_hidden_layers
    lists = [value for key in LISTS if isinstance(value := getattr(config, key, None), list | tuple)]
    columns = [[tuple(each[layer] for each in lists if len(each) >= count) for layer in range(count)]]
    columns += [[test(config, layer) for layer in range(count)] for key, test in TESTS.items() if hasattr(config, key)]
    return list(zip(*columns, strict=True))


def has_experts(config: Any, layer: int) -> bool:
    return layer not in (config.mlp_only_layers or ()) and (layer + 1) % config.decoder_sparse_step == 0


def in_range(config: Any, layer: int) -> bool:
    inside: bool = config.moe_layer_start_index <= layer <= config.moe_layer_end_index
    return inside and (layer + 1) % config.moe_layer_interval == 0


TESTS = {
    "decoder_sparse_step": has_experts,
    "moe_layers": lambda config, layer: layer in config.moe_layers,
    "first_k_dense_replace": lambda config, layer: layer < config.first_k_dense_replace,
    "num_dense_layers": lambda config, layer: layer < config.num_dense_layers,
    "moe_layer_start_index": in_range,
    "kv_sharing_modes": lambda config, layer: config.kv_sharing_modes[layer] == "reuse",
    "per_layer_config": lambda config, layer: getattr(config.per_layer_config[layer], "head_dim", 0),
}


def config_text(row: Row, folder: Path) -> str:
    """The row's config.json without its model."""
    model_class(row).config_class(**row.config).save_pretrained(folder)
    edit_config(folder / "config.json", row.config_edits)
    return (folder / "config.json").read_text()


def loaded(row: Row, text: str, folder: Path) -> Any:
    (folder / "config.json").write_text(text)
    return model_class(row).config_class.from_pretrained(folder)


def planned(checkpoint: Checkpoint, keep: tuple[int, ...]) -> tuple[Plan | None, str]:
    """The plan, or why there is none."""
    try:
        return make_plan(checkpoint, keep), ""
    except UnsupportedError as error:
        return None, str(error)


def selections(count: int) -> Iterator[tuple[int, ...]]:
    """Some of everything that may be kept, always the same."""
    chance = random.Random(0)
    for _ in range(40):
        number = chance.randint(1, count - 1)
        yield tuple(sorted(chance.sample(range(count), number)))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_every_layer_stays_what_it_was(row: Row, tmp_path: Path) -> None:
    """The config that the tool writes makes of every kept layer what the source's made of it, whatever is kept."""
    text = config_text(row, tmp_path)
    before = kinds(loaded(row, text, tmp_path))
    config = json.loads(text)
    checkpoint = hf(config["model_type"], numbered(row.layers + ".", len(before)), config)
    done = 0
    for keep in selections(len(before)):
        plan, why = planned(checkpoint, keep)
        if plan is None:
            others = re.findall(r"--keep ([0-9,-]+)", why)
            assert others
            assert all(planned(checkpoint, expanded(other))[0] for other in others), why
        else:
            after = loaded(row, edit(text, changes(plan)), tmp_path)
            assert kinds(after) == [before[layer] for layer in keep], keep
            done += 1
    assert done > 5
