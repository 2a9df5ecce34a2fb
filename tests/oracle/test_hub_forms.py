"""What transformers makes of each kept layer's number, before and after: every model type, every form of its config.

The models are built on the meta device, where they cost nothing. A layer is compared by the classes, the plain
attributes and the shapes of all its modules, and by its entry in every per-layer list of the config. Forms of a config
are: as saved, without its per-layer lists, with null in their place, without what equals the defaults, as the rows
say that hub files are.
"""

import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from huggingface_hub.errors import StrictDataclassError  # noqa: E402
from torch import nn  # noqa: E402

from rewriter.architectures.lookup import entries, find, numbered_lists, resolve  # noqa: E402
from rewriter.checkpoint import Checkpoint, TensorInfo  # noqa: E402
from rewriter.errors import UnsupportedError  # noqa: E402
from rewriter.formats.json_edit import edit  # noqa: E402
from rewriter.planning.options import PlanOptions  # noqa: E402
from rewriter.planning.plan import make_plan  # noqa: E402
from tests.support.checkpoints import hf  # noqa: E402
from tests.support.oracle import hf_decoder_rows, hf_models, hf_other_rows  # noqa: E402
from tests.support.oracle.hf_models import Row, edit_config, model_class  # noqa: E402

pytestmark = pytest.mark.oracle

Config = dict[str, Any]
Layer = dict[str, object]

LISTS = ("layer_types", "mlp_layer_types", "layers_block_type", "no_rope_layers", "activation_sparsity_pattern")
LISTS += ("indexer_types", "attention_layers", "layer_rope_theta", "attention_window", "num_attention_heads_per_layer")
NUMBERS = {"layer_idx", "layer_id", "layer_number", "block_idx", "index", "idx"}  # its own number: that changes
# What is stored once and moves to another layer, or is numbered by position: other tests compare what it computes.
ELSEWHERE = re.compile(
    r"relative_attention_bias|\bpre_ln|^attn_norm|adapter_list|num_fwd_mem_blocks"
    r"|drop_path|\bseed$"  # for training alone (BigBird's random blocks)
    r"|rel_attn_embed"  # WavLM's, stored once
    r"|\bresidual_scale$"  # minicpm3's may differ in the last bit
    r"|self_attn.num_hidden_layers$|lambda_init$"  # minimax and diffllama: a warning says so
)


def _unique(rows: tuple[Row, ...]) -> Iterator[Row]:
    seen = set()
    for row in rows:
        key = (row.model, repr(sorted(row.config.items())), row.layers, repr(row.config_edits))
        if key not in seen and row.shortened is None:
            seen.add(key)
            yield row


ROWS = tuple(_unique((*hf_models.ROWS, *hf_decoder_rows.ROWS, *hf_other_rows.ROWS)))


def built(row: Row, config: Config) -> Any:
    with torch.device("meta"):
        return model_class(row)(model_class(row).config_class.from_dict(deepcopy(config)))


def checkpoint_of(model: Any, config: Config) -> Checkpoint:
    tensors = model.state_dict().items()
    found = hf(config["model_type"], [name for name, _ in tensors], config)
    shapes = [tuple(tensor.shape) for _, tensor in tensors]
    infos = tuple(
        TensorInfo(name, "F32", shape, 0, 0, 4 * prod(shape)) for (name, _), shape in zip(tensors, shapes, strict=True)
    )
    return replace(found, tensors=infos)


def layers_of(row: Row, model: Any) -> list[Layer]:
    """What each layer of the row's stack is."""
    stack = model.get_submodule(row.layers)
    return [_described(layer) | _entries(model.config, number, len(stack)) for number, layer in enumerate(stack)]


def _described(layer: nn.Module) -> Layer:
    found: Layer = {}
    for name, module in layer.named_modules():
        found[name] = type(module).__name__
        weights = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        found |= {f"{name}.{each}": tuple(weight.shape) for each, weight in weights}
        plain = {key: value for key, value in vars(module).items() if _is_plain(key, value)}
        found |= {f"{name}.{key}": value for key, value in plain.items()}
    return found


def _is_plain(key: str, value: object) -> bool:
    return isinstance(value, bool | int | float | str | None) and key not in NUMBERS and not key.startswith("_")


def _entries(config: Any, number: int, count: int, path: str = "config ") -> Layer:
    """The layer's entries in the per-layer lists of a config and of those inside it."""
    found: Layer = {}
    for key, value in vars(config).items():
        if isinstance(value, transformers.PreTrainedConfig):
            found |= _entries(value, number, count, f"{path}{key}.")
        elif key in LISTS and isinstance(value, list | tuple | str) and len(value) == count:
            found[f"{path}{key}"] = value[number]
    return found


def differences(before: Layer, after: Layer) -> list[str]:
    """What the layer was and is; a list as long as another stack by chance is not about it."""
    chance = {name for name in before.keys() ^ after.keys() if name.startswith("config ")}
    names = sorted(name for name in {*before, *after} - chance if not ELSEWHERE.search(name))
    gone = object()
    return [f"{name}: {before.get(name)} -> {after.get(name)}" for name in names
            if before.get(name, gone) != after.get(name, gone)]  # fmt: skip


