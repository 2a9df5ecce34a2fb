"""transformers itself loads what the tool wrote, and computes what the kept layers computed before."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.support.in_process import prune  # noqa: E402
from tests.support.oracle.hf_decoder_rows import ROWS as DECODER_ROWS  # noqa: E402
from tests.support.oracle.hf_models import (  # noqa: E402
    ROWS,
    Row,
    build,
    depth,
    drops,
    is_same,
    model_class,
    outputs,
    reference,
    save,
)
from tests.support.oracle.loading import Source, load, without  # noqa: E402

pytestmark = pytest.mark.oracle

MODELS = Path(__file__).parents[2] / "fixtures" / "models"
TRAINED = MODELS / "tiny-llama-12L"


@pytest.fixture(scope="module", params=(*ROWS, *DECODER_ROWS), ids=lambda row: row.id)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    row: Row = request.param
    model, folder = build(row), tmp_path_factory.mktemp("source")
    save(row, model, folder)
    return Source(row, model, folder)


def test_source_says_what_the_model_is(source: Source) -> None:
    loaded = load(model_class(source.row), source.folder)
    assert torch.equal(outputs(source.row, loaded), outputs(source.row, source.model))
    assert any(source.folder.glob("*.index.json")) == ("max_shard_size" in source.row.save)


def test_every_layer_matters(source: Source) -> None:
    row, model = source.row, source.model
    count = depth(row, model)
    whole = outputs(row, model)
    assert torch.isfinite(whole).all()
    assert is_same(row, reference(row, model, range(count)), whole)
    for index in range(count):
        assert not torch.allclose(reference(row, model, without(count, (index,))), whole, atol=1e-3)


@pytest.mark.parametrize("which", ["irregular", "first", "last"])
def test_pruned_model_computes_the_kept_layers(source: Source, which: str, tmp_path: Path) -> None:
    row, model = source.row, source.model
    if which in row.refused:
        pytest.skip("the tool refuses that, and a test of its own says so")
    dropped = drops(row, model)[which]
    prune(source.folder, tmp_path / "pruned", ",".join(map(str, dropped)), row.stack)
    pruned = load(model_class(row), tmp_path / "pruned")
    keep = without(depth(row, model), dropped)
    assert depth(row, pruned) == len(keep)
    assert is_same(row, outputs(row, pruned), reference(row, model, keep))


def test_reference_is_the_shorter_module_list() -> None:
    """Where no layer knows its index, taking layers out of the list is the same as passing over them."""
    row = ROWS[0]
    model, keep = build(row), (0, 2, 3, 5, 6)
    expected = reference(row, model, keep)
    shorten(model, keep)
    assert torch.equal(outputs(row, model), expected)


def shorten(model: Any, keep: tuple[int, ...]) -> None:
    """Leave only the kept layers in a llama's module list."""
    model.model.layers = torch.nn.ModuleList(model.model.layers[index] for index in keep)
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = index
    model.config.num_hidden_layers = len(keep)


def test_trained_model(tmp_path: Path) -> None:
    prune(TRAINED, tmp_path / "pruned", "3,7-9,-1")
    pruned = load(transformers.LlamaForCausalLM, tmp_path / "pruned")
    expected = load(transformers.LlamaForCausalLM, TRAINED)
    shorten(expected, (0, 1, 2, 4, 5, 6, 10))
    ids = heldout_ids()
    with torch.no_grad():
        found, wanted = pruned(ids, labels=ids), expected(ids, labels=ids)
    assert torch.equal(found.logits, wanted.logits)
    assert torch.isfinite(found.loss)
    assert found.loss == wanted.loss


def heldout_ids() -> Any:
    """Four windows of held-out text, each as long as the model's context."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(TRAINED)
    ids = tokenizer((MODELS / "heldout.txt").read_text()[:8000], return_tensors="pt")["input_ids"]
    return ids[0, : 4 * 128].reshape(4, 128)
