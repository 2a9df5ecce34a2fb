"""Batches: what a TOML file asks for, and that it is done, once, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from rewriter import CheckpointError, open_checkpoint, verify
from rewriter.batch.jobs import read_batch
from rewriter.batch.results import Results
from rewriter.batch.runner import BatchRun, disk_usage, limit_to_free_space
from rewriter.cli.batch import batch as command
from rewriter.cli.batch_keys import KEYS, NO_KEYS, OPTIONS, settings
from rewriter.cli.prune import prune as prune_command
from rewriter.errors import OutputError, RequestError
from tests.support.builders import MODELS, ROOT, everything, huggingface, prune, split_gguf, write_gguf
from tests.support.workers import Gate, until

MODEL = "tiny-llama-12L-{}.gguf"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "models").mkdir()
    for name in "ab":
        write_gguf(tmp_path / "models" / f"{name}.gguf")
    huggingface(tmp_path / "models" / "dir")
    return tmp_path


def read(folder: Path, text: str, made=(), kept=()):
    (folder / "jobs.toml").write_text(text)
    return read_batch(folder / "jobs.toml", KEYS, settings, made, kept)


def outputs(folder: Path, text: str, made=()) -> list[str]:
    return [os.path.relpath(job.output, folder) for job in read(folder, text, made).jobs]


def job(**values) -> str:
    return "[[job]]\n" + "".join(f"{name.replace('_', '-')} = {json.dumps(value)}\n" for name, value in values.items())


def ours(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "rewriter", "batch", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment,
    )  # fmt: skip


def run(folder: Path, text: str | None = None, *arguments: str, code: int = 0) -> tuple[str, str]:
    """What the program prints on stdout and stderr; it works in threads, which start sooner."""
    if text is not None:
        (folder / "jobs.toml").write_text(text)
    process = ours(folder, "jobs.toml", "--executor", "threads=2", *arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, (out, err)
    return out, err


def results(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def statuses(folder: Path) -> dict[str, str]:
    return {line["output"]: line["status"] for line in results(folder)}


# What a file asks for


def test_every_option_of_prune_is_a_key():
    own = {"source", "destination", "context", "dry_run"}  # the last is refused
    left_out = {"executor": "executor", "with": "companions"}  # option -> parameter
    assert set(left_out) == set(NO_KEYS)
    names = {option.field for option in OPTIONS.values()} | {"saved_plan"} | set(left_out.values())
    assert set(prune_command.__signature__.parameters) - own <= names
    assert {"shard-size", "split-max-size", "no-provenance", "plan", "drop", "target-size", "hardlink"} <= set(KEYS)


ALL = {
    "strategy": "middle", "ratio": 0.25, "protect-first": 1, "protect-last": 1, "stack": "main", "drop-mtp": True,
    "generic": True, "keep-field": ["a", "b"], "per-layer-field": "c", "align": True, "force": True, "strict": True,
    "shard-size": "5MB", "no-provenance": True, "overwrite": True, "verify": True, "resume": True, "checksums": True,
    "no-share": True, "hardlink": True, "no-fsync": True,
}  # fmt: skip


def test_keys_mean_what_the_options_mean(folder, monkeypatch):
    """The command line itself is asked what the same words mean."""
    asked = []
    monkeypatch.setattr("rewriter.request.PruneRequest.plan", lambda self, *rest: asked.append(self))
    monkeypatch.setattr(
        "rewriter.cli.prune.write", lambda plan, target, write_options, **rest: asked.append(write_options) or 1 / 0
    )
    words = []
    for name, value in ALL.items():
        for each in value if isinstance(value, list) else [value]:
            words += [f"--{name}"] if each is True else [f"--{name}", str(each)]
    import typer
    from typer.testing import CliRunner

    app = typer.Typer()
    app.command()(prune_command)
    CliRunner().invoke(app, [str(folder / "models" / "a.gguf"), str(folder / "out"), *words])
    (made,) = read(folder, job(source="models/a.gguf", output="out", **ALL)).jobs
    assert [made.settings.request, made.settings.write_options] == asked


def test_the_kinds_of_values():
    kinds = {name: key.kind for name, key in KEYS.items()}
    assert kinds["ratio"] is float
    assert kinds["count"] is int
    assert kinds["align"] is bool
    assert kinds["keep-field"] is list
    assert kinds["architecture"] is Path
    assert KEYS["protect-first"].least == 0


def test_lists_mean_several_outputs(folder):
    text = job(source="models/[ab].gguf", output="o/{stem}-{strategy}-{ratio}.gguf", strategy=["top", "middle"],
               ratio=[0.25, 0.5])  # fmt: skip
    assert outputs(folder, text) == [
        f"o/{stem}-{strategy}-{ratio}.gguf"
        for stem in "ab" for strategy in ("top", "middle") for ratio in ("0.25", "0.5")
    ]  # fmt: skip
    assert outputs(folder, job(source="models/a.gguf", output="{drop}-{folder}", drop=["1,3", 2])) == [
        "1,3-models", "2-models",
    ]  # fmt: skip


def test_a_folder_gets_names_that_say_what_differs(folder):
    assert outputs(folder, job(source="models/*", output="o/", count=[1, 2])) == [
        "o/a-1.gguf", "o/a-2.gguf", "o/b-1.gguf", "o/b-2.gguf", "o/dir-1", "o/dir-2",
    ]  # fmt: skip
    assert outputs(folder, job(source="models/a.gguf", output="o/", drop="1")) == ["o/a-pruned.gguf"]


def test_of_a_split_set_the_first_file_is_matched(folder):
    split_gguf(folder / "split")
    assert outputs(folder, job(source="split/*.gguf", output="{name}", drop="1")) == ["model.gguf"]


def test_defaults_are_inherited_and_another_choice_replaces_theirs(folder):
    defaults = '[defaults]\noutput = "o/{stem}"\nratio = 0.25\nstrategy = "middle"\nverify = true\n'
    sources = [job(source="models/a.gguf"), job(source="models/b.gguf", count=2), job(source="models/dir", drop="1")]
    made = [each.settings for each in read(folder, defaults + "".join(sources)).jobs]
    assert all(each.write_options.verify_bytes for each in made)
    chosen = [each.request.selection for each in made]
    assert [(each.strategy, each.ratio, each.count, each.drop) for each in chosen] == [
        ("middle", 0.25, None, None), ("middle", None, 2, None), (None, None, None, "1"),
    ]  # fmt: skip


A = {"source": "models/a.gguf", "output": "o"}
WRONG = [
    ("", "has no job"),
    ("job = 3", "has no job"),
    ("[[jobs]]", r"unknown key 'jobs'; did you mean job\?"),
    ("[[job]]\noutput='x'", "job 1 has no source"),
    (job(source="models/a.gguf"), "job 1 has no output"),
    (job(**A, dorp="1"), r"job 1 has an unknown key 'dorp'; did you mean drop\?"),
    (job(**A, target_sise="1"), "did you mean target-size"),
    (job(**A, ratio=0.5) + job(**A, protect_frist=1), "job 2 .*did you mean protect-first"),
    ("[defaults]\nzzz = 1\n" + job(**A), "defaults has an unknown key 'zzz'; there are source, output"),
    (job(**A, ratio="0.5"), "job 1: ratio must be a number, not '0.5'"),
    (job(**A, ratio=True), "ratio must be a number"),
    (job(**A, count=1.5), "count must be a whole number"),
    (job(**A, align=1), "align must be true or false"),
    (job(**A, drop=[]), "drop is an empty list"),
    (job(**A, stack=["a"]), "stack must be a text"),
    (job(**A, protect_first=-1), "protect-first must be at least 0"),
    (job(**A, shard_size="5GB", single_file=True), "job 1: shard-size and single-file = true"),
    (job(**A, executor="x"), "executor is no key: who works is said once"),
    (job(**A, drop="1", **{"with": ["lora.gguf"]}), "job 1: with is no key: .* `rewriter apply"),
    (job(**A, drop="1") + '"card/--no-card" = true', "unknown key 'card/--no-card'"),
    (job(**A, drop="1", **{"no-card": True}), "unknown key 'no-card'"),
    (job(**A), r"job 1: which layers\? Give drop 3,7-9,-1 or keep"),
    (job(**A, strategy="midle", count=1), r"job 1: .*did you mean middle\?"),
    (job(**A, strategy="recipe:shortgpt", count=1), "job 1: no recipe is called"),
    (job(**A, strategy="top"), "job 1: how much"),
    (job(**A, drop="1", count=1), "job 1: drop, count cannot be combined"),
    (job(**A, strategy="top", count=1, contiguous=True), "job 1: contiguous = true is about layers"),
    (job(**A, ratio=1.5), "job 1: ratio = 1.5: write a number between 0 and 1"),
    (job(**A, target_size="1 elephant"), "job 1: '1 elephant' is not a size"),
    (job(**A, plan="plan.json", force=True, drop="1"), "job 1: plan says .*: drop, force = true cannot be combined"),
    (job(**{**A, "output": "{ratoi}"}, ratio=0.5), r"job 1: \{ratoi\} has no value here; there are name, stem"),
    (job(**{**A, "output": "{stem.x}"}, ratio=0.5), "has no value"),
    (job(**{**A, "output": "{stem!r}"}, ratio=0.5), "has no value"),
    (job(**{**A, "output": "{count}"}, ratio=0.5), "has no value"),
    (job(**{**A, "output": "{stem"}, ratio=0.5), "is no template"),
    (job(**{**A, "source": "models/*.ggfu"}, ratio=0.5), r"job 1: nothing matches models/\*.ggfu"),
    (job(**A, ratio=[0.5, 0.25]), r"job 1 would write .*/o twice; name in output what differs"),
    (job(**A, drop="1") + job(**A, drop="2"), "jobs 1 and 2 would write .*/o twice"),
    (job(**A, drop="1") + job(source="o", output="p", drop="1"), "job 1 would write .*/o, which job 2 reads"),
    (job(**{**A, "output": "models/a.gguf"}, drop="1"), "which job 1 reads"),
    (job(**{**A, "output": "models/dir/x"}, drop="1") + job(source="models/dir", output="q", drop="1"), "job 2 reads"),
    (job(**{**A, "output": "jobs.toml"}, drop="1"), "which is this batch"),
    (job(**A, drop="1") + job(source="models/b.gguf", output="o/b", drop="1"), "job 2 would write into .*/o, the"),
    (job(**A, drop="1") + job(source="models/b.gguf", output="x", choose_on="o", ratio=0.5), "which job 2 reads"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_is_unclear_is_refused_before_anything(text, message, folder):
    with pytest.raises(RequestError, match=message) as caught:
        read(folder, text)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_toml(folder):
    with pytest.raises(CheckpointError, match=r"cannot read jobs\.toml"):
        read(folder, "= 3")
    with pytest.raises(CheckpointError, match=r"cannot read none\.toml"):
        read_batch(folder / "none.toml", KEYS, settings)


@pytest.mark.parametrize("name", ["", ".", "/"])
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_folder_is_no_batch(name, more, folder):
    out, err = ours(folder, name, *more).communicate(timeout=120)
    assert (out, err) == ("", f"rewriter: cannot read {name or '.'}: it is not a regular file\n")


def test_links_hide_no_collision(folder):
    (folder / "alias").symlink_to(folder / "models")
    with pytest.raises(RequestError, match="reads"):
        read(folder, job(source="models/a.gguf", output="alias/b.gguf", drop="1") + job(source="models/b.gguf",
             output="o", drop="1"))  # fmt: skip


@pytest.mark.parametrize("output", [
    "results.jsonl", "results.jsonl/out.gguf", ".results.jsonl.new", "alias/results.jsonl", "o/../results.jsonl",
])  # fmt: skip
def test_results_are_no_output(output, folder):
    """Neither before there are any nor over an earlier file."""
    (folder / "alias").symlink_to(folder)
    for _ in range(2):
        _, err = run(folder, job(source="models/a.gguf", output=output, drop="1", overwrite=True), code=2)
        assert "which is this batch" in err
        (folder / "results.jsonl").touch()
    assert not (folder / "results.jsonl").read_bytes()


@pytest.mark.parametrize(("output", "kept"), [
    ("out", "out"), ("out", "out/results.jsonl"), ("out", "alias/out"), ("linked", "link"),
])  # fmt: skip
def test_results_elsewhere_are_no_output(output, kept, folder):
    (folder / "alias").symlink_to(folder)
    (folder / "link").symlink_to(folder / "linked")
    (folder / "out").mkdir()
    with pytest.raises(RequestError, match="which is this batch"):
        read(folder, job(source="models/dir", output=output, drop="1"), kept=[str(folder / kept)])


BESIDE = {"source": "models/b.gguf", "drop": "1", "overwrite": True}
SET = job(source="models/a.gguf", output="o.gguf", drop="1", overwrite=True, shard_size="500")
LONE = job(source="models/dir/model.safetensors", output="o.safetensors", drop="1", overwrite=True)
SHARED = {
    "the config of a lone file": (LONE + job(**BESIDE, output="o.config.json"), "would write .*/o.config.json twice"),
    "the record of checksums": (
        job(source="models/a.gguf", output="o.gguf", drop="1", checksums=True)
        + job(**BESIDE, output="o.gguf.rewriter.json"), "would write .*/o.gguf.rewriter.json twice"),
    "a file of a split set": (SET + job(**BESIDE, output="o-00001-of-00003.gguf"), "job 1 may remove o-00001-of"),
    "a link to that": (SET + job(**BESIDE, output="alias/o-00001-of-00003.gguf"), "job 1 may remove o-00001-of"),
    "the config of a source": (LONE + job(**BESIDE, output="models/dir/config.json"), "config.json, which job 1 reads"),
    "a folder that holds a source": (
        job(source="models/dir/model.safetensors", output="o", drop="1")
        + job(source="dir2", output="models/dir", drop="1"),
        "job 2 would write where .*/models/dir/model.safetensors is, which job 1 reads"),
    "where an output is made": (
        job(source="models/a.gguf", output="o.gguf", drop="1") + job(**BESIDE, output=".o.gguf.rewriter-tmp/x.gguf"),
        "job 2 would write into .*/.o.gguf.rewriter-tmp, the output of job 1"),
    "a set that is read and would be replaced": (
        SET + job(source="o-00001-of-00002.gguf", output="p.gguf", drop="1"), "job 1 may remove o-00001-of-00002"),
    "the config is the file of results": (
        LONE.replace("o.safetensors", "r.safetensors"), "r.config.json, which is this batch"),
}  # fmt: skip


@pytest.mark.parametrize("case", SHARED)
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_every_file_of_an_output_is_one_job_s_alone(case, more, folder):
    (folder / "alias").symlink_to(folder)
    for number in (1, 2):
        shutil.copy(folder / "models" / f"{'ab'[number - 1]}.gguf", folder / f"o-{number:05}-of-00002.gguf")
    huggingface(folder / "dir2")
    text, message = SHARED[case]
    before = everything(folder)
    _, err = run(folder, text, "--results", "r.config.json", *more, code=2)
    assert re.search(message, err), err
    assert everything(folder) == {**before, "jobs.toml": text.encode()}


def test_what_is_done_keeps_its_files(folder):
    text = LONE + job(source="models/a.gguf", output="o2.gguf", drop="1")
    run(folder, text)
    _, err = run(folder, text.replace("o2.gguf", "o.config.json") + "overwrite = true\n", code=2)
    assert "would write" in err
    assert "twice" in err


# Patterns and outputs in one folder


SAME = job(source="models/*.gguf", output="models/{stem}-{count}.gguf", count=[1, 2], strategy="top")


def test_outputs_among_the_sources_are_not_pruned_again(folder):
    run(folder, SAME)
    first = everything(folder / "models")
    assert sorted(statuses(folder).values()) == ["done"] * 4
    out, _ = run(folder)
    assert everything(folder / "models") == first
    assert statuses(folder) == dict.fromkeys(statuses(folder), "skipped")
    assert "4 done before; 4 matched files are outputs, not used" in out


def test_outputs_of_an_earlier_form_of_the_batch_are_not_pruned_either(folder):
    run(folder, SAME)
    run(folder, SAME.replace("[1, 2]", "[3]"))
    assert sorted(name for name in os.listdir(folder / "models") if name.startswith("a")) == [
        "a-1.gguf", "a-2.gguf", "a-3.gguf", "a.gguf",
    ]  # fmt: skip


def test_the_files_of_a_split_output_are_no_sources(folder):
    text = job(source="models/*.gguf", output="models/{stem}-x.gguf", drop="1", shard_size="500")
    run(folder, text)
    count = len(os.listdir(folder / "models"))
    assert count > 6
    (folder / "results.jsonl").unlink()  # nothing but their names says so
    assert len(read(folder, text).jobs) == 2


# Done, done before, failed


def test_outputs_are_those_of_prune(folder, tmp_path):
    run(folder, job(source="models/*", output="o/", drop=["1", "3-4"], checksums=True))
    for name, keep in {"1": (0, 2, 3, 4, 5), "3-4": (0, 1, 2, 5)}.items():
        (folder / name).mkdir()
        for source in ("a.gguf", "b.gguf", "dir"):
            stem, suffix = os.path.splitext(source)
            prune(folder / "models" / source, folder / name / f"{stem}-{name}{suffix}", keep, checksums=True)
    expected = everything(folder / "1") | everything(folder / "3-4")
    assert everything(folder / "o") == expected


def test_the_results(folder):
    _, err = run(folder, job(source="models/a.gguf", output="o/a.gguf", drop="1") + job(
        source="models/b.gguf", output="o/b.gguf", drop="99"), code=1)  # fmt: skip
    good, bad = results(folder)
    assert (good["source"], good["output"], good["status"]) == ("models/a.gguf", "o/a.gguf", "done")
    assert good["layers"] == {"before": 6, "after": 5, "kept": [0, 2, 3, 4, 5], "dropped": [1]}
    assert good["files"][0]["bytes"] == (folder / "o" / "a.gguf").stat().st_size == good["disk"]
    assert good["seconds"] >= 0
    assert (bad["status"], bad["output"]) == ("failed", "o/b.gguf")
    assert bad["error"].startswith("layer 99 is out of range")
    assert "failed o/b.gguf: layer 99 is out of range" in err
    assert sorted(os.listdir(folder)) == ["jobs.toml", "models", "o", "results.jsonl"]


def test_a_failed_job_stops_no_other_and_is_tried_again(folder):
    (folder / "models" / "bad.gguf").write_bytes(b"GGUF????")
    text = job(source="models/*.gguf", output="o/", drop="1")
    out, _ = run(folder, text, code=1)
    assert statuses(folder) == {"o/a-pruned.gguf": "done", "o/b-pruned.gguf": "done", "o/bad-pruned.gguf": "failed"}
    assert "2 done, 1 failed" in out
    before = everything(folder / "o")
    write_gguf(folder / "models" / "bad.gguf")
    out, _ = run(folder)
    assert "1 done, 2 done before" in out
    assert {name: data for name, data in everything(folder / "o").items() if name in before} == before


ONE = job(source="models/a.gguf", output="o.gguf", drop="1", overwrite=True)


def done_again(folder: Path) -> bool:
    inode = (folder / "o.gguf").stat().st_ino
    run(folder)
    return (folder / "o.gguf").stat().st_ino != inode


def test_what_is_done_is_left_alone_until_something_has_changed(folder):
    run(folder, ONE)
    assert not done_again(folder)
    os.utime(folder / "models" / "a.gguf")
    assert done_again(folder)
    assert not done_again(folder)
    (folder / "jobs.toml").write_text(ONE.replace('"1"', '"2"'))
    assert done_again(folder)
    with (folder / "o.gguf").open("ab") as file:
        file.write(b"x")
    assert done_again(folder)
    assert verify(folder / "o.gguf", folder / "models" / "a.gguf") == ()
    shutil.copytree(folder, folder.parent / "moved")
    assert not done_again(folder.parent / "moved")


def test_a_failure_does_not_forget_what_was_done(folder):
    text = ONE.replace("overwrite = true\n", "")
    run(folder, text)
    _, err = run(folder, text.replace('"1"', '"2"'), code=1)
    assert "exists already; overwrite = true replaces it" in err
    run(folder, text)
    assert statuses(folder) == {"o.gguf": "skipped"}


def test_a_line_that_was_cut_off_is_passed_over(folder):
    run(folder, SAME)
    text = (folder / "results.jsonl").read_text()
    (folder / "results.jsonl").write_text(text[:-20])
    before = everything(folder / "models")
    (folder / "models" / "b-2.gguf").unlink()
    run(folder)
    assert everything(folder / "models") == before
    assert sorted(statuses(folder).values()) == ["done", "skipped", "skipped", "skipped"]


def test_another_file_is_not_taken_for_results(folder):
    (folder / "results.jsonl").write_text("my notes\n")
    _, err = run(folder, ONE, code=1)
    assert "results.jsonl is no file of results: --results names another" in err
    assert (folder / "results.jsonl").read_text() == "my notes\n"
    run(folder, ONE, "--results", "r.jsonl")
    assert json.loads((folder / "r.jsonl").read_text())["status"] == "done"


def test_a_run_that_was_killed_after_its_output_appeared_has_done_it(folder):
    """The last line says that it was under way; the output is another than before it."""
    run(folder, ONE.replace("overwrite = true\n", ""))
    (line,) = results(folder)
    files = [{name: file[name] for name in ("name", "bytes")} for file in line.pop("files")]
    for before, status in (([None], "skipped"), (line.pop("files", None), "failed")):
        stamp = (folder / "o.gguf").stat()
        now = [{"name": "o.gguf", "bytes": stamp.st_size, "mtime_ns": stamp.st_mtime_ns}]
        told = {**line, "status": "running", "files": files, "before": before or now}
        (folder / "results.jsonl").write_text(json.dumps(told) + "\n")
        run(folder, code=status == "failed")
        assert statuses(folder) == {"o.gguf": status}


def test_a_source_that_changes_after_it_was_planned_fails_its_job(folder):
    batch = read(folder, ONE + job(source="models/b.gguf", output="b", drop="1"))
    with ThreadPoolExecutor(2) as executor:
        run = BatchRun(executor, Results(folder / "r.jsonl"))
        prepared = run.plan(batch)
        os.utime(folder / "models" / "a.gguf")
        lines = run.carry_out(prepared, 2)
    assert [line["status"] for line in lines] == ["failed", "done"]
    assert lines[0]["error"] == "a.gguf has changed since it was planned"
    assert not (folder / "o.gguf").exists()


# Layers chosen on one file for others


def models(folder: Path) -> Path:
    (folder / "llama").mkdir()
    for name in ("F16", "Q8_0", "Q4_K_M"):
        shutil.copy(MODELS / MODEL.format(name), folder / "llama")
    return folder


CHOSEN = job(source="llama/*.gguf", output="o/", choose_on="llama/tiny-llama-12L-F16.gguf", ratio=[0.25, 0.5])


def test_scores_of_one_file_decide_for_its_siblings(tmp_path, monkeypatch):
    from rewriter.scoring import score

    models(tmp_path)
    counted = []
    real = score.score_model
    monkeypatch.setattr(
        score, "score_model", lambda *rest, **named: counted.append(rest[0].checkpoint.name) or real(*rest, **named)
    )
    batch = read(tmp_path, CHOSEN)
    with ThreadPoolExecutor(2) as executor:
        prepared = BatchRun(executor, Results(tmp_path / "r.jsonl")).plan(batch)
    assert counted == [MODEL.format("F16")] * 2  # once for each ratio
    kept = {tuple(each.plan["layers"]["dropped"]) for each in prepared}
    assert kept == {(3, 4, 6), (2, 3, 4, 5, 6, 8)}
    assert all(f"chosen on {MODEL.format('F16')}" in each.notes[0] for each in prepared)


def test_a_choice_that_fails_fails_its_jobs_alone(tmp_path):
    models(tmp_path)
    text = CHOSEN.replace("[0.25, 0.5]", "[0.25, 0.99]") + job(source="llama/*F16*", output="x", drop="1")
    run(tmp_path, text, code=1)
    lines = results(tmp_path)
    assert [line["status"] for line in lines] == ["done", "failed"] * 3 + ["done"]
    assert "cannot drop 12 layers: 8 of the 12 may go; protect-first = 0 protect-last = 0 lets" in lines[1]["error"]


def test_a_saved_plan_is_carried_out_on_all(folder):
    subprocess.run(
        [sys.executable, "-m", "rewriter", "plan", "models/a.gguf", "--drop", "2", "-o", "plan.json"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True,
    )  # fmt: skip
    run(folder, job(source="models/*.gguf", output="o/", plan="plan.json"))
    assert [line["layers"]["dropped"] for line in results(folder)] == [[2], [2]]
    _, err = run(folder, job(source="models/*.gguf", output="p/", plan="plan.json", drop="1"), code=2)
    assert "plan says which layers stay" in err
    run(folder, job(source="models/dir", output="q", plan="plan.json", shard_size="1kB", card=True, base_model="a/b"))
    assert {"README.md", "model.safetensors.index.json"} <= set(os.listdir(folder / "q"))
    assert "base_model: a/b" in (folder / "q" / "README.md").read_text()


def test_a_card_is_asked_for_or_not(folder):
    run(folder, job(source="models/dir", output="{stem}-yes", drop="1", card=True)
        + job(source="models/dir", output="{stem}-no", drop="1", card=False))  # fmt: skip
    assert [(folder / name / "README.md").exists() for name in ("dir-yes", "dir-no")] == [True, False]


def test_paths_from_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "models"))
    (made,) = read(folder, job(source="~/a*.gguf", output="~/o", drop="1")).jobs
    assert (made.source, made.output) == (str(folder / "models" / "a.gguf"), str(folder / "models" / "o"))


# Before it begins


def test_a_dry_run_says_what_the_run_says(folder):
    shutil.copy(folder / "models" / "b.gguf", folder / "o.gguf")
    text = job(source="models/a.gguf", output="o.gguf", drop="1")
    line = "failed o.gguf: o.gguf exists already; overwrite = true replaces it\n"
    assert line in run(folder, text, "--dry-run", code=1)[0]
    assert line in run(folder, text, code=1)[0]
    assert "planned" in run(folder, text + "overwrite = true\n", "--dry-run")[0]


def test_a_batch_of_its_own_outputs_alone_is_refused(folder):
    run(folder, job(source="models/a*.gguf", output="models/{stem}-x.gguf", drop="1"))
    os.remove(folder / "models" / "a.gguf")
    for more in ([], ["--dry-run"]):
        out, err = run(folder, None, *more, code=1)
        assert (out, err.count("\n")) == ("", 1)
        assert "nothing is to be done: all that the patterns match are outputs of this batch, such as /" in err


def test_a_dry_run_shows_what_is_then_done(folder):
    text = job(source="models/*.gguf", output="o/", drop=["1", "2"])
    before = everything(folder)
    out, _ = run(folder, text, "--dry-run", "--json")
    said = json.loads(out)
    assert everything(folder) == {**before, "jobs.toml": text.encode()}
    run(folder, text)
    assert [each["plan"]["layers"]["dropped"] for each in said["jobs"]] == [
        line["layers"]["dropped"] for line in results(folder)
    ]
    written = sum(map(len, everything(folder / "o").values()))
    assert said["disks"][0]["needed"] == sum(each["plan"]["disk_needed"] for each in said["jobs"]) == written
    again, _ = run(folder, None, "--dry-run", "--json")
    assert [each["status"] for each in json.loads(again)["jobs"]] == ["skipped"] * 4


def test_the_table_of_a_dry_run(folder):
    out, _ = run(folder, job(source="models/a.gguf", output="o/", drop=["1", "99"]), "--dry-run", code=1)
    assert "o/a-1.gguf" in out
    assert "6 -> 5" in out
    assert "failed o/a-99.gguf: layer 99 is out of range" in out
    assert "needed" in out
    assert not (folder / "results.jsonl").exists()


def small_disk(monkeypatch, nbytes: int) -> None:

    monkeypatch.setattr("rewriter.batch.runner.free_bytes", lambda folder: nbytes)


def test_room_is_counted_for_all_together(folder, monkeypatch):
    batch = read(folder, job(source="models/[ab].gguf", output="o/", drop=["1", "2", "3"]))
    with ThreadPoolExecutor(2) as executor:
        prepared = BatchRun(executor, Results(folder / "r.jsonl")).plan(batch)
    sizes = [each.needed for each in prepared]
    small_disk(monkeypatch, sum(sizes[:2]) + 5)
    (disk,) = disk_usage(prepared)
    assert (disk.needed, disk.free) == (sum(sizes), sum(sizes[:2]) + 5)
    fitting = limit_to_free_space(prepared)
    assert [each.error for each in fitting] == ["", ""] + [f"needs {size} bytes, 5 are left" for size in sizes[2:]]


def test_what_does_not_fit_is_not_begun(folder, monkeypatch, capsys):
    import typer

    small_disk(monkeypatch, 1)
    (folder / "jobs.toml").write_text(ONE)
    arguments = {"jobs": None, "executor": "threads=1", "results": None, "dry_run": False, "json": False}
    with pytest.raises(OutputError, match=r"all outputs together need \d+ bytes .* nothing was started, --partial"):
        command(folder / "jobs.toml", partial=False, **arguments)
    assert not (folder / "results.jsonl").exists()
    with pytest.raises(typer.Exit):
        command(folder / "jobs.toml", partial=True, **arguments)
    assert "1 are left" in results(folder)[0]["error"]


def test_two_runs_at_once_are_refused(folder):
    (folder / "jobs.toml").write_text(ONE)
    with (folder / "jobs.toml").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _, err = run(folder, None, code=1)
    assert err == "rewriter: another run of jobs.toml is under way\n"


# Workers and signals


def test_a_worker_that_is_killed_costs_no_job(folder):
    gate = Gate(folder)
    (folder / "jobs.toml").write_text(job(source="models/*.gguf", output="o/", drop=["1", "2"]))
    process = ours(folder, "jobs.toml", "--jobs", "2", **gate.environment)
    os.kill(gate.waiting(2)[0], signal.SIGKILL)
    gate.waiting(3)
    gate.open()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "4 done" in out
    for stem in "ab":
        assert verify(folder / "o" / f"{stem}-1.gguf", folder / "models" / f"{stem}.gguf") == ()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("resume", [False, True])
def test_a_signal_ends_it_in_good_order(number, resume, folder):
    gate = Gate(folder)
    text = job(source="models/[ab].gguf", output="o/", drop="1", resume=resume)
    (folder / "jobs.toml").write_text(text)
    process = ours(folder, "jobs.toml", "--jobs", "2", **gate.environment)
    gate.waiting(2)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert f"rewriter: stopped by {number.name}; 0 of 2 jobs are done; the same command goes on" in err
    assert "Traceback" not in err
    assert os.listdir(folder / "o") == []
    assert statuses(folder) == {"o/a-pruned.gguf": "stopped", "o/b-pruned.gguf": "stopped"}
    run(folder)
    assert statuses(folder) == {"o/a-pruned.gguf": "done", "o/b-pruned.gguf": "done"}


def test_a_kill_leaves_what_the_next_run_goes_on_from(folder):
    gate = Gate(folder)
    (folder / "jobs.toml").write_text(job(source="models/[ab].gguf", output="o/", drop="1"))
    process = ours(folder, "jobs.toml", "--jobs", "1", **gate.environment)
    (worker,) = gate.waiting(1)
    process.kill()
    process.communicate(timeout=60)
    until(lambda: not os.path.exists(f"/proc/{worker}") or Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z")
    assert [line["status"] for line in results(folder)] == ["running"]
    run(folder)
    assert set(statuses(folder).values()) == {"done"}
    assert sorted(os.listdir(folder / "o")) == ["a-pruned.gguf", "b-pruned.gguf"]
    assert open_checkpoint(folder / "o" / "a-pruned.gguf").provenance


KILLED_LATE = """
import os, shutil, sys
real = shutil.rmtree
def rmtree(path, *rest, **named):
    if str(path).endswith(".rewriter-tmp"):
        os.kill(os.getpid(), 9)
    real(path, *rest, **named)
