"""What belongs to a model: what follows, what stays, what is refused by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from rewriter import (
    CheckpointError,
    PlanOptions,
    RequestError,
    RewriterError,
    UnsupportedError,
    open_checkpoint,
    verify,
)
from rewriter.planning.companions.plan import plan_companion
from rewriter.planning.plan import make_plan
from rewriter.planning.saved_plan import from_plan, open_plan, replan
from rewriter.writing.write import write
from tests.support import companion_files as files
from tests.support.builders import FIXTURES, huggingface, tensors_of, values, write_safetensors
from tests.support.builders import write_gguf as write_model
from tests.support.in_process import call, run

KEPT = (0, 2, 5)
NUMBERS = {0: 0, 2: 1, 5: 2}


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model.gguf")


def follow(source: Path, target: Path, model: Path, kept=KEPT, **options) -> Path:
    """Let `source` follow, through the Python API."""
    saved = from_plan(make_plan(open_checkpoint(model), kept))
    base = options.pop("base", None)
    write(plan_companion(saved, open_checkpoint(source), PlanOptions(**options), base), target)
    return target


def assert_refused(source: Path, model: Path, words: str, kept=KEPT, kind=UnsupportedError, **options) -> None:
    target = source.with_name("assert_refused")
    with pytest.raises(kind) as raised:
        follow(source, target, model, kept, **options)
    assert words in str(raised.value)
    assert str(raised.value).isprintable()
    assert not target.exists()


def config_of(path: Path) -> dict:
    return json.loads((path / "adapter_config.json").read_text())


# ---- tensors


def test_a_gguf_adapter(tmp_path, model):
    source = files.lora(tmp_path / "lora.gguf")
    target = follow(source, tmp_path / "out.gguf", model)
    before, after = tensors_of(source), tensors_of(target)
    moved = {f"blk.{old}.attn_q.weight.lora_{p}": f"blk.{new}.attn_q.weight.lora_{p}" for old, new in NUMBERS.items() for p in "ab"}  # fmt: skip  # noqa: E501
    same = {f"output.weight.lora_{part}": f"output.weight.lora_{part}" for part in "ab"}
    assert {new: before[old] for old, new in {**moved, **same}.items()} == after
    fields = gguf.GGUFReader(target).fields
    assert fields["adapter.lora.alpha"].contents() == 8.0
    assert verify(target, source=source) == ()


def test_an_importance_matrix(tmp_path, model):
    source = files.importances(tmp_path / "imatrix.gguf")
    target = follow(source, tmp_path / "out.gguf", model)
    before, after = tensors_of(source), tensors_of(target)
    for old, new in NUMBERS.items():
        for part in ("in_sum2", "counts"):
            assert after[f"blk.{new}.ffn_up.weight.{part}"] == before[f"blk.{old}.ffn_up.weight.{part}"]
    assert len(after) == 2 * (len(KEPT) + 1)
    assert gguf.GGUFReader(target).fields["imatrix.datasets"].contents() == ["a.txt"]
    assert verify(target, source=source) == ()


@pytest.mark.parametrize("ending", [None, b"", struct.pack("<ii", -1, 0)], ids=["stated", "none", "empty"])
def test_an_old_importance_matrix(ending, tmp_path, model):
    source = files.old_importances(tmp_path / "imatrix.dat", ending=ending)
    target = follow(source, tmp_path / "out.dat", model)
    (before, ends), (after, same) = files.read_old(source), files.read_old(target)
    wanted = {f"blk.{new}.ffn_up.weight": before[f"blk.{old}.ffn_up.weight"] for old, new in NUMBERS.items()}
    assert (after, same) == ({**wanted, "output.weight": before["output.weight"]}, ends)
    assert verify(target) == ()
    with pytest.raises(CheckpointError, match=r"cannot tell: out\.dat carries no record"):
        verify(target, source=source)
    assert verify(source, source=source) == ()


def test_a_control_vector(tmp_path, model):
    source = files.control_vector(tmp_path / "cv.gguf")
    target = follow(source, tmp_path / "out.gguf", model)
    before, after = tensors_of(source), tensors_of(target)
    assert after == {"direction.1": before["direction.2"], "direction.2": before["direction.5"]}
    assert gguf.GGUFReader(target).fields["controlvector.layer_count"].contents() == 2
    assert verify(target, source=source) == ()


def test_the_direction_of_a_new_first_layer_is_left_out_with_force_alone(tmp_path, model):
    source = files.control_vector(tmp_path / "cv.gguf")
    assert_refused(source, model, "direction.2 is for what becomes layer 0", kept=(2, 5))
    target = follow(source, tmp_path / "out.gguf", model, (2, 5), force=True)
    assert set(tensors_of(target)) == {"direction.1"}


@pytest.mark.parametrize(("stated", "left"), [(6, 3), (5, 2), (2, 2), (17, 17)])
def test_tools_count_the_layers_of_a_control_vector_in_their_own_ways(stated, left, tmp_path, model):
    layers = (2, 5) if stated == 2 else range(1, 6)
    source = files.control_vector(tmp_path / "cv.gguf", layers, count=stated)
    target = follow(source, tmp_path / "out.gguf", model)
    assert gguf.GGUFReader(target).fields["controlvector.layer_count"].contents() == left


def test_a_direction_counted_from_1_is_left_out_as_it_is_never_read(tmp_path, model):
    source = files.control_vector(tmp_path / "cv.gguf", range(1, 7))
    target = follow(source, tmp_path / "out.gguf", model)
    assert set(tensors_of(target)) == {"direction.1", "direction.2"}
    assert_refused(
        files.control_vector(tmp_path / "more.gguf", range(1, 8)), model, "of no layer", kind=CheckpointError
    )


def test_an_mmproj_file_stays_byte_for_byte(tmp_path, model):
    names = [f"v.blk.{n}.attn_q.weight" for n in range(6)]
    source = write_model(tmp_path / "mmproj.gguf", arch="clip", names=names, fields={"vision.block_count": 6})
    target = follow(source, tmp_path / "out.gguf", model)
    assert target.read_bytes() == source.read_bytes()
    saved = from_plan(make_plan(open_checkpoint(huggingface(tmp_path / "model")), KEPT))
    with pytest.raises(RequestError, match="has none of them"):
        replan(saved, open_checkpoint(source))  # what `prune --plan` does


def test_a_plan_for_the_vision_tower_is_for_that_of_the_mmproj_file(tmp_path):
    text = [f"model.layers.{n}.self_attn.q_proj.weight" for n in range(4)]
    vision = [f"visual.blocks.{n}.attn.qkv.weight" for n in range(6)]
    config = {"model_type": "qwen2_5_vl", "num_hidden_layers": 4, "vision_config": {"depth": 6, "fullatt_block_indexes": [5]}}  # fmt: skip  # noqa: E501
    source = huggingface(tmp_path / "model", names=[*text, *vision], **config)
    run("plan", source, "--stack", "vision", "--keep", "0,2,5", "-o", tmp_path / "plan.json")
    names = [f"v.blk.{n}.attn_q.weight" for n in range(6)]
    mmproj = write_model(tmp_path / "mmproj.gguf", arch="clip", names=names, fields={"vision.block_count": 6})
    run("apply", tmp_path / "plan.json", mmproj, tmp_path / "out.gguf")
    before, after = tensors_of(mmproj), tensors_of(tmp_path / "out.gguf")
    assert after == {f"v.blk.{new}.attn_q.weight": before[f"v.blk.{old}.attn_q.weight"] for old, new in NUMBERS.items()}


def test_another_file_of_the_model(tmp_path, model):
    other = write_model(tmp_path / "other.gguf", fields={"general.name": "other"})
    target = follow(other, tmp_path / "out.gguf", model)
    assert gguf.GGUFReader(target).fields["llama.block_count"].contents() == 3
    assert verify(target, source=other) == ()


# ---- PEFT


def test_a_peft_adapter(tmp_path, model):
    config = {
        "layers_to_transform": [0, 1, 2, 5],
        "rank_pattern": {"model.layers.2.mlp.up_proj": 2, "layers.3.mlp.up_proj": 2},
        "alpha_pattern": {"up_proj": 3},
        "base_model_name_or_path": "whole",
    }
    source = files.adapter(tmp_path / "lora", config, (0, 1, 2, 5))
    target = follow(source, tmp_path / "out", huggingface(tmp_path / "model"), base="pruned")
    after = config_of(target)
    assert after["layers_to_transform"] == [0, 1, 2]
    assert after["rank_pattern"] == {"model.layers.1.mlp.up_proj": 2}
    assert after["alpha_pattern"] == {"up_proj": 3}
    assert after["base_model_name_or_path"] == "pruned"
    assert len(tensors_of(target)) == 12
    assert verify(target, source=source) == ()


def test_a_bare_adapter(tmp_path, model):
    folder = files.adapter(tmp_path / "lora")
    source = (folder / "adapter_model.safetensors").rename(tmp_path / "lora.safetensors")
    target = follow(source, tmp_path / "out.safetensors", model)
    before, after = tensors_of(source), tensors_of(target)
    assert after[f"{files.PEFT}1.mlp.up_proj.lora_A.weight"] == before[f"{files.PEFT}2.mlp.up_proj.lora_A.weight"]
    assert verify(target, source=source) == ()


def test_a_bare_adapter_with_its_config_beside_it_is_given_as_a_directory(tmp_path):
    folder = files.adapter(tmp_path / "lora", {})
    with pytest.raises(CheckpointError, match="give their directory"):
        open_checkpoint(folder / "adapter_model.safetensors")


def test_what_lies_beside_an_adapter(tmp_path, model):
    source = files.adapter(tmp_path / "lora", {})
    (source / "README.md").write_text("an adapter")
    (source / "config.json").write_text('{"num_hidden_layers": 6}')
    (source / "other").mkdir()
    (source / "adapter_model.safetensors").rename(source / "keep")
    (source / "other" / "adapter_model.safetensors").write_bytes((source / "keep").read_bytes())
    (source / "keep").rename(source / "adapter_model.safetensors")
    target = follow(source, tmp_path / "out", model)
    assert open_checkpoint(source).left_behind == ("config.json", "other/adapter_model.safetensors")
    assert (target / "README.md").read_text() == "an adapter"
    assert not (target / "config.json").exists()
    assert not (target / "other").exists()


FIELDS = [
    ({"target_modules": r"model\.layers\.[0-3]\..*_proj"},
     {"target_modules": ["model.layers.0.mlp.up_proj", "model.layers.0.self_attn.q_proj",
                         "model.layers.1.mlp.up_proj", "model.layers.1.self_attn.q_proj"]}),
    ({"target_modules": r".*\.(q|up)_proj"}, {"target_modules": r".*\.(q|up)_proj"}),
    ({"target_modules": "all-linear"}, {"target_modules": "all-linear"}),
    ({"layers_to_transform": 5}, {"layers_to_transform": 2}),
    ({"layers_to_transform": [2, 5], "layers_pattern": ["layers"]}, {"layers_to_transform": [1, 2]}),
    ({"exclude_modules": ["layers.5.mlp.up_proj"]}, {"exclude_modules": ["layers.2.mlp.up_proj"]}),
    ({"modules_to_save": ["lm_head"]}, {"modules_to_save": ["lm_head"]}),
    ({"rank_pattern": {r"layers\.[01]\..*": 7}}, {"rank_pattern": {"model.layers.0.self_attn.q_proj": 7, "model.layers.0.mlp.up_proj": 7}}),  # noqa: E501
    ({"target_parameters": ["layers.5.experts.w", "experts.u"]}, {"target_parameters": ["layers.2.experts.w", "experts.u"]}),  # noqa: E501
    ({"layer_replication": [[0, 6]]}, {"layer_replication": [[0, 3]]}),
]  # fmt: skip


@pytest.mark.parametrize(("config", "expected"), FIELDS)
def test_fields_of_adapters(config, expected, tmp_path, model):
    target = follow(files.adapter(tmp_path / "lora", config), tmp_path / "out", model)
    after = config_of(target)
    assert {key: after[key] for key in expected} == expected


REFUSED = {
    "unknown-field": ({"new_field": 6}, "new_field"),
    "megatron": ({"megatron_config": {"num_layers": 6}}, "megatron_config"),
    "type": ({"peft_type": "NEW"}, "type NEW"),
    "no-type": ({"peft_type": None}, "type None"),
    "shares": ({"peft_type": "LILY"}, "neighbouring layers"),
    "none-left": ({"layers_to_transform": [1], "target_modules": ["q_proj"]}, "target_modules"),
    "parameter": ({"target_parameters": ["5.experts.w"]}, "5.experts.w"),
    "saved-end": ({"modules_to_save": ["2.mlp"]}, "modules_to_save"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_fields_that_no_rule_can_follow(name, tmp_path, model):
    config, words = REFUSED[name]
    source = files.adapter(tmp_path / "lora", config)
    if name == "saved-end":
        more = {**files.named(*(f"{files.PEFT}{n}.mlp.weight" for n in range(6)))}
        from safetensors.numpy import load_file, save_file

        weights = source / "adapter_model.safetensors"
        save_file({**load_file(weights), **more}, weights)
    assert_refused(source, model, words)


def test_a_field_that_is_known_better_can_be_kept(tmp_path, model):
    source = files.adapter(tmp_path / "lora", {"new_field": 6})
    assert config_of(follow(source, tmp_path / "out", model, keep_fields=("new_field",)))["new_field"] == 6


@pytest.mark.parametrize("pattern", ["(", "*", "[", "a{99999999999}"])
def test_a_damaged_expression_is_one_line(pattern, tmp_path, model):
    source = files.adapter(tmp_path / "lora", {"rank_pattern": {pattern: 3}})
    assert_refused(source, model, "no regular expression", kind=CheckpointError)


BAD_CONFIGS = [
    {"layers_to_transform": "all"}, {"layers_to_transform": [99]}, {"layers_to_transform": [-1]},
    {"layer_replication": [[0, 99]]}, {"layer_replication": 3}, {"layer_replication": [[0, 6]] * 100},
    {"rank_pattern": ["a"]}, {"target_modules": [1, 2]}, {"target_modules": {"a": 1}}, {"exclude_modules": 7},
    {"modules_to_save": 5}, {"modules_to_save": [None]}, {"layers_pattern": 3, "layers_to_transform": [1]},
    {"layers_to_transform": True},
]  # fmt: skip


@pytest.mark.parametrize("config", BAD_CONFIGS, ids=str)
def test_a_config_of_another_form_is_one_line(config, tmp_path, model):
    source = files.adapter(tmp_path / "lora", config)
    with pytest.raises(RewriterError) as raised:
        follow(source, tmp_path / "out", model)
    assert str(raised.value).isprintable()


# ---- what does not belong together


def test_more_layers_than_the_model_has(tmp_path, model):
    assert_refused(files.lora(tmp_path / "lora.gguf", range(7)), model, "blk.6.attn_q", kind=CheckpointError)
    source = files.adapter(tmp_path / "lora", {}, range(8))
    assert_refused(source, model, "layers.6.", kind=CheckpointError)


def test_another_architecture(tmp_path, model):
    source = files.lora(tmp_path / "lora.gguf", arch="qwen2")
    assert_refused(source, model, "qwen2")
    assert follow(source, tmp_path / "out.gguf", model, force=True).exists()
    hint = files.control_vector(tmp_path / "cv.gguf", hint="mistral")
    assert_refused(hint, model, "made for a mistral", strict=True)


def test_layers_under_a_name_that_nobody_knows(tmp_path, model):
    assert_refused(files.lora(tmp_path / "lora.gguf", prefix="lay."), model, "lay.N")
    assert_refused(files.adapter(tmp_path / "lora", {}, prefix="base_model.model.towers."), model, "towers.N")


def test_nothing_left(tmp_path, model):
    source = files.adapter(tmp_path / "lora", {}, (1, 3))
    assert_refused(source, model, "nothing would be left")


def test_a_companion_is_no_model(tmp_path, model):
    source = files.lora(tmp_path / "lora.gguf")
    with pytest.raises(UnsupportedError, match="see rewriter apply"):
        make_plan(open_checkpoint(source), [0])
    saved = from_plan(make_plan(open_checkpoint(model), KEPT))
    write(plan_companion(saved, open_checkpoint(source), PlanOptions()), tmp_path / "out.gguf")
    with pytest.raises(CheckpointError, match="neither a saved plan nor a pruned model"):
        open_plan(tmp_path / "out.gguf")


def test_shared_weights_move_with_their_adapter(tmp_path):
    names = [f"{side}.block.{n}.layer.0.SelfAttention.q.weight" for side in ("encoder", "decoder") for n in range(6)]
    bias = [f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight" for side in ("encoder", "decoder")]
    config = {"model_type": "t5", "num_layers": 6, "num_decoder_layers": 6}
    source = huggingface(tmp_path / "model", names=[*names, *bias], **config)
    tensors = [f"base_model.model.{name.removesuffix('.weight')}.lora_embedding_A" for name in bias]
    lora = write_safetensors(tmp_path / "lora.safetensors", tensors)
    run("prune", source, tmp_path / "small", "--stack", "encoder", "--keep", "1,3", "--with", lora)
    after = tensors_of(tmp_path / "lora-pruned.safetensors")
    assert set(after) == set(tensors)


# ---- commands


def test_prune_with_several_writes_all_or_nothing(tmp_path, model):
    lora, cv = files.lora(tmp_path / "lora.gguf"), files.control_vector(tmp_path / "cv.gguf")
    bad = files.lora(tmp_path / "bad.gguf", range(9))
    there = set(tmp_path.iterdir())
    arguments = ("prune", model, tmp_path / "small.gguf", "--keep", "0,2,5", "--with", lora, "--with")
    assert call(*arguments, bad).status == 1
    assert call(*arguments, lora).status == 2
    (tmp_path / "cv-pruned.gguf").write_bytes(b"mine")
    assert call(*arguments, cv).status == 1
    (tmp_path / "cv-pruned.gguf").unlink()
    assert set(tmp_path.iterdir()) == there
    said = run(*arguments, f"{cv}={tmp_path / 'steer.gguf'}")
    assert "LoRA adapter lora.gguf: 14 tensors -> 8" in said
    new = {path.name for path in set(tmp_path.iterdir()) - there}
    assert new == {"small.gguf", "lora-pruned.gguf", "steer.gguf"}


def test_a_dry_run_shows_the_companions(tmp_path, model):
    lora = files.lora(tmp_path / "lora.gguf")
    printed = json.loads(run("plan", model, "--keep", "0,2,5", "--with", lora, "--json"))
    assert [each["companion"] for each in printed["companions"]] == ["LoRA adapter"]
    assert "along: LoRA adapter lora.gguf" in run("plan", model, "--keep", "0,2,5", "--with", lora)
    run("plan", model, "--keep", "0,2,5", "-o", tmp_path / "plan.json")
    said = json.loads(run("apply", tmp_path / "plan.json", lora, tmp_path / "out.gguf", "--dry-run", "--json"))
    assert said["files"] == printed["companions"][0]["files"][:0] + said["files"]
    assert not (tmp_path / "out.gguf").exists()


def test_the_pruned_model_says_its_own_plan(tmp_path, model):
    lora = files.lora(tmp_path / "lora.gguf")
    run("prune", model, tmp_path / "small.gguf", "--keep", "0,2,5")
    run("plan", model, "--keep", "0,2,5", "-o", tmp_path / "plan.json")
    run("apply", tmp_path / "plan.json", lora, tmp_path / "one.gguf")
    run("apply", tmp_path / "small.gguf", lora, tmp_path / "two.gguf")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


def test_a_model_pruned_twice_is_followed_step_by_step(tmp_path, model):
    lora = files.lora(tmp_path / "lora.gguf")
    run("prune", model, tmp_path / "first.gguf", "--keep", "0,2-5", "--with", lora)
    run("prune", tmp_path / "first.gguf", tmp_path / "second.gguf", "--keep", "0,1,4", "--with",
        f"{tmp_path / 'lora-pruned.gguf'}={tmp_path / 'twice.gguf'}")  # fmt: skip
    run("prune", model, tmp_path / "once.gguf", "--keep", "0,2,5", "--with", f"{lora}={tmp_path / 'at-once.gguf'}")
    assert tensors_of(tmp_path / "twice.gguf") == tensors_of(tmp_path / "at-once.gguf")
    record = json.loads(gguf.GGUFReader(tmp_path / "twice.gguf").fields["rewriter.provenance"].contents())
    assert record["original"]["layers"] == {"main": [0, 2, 5]}
    done = call("apply", tmp_path / "second.gguf", lora, tmp_path / "out.gguf")
    assert (done.status, "more than once" in done.errors) == (1, True)
    done = call("prune", model, tmp_path / "x.gguf", "--keep", "0,2,5", "--with", tmp_path / "lora-pruned.gguf")
    assert done.status == 1


def test_inspect_and_checksums_of_companions(tmp_path, model):
    for source in (
        files.lora(tmp_path / "lora.gguf", (1, 4)), files.control_vector(tmp_path / "cv.gguf"),
        files.adapter(tmp_path / "lora", {}), files.old_importances(tmp_path / "old.dat"),
    ):  # fmt: skip
        assert "tensors" in run("inspect", source)
        target = follow(source, tmp_path / f"out-{source.name}", model)
        listed = set(run("checksums", target).splitlines())
        assert listed <= set(run("checksums", source).splitlines()) or source.suffix == ".dat"


# ---- old importance matrices that are damaged


GOOD = files.entry("blk.0.w", values("blk.0.w", (4,)).tobytes())


def old(*entries: bytes, count: int | None = None, ending: bytes = b"") -> bytes:
    return struct.pack("<i", len(entries) if count is None else count) + b"".join(entries) + ending


DAMAGED = {
    "cut-in-a-name": (old(GOOD)[:12], "fit"),
    "cut-in-values": (old(GOOD)[:-3], "do not fit"),
    "cut-between": (old(GOOD, count=2), "fit"),
    "many-entries": (old(GOOD, count=400_000), "do not fit"),
    "values-2-31": (old(struct.pack("<i", 1) + b"a" + struct.pack("<ii", 1, 2**31 - 1) + bytes(64)), "do not fit"),
    "values-negative": (old(struct.pack("<i", 1) + b"a" + struct.pack("<ii", 1, -4) + bytes(64)), "-4 values"),
    "values-none": (old(struct.pack("<i", 1) + b"a" + struct.pack("<ii", 1, 0) + bytes(64)), "0 values"),
    "name-2-31": (old(GOOD, struct.pack("<i", 2**31 - 1) + bytes(64)), "name of 2147483647"),
    "name-negative": (old(GOOD, struct.pack("<i", -1) + bytes(64)), "name of -1"),
    "name-empty": (old(GOOD, files.entry("", bytes(16))), "no name"),
    "twice": (old(GOOD, GOOD), "stands twice"),
    "ending-short": (old(GOOD, ending=b"\0\0\0"), "fit"),
    "ending-long": (old(GOOD, ending=struct.pack("<ii", 1, 2) + b"abc"), "1 bytes after"),
    "ending-huge": (old(GOOD, ending=struct.pack("<ii", 1, 2**30) + b"abc"), "name of 1073741824"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_old_importance_matrices_are_one_line(name, tmp_path):
    raw, words = DAMAGED[name]
    path = tmp_path / "imatrix.dat"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(path)
    assert words in str(raised.value)
    assert "imatrix.dat" in str(raised.value)
    assert str(raised.value).isprintable()
    assert np.frombuffer(raw, np.uint8).size < 1000
    assert verify(path) != ()


def test_every_cut_of_an_old_importance_matrix_is_refused_or_whole(tmp_path):
    raw = files.old_importances(tmp_path / "whole.dat").read_bytes()
    whole = [end for end in range(len(raw)) if is_read(tmp_path / "cut.dat", raw[:end])]
    assert whole == [len(raw) - 13]  # without its ending it is an older one


def is_read(path: Path, raw: bytes) -> bool:
    path.write_bytes(raw)
    try:
        return len(open_checkpoint(path).tensors) == 7
    except CheckpointError:
        return False


@pytest.mark.parametrize(
    ("name", "kind"),
    [("lora", "PEFT adapter"), ("lora.gguf", "LoRA adapter"), ("control.gguf", "control vector"),
     ("imatrix.dat", "importance matrix")],
)  # fmt: skip
def test_inspect_says_what_belongs_to_a_model(name, kind):
    source = FIXTURES / "companions" / name
    first = run("inspect", source).splitlines()[0]
    assert first.endswith(f", {kind}: it follows the layers of a pruned model, see rewriter apply")
    assert json.loads(run("inspect", source, "--json"))["companion"] == kind


def test_a_base_is_refused_where_it_would_be_ignored(tmp_path):
    target = tmp_path / "x"
    plan = tmp_path / "plan.json"
    run("plan", FIXTURES / "models" / "tiny-llama-12L-F16.gguf", "--drop", "3", "-o", plan)
    done = call("apply", plan, FIXTURES / "companions" / "imatrix.dat", target, "--base", "a/b")
    assert (done.status, done.errors.count("\n")) == (2, 1)
    assert "--base is about the directory of a PEFT adapter: imatrix.dat names no model" in done.errors


def test_verify_cannot_tell_without_a_record(tmp_path):
    source, plan, target = FIXTURES / "companions" / "imatrix.dat", tmp_path / "plan.json", tmp_path / "im.dat"
    run("plan", FIXTURES / "models" / "tiny-llama-12L-F16.gguf", "--drop", "3", "-o", plan)
    run("apply", plan, source, target)
    done = call("verify", target, "--source", source)
    assert (done.status, done.output) == (1, "")
    assert done.errors.startswith("rewriter: cannot tell: im.dat carries no record")
