"""Layouts of other libraries: Mistral's own, MLX's quantised directories, diffusers' transformers."""

import json

import pytest

from rewriter import PlanOptions, make_plan, open_checkpoint
from rewriter.errors import CheckpointError, UnsupportedError
from tests.support.builders import (
    everything,
    gguf_field,
    gguf_metadata,
    gguf_record,
    gguf_string,
    huggingface,
    prune,
    raw_gguf,
    tensors_of,
    write_config,
    write_safetensors,
)
from tests.support.checkpoints import changes, names, numbered

PARTS = ("attention.wq.weight", "feed_forward.w1.weight")


def mistral(path, count=6, **config):
    path.mkdir()
    write_safetensors(path / "consolidated.safetensors", ["norm.weight", *numbered("layers.", count, *PARTS)])
    params = {"dim": 4096, "n_layers": count, "rope_theta": 1000000.0, "moe": {"num_experts": 8}}
    (path / "params.json").write_text(json.dumps(params, indent=4))
    (path / "tekken.json").write_text("{}")
    if config:
        write_config(path / "config.json", **config)
    return path


def test_mistrals_params_count_the_layers(tmp_path):
    source = mistral(tmp_path / "source")
    target = prune(source, tmp_path / "pruned", [0, 2, 5])
    assert json.loads((target / "params.json").read_text())["n_layers"] == 3
    before = (source / "params.json").read_text()
    assert (target / "params.json").read_text() == before.replace('"n_layers": 6', '"n_layers": 3')
    assert set(everything(target)) == {"consolidated.safetensors", "params.json", "tekken.json", "rewriter.json"}
    assert tensors_of(target)["layers.2.attention.wq.weight"] == tensors_of(source)["layers.5.attention.wq.weight"]
    assert open_checkpoint(target).value("params.json:n_layers") == 3


def test_a_config_beside_mistrals_params_follows_too(tmp_path):
    source = mistral(tmp_path / "source", model_type="mistral", num_hidden_layers=6)
    target = prune(source, tmp_path / "pruned", [0, 2, 5])
    assert json.loads((target / "config.json").read_text())["num_hidden_layers"] == 3
    assert json.loads((target / "params.json").read_text())["n_layers"] == 3


def test_mistrals_params_must_count_what_is_there(tmp_path):
    source = mistral(tmp_path / "source")
    (source / "params.json").write_text('{"n_layers": 7}')
    with pytest.raises(CheckpointError, match="n_layers"):
        make_plan(open_checkpoint(source), [0, 2])


def test_mlx_names_modules_with_settings_of_their_own(tmp_path):
    own = {"group_size": 32, "bits": 8}
    quantization = {"group_size": 64, "bits": 4, "mode": "affine"}
    modules = {"model.embed_tokens": own, "model.layers.1.mlp.down_proj": False, "model.layers.5.self_attn.v_proj": own}
    settings = {**quantization, **modules}
    source = huggingface(tmp_path / "source", quantization=settings, quantization_config=settings)
    config = json.loads((prune(source, tmp_path / "pruned", [0, 2, 5]) / "config.json").read_text())
    assert config["quantization"] == {**quantization, "model.embed_tokens": own, "model.layers.2.self_attn.v_proj": own}
    assert config["quantization_config"] == config["quantization"]
    assert list(config["quantization"])[:3] == ["group_size", "bits", "mode"]


def test_mlx_without_own_settings_stays(tmp_path):
    settings = {"group_size": 64, "bits": 4}
    source = huggingface(tmp_path / "source", quantization=settings, quantization_config=settings)
    assert changes(make_plan(open_checkpoint(source), [0, 2, 5])) == {"num_hidden_layers": 3}