shutil.rmtree = rmtree
from rewriter.cli import main
main()
"""


@pytest.mark.parametrize("again", ["batch", "prune"])
@pytest.mark.parametrize(("source", "more"), [
    ("a.gguf", {}), ("dir", {}), ("a.gguf", {"shard_size": "500"}), ("a.gguf", {"resume": True}),
])  # fmt: skip
def test_what_a_late_kill_leaves_goes(source, more, again, folder):
    """It has moved its output into place and not yet removed the earlier one."""
    text = job(source=f"models/{source}", output="o/x", drop="1", overwrite=True, **more)
    run(folder, text.replace('"1"', '"2"'))
    (folder / "jobs.toml").write_text(text)
    command = [sys.executable, "-c", KILLED_LATE, "batch", "jobs.toml", "--executor", "threads=1"]
    killed = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    left = folder / "o" / ".x.rewriter-tmp"
    assert left.exists()
    before = {name: data for name, data in everything(folder / "o").items() if ".rewriter-tmp" not in name}
    if again == "prune":
        options = ["--shard-size", "500"] if "shard_size" in more else []
        words = ["prune", f"models/{source}", "o/x", "--drop", "1", "--overwrite", *options]
        subprocess.run([sys.executable, "-m", "rewriter", *words], cwd=folder, check=True,
                       env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)  # fmt: skip
    else:
        descriptor = os.open(left, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert "1 done before" in run(folder)[0]
        assert left.exists()  # another run is at it
        os.close(descriptor)
        assert "1 done before" in run(folder)[0]
    assert not left.exists()
    assert everything(folder / "o") == before


# A file of results that was damaged, or made by somebody else

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([10**400, 1e400, -1, 5, "running", "failed", "\0", "/"])
    | st.floats() | st.text() | st.sampled_from(["\ud800", "\x1b[31m", "x" * 5000, "../o.gguf", "o.gguf"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def places(value, way=()):
    """Every member of a JSON value, however deep, as the way to it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in items:
        yield (*way, key)
        yield from places(member, (*way, key))


