"""transformers loads what the tool made of encoders, encoder-decoders, speech, vision and detection models."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.oracle.hf_models import build, depth, model_class, save  # noqa: E402
from tests.oracle.hf_other_rows import ROWS, OtherRow, outputs, reference, settled  # noqa: E402
from tests.oracle.test_huggingface import Source, load, without  # noqa: E402
from tests.oracle.tool import prune  # noqa: E402

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
