"""transformers loads what the tool made of tiny models of many types, and each kept layer is what it was.

No inputs are needed: a kept layer must have the modules, the numbers and the weights that it had, and all else in the
model must be as before. Where a model takes plain tokens or pictures, its outputs are compared too.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors import safe_open  # noqa: E402
from torch import nn  # noqa: E402

from tests.support.in_process import call, prune, refused  # noqa: E402
from tests.support.oracle import tiny  # noqa: E402
from tests.support.oracle.every_type import INPUTS, TYPES, Type  # noqa: E402
from tests.support.oracle.hf_models import only  # noqa: E402
from tests.support.oracle.hf_other_rows import settled  # noqa: E402
from tests.support.oracle.loading import load  # noqa: E402

pytestmark = pytest.mark.oracle

# What a module knows of where it is, and of how it was loaded.
OWN = {
    *("layer_idx", "layer_id", "layer_num", "layer_number", "_layer_idx", "block_idx", "index", "seed"),
    *("main_input_name", "name_or_path", "training"),
    *("num_layers", "n_layers", "num_l_layers", "num_r_layers", "num_x_layers"),
}


@dataclass(frozen=True, slots=True)
class Source:
    type: Type
    model: Any
    folder: Path


@pytest.fixture(scope="module", params=TYPES, ids=lambda each: each.name)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    kind: Type = request.param
    folder = tmp_path_factory.mktemp("source")
    tiny.model(kind.name, kind.model, kind.config).save_pretrained(folder)
    return Source(kind, settled(load(getattr(transformers, kind.model), folder)), folder)


def stacks_of(source: Source) -> dict[str, tuple[str, int]]:
    """Stack -> where its layers are in the model, and how many."""
    shown = json.loads(call("inspect", source.folder, "--json").output)["stacks"]
    return {each["name"]: (path_of(source, each["prefix"], each["layers"]), each["layers"]) for each in shown}


def path_of(source: Source, prefix: str, count: int) -> str:
    """The module list that is saved under `prefix`: the one of that length whose first layer has the same weights."""
    saved = list(first_layer(source.folder, prefix))
    lists = {
        name: sum(torch.equal(mine, other) for mine in module[0].parameters() for other in saved)
        for name, module in source.model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    }
    assert max(lists.values()) > 0
    return max(lists, key=lambda name: lists[name])


def first_layer(folder: Path, prefix: str) -> Iterator[Any]:
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            yield from (tensors.get_tensor(name) for name in tensors.keys() if name.startswith(f"{prefix}0."))  # noqa: SIM118


def is_same(one: Any, other: Any) -> bool:
    return one.shape == other.shape and torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))


def differences(one: nn.Module, other: nn.Module, *, within: str = "") -> list[str]:
    """Where two modules differ: in what they are made of, in a number, in a weight. What is `within` a path is not
    looked at.
    """
    parts = [
        {name: part for name, part in module.named_modules() if not within or not f"{name}.".startswith(f"{within}.")}
        for module in (one, other)
    ]
    assert parts[0].keys() == parts[1].keys()
    return [f"{name}: {what}" for name, part in parts[0].items() for what in unlike(part, parts[1][name])]


def unlike(one: nn.Module, other: nn.Module) -> Iterator[str]:
    if type(one).__name__ != type(other).__name__:  # a parametrised one has a class of its own
        yield "another class"
    numbers, others = plain(one), plain(other)
    yield from (name for name in numbers if numbers[name] != others.get(name))
    tensors, others = held(one), held(other)
    yield from (name for name in tensors if name not in others or not is_same(tensors[name], others[name]))


def plain(module: nn.Module) -> dict[str, Any]:
    kinds = (bool, int, float, str, type(None))
    return {name: value for name, value in vars(module).items() if isinstance(value, kinds) and name not in OWN}


def held(module: nn.Module) -> dict[str, Any]:
    own = {**module._parameters, **module._buffers}
    return {name: tensor for name, tensor in own.items() if tensor is not None}


@torch.no_grad()
def outputs(kind: Type, model: Any) -> list[Any]:
    """Every tensor that the model gives out, but for those of single layers."""
    found = model(**INPUTS[kind.inputs]())
    return [value for name, value in found.items() if isinstance(value, torch.Tensor) and name != "router_logits"]


def test_every_stack_without_some_of_its_layers(source: Source, tmp_path: Path) -> None:
    kind, stacks = source.type, stacks_of(source)
    assert set(stacks) == set(kind.stacks)
    for stack, (path, count) in stacks.items():
        for number, dropped in enumerate(drops(kind, stack, count)):
            keep = [layer for layer in range(count) if layer not in dropped]
            folder = tmp_path / f"{stack}-{number}"
            prune(source.folder, folder, ",".join(map(str, dropped)), stack)
            pruned = settled(load(getattr(transformers, kind.model), folder))
            before, after = source.model.get_submodule(path), pruned.get_submodule(path)
            assert len(after) == len(keep)
            for layer, new in zip(keep, after, strict=True):
                moved = stack in kind.first and 0 in dropped and layer == keep[0]
                assert moved or differences(before[layer], new) == [], (stack, dropped, layer)
            assert differences(source.model, pruned, within=path) == [], (stack, dropped)
            if kind.inputs:
                with only(before, keep):
                    wanted = outputs(kind, source.model)
                assert all(map(is_same, outputs(kind, pruned), wanted)), (stack, dropped)


def drops(kind: Type, stack: str, count: int) -> list[tuple[int, ...]]:
    """An irregular one, the first layer and the last one; but for what is refused."""
    return [each for each in ((1, 4), (0,), (count - 1,)) if (stack, each[0]) not in kind.refused]


def test_what_is_refused(source: Source, tmp_path: Path) -> None:
    counts = {stack: count for stack, (_, count) in stacks_of(source).items()}
    for (stack, first), word in source.type.refused.items():
        dropped = next(each for each in ((1, 4), (0,), (counts[stack] - 1,)) if each[0] == first)
        line = refused(source.folder, tmp_path / "out", ",".join(map(str, dropped)), "--stack", stack)
        assert word in line
