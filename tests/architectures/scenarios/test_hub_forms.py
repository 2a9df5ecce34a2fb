"""Configs as they lie on the hub: diff-style, with keys of older and remote code, with counts said twice."""

import json
from math import isclose, sqrt

import pytest

from rewriter.checkpoint import CONTROL_VECTOR
from rewriter.errors import CheckpointError, UnsupportedError
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import make_plan
from tests.support.builders import huggingface, prune, tensors_of, write_safetensors
from tests.support.checkpoints import changes, ggml, hf, numbered, without

LAYERS = "model.layers."


def decoder(architecture, count=6, prefix=LAYERS, more=0, **config):
    tensors = ["model.norm.weight", *numbered(prefix, count + more)]
    return hf(architecture, tensors, {"num_hidden_layers": count, **config})


@pytest.mark.parametrize("key", ["n_layer", "n_layers", "num_layers"])
def test_a_count_that_is_said_twice_follows_twice(key):
    """Remote code reads the other one."""
    assert changes(make_plan(decoder("llama", **{key: 6}), without(1, 4))) == {"num_hidden_layers": 4, key: 4}


def test_another_number_of_layers_is_not_the_count():
    assert changes(make_plan(decoder("llama", num_layers=2), without(1, 4))) == {"num_hidden_layers": 4}


def test_a_repeated_count_is_not_one_that_a_loader_reads():
    """Without num_hidden_layers transformers takes its default, whatever n_layers says: the count is written."""
    checkpoint = hf("llama", numbered(LAYERS, 32), {"n_layers": 32})
    assert changes(make_plan(checkpoint, range(30))) == {"num_hidden_layers": 30, "n_layers": 30}


def test_a_count_at_the_top_repeats_that_of_the_first_stack():
    tensors = [*numbered("language_model.model.layers.", 6), *numbered("vision_tower.vision_model.encoder.layers.", 4)]
    config = {"text_config": {"num_hidden_layers": 6}, "vision_config": {"num_hidden_layers": 4}}
    text = make_plan(hf("gemma3", tensors, config | {"num_hidden_layers": 6}), range(5))
    assert changes(text) == {"text_config.num_hidden_layers": 5, "num_hidden_layers": 5}


@pytest.mark.parametrize("second", ["", "llm_config", "text_config_dict"])
def test_a_nested_config_that_stands_twice_follows_twice(second):
    """Qwen's were saved flat and nested at once: an older transformers reads the flat one."""
    types = ["full_attention"] * 2 + ["sliding_attention"] * 4
    said = {"num_hidden_layers": 6, "max_window_layers": 2, "layer_types": types, "hidden_size": 6}
    vision = {"vision_config": {"depth": 6, "num_hidden_layers": 6}}
    config = {"text_config": said, **vision, **({second: said} if second else said)}
    tensors = [*numbered(LAYERS, 6), *numbered("visual.blocks.", 6)]
    after = changes(make_plan(hf("qwen2_5_vl", tensors, config), without(1, 4)))
    scopes = ["text_config.", f"{second}." if second else ""]
    for scope in scopes:
        assert after[f"{scope}num_hidden_layers"] == 4
        assert after[f"{scope}max_window_layers"] == 1
        assert len(after[f"{scope}layer_types"]) == 4
    assert len(after) == 6


def test_a_file_without_its_first_stack_is_not_taken_for_another():
    """LLaVA's own files: a flat config, the text under `model.layers.N`. The tower must not pass for the model."""
    tower = numbered("model.vision_tower.vision_tower.vision_model.encoder.layers.", 4)
    with pytest.raises(UnsupportedError, match="no stack text"):
        make_plan(hf("llava", [*numbered(LAYERS, 6), *tower], {"num_hidden_layers": 6}), without(1, 4))


@pytest.mark.parametrize("architecture", ["llama", "qwen3_moe", "solar_open", "hunyuan_v1_moe"])
def test_any_decoder_may_have_mtp_layers(architecture):
    """DeepSeek's convention: they carry the numbers after the main ones."""
    checkpoint = decoder(architecture, more=1, num_nextn_predict_layers=1)
    plan = make_plan(checkpoint, without(1, 4))
    assert plan.layers.kept == (0, 2, 3, 5, 6)
    assert changes(plan) == {"num_hidden_layers": 4}


def test_layers_beyond_the_count_that_nothing_explains_contradict_it():
    with pytest.raises(CheckpointError, match="num_hidden_layers"):
        make_plan(decoder("llama", more=1), without(1, 4))


# -- what a loader makes of the count, or of a list of its own


@pytest.mark.parametrize("config", [{}, {"scale_depth": 1.4}])
def test_minicpm3_scales_by_the_root_of_the_count(config):
    """Each branch of a layer is scaled by scale_depth / sqrt(num_hidden_layers)."""
    for left in (61, 48, 40, 31):
        after = changes(make_plan(decoder("minicpm3", 62, **config), range(left)))["scale_depth"]
        assert isclose(after / sqrt(left), 1.4 / sqrt(62), rel_tol=2**-52)


