"""diffusers loads what the tool made of its transformers, and every kept block computes what it did."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from safetensors.torch import load_file  # noqa: E402

from tests.support.in_process import prune, refused  # noqa: E402
from tests.support.oracle.hf_other_rows import noise, settled  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[2] / "fixtures"))
from diffusers_models import MODELS  # noqa: E402

pytestmark = pytest.mark.oracle
TIME = torch.tensor([3.0])
INPUTS: Mapping[str, Mapping[str, Any]] = {
    "FluxTransformer2DModel": {
        "hidden_states": noise(1, 9, 4), "encoder_hidden_states": noise(1, 5, 16), "pooled_projections": noise(1, 8),
        "timestep": TIME, "img_ids": torch.zeros(9, 3), "txt_ids": torch.zeros(5, 3), "guidance": TIME,
    },
    "Flux2Transformer2DModel": {
        "hidden_states": noise(1, 9, 4), "encoder_hidden_states": noise(1, 5, 16), "timestep": TIME, "guidance": TIME,
        "img_ids": torch.zeros(9, 4), "txt_ids": torch.zeros(5, 4),
    },
    "SD3Transformer2DModel": {
        "hidden_states": noise(1, 4, 8, 8), "encoder_hidden_states": noise(1, 5, 16),
        "pooled_projections": noise(1, 16), "timestep": TIME,
    },
    "QwenImageTransformer2DModel": {
        "hidden_states": noise(1, 16, 16), "encoder_hidden_states": noise(1, 5, 16), "timestep": TIME,
        "encoder_hidden_states_mask": torch.ones(1, 5, dtype=torch.long), "img_shapes": [(1, 4, 4)],
    },
    "WanTransformer3DModel": {
        "hidden_states": noise(1, 4, 2, 8, 8), "encoder_hidden_states": noise(1, 5, 16), "timestep": TIME,
    },
    "LTXVideoTransformer3DModel": {
        "hidden_states": noise(1, 8, 4), "encoder_hidden_states": noise(1, 5, 16), "timestep": TIME,
        "encoder_attention_mask": torch.ones(1, 5), "num_frames": 2, "height": 2, "width": 2,
    },
    "CogVideoXTransformer3DModel": {
        "hidden_states": noise(1, 2, 4, 8, 8), "encoder_hidden_states": noise(1, 8, 8), "timestep": TIME,
    },
    "PixArtTransformer2DModel": {
        "hidden_states": noise(1, 4, 8, 8), "encoder_hidden_states": noise(1, 5, 8), "timestep": TIME,
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    },
}  # fmt: skip
LISTS = {"WanTransformer3DModel": "blocks"}
STACKS = [(name, "", LISTS.get(name, "transformer_blocks")) for name in MODELS]
STACKS += [(name, "single", "single_transformer_blocks") for name in MODELS if "Flux" in name]


@pytest.mark.parametrize(("name", "stack", "path"), STACKS)
def test_kept_blocks_compute_what_they_did(name: str, stack: str, path: str, tmp_path: Path) -> None:
    model = made(name, tmp_path / "source")
    count = len(getattr(model, path))
    for drop in ((1,), (0, 2)):
        keep = [index for index in range(count) if index not in drop]
        prune(tmp_path / "source", tmp_path / f"{drop[0]}", ",".join(map(str, drop)), stack)
        pruned = loaded(type(model), tmp_path / f"{drop[0]}")
        whole = getattr(model, path)
        setattr(model, path, torch.nn.ModuleList(whole[index] for index in keep))
        expected = answer(name, model)
        setattr(model, path, whole)
        assert torch.equal(answer(name, settled(pruned)), expected)
        assert not torch.allclose(expected, answer(name, model), atol=1e-4)


def made(name: str, folder: Path) -> Any:
    torch.manual_seed(0)
    model = getattr(diffusers, name)(**MODELS[name]).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    model.save_pretrained(folder)
    return model


def loaded(cls: Any, folder: Path) -> Any:
    """What the folder's config makes, with its weights: strictly, none missing, none too many."""
    model = cls.from_config(cls.load_config(folder))
    model.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"), strict=True)
    return model.eval()


@torch.no_grad()
def answer(name: str, model: Any) -> Any:
    return model(**INPUTS[name], return_dict=False)[0]


def test_the_last_block_of_sd3_stays(tmp_path: Path) -> None:
    made("SD3Transformer2DModel", tmp_path / "source")
    assert "last block" in refused(tmp_path / "source", tmp_path / "pruned", "4")
