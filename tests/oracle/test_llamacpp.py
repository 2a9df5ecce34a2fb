"""llama.cpp itself loads what the tool wrote, and computes what the kept layers computed before.

Unless a test says otherwise, results are compared exactly: the same llama.cpp does the same arithmetic on the
same bytes, and a layer whose outputs are zero adds exactly nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.support.in_process import prune
from tests.support.oracle import llamacpp
from tests.support.oracle.gguf_models import AHEAD, PERIOD_6, ROWS, UNRUNNABLE, Layers, Row, values, write
from tests.support.oracle.gguf_models import tensors as row_tensors

pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.oracle

MODELS = Path(__file__).parents[2] / "fixtures" / "models"
TOKENS = [int(token) for token in np.random.default_rng(0).integers(0, 64, 24)]
STACK_OPTION = {"blk": "", "dec.blk": "decoder", "enc.blk": "encoder"}


@dataclass(frozen=True, slots=True)
class Case:
    row: Row
    stack: str
    dropped: tuple[int, ...]

    @property
    def keep(self) -> Layers:
        layers = self.row.all_layers()
        return {**layers, self.stack: tuple(i for i in layers[self.stack] if i not in self.dropped)}

    def __str__(self) -> str:
        return f"{self.row.name}-{self.stack}-{','.join(map(str, self.dropped))}"


def cases(rows: tuple[Row, ...]) -> list[Case]:
    """An irregular drop, the first layer, the last layer; of every stack."""
    return [
        Case(row, stack, dropped)
        for row in rows
        for stack, count in row.layers.items()
        for dropped in ((1, 4), (0,), (count - 1,))
    ]


def output(row: Row, path: Path) -> np.ndarray:
    match row.architecture:
        case "bert":
            return llamacpp.embeddings(path, TOKENS)
        case "t5":
            return llamacpp.encoder_decoder_logits(path, TOKENS, TOKENS[:12])
    return llamacpp.logits(path, TOKENS)


def reference(case: Case, folder: Path) -> np.ndarray:
    """What the source computes when the dropped layers compute nothing."""
    if case.row.zeroing_is_identity:
        return output(case.row, write(folder / "zeroed.gguf", case.row, zero={case.stack: case.dropped}))
    return output(case.row, write(folder / "fresh.gguf", case.row, keep=case.keep))


def contents(path: Path) -> tuple[dict, dict]:
    """Metadata and tensors, of all splits together."""
    readers = [gguf.GGUFReader(split) for split in splits(path)]
    metadata = {
        name: ([kind.name for kind in field.types], field.contents())
        for name, field in readers[0].fields.items()
        if not name.startswith("GGUF.")
    }
    tensors = {
        tensor.name: (tensor.tensor_type.name, tensor.shape.tolist(), tensor.data.tobytes())
        for reader in readers
        for tensor in reader.tensors
    }
    return metadata, tensors


def splits(path: Path) -> list[Path]:
    stem, dash_of, _ = path.name.partition("-00001-of-")
    return sorted(path.parent.glob(f"{stem}-*-of-*.gguf")) if dash_of else [path]


# ---- the rows themselves


@pytest.mark.parametrize("case", cases(ROWS + AHEAD), ids=str)
def test_two_references_agree(case: Case, tmp_path: Path) -> None:
    fresh = output(case.row, write(tmp_path / "fresh.gguf", case.row, keep=case.keep))
    if case.row.zeroing_is_identity:
        assert np.array_equal(fresh, reference(case, tmp_path))
    else:
        assert np.abs(fresh - bert_of_transformers(case)).max() < 0.01  # llama.cpp looks its GELU up in F16


@pytest.mark.parametrize("row", ROWS + AHEAD, ids=lambda row: row.name)
def test_every_layer_matters(row: Row, tmp_path: Path) -> None:
    outputs = [output(row, write(tmp_path / "source.gguf", row))]
    for stack, layers in row.all_layers().items():
        for layer in layers:
            keep = Case(row, stack, (layer,)).keep
            outputs.append(output(row, write(tmp_path / "one-less.gguf", row, keep=keep)))
    closest = min(np.abs(a - b).max() for i, a in enumerate(outputs) for b in outputs[:i])
    assert np.isfinite(outputs).all()
    assert closest > 0.5


def bert_of_transformers(case: Case) -> np.ndarray:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    sizes, layers = case.row.metadata, case.row.layers["blk"]
    config = transformers.BertConfig(
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["embedding_length"],
        num_hidden_layers=layers,
        num_attention_heads=sizes["attention.head_count"],
        intermediate_size=sizes["feed_forward_length"],
        max_position_embeddings=sizes["context_length"],
        layer_norm_eps=sizes["attention.layer_norm_epsilon"],
        hidden_act="gelu_pytorch_tanh",
    )
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    names = gguf.get_tensor_name_map(case.row.arch, layers)
    ours = {tensor.source: torch.from_numpy(values(tensor, {})) for tensor in row_tensors(case.row)}
    state = {name: ours[names.get_name(name, (".weight", ".bias"))] for name in model.state_dict()}
    model.load_state_dict(state)
    model.encoder.layer = torch.nn.ModuleList(model.encoder.layer[i] for i in case.keep["blk"])
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).last_hidden_state[0].numpy()


# ---- what the tool makes of them


@dataclass(frozen=True, slots=True)
class Pruned:
    case: Case
    source: Path
    path: Path


@pytest.fixture(scope="module", params=cases(ROWS + AHEAD), ids=str)
def pruned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pruned:
    case: Case = request.param
    folder = tmp_path_factory.mktemp("pruned")
    source = write(folder / "source.gguf", case.row)
    return Pruned(case, source, prune_case(case, source, folder / "pruned.gguf"))


def prune_case(case: Case, source: Path, target: Path) -> Path:
    prune(source, target, ",".join(map(str, case.dropped)), STACK_OPTION[case.stack])
    return target


def test_file_is_the_one_written_afresh(pruned: Pruned, tmp_path: Path) -> None:
    assert_written_afresh(pruned.case, pruned.path, tmp_path)


def assert_written_afresh(case: Case, path: Path, folder: Path) -> None:
    metadata, tensors = contents(path)
    wanted, wanted_tensors = contents(write(folder / "afresh.gguf", case.row, keep=case.keep))
    assert tensors == wanted_tensors
    implied = {f"{case.row.architecture}.{key}" for key in case.row.implied}
    unstated = {key for key in implied if not isinstance(metadata.get(key, ([], 0))[1], list)}
    added = {key for key in metadata if key.startswith("rewriter.")}
    assert without(metadata, unstated | added) == without(wanted, unstated)


def without(mapping: dict, keys: set[str]) -> dict:
    return {key: value for key, value in mapping.items() if key not in keys}


def test_llama_cpp_computes_the_kept_layers(pruned: Pruned, tmp_path: Path) -> None:
    assert np.array_equal(output(pruned.case.row, pruned.path), reference(pruned.case, tmp_path))


def test_source_is_left_alone(pruned: Pruned, tmp_path: Path) -> None:
    assert pruned.source.read_bytes() == write(tmp_path / "again.gguf", pruned.case.row).read_bytes()


def test_arrays_that_llama_cpp_cannot_run(tmp_path: Path) -> None:
    case = Case(UNRUNNABLE, "blk", (1, 4))
    path = prune_case(case, write(tmp_path / "source.gguf", case.row), tmp_path / "pruned.gguf")
    assert_written_afresh(case, path, tmp_path)


# ---- what llama.cpp would load and get wrong


GEMMA3 = next(row for row in ROWS if row.name == "gemma3")
T5 = next(row for row in ROWS if row.name == "t5")


@pytest.mark.parametrize("layers", [62, 63])
def test_gemma3_of_62_layers_is_refused(layers: int, tmp_path: Path) -> None:
    """62 layers mean the 27B model to llama.cpp, which then scales attention in another way."""
    source = write(tmp_path / "source.gguf", replace(GEMMA3, layers={"blk": layers}))
    assert_refused(source, tmp_path / "pruned.gguf", str(layers - 1), "", "62")


def test_gemma3_without_windowed_layers(tmp_path: Path) -> None:
    """llama.cpp aborts on a window that no layer uses. Refuse, or write 0 for the window."""
    windowed = tuple(layer for layer, window in enumerate(PERIOD_6) if window)
    case = Case(GEMMA3, "blk", windowed)
    source, target = write(tmp_path / "source.gguf", GEMMA3), tmp_path / "pruned.gguf"
    with suppress(AssertionError):  # a refusal
        prune_case(case, source, target)
    assert not target.exists() or np.array_equal(output(GEMMA3, target), reference(case, tmp_path))


def test_encoder_shorter_than_decoder_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "source.gguf", T5)
    assert_refused(source, tmp_path / "pruned.gguf", "0-3", "encoder", "encoder")
    short = write(tmp_path / "short.gguf", T5, keep={**T5.all_layers(), "enc.blk": (4, 5, 6, 7)})
    assert "failed to initialize the context" in (llamacpp.load_error(short) or "")


def assert_refused(source: Path, target: Path, drop: str, stack: str, reason: str) -> None:
    with pytest.raises(AssertionError, match=f"(?s)returned [1-9].*{reason}"):
        prune(source, target, drop, stack)
    assert not target.exists()


# ---- ways to lay a file out


LLAMA = Case(ROWS[0], "blk", (1, 4))


def test_version_2_header(tmp_path: Path) -> None:
    source = write(tmp_path / "source.gguf", LLAMA.row)
    with source.open("r+b") as file:
        file.seek(4)
        file.write(struct.pack("<I", 2))
    path = prune_case(LLAMA, source, tmp_path / "pruned.gguf")
    assert_written_afresh(LLAMA, path, tmp_path)
    assert np.array_equal(output(LLAMA.row, path), reference(LLAMA, tmp_path))


def test_alignment_of_64(tmp_path: Path) -> None:
    """A norm of 40 F32 fills 160 bytes: 32 divides that, 64 does not."""
    sizes = {"embedding_length": 40, "attention.key_length": 8, "attention.value_length": 8}
    row = replace(
        LLAMA.row,
        metadata={**LLAMA.row.metadata, **sizes},
        general={**LLAMA.row.general, "general.alignment": 64},
    )
    case = replace(LLAMA, row=row)
    path = prune_case(case, write(tmp_path / "source.gguf", row), tmp_path / "pruned.gguf")
    assert_written_afresh(case, path, tmp_path)
    assert all(tensor.data_offset % 64 == 0 for tensor in gguf.GGUFReader(path).tensors)
    assert np.array_equal(output(row, path), reference(case, tmp_path))


@pytest.mark.parametrize("dropped", [(1, 4), (0, 1, 2, 3, 4)], ids=["some", "whole-splits"])
@pytest.mark.parametrize("first", ["full", "empty"])
def test_split_file(first: str, dropped: tuple[int, ...], tmp_path: Path) -> None:
    case = replace(LLAMA, dropped=dropped)
    options = {"split_max_tensors": 9, "small_first_shard": first == "empty"}
    write(tmp_path / "source.gguf", case.row, **options)
    source = next(tmp_path.glob("source-00001-of-*.gguf"))
    prune_case(case, source, tmp_path / "pruned.gguf")
    path = next(tmp_path.glob("pruned-00001-of-*.gguf"))
    assert_splits_are_told(path)
    assert contents(path)[1] == contents(write(tmp_path / "afresh.gguf", case.row, keep=case.keep))[1]
    assert np.array_equal(output(case.row, path), reference(case, tmp_path))


def assert_splits_are_told(first: Path) -> None:
    readers = [gguf.GGUFReader(path) for path in splits(first)]
    told = [
        tuple(reader.fields[f"split.{key}"].contents() for key in ("no", "count", "tensors.count"))
        for reader in readers
    ]
    total = sum(len(reader.tensors) for reader in readers)
    assert told == [(number, len(readers), total) for number in range(len(readers))]


# ---- trained models


DROP = "3,7-9,-1"
KEPT = (0, 1, 2, 4, 5, 6, 10)


@pytest.fixture(scope="module")
def text_tokens() -> list[int]:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODELS / "tiny-llama-12L")
    return tokenizer((MODELS / "heldout.txt").read_text()[:400])["input_ids"][:128]


def probabilities_of_transformers(tokens: list[int], kept: tuple[int, ...]) -> np.ndarray:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(MODELS / "tiny-llama-12L", dtype=torch.float32)
    model.model.layers = torch.nn.ModuleList(model.model.layers[i] for i in kept)
    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].softmax(-1).numpy()


def probabilities(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize(("kind", "tolerance"), [("F16", 0.002), ("Q8_0", 0.03), ("Q4_K_M", 0.1)])
def test_trained_model(kind: str, tolerance: float, text_tokens: list[int], tmp_path: Path) -> None:
    """Of the distributions over the next token; those of other layers are farther than 0.5 away."""
    source = MODELS / f"tiny-llama-12L-{kind}.gguf"
    prune(source, tmp_path / "pruned.gguf", DROP)
    assert_blocks_moved(source, tmp_path / "pruned.gguf")
    found = probabilities(llamacpp.logits(tmp_path / "pruned.gguf", text_tokens))
    assert np.abs(found - probabilities_of_transformers(text_tokens, KEPT)).max() < tolerance
    assert np.abs(found - probabilities_of_transformers(text_tokens, (*KEPT[:-1], 11))).max() > 0.5


def assert_blocks_moved(source: Path, pruned: Path) -> None:
    old_metadata, old = contents(source)
    metadata, new = contents(pruned)
    assert metadata["llama.block_count"] == (["UINT32"], len(KEPT))
    changed = {key for key in old_metadata if metadata.get(key) != old_metadata[key]}
    assert changed == {"llama.block_count"}
    assert new == dict(moved(old))


def moved(tensors: dict) -> Iterator[tuple[str, tuple]]:
    for name, tensor in tensors.items():
        if not name.startswith("blk."):
            yield name, tensor
        elif int(name.split(".")[1]) in KEPT:
            _, number, rest = name.split(".", 2)
            yield f"blk.{KEPT.index(int(number))}.{rest}", tensor