def changed(line: dict, way: tuple, how: str, value) -> dict:
    """`line` with the member there replaced by `value`, gone, or under a name that has one other letter."""
    line = json.loads(json.dumps(line))
    inner = line
    for key in way[:-1]:
        inner = inner[key]
    member = inner.pop(way[-1])
    if how == "replaced" or (how == "renamed" and isinstance(inner, list)):
        inner.insert(way[-1], value) if isinstance(inner, list) else inner.update({way[-1]: value})
    elif how == "renamed":
        inner[way[-1][:-1] + "~"] = member
    return line


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A batch that is done, and the line about its only job as it is in each state."""
    folder = tmp_path_factory.mktemp("done")
    write_gguf(folder / "a.gguf")
    run(folder, job(source="a.gguf", output="o.gguf", drop="1", overwrite=True, no_fsync=True))
    (line,) = results(folder)
    less = {name: value for name, value in line.items() if name not in ("told", "seconds")}
    sized = [{name: file[name] for name in ("name", "bytes")} for file in line["files"]]
    made = {name: line[name] for name in ("schema", "source", "output", "fingerprint", "files")}
    before = [None, {**line["files"][0], "mtime_ns": 1}]
    return folder, [
        line, {**less, "status": "running", "files": sized, "before": before[:1]},
        {**less, "status": "running", "files": sized, "before": before[1:]},
        {**less, "status": "skipped"}, {**made, "status": "failed", "error": "x"}, {**made, "status": "stopped"},
    ]  # fmt: skip


def again(folder: Path) -> str:
    """What the program prints, run in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        command(folder / "jobs.toml", jobs=None, executor="threads=1", results=None, dry_run=False, partial=False,
                json=False)  # fmt: skip
    return out.getvalue()


