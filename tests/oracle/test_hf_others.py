"""transformers loads what the tool made of encoders, encoder-decoders, speech, vision and detection models."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.support.in_process import prune, refused, run  # noqa: E402
from tests.support.oracle.hf_models import BERT, build, depth, model_class, save  # noqa: E402
from tests.support.oracle.hf_other_rows import ROWS, SPEECH, WHISPER, XLM, OtherRow, outputs, reference, settled  # noqa: E402
from tests.support.oracle.loading import Source, load, without  # noqa: E402

pytestmark = pytest.mark.oracle
PRUNED = [(row, drop) for row in ROWS for drop in row.drops]


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    row: OtherRow = request.param
    model, folder = build(row), tmp_path_factory.mktemp("source")
    save(row, model, folder)
    return Source(row, model, folder)


@pytest.mark.parametrize("source", ROWS, ids=lambda row: row.id, indirect=True)
def test_source_says_what_the_model_is(source: Source) -> None:
    loaded = settled(load(model_class(source.row), source.folder))
    assert torch.equal(outputs(source.row, loaded), outputs(source.row, source.model))


@pytest.mark.parametrize("source", ROWS, ids=lambda row: row.id, indirect=True)
def test_every_layer_matters(source: Source) -> None:
    row, model = source.row, source.model
    count, whole = depth(row, model), outputs(row, model)
    assert torch.isfinite(whole).all()
    assert torch.equal(reference(row, model, tuple(range(count))), whole)
    for index in range(count):
        same = torch.allclose(reference(row, model, without(count, (index,))), whole, atol=1e-3)
        assert same == (index in row.silent)


@pytest.mark.parametrize(
    ("source", "drop"),
    PRUNED,
    ids=lambda value: value.id if isinstance(value, OtherRow) else str(value),
    indirect=["source"],
)
def test_pruned_model_computes_the_kept_layers(source: Source, drop: tuple[int, ...], tmp_path: Path) -> None:
    row, model = source.row, source.model
    count = depth(row, model)
    dropped = tuple(index % count for index in drop)
    prune(source.folder, tmp_path / "pruned", ",".join(map(str, dropped)), row.stack)
    pruned = settled(load(model_class(row), tmp_path / "pruned"))
    keep = without(count, dropped)
    assert depth(row, pruned) == len(keep)
    assert torch.equal(outputs(row, pruned), reference(row, model, keep))


# -- refusals: what would work is named, and works


@dataclass(frozen=True, slots=True)
class Refusal:
    """A drop that no metadata can describe. `broken` says that even --force gives no file that loads."""

    row: str
    drop: str
    words: str
    stack: str = ""
    broken: bool = False


REFUSALS = (
    Refusal("swin", "1", "only pairs"),
    Refusal("swin", "0,3,4", "only pairs", "stage2"),
    Refusal("swin-base-stage1", "0", "only pairs", "stage1"),
    Refusal("vision-encoder-decoder-donut", "2,5", "only pairs", "stage2"),
    Refusal("vision-encoder-decoder-donut", "2,5", "only pairs", "encoder"),
    Refusal("deberta-v2-convolution", "0,2", "convolution"),
    Refusal("qwen3_vl", "1,5", "deepstack"),
    Refusal("mllama-vision", "2,5", "intermediate_layers_indices", "vision", broken=True),
)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda each: f"{each.row}-{each.drop}-{each.stack}")
def test_refused_drops_name_others_that_work(refusal: Refusal, tmp_path: Path) -> None:
    row = next(row for row in ROWS if row.id == refusal.row)
    folder, stack = tmp_path / "source", ("--stack", refusal.stack) if refusal.stack else ()
    folder.mkdir()
    save(row, build(row), folder)
    message = refused(folder, tmp_path / "pruned", refusal.drop, *stack)
    assert refusal.words in message
    alternatives = re.findall(r"--keep ([0-9,-]+)", message)
    assert 1 <= len(alternatives) <= 3
    configs = []
    for number, keep in enumerate(alternatives):
        run("prune", folder, tmp_path / f"{number}", "--keep", keep, *stack)
        load(model_class(row), tmp_path / f"{number}")
        configs.append((tmp_path / f"{number}" / "config.json").read_text())
    prune(folder, tmp_path / "aligned", refusal.drop, "", *stack, "--align")
    assert (tmp_path / "aligned" / "config.json").read_text() == configs[0]
    assert "--force" in run("prune", folder, tmp_path / "forced", f"--drop={refusal.drop}", *stack, "--force")
    if not refusal.broken:
        load(model_class(row), tmp_path / "forced")


# -- what rows cannot say


def row_of(name: str) -> OtherRow:
    return next(row for row in ROWS if row.id == name)


def saved(row: OtherRow, folder: Path) -> Any:
    folder.mkdir()
    model = build(row)
    save(row, model, folder)
    return model


def shortened(model: Any, path: str, keep: tuple[int, ...]) -> Any:
    """A copy whose module list has the kept layers alone."""
    shorter = deepcopy(model)
    parent, _, name = path.rpartition(".")
    modules = shorter.get_submodule(path)
    setattr(shorter.get_submodule(parent), name, torch.nn.ModuleList(modules[index] for index in keep))
    return shorter


WEIGHTED = (
    OtherRow(
        "wav2vec2-weighted",
        "Wav2Vec2ForSequenceClassification",
        SPEECH | {"use_weighted_layer_sum": True, "classifier_proj_size": 16},
        "wav2vec2.encoder.layers",
        "speech",
    ),
    OtherRow(
        "whisper-weighted",
        "WhisperForAudioClassification",
        WHISPER | {"use_weighted_layer_sum": True},
        "encoder.layers",
        "mel",
        "encoder",
    ),
)


@pytest.mark.parametrize("row", WEIGHTED, ids=lambda row: row.id)
@pytest.mark.parametrize("keep", [(0, 2, 3, 5, 6), (1, 2, 3, 4, 5, 6), (0, 1)])
def test_layer_weights_are_cut(row: OtherRow, keep: tuple[int, ...], tmp_path: Path) -> None:
    model = saved(row, tmp_path / "source")
    prune(tmp_path / "source", tmp_path / "pruned", ",".join(map(str, without(7, keep))), row.stack)
    expected = shortened(model, row.layers, keep)
    weights = model.layer_weights[[0, *(index + 1 for index in keep)]]
    expected.layer_weights = torch.nn.Parameter(weights.detach().clone())
    pruned = settled(load(model_class(row), tmp_path / "pruned"))
    assert torch.equal(pruned.layer_weights, expected.layer_weights)
    assert torch.equal(outputs(row, pruned), outputs(row, expected))


def test_modernbert_without_layer_0_is_written_with_a_warning(tmp_path: Path) -> None:
    row = row_of("modernbert")
    model = saved(row, tmp_path / "source")
    assert "attn_norm" in prune(tmp_path / "source", tmp_path / "pruned", "0,3")
    refused(tmp_path / "source", tmp_path / "strict", "0,3", "--strict")
    expected = shortened(model, row.layers, (1, 2, 4, 5, 6))
    expected.model.layers[0].attn_norm = torch.nn.Identity()
    pruned = settled(load(model_class(row), tmp_path / "pruned"))
    assert pruned.config.layer_types == [model.config.layer_types[index] for index in (1, 2, 4, 5, 6)]
    assert torch.equal(outputs(row, pruned), outputs(row, expected))


@pytest.mark.parametrize("model_name", ["AlbertForMaskedLM", "AlbertModel"])
def test_albert_runs_its_one_layer_less_often(model_name: str, tmp_path: Path) -> None:
    row = OtherRow("albert", model_name, BERT | {"embedding_size": 16}, "")
    model = saved(row, tmp_path / "source")
    prune(tmp_path / "source", tmp_path / "pruned", "1,4")
    pruned = settled(load(model_class(row), tmp_path / "pruned"))
    assert pruned.config.num_hidden_layers == 5
    before = outputs(row, model)
    model.config.num_hidden_layers = 5
    assert torch.equal(outputs(row, pruned), outputs(row, model))
    assert not torch.allclose(outputs(row, pruned), before, atol=1e-3)


def test_albert_with_groups_is_refused(tmp_path: Path) -> None:
    row = OtherRow("albert", "AlbertModel", BERT | {"embedding_size": 16, "num_hidden_groups": 2}, "")
    saved(row, tmp_path / "source")
    assert "no drop avoids that" in refused(tmp_path / "source", tmp_path / "pruned", "1")


def test_a_dropped_deepstack_block_takes_its_merger_along(tmp_path: Path) -> None:
    row = row_of("qwen3_vl-vision")
    model = saved(row, tmp_path / "source")
    assert "merger" in prune(tmp_path / "source", tmp_path / "pruned", "2", "vision")
    refused(tmp_path / "source", tmp_path / "strict", "2", "--stack", "vision", "--strict")
    expected = shortened(model, row.layers, (0, 1, 3, 4, 5, 6))
    mergers = expected.model.visual.deepstack_merger_list
    expected.model.visual.deepstack_merger_list = torch.nn.ModuleList([mergers[0], mergers[2]])
    expected.model.visual.deepstack_visual_indexes = [0, 4]
    pruned = settled(load(model_class(row), tmp_path / "pruned"))
    assert pruned.config.vision_config.deepstack_visual_indexes == [0, 4]
    assert torch.equal(outputs(row, pruned), outputs(row, expected))


def test_heads_of_old_files_stand_at_the_top(tmp_path: Path) -> None:
    """Converted files have a two-stage model's tied heads under their first name alone."""
    row = replace(row_of("deformable_detr-two-stage"), renames=((r"^model\.decoder\.(class|bbox)_embed", r"\1_embed"),))
    model = saved(row, tmp_path / "source")
    prune(tmp_path / "source", tmp_path / "pruned", "0,3")
    pruned = settled(model_class(row).from_pretrained(tmp_path / "pruned"))
    assert torch.equal(outputs(row, pruned), reference(row, model, (1, 2, 4, 5)))


