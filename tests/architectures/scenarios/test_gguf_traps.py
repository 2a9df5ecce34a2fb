"""What goes wrong in GGUF files when layers are dropped without knowing the architecture: one test for each trap.

tests/architectures/test_gguf.py prunes a file of every architecture; here are the traps that need a special one.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from rewriter import PlanOptions, errors, make_plan, open_checkpoint
from rewriter.planning.open_model import open_model
from rewriter.planning.plan import Plan
from tests.support.builders import add_field, prune
from tests.support.gguf_files import contents, fixture, plain, random, write


def tiny(path: Path, arch: str, layers: int, keys: Mapping[str, Any] | None = None, **more: Any) -> Path:
    """Two small tensors in each block; keys stand without the architecture unless they begin with `/`."""
    named = {key[1:] if key[0] == "/" else f"{arch}.{key}": value for key, value in (keys or {}).items()}
    metadata = {"general.architecture": arch, f"{arch}.block_count": layers} | named
    shapes = {"token_embd.weight": (4, 8)} | more.get("shapes", {})
    parts = ("attn_norm.weight", "ffn_down.weight", *more.get("parts", ()))
    shapes |= {f"blk.{layer}.{part}": (4,) for layer in range(layers) for part in parts}
    return write(path, metadata, shapes)


def without(path: Path, *dropped: int, **options: Any) -> Plan:
    checkpoint = open_checkpoint(path)
    chosen = PlanOptions(**options)
    stack = open_model(checkpoint, chosen).stack
    return make_plan(checkpoint, [layer for layer in range(stack.count) if layer not in dropped], chosen)


def edits(plan: Plan) -> dict[str, Any]:
    return {edit.key: edit.after for edit in plan.edits}


def refusal(path: Path, *dropped: int, **options: Any) -> str:
    with pytest.raises(errors.UnsupportedError) as caught:
        without(path, *dropped, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- exact layer counts that llama.cpp concludes something from

COUNTS = [("gemma2", 46), ("gemma3", 62), ("exaone4", 64), ("baichuan", 32), ("baichuan", 40)]


@pytest.mark.parametrize(("arch", "count"), COUNTS)
def test_gemma2_gemma3_exaone4_and_baichuan_know_models_by_their_count(arch, count, tmp_path):
    assert str(count) in refusal(tiny(tmp_path / "leaves.gguf", arch, count), 3)
    reaches = tiny(tmp_path / "reaches.gguf", arch, count + 1)
    assert "--keep" in refusal(reaches, 3)
    assert len(without(reaches, 3, 4).layers.kept) == count - 1
    assert without(reaches, 3, force=True).warnings


def test_deepseek2_without_query_lora_says_so_in_any_count(tmp_path):
    """Files of 26 or 27 layers need no key; pruned, llama.cpp asks for it."""
    plan = without(tiny(tmp_path / "lite.gguf", "deepseek2", 27, {"expert_gating_func": 1}), 3)
    assert edits(plan)["deepseek2.attention.q_lora_rank"] == 0


@pytest.mark.parametrize("count", [26, 27])
def test_deepseek2_with_query_lora_never_becomes_a_lite_one(count, tmp_path):
    keys = {"attention.q_lora_rank": 16, "expert_gating_func": 2}
    assert "q_lora_rank" in refusal(tiny(tmp_path / "full.gguf", "deepseek2", count + 1, keys), 3)


@pytest.mark.parametrize("count", [47, 48])
def test_deepseek2_guesses_its_gating_function_by_the_count(count, tmp_path):
    path = tiny(tmp_path / "old.gguf", "deepseek2", count, {"attention.q_lora_rank": 16})
    assert "expert_gating_func" in refusal(path, 3)
    told = tiny(tmp_path / "told.gguf", "deepseek2", count, {"attention.q_lora_rank": 16, "expert_gating_func": 2})
    assert len(without(told, 3).layers.kept) == count - 1


def test_minicpm_keeps_the_residual_scale_of_its_old_count(tmp_path):
    plan = without(tiny(tmp_path / "model.gguf", "minicpm", 40), 3, 4)
    assert edits(plan)["minicpm.residual_scale"] == np.float32(1.4 / sqrt(40))


# ---- windows


@pytest.mark.parametrize("arch", ["gemma2", "cohere2", "gpt-oss", "exaone-moe", "gemma-embedding", "modern-bert"])
def test_no_block_with_a_window_is_left(arch, tmp_path):
    """llama.cpp aborts; the alternatives keep one."""
    path = tiny(tmp_path / "model.gguf", arch, 8, {"attention.sliding_window": 4})
    full = {"gemma2": (1, 3, 5, 7), "gpt-oss": (1, 3, 5, 7), "modern-bert": (0, 3, 6), "gemma-embedding": (5,)}
    gone = [layer for layer in range(8) if layer not in full.get(arch, (3, 7))]
    text = refusal(path, *gone)
    assert "window" in text
    assert "--keep" in text
    kept = without(path, *gone, align=True).layers.kept
    assert set(kept) - set(full.get(arch, (3, 7)))


def test_gemma3_writes_that_there_is_no_window(tmp_path):
    path = tiny(tmp_path / "model.gguf", "gemma3", 12, {"attention.sliding_window": 4})
    plan = without(path, *[layer for layer in range(12) if layer % 6 != 5])
    assert edits(plan)["gemma3.attention.sliding_window"] == 0


def test_olmo2_without_a_window_gets_no_pattern(tmp_path):
    assert set(edits(without(tiny(tmp_path / "model.gguf", "olmo2", 8), 1))) == {"olmo2.block_count"}


@pytest.mark.parametrize("arch", ["maple", "mimo2", "step35", "spark2_5", "granite_swa"])
def test_a_listed_window_must_stay_too(arch, tmp_path):
    key = "attention.sliding_window_pattern"
    keys = {"attention.sliding_window": 4, key: [True, False, False, True]}
    assert "window" in refusal(tiny(tmp_path / "model.gguf", arch, 4, keys), 0, 3)


# ---- blocks that others need


@pytest.mark.parametrize("arch", ["jamba", "lfm2", "deci", "plamo2", "granitehybrid"])
def test_the_first_block_must_have_heads(arch, tmp_path):
    keys = {"attention.head_count": [4, 0, 4, 4], "attention.head_count_kv": [2, 0, 0, 2]}
    path = tiny(tmp_path / "model.gguf", arch, 4, keys)
    assert "heads" in refusal(path, 0)
    assert edits(without(path, 1))[f"{arch}.attention.head_count"] == (4, 4, 4)


def test_the_last_block_of_deci_must_have_a_feed_forward(tmp_path):
    path = tiny(tmp_path / "model.gguf", "deci", 4, {"feed_forward_length": [8, 8, 0, 8]})
    assert "feed-forward" in refusal(path, 3)
    assert edits(without(path, 0))["deci.feed_forward_length"] == (8, 0, 8)


def test_hybrids_need_blocks_of_both_kinds(tmp_path):
    """llama.cpp allocates nothing for a cache that no block fills, and aborts when it uses it."""
    path = tiny(tmp_path / "model.gguf", "jamba", 4, {"attention.head_count_kv": [0, 2, 0, 2]})
    assert "all blocks have attention" in refusal(path, 0, 2)
    assert "all are recurrent" in refusal(path, 1, 3)
    implied = tiny(tmp_path / "implied.gguf", "qwen3next", 8)
    assert "recurrent" in refusal(implied, 3, 7)


def test_qwen4exp_keeps_the_block_with_the_n_gram_embeddings(tmp_path):
    path = tiny(tmp_path / "model.gguf", "qwen4exp", 8, {"ple.layers": [2], "ple.head_offsets": [0] * 8})
    assert "n-gram" in refusal(path, 2)
    assert edits(without(path, 0))["qwen4exp.ple.layers"] == (1,)


def test_granite_keeps_the_blocks_that_take_in_vision_features(tmp_path):
    path = tiny(tmp_path / "model.gguf", "granite", 6, {"deepstack_mapping": [0, -1, 1, -1, -1, 2]})
    assert "vision" in refusal(path, 2)
    assert edits(without(path, 0, 1))["granite.deepstack_mapping"] == (1, -1, -1, 2)  # block 0 takes nothing in


def test_qwen3vl_keeps_its_first_blocks(tmp_path):
    path = tiny(tmp_path / "model.gguf", "qwen3vl", 6, {"n_deepstack_layers": 2})
    assert "vision" in refusal(path, 1)
    assert without(path, 2).layers.kept == (0, 1, 3, 4, 5)


def test_gemma4_keeps_the_blocks_whose_keys_its_last_ones_use(tmp_path):
    pattern = [True, False, True, False, True, False]
    keys = {"attention.sliding_window": 4, "attention.sliding_window_pattern": pattern, "attention.shared_kv_layers": 2}
    path = tiny(tmp_path / "model.gguf", "gemma4", 6, keys)
    assert "keys and values" in refusal(path, 2)
    assert "keys and values" in refusal(path, 3)
    assert edits(without(path, 0, 5))["gemma4.attention.shared_kv_layers"] == 1


# ---- tensors that hold something for all blocks


@pytest.mark.parametrize(("kind", "width"), [("F32", 8), ("Q8_0", 32)])
def test_stacked_embeddings_are_sliced(kind, width, tmp_path):
    path, array = stacked(tmp_path / "model.gguf", kind, width)
    source = contents(path)[1]["per_layer_token_embd.weight"]
    found = contents(prune(path, tmp_path / "pruned.gguf", [0, 2]))[1]
    name, shape, data = found["per_layer_token_embd.weight"]
    assert (name, shape) == (kind, (2 * width, 8))
    rows = np.frombuffer(source[2], np.uint8).reshape(8, 3, -1)
    assert data == np.ascontiguousarray(rows[:, [0, 2]]).tobytes()
    assert found["per_layer_model_proj.weight"][2] == array.reshape(3, width, 32)[[0, 2]].tobytes()


def test_blocks_of_a_quantised_stack_are_not_parted(tmp_path):
    path, _ = stacked(tmp_path / "model.gguf", "Q8_0", 32, layers=6, key=16)
    with pytest.raises(errors.UnsupportedError, match="Q8_0 stores 32 together"):
        make_plan(open_checkpoint(path), [0, 1, 2, 3])


def stacked(path: Path, kind: str, width: int, layers: int = 3, key: int = 0) -> tuple[Path, np.ndarray]:
    """A gemma4 whose embeddings of all layers stand side by side."""
    width = key or width
    writer = gguf.GGUFWriter(path, "gemma4")
    add_field(writer, "gemma4.block_count", layers)
    quantised = getattr(gguf.GGMLQuantizationType, kind)
    values = random("per_layer_token_embd.weight", (layers * width, 8))
    writer.add_tensor("per_layer_token_embd.weight", gguf.quants.quantize(values, quantised), raw_dtype=quantised)
    array = random("per_layer_model_proj.weight", (32, layers * width))
    writer.add_tensor("per_layer_model_proj.weight", array)
    for layer in range(layers):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", random(f"{layer}", (4,)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, array


# ---- lists


def test_names_of_tensors_in_the_metadata_follow_with_their_flags(tmp_path):
    names = ["output.weight", "blk.0.ffn_down.weight", "blk.1.ffn_down.weight", "blk.2.ffn_down.weight"]
    keys = {"/general.tensor_extra.name": names, "/general.tensor_extra.prec_a4": [False, True, False, True]}
    found = edits(without(tiny(tmp_path / "model.gguf", "llama", 3, keys), 1))
    assert found["general.tensor_extra.name"] == ("output.weight", "blk.0.ffn_down.weight", "blk.1.ffn_down.weight")
    assert found["general.tensor_extra.prec_a4"] == (False, True, True)


def test_names_of_very_many_tensors_follow(tmp_path):
    names = [f"blk.{layer}.part{part}.weight" for layer in range(4) for part in range(1100)]
    keys = {"/general.tensor_extra.name": names, "/general.tensor_extra.prec_a4": [True] * 4400}
    found = edits(without(tiny(tmp_path / "model.gguf", "llama", 4, keys), 0))
    assert len(found["general.tensor_extra.name"]) == len(found["general.tensor_extra.prec_a4"]) == 3300
    assert found["general.tensor_extra.name"][-1] == "blk.2.part1099.weight"


def test_compress_ratios_may_be_longer_than_the_stack(tmp_path):
    keys = {"attention.compress_ratios": [0, 4, 128, 4, 99], "hash_layer_count": 2}
    found = edits(without(tiny(tmp_path / "model.gguf", "deepseek4", 4, keys), 1))
    assert found["deepseek4.attention.compress_ratios"] == (0, 128, 4, 99)
    assert found["deepseek4.hash_layer_count"] == 1


def test_lists_that_are_as_long_as_the_stack_by_chance_stay(tmp_path):
    keys = {
        "rope.dimension_sections": [2, 1, 1, 0],
        "/general.tags": list("abcd"),
        "/tokenizer.ggml.scores": [0.0] * 4,
        "classifier.output_labels": list("wxyz"),
    }
    assert set(edits(without(tiny(tmp_path / "model.gguf", "qwen2vl", 4, keys), 1))) == {"qwen2vl.block_count"}


def test_global_tensors_with_numbers_stay(tmp_path):
    shapes = {"rope_freqs.weight": (4,), "mm.0.weight": (4,), "mm.2.weight": (4,)}
    found = contents(prune(tiny(tmp_path / "model.gguf", "llama", 4, shapes=shapes), tmp_path / "out.gguf", [1, 2]))[1]
    assert set(shapes) <= set(found)


@pytest.mark.parametrize("entries", [4, 5])
def test_a_list_may_leave_mtp_blocks_out(entries, tmp_path):
    keys = {"nextn_predict_layers": 1, "attention.sliding_window_pattern": [True, False, True, True, False][:entries]}
    found = edits(without(tiny(tmp_path / "model.gguf", "mimo2", 5, keys), 1))
    assert found["mimo2.attention.sliding_window_pattern"] == (True, True, True, False)[: entries - 1]
    assert found["mimo2.block_count"] == 4


def test_qwen35_marks_its_mtp_block_as_attention(tmp_path):
    path = tiny(tmp_path / "model.gguf", "qwen35", 9, {"nextn_predict_layers": 1})
    recurrent = edits(without(path, 1))["qwen35.attention.recurrent_layers"]
    assert recurrent == [True, True, False, True, True, True, False, False]


# ---- T5


def t5(path: Path, arch: str, keys: dict[str, int], stacks: dict[str, int]) -> Path:
    shapes = {"token_embd.weight": (4, 8)}
    for stack, count in stacks.items():
        shapes |= {f"{stack}.blk.{layer}.attn_norm.weight": (4,) for layer in range(count)}
        shapes[f"{stack}.blk.0.attn_rel_b.weight"] = (4, 8)
    return write(path, {"general.architecture": arch} | {f"{arch}.{key}": value for key, value in keys.items()}, shapes)


@pytest.mark.parametrize(("arch", "stack"), [("t5", "enc"), ("t5", "dec"), ("t5encoder", "enc")])
def test_position_biases_stay_when_block_0_goes(arch, stack, tmp_path):
    stacks = {"enc": 4, "dec": 2} if arch == "t5" else {"enc": 4}
    keys = {"block_count": 4} | ({"decoder_block_count": 2} if arch == "t5" else {})
    path = t5(tmp_path / "model.gguf", arch, keys, stacks)
    name = {"enc": "encoder", "dec": "decoder"}[stack]
    found = contents(prune(path, tmp_path / "pruned.gguf", range(1, stacks[stack]), PlanOptions(stack=name)))[1]
    assert found[f"{stack}.blk.0.attn_rel_b.weight"] == contents(path)[1][f"{stack}.blk.0.attn_rel_b.weight"]


def test_the_decoder_count_is_written_when_the_encoder_goes_its_own_way(tmp_path):
    path = t5(tmp_path / "model.gguf", "t5", {"block_count": 4}, {"enc": 4, "dec": 4})
    found = edits(without(path, 1, stack="decoder"))
    assert found == {"t5.decoder_block_count": 3}


# ---- files beside a language model


def mmproj(path: Path, name: str, **more: Any) -> Path:
    metadata, shapes, _ = fixture(name)
    return write(path, {key: plain(value) for key, value in metadata.items()} | more, shapes)


def test_vision_towers_remap_what_names_their_blocks(tmp_path):
    path = mmproj(tmp_path / "mmproj.gguf", "clip")
    plan = without(path, 0, 4, stack="vision")
    found = edits(plan)
    assert found["clip.vision.block_count"] == 4
    assert found["clip.vision.feature_layer"] == (1, 3, 4)  # the states after blocks 1, 3 and 5
    assert found["clip.vision.wa_layer_indexes"] == (0, 2, 3)
    names = {copy.name for copy in plan.tensors}
    assert {"v.deepstack.0.fc1.weight", "v.deepstack.2.fc1.weight", "mm.2.weight", "v.patch_embd.weight.1"} <= names
    assert not {name for name in names if name.startswith("v.blk.4.")}


def test_vision_blocks_that_the_language_model_expects_must_stay(tmp_path):
    assert "language model" in refusal(mmproj(tmp_path / "mmproj.gguf", "clip"), 1, stack="vision")


def test_two_taken_states_never_become_one(tmp_path):
    path = mmproj(tmp_path / "mmproj.gguf", "clip")
    assert "the same" in refusal(path, 4, 5, stack="vision")


def test_windows_of_a_vision_tower_by_period(tmp_path):
    path = mmproj(tmp_path / "mmproj.gguf", "clip", **{"clip.vision.n_wa_pattern": 2})
    assert "n_wa_pattern" in refusal(path, 0, stack="vision")


@pytest.mark.parametrize(("stack", "count"), [("audio", 5), ("audio_local", 4), ("vision", 4)])
def test_towers_are_pruned_apart(stack, count, tmp_path):
    path = mmproj(tmp_path / "mmproj.gguf", "clip.AUDIO")
    found = edits(without(path, 1, stack=stack))
    key = {"audio": "audio", "audio_local": "audio.local", "vision": "vision"}[stack]
    separator = "_" if stack == "audio_local" else "."
    assert found.pop(f"clip.{key}{separator}block_count") == count - 1
    assert found == ({"clip.audio.wa_pattern_mode": (0, 0, 1, 1)} if stack == "audio" else {})


def test_the_segmentation_tower_is_known_by_its_numbers(tmp_path):
    assert "global attention" in refusal(mmproj(tmp_path / "mmproj.gguf", "clip.AUDIO"), 1, stack="sam")


# ---- a decoder of sounds


def test_wavtokenizer_drops_convnext_blocks_only(tmp_path):
    metadata, shapes, _ = fixture("wavtokenizer-dec")
    path = write(tmp_path / "model.gguf", metadata, shapes)
    plan = without(path, 1, 4, stack="convnext")
    assert edits(plan) == {"wavtokenizer-dec.convnext.block_count": 4}
    assert "different kinds" in refusal(path, 1, stack="posnet")
