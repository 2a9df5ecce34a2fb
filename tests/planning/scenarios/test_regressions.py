"""What went wrong once. Each docstring says why it matters."""

import json
from dataclasses import replace

import pytest

from rewriter.checkpoint import LayerMap
from rewriter.errors import CheckpointError, RequestError, UnsupportedError
from rewriter.formats.json_edit import edit
from rewriter.planning.metadata.field_rules import apply
from rewriter.planning.options import LayerSelection, PlanOptions
from rewriter.planning.plan import effective_metadata, make_plan, planned_checkpoint
from rewriter.planning.provenance import recorded
from rewriter.planning.selection.choose import choose
from tests.support.checkpoints import ggml, hf, llama, llama_gguf, numbered

BARE = PlanOptions(provenance=False)
GENERIC = PlanOptions(generic=True)


def changes(plan):
    return {edit.key: edit.after for edit in plan.edits}


@pytest.mark.parametrize("value", [28, 70, 24])
def test_keep_all_of_a_qwen2_whose_threshold_is_beyond_its_layers(value):
    """Qwen2.5-14B: 48 layers, max_window_layers 70. Keeping every layer must reproduce the file."""
    checkpoint = hf("qwen2", numbered("model.layers.", 24), {"num_hidden_layers": 24, "max_window_layers": value})
    assert make_plan(checkpoint, range(24), BARE).edits == ()


def test_first_n_refuses_protected_last_layers():
    """The selection once kept 0,1,10,11."""
    with pytest.raises(RequestError, match="keeps the first layers alone"):
        choose(LayerSelection(strategy="first-n", count=4, protect_last=2), 12, len)


def test_deepest_but_last_with_its_last_layer_protected_is_the_same():
    """Gromov: L-n-1..L-2. Protecting the last layer, which stays anyway, must not move the block."""
    plain = choose(LayerSelection(strategy="deepest-but-last", count=3), 12, len)
    assert choose(LayerSelection(strategy="deepest-but-last", count=3, protect_last=1), 12, len) == plain


def test_a_gpt2_config_that_counts_under_the_other_name():
    """GPT2Config.attribute_map: num_hidden_layers is n_layer; as a keyword it wins over n_layer."""
    checkpoint = hf("gpt2", numbered("h.", 4), {"n_layer": 4, "num_hidden_layers": 4})
    assert set(changes(make_plan(checkpoint, [0, 1])).values()) == {2}
    assert set(changes(make_plan(checkpoint, [0, 1]))) == {"n_layer", "num_hidden_layers"}


def test_per_layer_config_follows():
    """transformers 5 reads it for every model type; keys >= num_hidden_layers do not load."""
    checkpoint = llama(4, per_layer_config={"00": {"a": 1}, "03": {"a": 2}})
    assert changes(make_plan(checkpoint, [0, 3]))["per_layer_config"] == {"00": {"a": 1}, "01": {"a": 2}}


def test_generic_gguf_keeps_its_mtp_layer():
    """llama.cpp: block_count includes the last nextn_predict_layers blocks."""
    checkpoint = ggml("new", numbered("blk.", 6), {"block_count": 6, "nextn_predict_layers": 1})
    plan = make_plan(checkpoint, [0, 1, 2], GENERIC)
    assert changes(plan) == {"new.block_count": 4}
    assert plan.tensors[-1].tensor.name == "blk.5.weight"
    assert plan.tensors[-1].name == "blk.3.weight"


def test_regexes_in_ignore_lists_mean_the_same_layers_or_are_refused():
    checkpoint = llama(4, quantization_config={"ignore": ["re:model.layers.3.*"]})
    assert changes(make_plan(checkpoint, [0, 1])) == {"num_hidden_layers": 2}
    with pytest.raises(UnsupportedError, match="other layers"):
        make_plan(checkpoint, [0, 3])


def test_an_empty_no_rope_list_means_the_default():
    """llama4 and smollm3: `no_rope_layers: []` once raised a CheckpointError that blamed the file."""
    checkpoint = hf(
        "new", numbered("a.", 4), {"num_hidden_layers": 4, "no_rope_layers": [], "no_rope_layer_interval": 2}
    )
    assert make_plan(checkpoint, range(4), GENERIC).edits == ()


def test_editing_below_null():
    """gemma3 with `"text_config": null`: a JSONDecodeError traceback."""
    after = edit('{"text_config": null, "b": {}}', {"text_config.num_hidden_layers": 2})
    assert json.loads(after) == {"text_config": {"num_hidden_layers": 2}, "b": {}}


