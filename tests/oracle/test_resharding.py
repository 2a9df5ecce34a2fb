"""transformers and llama.cpp read what was put into other files, and compute what the files as they were do."""

from pathlib import Path

import numpy as np
import pytest

from rewriter import PlanOptions, make_plan, open_checkpoint, write
from tests.support.oracle import llamacpp

pytestmark = pytest.mark.oracle

MODELS = Path(__file__).parents[2] / "fixtures" / "models"
TOKENS = [int(token) for token in np.random.default_rng(0).integers(0, 64, 24)]
KEPT = (0, 1, 2, 4, 5, 6, 10)
FILES = [PlanOptions(single_file=True), PlanOptions(max_size=500_000), PlanOptions(max_size=1_500_000)]


def written(source: Path, target: Path, options: PlanOptions, keep: tuple[int, ...] = KEPT) -> Path:
    output = write(make_plan(open_checkpoint(source), keep, options), target)
    return target if output.directory else target.with_name(output.files[0].name)


@pytest.mark.parametrize("options", FILES, ids=str)
def test_transformers_computes_the_same(options: PlanOptions, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    outputs = []
    for name, how in (("plain", PlanOptions()), ("other", options)):
        folder = written(MODELS / "tiny-llama-12L", tmp_path / name, how)
        model, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(report.values())
        with torch.no_grad():
            outputs.append(model(torch.tensor([TOKENS])).logits)
    assert torch.equal(*outputs)


@pytest.mark.parametrize("size", [600_000, 1_500_000])
def test_shards_are_those_of_transformers(size: int, tmp_path: Path) -> None:
    """Saved again by transformers, and loaded: the same tensors in as many files of the same names."""
    transformers = pytest.importorskip("transformers")
    ours = written(MODELS / "tiny-llama-12L", tmp_path / "ours", PlanOptions(max_size=size))
    model = transformers.AutoModelForCausalLM.from_pretrained(ours)
    model.save_pretrained(tmp_path / "theirs", max_shard_size=size)
    names = [sorted(file.name for file in (tmp_path / each).glob("model*")) for each in ("ours", "theirs")]
    assert "model.safetensors.index.json" in names[0]
    assert abs(len(names[0]) - len(names[1])) <= 2  # they do not count the header, and take tensors in another order


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_K_M"])
@pytest.mark.parametrize("options", FILES, ids=str)
def test_llama_cpp_computes_the_same(options: PlanOptions, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    source = MODELS / f"tiny-llama-12L-{kind}.gguf"
    plain = llamacpp.logits(written(source, tmp_path / "plain.gguf", PlanOptions()), TOKENS)
    other = written(source, tmp_path / "other.gguf", options)
    assert np.array_equal(llamacpp.logits(other, TOKENS), plain)
    joined = written(other, tmp_path / "joined.gguf", PlanOptions(single_file=True), tuple(range(len(KEPT))))
    assert np.array_equal(llamacpp.logits(joined, TOKENS), plain)