def test_an_encoder_shorter_than_its_decoder_computes_all_the_same(tmp_path: Path) -> None:
    row = row_of("mt5-encoder")
    model = saved(row, tmp_path / "source")
    assert "shorter" in prune(tmp_path / "source", tmp_path / "pruned", "0,2,4", "encoder")
    refused(tmp_path / "source", tmp_path / "strict", "0,2,4", "--stack", "encoder", "--strict")
    pruned = settled(load(model_class(row), tmp_path / "pruned"))
    assert torch.equal(outputs(row, pruned), reference(row, model, (1, 3, 5)))
    ids = {"input_ids": torch.tensor([[5, 6, 7]]), "decoder_start_token_id": 0, "max_new_tokens": 4}
    assert pruned.generate(**ids, use_cache=False).shape[1] > 2


def test_whisper_alignment_heads_follow_the_decoder(tmp_path: Path) -> None:
    row = row_of("whisper")
    model = build(row)
    model.generation_config.alignment_heads = [[1, 0], [2, 3], [5, 1]]
    (tmp_path / "source").mkdir()
    save(row, model, tmp_path / "source")
    prune(tmp_path / "source", tmp_path / "pruned", "1,4", "decoder")
    generation = json.loads((tmp_path / "pruned" / "generation_config.json").read_text())
    assert generation["alignment_heads"] == [[1, 3], [3, 1]]