def test_an_empty_object_over_two_lines():
    assert json.loads(edit("{\n}", {"a": [1, 2]})) == {"a": [1, 2]}


def test_keys_with_dots_of_their_own():
    """`--per-layer-field my.list` must not add {"my": {"list": ..}} and leave the real one."""
    assert json.loads(edit('{"my.list": [1, 2]}', {"my\\.list": [1]})) == {"my.list": [1]}


def test_null_in_a_list_of_names_stays():
    assert apply("layer_names", "k", [None, "x"], LayerMap("main", (0,), 2, ("layers.",))) == [None, "x"]


@pytest.mark.parametrize(
    "change",
    [
        {"layers": {"before": "x", "kept": [0]}},
        {"schema": 2},
        {"options": {"generic": False, "keep_fields": "abc", "per_layer_fields": []}},
    ],
)
def test_records_that_are_damaged_in_other_ways(change):
    record = json.loads(json.dumps(make_plan(llama(), [0]).provenance.to_json()))
    with pytest.raises(CheckpointError):
        recorded(replace(llama(), provenance={**record, **change}))


def test_the_selection_is_canonical_for_fields_too():
    checkpoint = llama_gguf(4, a=(1,) * 4, b=(1,) * 4)
    one = make_plan(checkpoint, [0], PlanOptions(keep_fields=("a", "b"))).provenance.to_json()
    assert one == make_plan(checkpoint, [0], PlanOptions(keep_fields=("b", "llama.a", "a"))).provenance.to_json()


def test_two_runs_down_to_full_layers_only_mean_the_same_as_one():
    """`verify twice.gguf --source original.gguf` would report a false problem."""
    extra = {"block_count": 6, "attention.sliding_window": 512}
    checkpoint = ggml("gemma3", numbered("blk.", 6), extra)
    twice = planned_checkpoint(make_plan(planned_checkpoint(make_plan(checkpoint, [0, 5], BARE)), [1], BARE))
    assert effective_metadata(twice, BARE) == effective_metadata(
        planned_checkpoint(make_plan(checkpoint, [5], BARE)), BARE
    )


def test_a_float_count_is_no_count():
    with pytest.raises(CheckpointError):
        make_plan(llama(6, num_hidden_layers=6.0), [0])


def test_a_saved_plan_for_another_architecture(tmp_path):
    from rewriter.layout.output import Output
    from rewriter.planning.saved_plan import load_plan, replan
    from rewriter.report.json_values import describe_plan

    path = tmp_path / "p.json"
    path.write_text(json.dumps(describe_plan(make_plan(llama(4), [0, 1]), Output((), False, ()))))
    bert = replace(hf("bert", numbered("encoder.layer.", 4), {"num_hidden_layers": 4}), header_sha256="7" * 64)
    with pytest.raises(RequestError):
        replan(load_plan(path), bert)


def test_a_kept_list_of_another_length():
    """--keep-field layer_types on a list that is too short: IndexError."""
    checkpoint = hf("gemma3_text", numbered("model.layers.", 6), {"num_hidden_layers": 6, "layer_types": ["x"] * 5})
    plan = make_plan(checkpoint, [5], PlanOptions(keep_fields=("layer_types",)))
    assert "layer_types" not in changes(plan)


@pytest.mark.parametrize("architecture", ["", "new"])
def test_a_count_of_another_architecture_is_not_the_generic_count(architecture):
    """The count was once written under a new key (`new.llama.block_count`), and the old one was left."""
    checkpoint = ggml(architecture, numbered("blk.", 4))
    checkpoint = replace(checkpoint, metadata={"general.architecture": architecture, "llama.block_count": 4})
    with pytest.raises(UnsupportedError, match="counts in the metadata: none"):
        make_plan(checkpoint, [0, 1], GENERIC)


def test_a_main_stack_that_the_tensors_do_not_show_is_not_replaced_silently():
    """config.json counts 4 text layers, no text prefix is known: `--drop` would prune the vision tower."""
    names = [*numbered("thinker.layers.", 4), *numbered("vision_tower.vision_model.encoder.layers.", 2)]
    config = {"text_config": {"num_hidden_layers": 4}, "vision_config": {"num_hidden_layers": 2}}
    with pytest.raises((CheckpointError, UnsupportedError)):
        make_plan(hf("gemma3", names, config), [0])


