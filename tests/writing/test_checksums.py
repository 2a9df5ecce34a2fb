"""`--checksums`: every byte of an output is covered, and tensors are found again under their names in the source."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rewriter import CheckpointError, PlanOptions, RequestError, make_plan, open_checkpoint, verify
from rewriter.layout.output import CopyRange, Literal
from rewriter.writing.checksums import manifest
from rewriter.writing.hashing import digests
from tests.support.builders import MODELS, everything, huggingface, prune, tensors_of, write_gguf
from tests.support.damage import flip, in_json, lines
from tests.support.write_jobs import KEEP, KINDS

RECORDS = {"gguf": "x.gguf.rewriter.json", "split": "x-00001-of-00003.gguf.rewriter.json",
           "directory": "x/rewriter.json", "lone": "x.safetensors.rewriter.json"}  # fmt: skip


class Pruned:
    """A source, and an output of it with checksums."""

    def __init__(self, kind: str, folder: Path) -> None:
        make, name = KINDS[kind]
        self.kind, self.source = kind, make(folder / "in")
        (folder / "out").mkdir()
        self.folder = folder / "out"
        self.path = prune(self.source, self.folder / name, KEEP, checksums=True)
        self.record = self.folder / RECORDS[kind]

    def problems(self) -> list[str]:
        return lines(verify(self.path, checksums=True), "", "")


@pytest.fixture(params=KINDS)
def pruned(request, tmp_path):
    return Pruned(request.param, tmp_path)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_record_is_what_hashlib_says(pruned):
    said = json.loads(pruned.record.read_text())["checksums"]
    assert said["algorithm"] == "sha256"
    folder = pruned.path if pruned.path.is_dir() else pruned.folder
    files = {name: sha256(data) for name, data in everything(folder).items() if name != pruned.record.name}
    assert said["files"] == files
    tensors = tensors_of(pruned.path)
    assert {name: entry["sha256"] for name, entry in said["tensors"].items()} == {
        name: sha256(data) for name, (_, _, data) in tensors.items()
    }
    before = tensors_of(pruned.source)
    assert {name: before[entry["source"]] for name, entry in said["tensors"].items()} == tensors


def test_a_good_output(pruned):
    assert pruned.problems() == []
    assert verify(pruned.path, pruned.source, checksums=True) == ()
    shutil.rmtree(pruned.source.parent)
    assert pruned.problems() == []


def test_a_flip_anywhere_is_seen(pruned):
    """In headers, tensors, padding, configs, side files and the record itself."""
    for file in sorted(path for path in pruned.folder.rglob("*") if path.is_file()):
        raw = file.read_bytes()
        for place in range(0, len(raw), max(1, len(raw) // 25)):
            flip(file, place)
            found = "\n".join(pruned.problems())
            assert file.name in found, (file, place)
            file.write_bytes(raw)
    assert pruned.problems() == []


def test_the_damaged_tensor_is_named(pruned):
    checkpoint = open_checkpoint(pruned.path)
    for tensor in checkpoint.tensors:
        shard = checkpoint.shards[tensor.shard]
        flip(Path(shard.path), tensor.offset)
        named = [line for line in pruned.problems() if line.startswith("tensor ")]
        flip(Path(shard.path), tensor.offset)
        assert [line.split(":")[0] for line in named] == [f"tensor {tensor.name}"]


def test_a_missing_file(pruned):
    for name in json.loads(pruned.record.read_text())["checksums"]["files"]:
        file = pruned.record.parent / name
        raw = file.read_bytes()
        file.unlink()
        assert any(line.startswith(f"{name}: expected sha256 ") and "cannot open" in line for line in pruned.problems())
        file.write_bytes(raw)
    pruned.record.unlink()
    assert any("a record with checksums" in line for line in pruned.problems())


def test_an_extra_file(tmp_path):
    pruned = Pruned("directory", tmp_path)
    (pruned.path / "sub" / "new.txt").write_text("")
    (pruned.path / "pytorch_model.bin").write_text("")
    (pruned.path / ".cache").mkdir()
    (pruned.path / ".cache" / "huggingface").write_text("")
    assert pruned.problems() == [
        "pytorch_model.bin: expected nothing, found a file that was not recorded",
        "sub/new.txt: expected nothing, found a file that was not recorded",
    ]


def test_without_checksums(tmp_path):
    source = KINDS["directory"][0](tmp_path / "in")
    target = prune(source, tmp_path / "x", KEEP)
    expected = "rewriter.json: expected checksums, as prune --checksums leaves, found none"
    assert [str(problem) for problem in verify(target, checksums=True)] == [expected]


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said["files"].update({"../in/model.safetensors": "0" * 64}),
        lambda said: said["files"].update({"/etc/passwd": "0" * 64}),
        lambda said: said["files"].update({"a//b": "0" * 64}),
        lambda said: said["tensors"].update(x=None),
        lambda said: said["tensors"].update(x={"source": "x", "sha256": 5}),
        lambda said: said.update(algorithm="md5"),
        lambda said: said.update(files=[]),
        lambda said: said.pop("tensors"),
    ],
)
def test_a_record_that_lies(pruned, change):
    in_json(pruned.record, lambda record: change(record["checksums"]))
    assert any("are damaged" in line for line in pruned.problems())


def test_a_record_with_another_hash(pruned):
    text = pruned.record.read_text()
    name, entry = next(iter(json.loads(text)["checksums"]["tensors"].items()))
    pruned.record.write_text(text.replace(entry["sha256"], "0" * 64))
    found = pruned.problems()
    assert f"tensor {name}: expected sha256 {'0' * 64}, found {entry['sha256']}" in found
    assert f"{pruned.record.name}: expected the record as it was written, found a changed one" in found


def test_the_same_bytes_every_time(pruned, tmp_path):
    (tmp_path / "again").mkdir()
    prune(pruned.source, tmp_path / "again" / KINDS[pruned.kind][1], KEEP, checksums=True)
    assert everything(tmp_path / "again") == everything(pruned.folder)


def test_the_other_files_are_as_without(pruned, tmp_path):
    (tmp_path / "plain").mkdir()
    prune(pruned.source, tmp_path / "plain" / KINDS[pruned.kind][1], KEEP)
    with_them, without = everything(pruned.folder), everything(tmp_path / "plain")
    record = with_them.pop(RECORDS[pruned.kind])
    if pruned.kind == "directory":
        plain = json.loads(without.pop(RECORDS[pruned.kind]))
        assert {key: value for key, value in json.loads(record).items() if key in plain} == plain
    assert with_them == without


def test_a_second_run_composes(pruned, tmp_path):
    suffix = "".join(pruned.path.suffixes[-1:])
    last = prune(pruned.path, tmp_path / f"last{suffix}", [1, 2], checksums=True)
    assert verify(last, pruned.source, checksums=True) == ()
    plain = prune(pruned.path, tmp_path / f"plain{suffix}", [1, 2])
    assert verify(plain, pruned.source) == ()
    assert "checksums" not in (plain / "rewriter.json").read_text() if plain.is_dir() else True


def test_an_overwritten_output_keeps_no_stale_record(pruned):
    prune(pruned.source, pruned.folder / KINDS[pruned.kind][1], [0], overwrite=True)
    assert "checksums" not in (pruned.record.read_text() if pruned.record.exists() else "")
    assert (pruned.kind == "directory") == pruned.record.exists()


def test_interrupted_and_resumed(tmp_path, monkeypatch):
    pruned = Pruned("directory", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("rewriter.writing.write.check_plan", lambda *arguments: (_ for _ in ()).throw(OSError(5, "x")))
        with pytest.raises(Exception, match="cannot write"):
            prune(pruned.source, tmp_path / "again", KEEP, checksums=True, resume=True)
    prune(pruned.source, tmp_path / "again", KEEP, checksums=True, resume=True)
    assert everything(tmp_path / "again") == everything(pruned.path)


def test_a_directory_without_a_record(tmp_path):
    source = KINDS["directory"][0](tmp_path / "in")
    with pytest.raises(RequestError, match="--no-provenance leaves out"):
        prune(source, tmp_path / "x", KEEP, PlanOptions(provenance=False), checksums=True)


def test_a_file_without_a_record_of_the_run(tmp_path):
    source = write_gguf(tmp_path / "in.gguf")
    target = prune(source, tmp_path / "x.gguf", KEEP, PlanOptions(provenance=False), checksums=True)
    assert verify(target, checksums=True) == ()
    assert manifest(open_checkpoint(target))[-1].source == "token_embd.weight"
    assert {entry.source for entry in manifest(open_checkpoint(target))} <= set(tensors_of(source))


def table(path: Path) -> dict[str, str]:
    return {entry.source: entry.sha256 for entry in manifest(open_checkpoint(path))}


@pytest.mark.parametrize("recorded", [True, False])
def test_the_manifest_survives_renumbering(pruned, recorded):
    if not recorded and pruned.kind == "directory":
        in_json(pruned.record, lambda record: record.pop("checksums"))
    elif not recorded:
        pruned.record.unlink()
    plan = make_plan(open_checkpoint(pruned.source), KEEP)
    before, after = table(pruned.source), table(pruned.path)
    assert list(before) == sorted(before)
    assert after == {copy.tensor.name: before[copy.tensor.name] for copy in plan.tensors}


def test_the_names_of_tensors_that_moved(tmp_path):
    """T5 stores its position bias in the first layer only."""
    names = ["shared.weight"]
    for side in ("encoder", "decoder"):
        names += [f"{side}.block.{n}.layer.0.SelfAttention.q.weight" for n in range(3)]
        names += [f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    config = {"model_type": "t5", "num_layers": 3, "num_decoder_layers": 3, "num_hidden_layers": 3}
    source = huggingface(tmp_path / "t5", names=names, **config)
    target = prune(source, tmp_path / "x", [1, 2], PlanOptions(stack="encoder"), checksums=True)
    assert table(target).items() <= table(source).items()


def test_pieces_are_hashed_in_their_order(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(256)) * 20000)
    raw = (tmp_path / "file").read_bytes()
    jobs = [(Literal(b"a"), CopyRange(str(tmp_path / "file"), n, 3 << 20), Literal(b"b")) for n in range(9)]
    assert digests(jobs) == [sha256(b"a" + raw[n : n + (3 << 20)] + b"b") for n in range(9)]
    with pytest.raises(CheckpointError, match="too early"):
        digests([(CopyRange(str(tmp_path / "file"), 0, len(raw) + 1),), *jobs])


def rewriter(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rewriter", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_commands(tmp_path):
    source = MODELS / "tiny-llama-12L-Q8_0.gguf"
    target = tmp_path / "x.gguf"
    done = rewriter("prune", source, target, "--drop", "3", "--checksums")
    assert (done.returncode, done.stderr) == (0, "")
    good = rewriter("verify", "--checksums", target)
    assert good.stdout == f"ok: {target} agrees with itself and its checksums\n"
    before, after = (rewriter("checksums", path).stdout.splitlines() for path in (source, target))
    assert set(after) < set(before)
    assert all(".3." in line for line in set(before) - set(after))
    value = json.loads(rewriter("checksums", target, "--json").stdout)
    assert [f"{row['sha256']}  {row['source']}" for row in value["tensors"]] == after
    flip(target, -1)
    bad = rewriter("verify", "--checksums", target)
    assert (bad.returncode, bad.stderr, len(bad.stdout.splitlines())) == (1, "", 2)