def test_a_list_of_one_length_that_the_loader_has_in_mind_is_written():
    """Zamba 2: transformers has one for 54 layers, whatever the count says."""
    after = changes(make_plan(hf("zamba2", numbered(LAYERS, 54), {"num_hidden_layers": 54}), range(53)))
    assert len(after["layers_block_type"]) == 53


@pytest.mark.parametrize("keep", [range(1, 6), range(5), [0, 2, 4]])
def test_a_layer_without_an_indexer_stays_with_the_one_before_it(keep):
    types = ["full", "full", "shared", "full", "shared", "shared"]
    if 1 in keep or 2 not in keep:
        assert changes(make_plan(decoder("glm_moe_dsa", indexer_types=types), keep))["indexer_types"]
    else:
        with pytest.raises(UnsupportedError, match="indexer"):
            make_plan(decoder("glm_moe_dsa", indexer_types=types), keep)


def test_layers_whose_types_nothing_says_stay():
    """NemotronH: transformers ignores num_hidden_layers and has four types in mind."""
    with pytest.raises(UnsupportedError, match="list of their types"):
        make_plan(decoder("nemotron_h", 4), [0, 1, 2])
    make_plan(decoder("nemotron_h", 4, hybrid_override_pattern="M*E-"), [0, 1, 2])


def listed(count, *special):
    return [int(layer in special) for layer in range(count)]


@pytest.mark.parametrize(
    ("architecture", "config", "wanted"),
    [
        # Without a window EXAONE has full attention everywhere: no pattern to write out.
        ("exaone4", {"sliding_window": None, "sliding_window_pattern": 4}, {}),
        ("exaone_moe", {"sliding_window": None, "first_k_dense_replace": 0}, {}),
        ("exaone4", {}, {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]
                                         + ["sliding_attention"] * 2 + ["full_attention"]}),
        # MiniMax's own list says it: one of transformers beside it would contradict it.
        ("minimax", {"attn_type_list": listed(8, 7)}, {"attn_type_list": listed(6, 5)}),
        ("hunyuan_v1_moe", {"moe_topk": [8] * 8, "num_shared_expert": [1] * 8, "num_experts": list(range(8)),
                            "moe_intermediate_size": [3072] * 8, "moe_layer_num_skipped": 2},
         {"moe_topk": [8] * 6, "num_shared_expert": [1] * 6, "num_experts": [0, 2, 3, 5, 6, 7],
          "moe_intermediate_size": [3072] * 6, "moe_layer_num_skipped": 1}),
        ("mimo_v2_flash", {"hybrid_layer_pattern": listed(8, 1, 2, 3, 4, 6, 7), "moe_layer_freq": [0, *[1] * 7],
                           "layer_types": ["sliding_attention"] * 8},
         {"hybrid_layer_pattern": listed(6, 1, 2, 4, 5), "moe_layer_freq": listed(6, *range(1, 6)),
          "layer_types": ["sliding_attention"] * 6}),
    ],
)  # fmt: skip
def test_lists_that_hub_files_carry(architecture, config, wanted):
    after = changes(make_plan(decoder(architecture, 8, **config), without(1, 4, count=8)))
    assert {key: value for key, value in after.items() if key != "num_hidden_layers"} == wanted


def test_all_lists_that_no_rule_knows_are_named_at_once():
    with pytest.raises(UnsupportedError, match=r"^one has .*; so have two, three$"):
        make_plan(decoder("llama", one=[1] * 6, two=[2] * 6, three=[3] * 6), [0])


def test_layers_that_share_keys_and_values_go_in_pairs():
    with pytest.raises(UnsupportedError, match="use_cla"):
        make_plan(decoder("hunyuan_v1_moe", use_cla=True), without(1, 4))
    make_plan(decoder("hunyuan_v1_moe", use_cla=True), without(2, 3))


def native(folder):
    """A Pixtral in Mistral's own layout."""
    folder.mkdir()
    names = ["norm.weight", *numbered("layers.", 4), *numbered("vision_encoder.transformer.layers.", 3)]
    write_safetensors(folder / "consolidated.safetensors", names)
    params = {"dim": 8, "n_layers": 4, "vision_encoder": {"hidden_size": 8, "num_hidden_layers": 3}}
    params["quantization"] = {"ignore": ["layers.0.wq", "layers.2.wq"]}
    (folder / "params.json").write_text(json.dumps(params))
    return folder


def test_mistrals_own_layout_has_a_tower_and_names_of_layers(tmp_path):
    source = native(tmp_path / "source")
    text = json.loads((prune(source, tmp_path / "text", [1, 2]) / "params.json").read_text())
    assert (text["n_layers"], text["vision_encoder"]["num_hidden_layers"]) == (2, 3)
    assert text["quantization"] == {"ignore": ["layers.1.wq"]}
    target = prune(source, tmp_path / "vision", [0, 2], PlanOptions(stack="vision"))
    vision = json.loads((target / "params.json").read_text())
    assert (vision["n_layers"], vision["vision_encoder"]["num_hidden_layers"]) == (4, 2)
    assert len(tensors_of(target)) == 7