def test_everything_beside_the_weights_goes_along(tmp_path: Path) -> None:
    saved(row_of("wav2vec2-base"), tmp_path / "source")
    files = {"preprocessor_config.json": "{}", "vocab.json": '{"a": 1}', "LICENSE": "free", "modeling.py": "pass"}
    for name, text in files.items():
        (tmp_path / "source" / name).write_text(text)
    prune(tmp_path / "source", tmp_path / "pruned", "1,4")
    assert {name: (tmp_path / "pruned" / name).read_text() for name in files} == files


@pytest.mark.parametrize("keep", [(0, 2, 3, 5, 6), (1, 2, 3, 4, 5, 6), (0, 1, 2, 3, 4, 5)])
@pytest.mark.parametrize("model_name", ["XLMWithLMHeadModel", "XLMModel", "FlaubertWithLMHeadModel"])
def test_xlm_layers_are_parallel_lists(model_name: str, keep: tuple[int, ...], tmp_path: Path) -> None:
    outer = "transformer." if "Head" in model_name else ""
    row = OtherRow("xlm", model_name, XLM, f"{outer}attentions")
    model = saved(row, tmp_path / "source")
    prune(tmp_path / "source", tmp_path / "pruned", ",".join(map(str, without(7, keep))))
    expected = deepcopy(model)
    for name in ("attentions", "layer_norm1", "ffns", "layer_norm2"):
        expected = shortened(expected, f"{outer}{name}", keep)
    (expected.transformer if outer else expected).n_layers = len(keep)
    pruned = settled(load(model_class(row), tmp_path / "pruned"))
    assert torch.equal(outputs(row, pruned), outputs(row, expected))
    assert not torch.allclose(outputs(row, pruned), outputs(row, model), atol=1e-3)