def test_every_line_that_is_written_is_read(done):
    folder, lines = done
    for line in lines:
        (folder / "results.jsonl").write_text(json.dumps(line) + "\n")
        assert list(Results(folder / "results.jsonl").lines.values()) == [line]
        assert "1 done before" in again(folder)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(st.data())
def test_a_damaged_line_costs_no_more_than_its_job(done, data):
    folder, lines = done
    line = data.draw(st.sampled_from(lines))
    way = data.draw(st.sampled_from([*places(line)]))
    how = data.draw(st.sampled_from(["replaced", "gone", "renamed"]))
    damaged = changed(line, way, how, data.draw(JSON))
    text = json.dumps(damaged) + "\n"
    (folder / "results.jsonl").write_text(text)
    if way in [("schema",), ("source",)] and not text.startswith('{"schema": 1, "source": '):
        with pytest.raises(OutputError, match="is no file of results"):  # nothing in it is ours
            again(folder)
        return
    out = again(folder)
    assert "1 done" in out
    assert all(text.isprintable() for text in out.splitlines())
    assert "1 done before" in again(folder)


WORSE = {
    "a null byte in a path": (("output",), "o\0"),
    "half a character in a path": (("output",), "\ud800"),
    "a null byte in a file's name": (("files", 0, "name"), "o\0"),
    "half a character in a file's name": (("files", 0, "name"), "\ud800"),
    "layers that are a number": (("layers",), 5),
    "seconds that are a text": (("seconds",), "x"),
    "what a terminal would act on": (("layers", "before"), "\x1b[31m"),
    "a size without end": (("bytes", "after"), 10**400),
    "another state": (("status",), "paused"),
}


@pytest.mark.parametrize("case", [*WORSE, "another name"])
def test_a_line_is_dropped(case, done):
    folder, (line, *_) = done
    way, value = WORSE.get(case, (("layers", "after"), None))
    damaged = changed(line, way, "replaced" if case in WORSE else "renamed", value)
    (folder / "results.jsonl").write_text(json.dumps(damaged) + "\n")
    assert not Results(folder / "results.jsonl").lines
    assert "1 done\n" in again(folder)
    assert "1 done before" in again(folder)