def test_diffusers_directories_name_their_class(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    write_config(source / "config.json", _class_name="FluxTransformer2DModel", num_layers=4, num_single_layers=5)
    tensors = numbered("transformer_blocks.", 4) + numbered("single_transformer_blocks.", 5)
    write_safetensors(source / "diffusion_pytorch_model.safetensors", tensors)
    double = make_plan(open_checkpoint(source), [0, 3])
    assert changes(double) == {"num_layers": 2}
    single = make_plan(open_checkpoint(source), [0, 3], PlanOptions(stack="single"))
    assert changes(single) == {"num_single_layers": 2}
    assert names(single)["transformer_blocks.3.weight"] == "transformer_blocks.3.weight"
    target = prune(source, tmp_path / "pruned", [0, 3])
    assert "transformer_blocks.1.weight" in tensors_of(target)
    assert (target / "diffusion_pytorch_model.safetensors").exists()


def test_the_second_streams_of_sd3_are_listed(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    config = {"_class_name": "SD3Transformer2DModel", "num_layers": 5, "dual_attention_layers": [0, 1, 3]}
    write_config(source / "config.json", **config)
    write_safetensors(source / "diffusion_pytorch_model.safetensors", numbered("transformer_blocks.", 5))
    plan = make_plan(open_checkpoint(source), [1, 2, 3, 4])
    assert changes(plan) == {"num_layers": 4, "dual_attention_layers": [0, 2]}


DOUBLE, SINGLE = numbered("double_blocks.", 4, "img_attn.qkv.weight"), numbered("single_blocks.", 6, "linear1.weight")


@pytest.mark.parametrize("wrapper", ["", "model.diffusion_model."])
def test_lone_files_of_image_tools_count_in_the_tensors_alone(tmp_path, wrapper):
    source = write_safetensors(
        tmp_path / "flux.safetensors", [wrapper + name for name in (*DOUBLE, *SINGLE, "img_in.w")]
    )
    double = make_plan(open_checkpoint(source), [0, 3])
    assert (double.stack.name, changes(double)) == ("double_blocks", {})
    assert double.warnings == ()
    single = make_plan(open_checkpoint(source), [1, 5], PlanOptions(stack="single_blocks"))
    assert names(single)[f"{wrapper}single_blocks.5.linear1.weight"] == f"{wrapper}single_blocks.1.linear1.weight"
    target = prune(source, tmp_path / "pruned.safetensors", [0, 3])
    assert f"{wrapper}double_blocks.1.img_attn.qkv.weight" in tensors_of(target)
    assert make_plan(open_checkpoint(target), [0, 1]).dropped == ()


def test_gguf_files_of_image_tools_have_no_count(tmp_path):
    fields = [gguf_field("general.architecture", 8, gguf_string("flux"))]
    tensors = [*DOUBLE, *SINGLE]
    records = [gguf_record(name, (8,), 0, 32 * place) for place, name in enumerate(tensors)]
    data = b"".join(bytes([place]) * 32 for place in range(len(tensors)))
    source = raw_gguf(tmp_path / "flux.gguf", fields, records, data)
    plan = make_plan(open_checkpoint(source), [1, 5], PlanOptions(stack="single_blocks"))
    assert changes(plan) == {}
    target = prune(source, tmp_path / "pruned.gguf", [0, 3])
    assert tensors_of(target)["double_blocks.1.img_attn.qkv.weight"][2] == bytes([3]) * 32
    assert gguf_metadata(target)["general.architecture"][1] == "flux"


def test_the_number_of_sd3_blocks_is_their_width(tmp_path):
    tensors = numbered("joint_blocks.", 4, "x_block.attn.qkv.weight")
    source = write_safetensors(tmp_path / "sd3.safetensors", tensors)
    with pytest.raises(UnsupportedError, match="width"):
        make_plan(open_checkpoint(source), [0, 3])


def test_names_show_nothing_where_there_is_a_config(tmp_path):
    write_config(tmp_path / "config.json", model_type="other")
    source = write_safetensors(tmp_path / "flux.safetensors", [*DOUBLE, *SINGLE])
    with pytest.raises(UnsupportedError, match="no rules"):
        make_plan(open_checkpoint(source), [0, 3])