def forms(row: Row, config: Config, folder: Path) -> Iterator[tuple[str, Config]]:
    lists = [path for path in _paths(config) if path[-1] in LISTS]
    yield "saved", config
    yield "no lists", _changed(config, lists, remove=True)
    yield "null", _changed(config, lists, remove=False)
    yield "defaults left out", _beyond(config, _defaults(row))
    if row.config_edits:
        path = folder / "config.json"
        path.write_text(json.dumps(config))
        edit_config(path, {key: value for key, value in row.config_edits.items() if _has(config, key) or value})
        yield "row", json.loads(path.read_text())


def _has(config: Config, dotted: str) -> bool:
    return tuple(dotted.split(".")) in set(_paths(config))


def _paths(config: Config, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in config.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from _paths(value, (*above, key))


def _changed(config: Config, paths: list[tuple[str, ...]], remove: bool) -> Config:
    changed = deepcopy(config)
    for *parents, key in paths:
        owner = changed
        for parent in parents:
            owner = owner[parent]
        owner[key] = None
        if remove:
            del owner[key]
    return changed


def _defaults(row: Row) -> Config:
    try:
        return dict(model_class(row).config_class().to_dict())
    except (TypeError, ValueError):
        return {}


def _beyond(config: Config, defaults: Mapping[str, Any]) -> Config:
    """What a config says besides the defaults; the counts stay."""
    left: Config = {}
    for key, value in config.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, dict):
            left[key] = _beyond(value, default)
        elif key in ("model_type", "num_hidden_layers") or key not in defaults or default != value:
            left[key] = value
    return left


def drops(count: int) -> Mapping[str, list[int]]:
    every = range(count)
    return {
        "first": [layer for layer in every if layer],
        "last": [layer for layer in every if layer != count - 1],
        "irregular": [layer for layer in every if layer not in (1, 4, 5)],
        "alternate": list(every[::2]),
        "a period": list(every[4:]),
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_what_a_layer_is_by_its_number_it_stays(row: Row, tmp_path: Path) -> None:
    """Every form of the config, five drops: the same layers before and after, or a refusal."""
    config = json.loads(model_class(row).config_class(**row.config).to_json_string(use_diff=False))
    config = _restored(config)
    done = []
    for form, each in forms(row, config, tmp_path):
        if each in done:
            continue
        done.append(each)
        try:
            source = built(row, each)
        except (TypeError, ValueError, KeyError, AttributeError, StrictDataclassError):
            assert form != "saved"
            continue  # transformers does not load that form
        _compare(row, form, each, source)


TYPES = {model_class(row).config_class.model_type for row in ROWS}
FIXTURES = Path(__file__).parents[2] / "fixtures" / "names" / "huggingface"
COUNTS = ("num_hidden_layers", "n_layers", "depth", "encoder_layers", "decoder_layers")


def _fixture(name: str) -> Path | None:
    files = sorted(FIXTURES.glob(f"{name}.[A-Z]*.json"))
    return next((file for file in files if ".memory." not in file.name), None)


WITHOUT_ROWS = sorted(
    entry.name
    for entry in entries()
    if entry.format == "huggingface" and entry.name in transformers.CONFIG_MAPPING and entry.name not in TYPES
    if entry.stacks[0].stored_layers and _fixture(entry.name)
)


@pytest.mark.parametrize("name", WITHOUT_ROWS)
def test_what_a_layer_is_by_its_number_it_stays_in_types_without_a_row(name: str, tmp_path: Path) -> None:
    """As above, for every stack of the model that the type's fixture is of, with eight layers."""
    said = json.loads((_fixture(name) or tmp_path).read_text())
    config = _restored(_eight(said["config"]))
    row = Row(name, said["class"], {}, "")
    source = checkpoint_of(built(row, config), config)
    lists = numbered_lists(source)
    entry = find(source, lists)
    assert entry is not None
    for stack in resolve(source, entry, lists):
        each = replace(row, layers=stack.prefix.rstrip("."), stack=stack.name)
        for form, formed in forms(each, config, tmp_path):
            try:
                model = built(each, formed)
            except (TypeError, ValueError, KeyError, AttributeError, StrictDataclassError):
                assert form != "saved"
                continue
            _compare(each, form, formed, model)


def _eight(config: Config) -> Config:
    """The config with eight layers in every stack, and without the lists that have an entry for each."""
    said = {key: value for key, value in config.items() if key not in LISTS and not key.startswith(("stage_", "out_"))}
    said |= {key: 8 for key in COUNTS if key in config}
    return said | {
        key: _eight(said[key]) for key in ("text_config", "vision_config") if isinstance(said.get(key), dict)
    }


def _restored(value: Any) -> Any:
    """`{"__float__": "Infinity"}` as a number, which a config class wants."""
    if isinstance(value, dict):
        return float(value["__float__"]) if "__float__" in value else {k: _restored(v) for k, v in value.items()}
    return [_restored(item) for item in value] if isinstance(value, list) else value


def _compare(row: Row, form: str, config: Config, source: Any) -> None:
    before, checkpoint = layers_of(row, source), checkpoint_of(source, config)
    for name, keep in drops(len(before)).items():
        if not keep or len(keep) == len(before):
            continue
        try:
            plan = make_plan(checkpoint, keep, PlanOptions(stack=row.stack or "main"))
        except UnsupportedError:
            continue
        changes = {edit.key: edit.after for edit in plan.edits if edit.file in ("", "config.json")}
        after = layers_of(row, built(row, _restored(json.loads(edit(json.dumps(config), changes)))))
        assert len(after) == len(keep), (form, name, changes)
        for new, old in enumerate(keep):
            assert not differences(before[old], after[new]), (form, name, f"{old} became {new}", changes)
