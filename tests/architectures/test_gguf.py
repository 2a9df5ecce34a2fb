"""Every llama.cpp architecture: a tiny file with its real names, pruned, and read back by the gguf library."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from rewriter import PlanOptions, errors, make_plan, open_checkpoint
from rewriter.architectures import gguf
from tests.support.builders import prune
from tests.support.gguf_expected import expected, kept_of
from tests.support.gguf_files import Contents, contents, fixture, write
from tests.support.gguf_specs import SPECS, Spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


@cache
def source(spec_name: str, folder: Path) -> tuple[Path, Contents]:
    spec = BY_NAME[spec_name]
    metadata, shapes, _ = fixture(spec_name)
    typed = {key: spec.metadata.get(key, value) for key, value in metadata.items()}
    path = write(folder / f"{spec_name}.gguf", typed, shapes)
    return path, contents(path)


BY_NAME = {str(spec): spec for spec in SPECS}
DROPS = [(spec, dropped) for spec in SPECS for dropped in spec.drops]
REFUSALS = [(spec, dropped) for spec in SPECS for dropped in spec.refused]


def name_of(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def test_nearly_every_architecture_of_llama_cpp_has_an_entry():
    assert len({entry.name for entry in gguf.ENTRIES}) >= 140


@pytest.mark.parametrize(("spec", "dropped"), DROPS, ids=name_of)
def test_pruned(spec: Spec, dropped: tuple[int, ...], folder: Path, tmp_path: Path):
    path, before = source(str(spec), folder)
    kept = kept_of(spec, dropped)
    options = PlanOptions(drop_mtp=bool(spec.mtp_layers) and kept[-1] < spec.layers)
    metadata, tensors = contents(prune(path, tmp_path / "pruned.gguf", kept, options))
    wanted_metadata, wanted_tensors = expected(spec, before, kept)
    assert list(tensors) == list(wanted_tensors)
    assert tensors == wanted_tensors
    assert {key: types for key, (types, _) in metadata.items()} == {
        key: types for key, (types, _) in wanted_metadata.items()
    }
    for key, (_, value) in wanted_metadata.items():
        assert metadata[key][1] == (pytest.approx(value) if isinstance(value, float) else value), key


@pytest.mark.parametrize(("spec", "dropped"), REFUSALS, ids=name_of)
def test_refused(spec: Spec, dropped: tuple[int, ...], folder: Path):
    checkpoint = open_checkpoint(source(str(spec), folder)[0])
    kept = kept_of(spec, dropped)
    with pytest.raises(errors.UnsupportedError, match=spec.refused[dropped]) as caught:
        make_plan(checkpoint, kept)
    assert "\n" not in str(caught.value)
    if not spec.forced:
        return
    forced = make_plan(checkpoint, kept, PlanOptions(force=True))
    assert forced.layers.kept == tuple(kept)
    assert any("--force" in warning for warning in forced.warnings)


@pytest.mark.parametrize(("spec", "dropped"), REFUSALS, ids=name_of)
def test_alternatives_work(spec: Spec, dropped: tuple[int, ...], folder: Path):
    """Those that the refusal names, and the nearest of them is what --align takes."""
    checkpoint = open_checkpoint(source(str(spec), folder)[0])
    kept = kept_of(spec, dropped)
    with pytest.raises(errors.UnsupportedError) as caught:
        make_plan(checkpoint, kept)
    named = [part.split()[0].strip(";,.") for part in str(caught.value).split("--keep ")[1:]]
    if not named:
        assert "no drop" in str(caught.value)
        return
    alternatives = [kept_of(spec, tuple(set(range(spec.layers)) - set(layers(text)))) for text in named]
    plans = [make_plan(checkpoint, each) for each in alternatives]
    assert make_plan(checkpoint, kept, PlanOptions(align=True)).layers == plans[0].layers


def layers(text: str) -> list[int]:
    bounds = [part.partition("-") for part in text.split(",")]
    return [layer for low, _, high in bounds for layer in range(int(low), int(high or low) + 1)]