@pytest.mark.parametrize(
    ("architecture", "field"),
    [("qwen3_next", {"mlp_only_layers": [[1, 2]] * 6}), ("beit", {"out_indices": [[1, 2]] * 6})],
)
def test_lists_of_lists_where_numbers_belong(architecture, field):
    """TypeError, a traceback: found by a fuzzer."""
    prefix = {"beit": "beit.encoder.layer."}.get(architecture, "model.layers.")
    checkpoint = hf(architecture, numbered(prefix, 6), {"num_hidden_layers": 6, **field})
    with pytest.raises((CheckpointError, UnsupportedError)):
        make_plan(checkpoint, [0, 1, 2, 3, 5])


def test_a_nested_architecture_without_rules_is_refused_for_its_stack_alone():
    """internvl around a text model that nobody knows: its windows would shift without a word."""
    config = {
        "text_config": {"model_type": "gemma99", "num_hidden_layers": 4, "sliding_window": 128},
        "vision_config": {"model_type": "internvl_vision", "num_hidden_layers": 4},
    }
    names = [*numbered("language_model.model.layers.", 4), *numbered("vision_tower.encoder.layer.", 4)]
    with pytest.raises(UnsupportedError, match="no rules for the architecture gemma99 of text_config"):
        make_plan(hf("internvl", names, config), [0, 2])
    assert make_plan(hf("internvl", names, config), [0, 2], PlanOptions(stack="vision")).layers.kept == (0, 2)


def test_a_list_that_only_the_loader_has_in_mind_is_written():
    """Qwen2.5-VL without fullatt_block_indexes: the loader takes [7, 15, 23, 31]."""
    config = {"vision_config": {"depth": 12}, "text_config": {"model_type": "qwen2_5_vl_text", "num_hidden_layers": 2}}
    names = [*numbered("visual.blocks.", 12), *numbered("model.layers.", 2)]
    checkpoint = hf("qwen2_5_vl", names, config)
    plan = make_plan(checkpoint, [n for n in range(12) if n not in (1, 3)], PlanOptions(stack="vision"))
    assert changes(plan) == {"vision_config.depth": 10, "vision_config.fullatt_block_indexes": [5]}
    assert make_plan(checkpoint, range(12), PlanOptions(stack="vision")).edits == ()


@pytest.mark.parametrize(
    "quantization",
    [
        {"tensor_storage": {"model.layers.3.mlp": {"bits": 4}}},
        {"quant_type": {"default": {"new_to_config": {"model.layers.5.mlp": 1}}}},
        {"odd": ["lm_head", "model.layers.2.mlp"]},
    ],
)
def test_layers_named_where_no_rule_looks(quantization):
    checkpoint = llama(6, quantization_config=quantization)
    with pytest.raises(UnsupportedError, match="names a layer, and no rule says how it follows"):
        make_plan(checkpoint, [0, 2, 3, 4, 5])
    assert make_plan(checkpoint, [0, 2], PlanOptions(keep_fields=("quantization_config",))).layers.kept == (0, 2)


@pytest.mark.parametrize(("keep", "fits"), [([0, 2, 3], True), ([1, 2, 3], False), ([0, 1, 2], True)])
def test_generic_layers_that_hold_other_tensors(keep, fits):
    """wavlm and others: only the first layer has rel_attn_embed, which all use."""
    names = [*numbered("encoder.layers.", 4), "encoder.layers.0.rel_attn_embed"]
    checkpoint = hf("new", names, {"num_hidden_layers": 4})
    if fits:
        assert make_plan(checkpoint, keep, GENERIC).layers.kept == tuple(keep)
    else:
        with pytest.raises(UnsupportedError, match="layer 1 would become layer 0, which holds other tensors"):
            make_plan(checkpoint, keep, GENERIC)


def test_an_adapter_is_no_model():
    checkpoint = ggml("llama", numbered("blk.", 2), {"block_count": 2})
    checkpoint = replace(checkpoint, companion="GGUF LoRA adapter")
    with pytest.raises(UnsupportedError, match="no layers of its own"):
        make_plan(checkpoint, [0])


def test_swin_without_depths():
    names = [f"swin.encoder.layers.{stage}.blocks.{n}.w" for stage, count in enumerate((2, 2, 4)) for n in range(count)]
    with pytest.raises((CheckpointError, UnsupportedError)):
        make_plan(hf("swin", names, {"embed_dim": 8}), [0, 1], PlanOptions(stack="stage2"))
