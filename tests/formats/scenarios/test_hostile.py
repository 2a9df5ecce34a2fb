"""What belongs to no checkpoint alone may be hostile as well: plans, records, adapters, TOML, results, checksums.

Whatever takes long is cut off by the time that the processor has spent on it; the tests give it less of that.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

import pytest

from rewriter import (
    CheckpointError,
    OutputError,
    PlanOptions,
    RequestError,
    UnsupportedError,
    make_output,
    open_checkpoint,
)
from rewriter.architectures.custom import load_architecture
from rewriter.batch.jobs import read_batch
from rewriter.batch.results import Results
from rewriter.checkpoint import LayerMap
from rewriter.cli.batch_keys import KEYS, settings
from rewriter.planning.companions.peft_adapter import replicated
from rewriter.planning.companions.plan import plan_companion
from rewriter.planning.layer_ranges import parse_layers
from rewriter.planning.plan import make_plan
from rewriter.planning.saved_plan import load_plan, open_plan
from rewriter.writing.checksums import checksum_problems, manifest
from tests.support import limited
from tests.support.builders import gguf_field, gguf_record, gguf_string, huggingface, prune, raw_gguf, raw_safetensors


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    for module in (
        "planning.companions.plan", "planning.metadata.quantization_config", "batch.jobs", "system.untrusted",
        "formats.front_matter",
    ):  # fmt: skip
        monkeypatch.setattr(f"rewriter.{module}._SECONDS", 0.2)


@pytest.fixture
def model(tmp_path):
    return huggingface(tmp_path / "model")


@pytest.fixture
def pruned(model, tmp_path):
    return prune(model, tmp_path / "pruned", [0, 1, 3, 4, 5])


def adapter(folder: Path, part: str = "q_proj", **config: object) -> Path:
    """A PEFT adapter for six layers, with tensors of a byte."""
    folder.mkdir()
    names = [f"base_model.model.model.layers.{n}.self_attn.{part}.lora_{ab}.weight" for n in range(6) for ab in "AB"]
    header = {name: {"dtype": "U8", "shape": [1], "data_offsets": [at, at + 1]} for at, name in enumerate(names)}
    raw_safetensors(folder / "adapter_model.safetensors", header, bytes(len(names)))
    said = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": [part], **config}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return folder


EXPRESSIONS = {
    "nested repeats in a pattern": {"rank_pattern": {"(.*a)*b": 4}},
    "nested repeats for all names": {"target_modules": "((a|.)*)*b"},
    "many expressions": {"rank_pattern": {f"x[{n}]": 4 for n in range(20_000)}},
}


@pytest.mark.parametrize("case", EXPRESSIONS)
def test_expressions_in_an_adapter(case, pruned, tmp_path):
    path = adapter(tmp_path / "lora", "a" * 60, **EXPRESSIONS[case])
    with pytest.raises(CheckpointError, match="to find what its expressions mean takes too long"):
        plan_companion(open_plan(pruned), open_checkpoint(path), PlanOptions())


CONFIGS = {
    "a long expression": ({"target_modules": "a" * 200_000}, "too long for a regular expression"),
    "ranges of more layers": ({"layer_replication": [[0, 6]] * 1000}, "are no ranges of 6 layers"),
    "ranges that are none": ({"layer_replication": [["0", 1.5]]}, "are no ranges"),
    "a range without end": ({"layer_replication": [[0, 1e400]]}, "are no ranges"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_of_adapters(case, pruned, tmp_path):
    config, words = CONFIGS[case]
    with pytest.raises(CheckpointError, match=words):
        plan_companion(open_plan(pruned), open_checkpoint(adapter(tmp_path / "lora", **config)), PlanOptions())


def test_expressions_about_quantised_weights(tmp_path):
    said = {"quant_method": "compressed-tensors", "ignore": [r"re:(.*\w)*1!"]}
    source = huggingface(tmp_path / "in", quantization_config=said)
    with pytest.raises(CheckpointError, match="to find what its expressions mean takes too long"):
        make_plan(open_checkpoint(source), [0, 2, 3, 4, 5], PlanOptions())


NUMBERS = [{"before": 10**18}, {"before": 10**4000}, {"kept": []}, {"kept": [-1]}, {"kept": [10**9]},
           {"kept": list(range(10_000))}]  # fmt: skip


@pytest.mark.parametrize("changed", NUMBERS, ids=range(len(NUMBERS)))
def test_layers_of_plans_and_records(changed, pruned, tmp_path):
    record = json.loads((pruned / "rewriter.json").read_text())
    record["layers"].update(changed)
    (pruned / "rewriter.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="is damaged"):
        open_plan(pruned)
    plan = {"kind": "rewriter-plan", "schema": 1, **record, "prediction_layers": {"before": 0}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(CheckpointError, match="is not a plan"):
        load_plan(tmp_path / "plan.json")


def test_a_record_about_a_stack_that_is_not_there(pruned):
    text = (pruned / "rewriter.json").read_text().replace('"stack": "main"', '"stack": "other"')
    (pruned / "rewriter.json").write_text(text)
    for ask in (open_plan, lambda path: manifest(open_checkpoint(path))):
        with pytest.raises(CheckpointError, match="has no stack other, as its record says"):
            ask(pruned)


TOML = {
    "a key of many parts": ("a" + ".a" * 100_000 + " = 1", "it takes too long"),
    "more than is read": ("#" * (5 << 20), "more than"),
    "digits": (f"a = {'9' * 5000}", "is not valid TOML"),
    "brackets": ("a = " + "[" * 100_000, "is not valid TOML"),
}


@pytest.mark.parametrize("case", TOML)
def test_toml(case, tmp_path):
    text, words = TOML[case]
    (tmp_path / "x.toml").write_text(text)
    for read in (load_architecture, lambda path: read_batch(path, KEYS, settings)):
        with pytest.raises(CheckpointError, match=words):
            read(tmp_path / "x.toml")


JOBS = {
    "patterns in patterns": ('source = "/**/**/**/**/**/*x"\noutput = "o/"\ndrop = "1"', "too many matches"),
    "too many outputs": (
        f'source = "x"\noutput = "o/"\nstrategy = {["top"] * 200}\nratio = {[0.5] * 200}', "more than 10000 outputs"
    ),
    "a path that no system opens": (f'source = "{"x/" * 9000}"\noutput = "o"\ndrop = "1"', "is no path"),
}  # fmt: skip


@pytest.mark.parametrize("case", JOBS)
def test_jobs(case, tmp_path):
    text, words = JOBS[case]
    (tmp_path / "jobs.toml").write_text(f"[[job]]\n{text}\n")
    with pytest.raises(RequestError, match=words):
        read_batch(tmp_path / "jobs.toml", KEYS, settings)


LINE = (
    '{"schema": 1, "source": "x", "output": "o%d", "status": "skipped", "fingerprint": "", "stack": "main", '
    '"layers": {"before": 3, "after": 2, "kept": [0, 1], "dropped": [2]}, "parameters": {"before": 3, "after": 2}, '
    '"bytes": {"before": 3, "after": 2}, "disk": 2, "warnings": [], "told": [], "seconds": 0.5, "files": %s}\n'
)
RESULTS = {
    "lines": "{}\n" * 200_000,
    "files": LINE % (1, json.dumps([{"name": "x", "bytes": 1, "mtime_ns": 1}] * 300_000)),
    "another's": '{"schema": 1, "output": "o", "files": []}\n',
}


@pytest.mark.parametrize("case", RESULTS)
def test_results(case, tmp_path):
    (tmp_path / "results.jsonl").write_text(RESULTS[case])
    with pytest.raises(OutputError, match="is no file of results"):
        Results(tmp_path / "results.jsonl")


def test_results_that_are_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "results.jsonl")
    with pytest.raises(OutputError, match="it is not a regular file"):
        Results(tmp_path / "results.jsonl")


def test_a_million_ranges_are_read():
    assert parse_layers(",".join(["0-4095"] * 300_000), 4096) == tuple(range(4096))


def with_checksums(pruned: Path, files: dict, tensors: dict) -> list[str]:
    record = json.loads((pruned / "rewriter.json").read_text())
    record["checksums"] = {"algorithm": "sha256", "files": files, "tensors": tensors}
    (pruned / "rewriter.json").write_text(json.dumps(record))
    return [str(problem) for problem in checksum_problems(pruned)]


def test_checksums_of_what_cannot_be_there(pruned):
    digest = "0" * 64
    for names in (["../x"], ["/etc/passwd"], ["a/../b"], ["a\0"], [f"f{n}" for n in range(20_001)]):
        (said,) = with_checksums(pruned, dict.fromkeys(names, digest), {})
        assert "are damaged" in said
    missing = {f"t{n}": {"source": "x", "sha256": digest} for n in range(10_100)}
    said = with_checksums(pruned, {}, missing)
    assert len([each for each in said if each.startswith("tensor t")]) == 10_000
    assert any(each.startswith("100 more tensors") for each in said)


def test_the_padding_of_another_file(tmp_path):
    """The first file of a set may pad to 16 MiB what it gets from the others."""

    def fields(number: int) -> list[bytes]:
        return [
            gguf_field("split.no", 2, struct.pack("<H", number)), gguf_field("split.count", 2, struct.pack("<H", 2)),
            gguf_field("split.tensors.count", 5, struct.pack("<i", 20)),
        ]  # fmt: skip

    head = [
        gguf_field("general.architecture", 8, gguf_string("llama")),
        gguf_field("llama.block_count", 4, struct.pack("<I", 2)),
        gguf_field("general.alignment", 4, struct.pack("<I", 1 << 24)),
    ]
    first, second = (
        [gguf_record(f"blk.{layer}.w{n}", [8], 0, n * step) for n in range(10)]
        for layer, step in ((0, 1 << 24), (1, 32))
    )
    raw_gguf(tmp_path / "m-00002-of-00002.gguf", fields(1), second, bytes(320))
    source = raw_gguf(tmp_path / "m-00001-of-00002.gguf", [*head, *fields(0)], first, b"", alignment=1 << 24)
    os.truncate(source, 11 << 24)
    for how in ({}, {"single_file": True}, {"max_size": 1000}):
        plan = make_plan(open_checkpoint(source), [1], PlanOptions(**how))
        with pytest.raises(UnsupportedError, match="mostly padding"):
            make_output(plan, "out.gguf")


@pytest.mark.parametrize("case", ["adapter", "config"])
def test_in_a_process_with_limits(case, pruned, tmp_path):
    """The program as it is, with the time that it really takes."""
    if case == "adapter":
        words = ["apply", pruned, adapter(tmp_path / "lora", "a" * 60, rank_pattern={"(.*a)*b": 4}), tmp_path / "out"]
    else:
        said = {"quant_method": "compressed-tensors", "ignore": [r"re:(.*\w)*1!"]}
        words = ["plan", huggingface(tmp_path / "in", quantization_config=said), "--drop", "1"]
    limited.assert_ends_in_one_line(limited.run(*words), "to find what its expressions mean takes too long")


# A staging directory that somebody else has prepared


@pytest.fixture
def stopped(model, tmp_path, monkeypatch):
    """What a run with --resume has left, all of its files finished."""

    def stop(output: object) -> None:
        raise OSError(5, "stopped")

    (tmp_path / "here").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("rewriter.writing.execute._check_sources", stop)
        with pytest.raises(OutputError):
            prune(model, tmp_path / "here" / "out", [0, 2], resume=True)
    return tmp_path / "here" / ".out.rewriter-tmp"


def links(staging: Path, elsewhere: Path) -> None:
    (staging / "new").rename(elsewhere)
    (staging / "new").symlink_to(elsewhere)


def one_link(staging: Path, elsewhere: Path) -> None:
    (staging / "new" / "config.json").rename(elsewhere)
    (staging / "new" / "config.json").symlink_to(elsewhere)


def pipe(name: str):
    def make(staging: Path, elsewhere: Path) -> None:
        (staging / name).unlink(missing_ok=True)
        os.mkfifo(staging / name)

    return make


def folder(staging: Path, elsewhere: Path) -> None:
    (staging / "finished").unlink()
    (staging / "finished").mkdir()


@pytest.mark.parametrize("prepare", [links, one_link, pipe("finished"), pipe("moves"), folder])
def test_a_staging_directory_that_was_tampered_with(prepare, stopped, model, tmp_path):
    prepare(stopped, tmp_path / "elsewhere")
    target = prune(model, stopped.parent / "out", [0, 2], resume=True)
    assert not target.is_symlink()
    assert not any(path.is_symlink() for path in target.rglob("*"))
    wanted = prune(model, tmp_path / "wanted", [0, 2])
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        path.name: path.read_bytes() for path in wanted.iterdir()
    }
    assert os.listdir(stopped.parent) == ["out"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_staging_directory_of_somebody_else(stopped, model):
    os.chown(stopped, 12345, 12345)
    with pytest.raises(OutputError, match="it belongs to somebody else"):
        prune(model, stopped.parent / "out", [0, 2])
    shutil.rmtree(stopped)
    prune(model, stopped.parent / "out", [0, 2])


def test_an_adapter_of_more_layers_than_there_may_be():
    layers = LayerMap("main", tuple(range(2000)), 2000)
    with pytest.raises(CheckpointError, match="are more than 4096 layers"):
        replicated({"layer_replication": [[0, 2000]] * 3}, layers)