def test_lists_of_lists_of_layers_follow():
    """AutoRound quantises blocks by their names."""
    blocks = [[f"model.layers.{layer}" for layer in range(6)], ["lm_head"]]
    plan = make_plan(decoder("llama", quantization_config={"to_quant_block_names": blocks}), [0, 2])
    after = changes(plan)["quantization_config.to_quant_block_names"]
    assert after == [["model.layers.0", "model.layers.1"], ["lm_head"]]
    with pytest.raises(UnsupportedError, match="names a layer"):
        make_plan(decoder("llama", quantization_config={"other": blocks}), [0, 2])


def test_torchao_names_modules_deep_inside():
    named = {f"model.layers.{layer}.q": {"bits": layer} for layer in range(6)}
    deep = {"quant_type": {"default": {"_data": {"module_fqn_to_config": named}}}}
    after = changes(make_plan(decoder("llama", quantization_config=deep), [0, 5]))
    assert {"model.layers.0.q": {"bits": 0}, "model.layers.1.q": {"bits": 5}} in after.values()


def test_objects_keyed_by_layers_follow_or_are_refused():
    """Heads that were pruned are listed by layer."""
    heads = changes(make_plan(decoder("llama", pruned_heads={"0": [1], "4": [2], "5": [3]}), without(1, 4)))
    assert heads["pruned_heads"] == {"0": [1], "3": [3]}
    with pytest.raises(UnsupportedError, match="kv_map has numbers for keys"):
        make_plan(decoder("llama", kv_map={"5": 2}), without(1, 4))
    labels = {"id2label": {"0": "a"}, "audio_config": {"id2label": {"0": "a"}}}
    make_plan(decoder("llama", **labels), without(1, 4))
    make_plan(decoder("llama", kv_map={"5": 2}), without(1, 4), PlanOptions(keep_fields=("kv_map",)))


@pytest.mark.parametrize("generic", [False, True])
def test_a_control_vector_is_no_model(generic):
    """llama.cpp's `direction.N` belong to the layers of another file."""
    vector = ggml("controlvector", numbered("direction.", 6), {"layer_count": 6}, companion=CONTROL_VECTOR)
    with pytest.raises(UnsupportedError, match="control vector"):
        make_plan(vector, [0, 1], PlanOptions(generic=generic))


# -- files beside config.json that name layers

Q = "model.layers.{}.mlp.down_proj"
SIDE_FILES = {
    "hf_quant_config.json": lambda *layers: {
        "producer": {"name": "modelopt"},
        "quantization": {
            "quant_algo": "MIXED_PRECISION",
            "exclude_modules": ["lm_head", *map("model.layers.{}.self_attn*".format, layers)],
            "quantized_layers": {Q.format(layer): {"quant_algo": "FP8"} for layer in layers},
        },
    },
    "quantize_config.json": lambda *layers: {"bits": 4, "dynamic": {Q.format(layer): {"bits": 8} for layer in layers}},
    "quant_config.json": lambda *layers: {"modules_to_not_convert": [Q.format(layer) for layer in layers]},
    "quantization_config.json": lambda *layers: {
        "tensor_storage": {Q.format(layer): {"stored_tensors": {Q.format(layer) + ".suh": {}}} for layer in layers}
    },
}


@pytest.mark.parametrize("name", SIDE_FILES)
def test_layers_named_in_a_file_of_their_own_follow(name, tmp_path):
    source = huggingface(tmp_path / "source")
    (source / name).write_text(json.dumps(SIDE_FILES[name](*range(6)), indent=2))
    target = prune(source, tmp_path / "target", [0, 2, 3, 5])
    assert json.loads((target / name).read_text()) == SIDE_FILES[name](*range(4))


def test_an_expression_in_such_a_file_may_not_mean_other_layers(tmp_path):
    source = huggingface(tmp_path / "source")
    (source / "quantize_config.json").write_text(json.dumps({"dynamic": {r"-:.*\.[2-3]\..*": {}}}))
    with pytest.raises(UnsupportedError, match=r"quantize_config.json:dynamic .*other layers"):
        prune(source, tmp_path / "target", [0, 2, 3, 5])


def test_a_text_that_names_a_dropped_layer_is_refused(tmp_path):
    source = huggingface(tmp_path / "source")
    (source / "hf_quant_config.json").write_text(json.dumps({"quantization": {"first": Q.format(1)}}))
    with pytest.raises(UnsupportedError, match="quantization: names a layer that goes"):
        prune(source, tmp_path / "target", [0, 2, 3, 5])


@pytest.mark.parametrize("name", ["recipe.yaml", "quant_log.csv", "mergekit_config.yml"])
def test_how_the_source_was_made_stays_as_it_was(name, tmp_path):
    """No loader reads it: a record of the past names the layers of then."""
    source = huggingface(tmp_path / "source")
    (source / name).write_text("model.layers.3.mlp, 0.1\n")
    assert (prune(source, tmp_path / "target", [0, 2]) / name).read_text() == (source / name).read_text()
