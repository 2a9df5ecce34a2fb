"""The command line: what it prints, its exit codes, its JSON, and that bad input is one line."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.builders import (
    MODELS,
    everything,
    gguf_field,
    gguf_record,
    gguf_string,
    huggingface,
    llama_names,
    raw_gguf,
    write_config,
    write_gguf,
    write_safetensors,
)
from tests.support.command_line import ok, on_a_terminal

LLAMA, GGUF = MODELS / "tiny-llama-12L", MODELS / "tiny-llama-12L-Q4_K_M.gguf"


# What is printed


def test_version_and_help(run):
    assert re.fullmatch(r"rewriter \d+\.\d+\.\d+\n", ok(run("--version")))
    assert "Exit codes" in ok(run("--help"))
    for command in ("inspect", "plan", "prune", "verify"):
        assert "Example" in ok(run(command, "--help"))


# JSON for programs

SUMS = {"tensors", "parameters", "bytes"}


# Saved plans


def test_what_does_not_fit_because_of_protected_layers(run):
    _, _, err = run("plan", GGUF, "--target-size", "1MB", "--strategy", "magnitude-l2")
    assert "while the first 2 and the last 2 are protected; --protect-first 0 --protect-last 0 lets more go" in err
    bare = ("--protect-first", "0", "--protect-last", "0")
    assert "drop" in ok(run("plan", GGUF, "--target-size", "1MB", "--strategy", "magnitude-l2", *bare))
    assert "protected" not in run("plan", GGUF, "--target-size", "1kB", "--strategy", "top")[2]


# Exit codes and bad input

USAGE = {
    "nothing": [],
    "two ways": ["--drop", "1", "--keep", "2"],
    "all": ["--drop", "0-11"],
    "out of range": ["--drop", "12"],
    "far out of range": ["--drop", "0-99999999999999"],
    "far below": ["--drop", "-13"],
    "backwards": ["--drop", "5-3"],
    "empty": ["--drop", ""],
    "empty item": ["--drop", "1,,2"],
    "garbage": ["--keep", "1;2"],
    "underscore": ["--drop", "1_0"],
    "plus": ["--drop", "+1"],
    "space": ["--drop", "1 2"],
    "leading zero": ["--drop", "01"],
    "arabic": ["--drop", "١"],
    "unknown strategy": ["--strategy", "best", "--count", "1"],
    "no amount": ["--strategy", "top"],
    "two amounts": ["--strategy", "top", "--count", "1", "--ratio", "0.5"],
    "ratio 1": ["--strategy", "top", "--ratio", "1"],
    "ratio nan": ["--strategy", "top", "--ratio", "nan"],
    "count 0": ["--strategy", "top", "--count", "0"],
    "count 12": ["--strategy", "top", "--count", "12"],
    "protected": ["--strategy", "top", "--count", "9", "--protect-first", "4"],
    "size": ["--strategy", "top", "--target-size", "4 potatoes"],
    "tiny size": ["--strategy", "top", "--target-size", "1kB"],
    "stack": ["--stack", "vision", "--drop", "1"],
    "field": ["--drop", "1", "--keep-field", "nothing.like.it"],
}


@pytest.mark.parametrize("arguments", USAGE.values(), ids=USAGE)
def test_usage_errors(arguments, run, tmp_path):
    code, out, err = run("prune", GGUF, tmp_path / "x.gguf", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("rewriter: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--count", "x"], ["--nothing"], ["--drop"], ["--protect-last", "-1"]])
def test_usage_errors_that_typer_finds(arguments, run, tmp_path):
    code, out, err = run("prune", GGUF, tmp_path / "x.gguf", *arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_negative_numbers_need_no_tricks(run):
    for arguments in (["--drop", "-1"], ["--drop=-1"], ["--drop", "-1,-2"], ["--drop", "-1,0"]):
        out = ok(run("plan", GGUF, *arguments))
        assert f"12 layers -> {11 if ',' not in arguments[-1] else 10}" in out


def bad_inputs(folder: Path) -> dict[str, Path]:
    """Sources that are refused, by what is wrong with them."""
    text = folder / "text.gguf"
    text.write_text("This is no checkpoint.\n")
    empty = folder / "empty"
    empty.write_bytes(b"")
    cut = folder / "cut.gguf"
    cut.write_bytes(GGUF.read_bytes()[:100_000])
    unknown = write_gguf(folder / "unknown.gguf", arch="novel")
    uncut = write_gguf(folder / "uncut.gguf", fields={"attention.head_count_kv": [1, 2, 3]})
    mystery = write_gguf(folder / "mystery.gguf", fields={"mystery": [1, 2, 3, 4, 5, 6]})
    (folder / "no model").mkdir()
    nan = raw_gguf(folder / "nan.gguf", [gguf_field("general.architecture", 8, gguf_string("novel"))],
                   [gguf_record("blk.0.w", [8], 0, 0)], bytes(32))  # fmt: skip
    return {path.name: path for path in (text, empty, cut, unknown, uncut, mystery, folder / "no model", nan)} | {
        "missing": folder / "missing", "device": Path("/dev/zero"), "null": Path("/dev/null")
    }  # fmt: skip


BAD = {
    "text.gguf": "neither a GGUF nor a safetensors file",
    "empty": "neither a GGUF nor a safetensors file",
    "cut.gguf": "it is cut off",
    "unknown.gguf": "--generic tries it",
    "uncut.gguf": "has 3 entries for 6 layers",
    "mystery.gguf": "mystery cuts it, --keep-field ",
    "no model": "holds no safetensors files",
    "nan.gguf": "--generic tries it",
    "missing": "cannot open missing: no such file",
    "device": "zero is not a regular file",
    "null": "null is not a regular file",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, run, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    path = bad_inputs(tmp_path / "in")[name]
    before = everything(tmp_path / "in")
    for command in (["prune", path, tmp_path / "out" / "x", "--drop", "0"], ["plan", path, "--drop", "0"]):
        code, out, err = run(*command)
        assert (code, out) == (1, "")
        assert err.startswith("rewriter: ")
        assert BAD[name] in err
        assert err.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []
    assert everything(tmp_path / "in") == before


def test_the_offered_way_out_works(run, tmp_path):
    source = bad_inputs(tmp_path)["mystery.gguf"]
    ok(run("prune", source, tmp_path / "cut.x", "--drop", "0", "--per-layer-field", "llama.mystery"))
    ok(run("prune", source, tmp_path / "kept.x", "--drop", "0", "--keep-field", "mystery"))
    unknown = tmp_path / "unknown.gguf"
    ok(run("prune", unknown, tmp_path / "generic.x", "--drop", "0", "--generic"))
    for name in ("cut.x", "kept.x", "generic.x"):
        ok(run("verify", tmp_path / name))
    assert b"--keep-field llama.mystery" in (tmp_path / "kept.x").read_bytes()


HOSTILE_NAMES = ["[red]x[/red]", "\x1b[31mred\x1b[0m", "a\nb", "\u202egpj.exe", "long" * 30, "tab\there", ":smile:"]


def test_names_are_shown_safely(run, tmp_path):
    names = [f"{name}.layers.{number}.w" for name in HOSTILE_NAMES for number in range(2)]
    source = huggingface(tmp_path / "in", names=names, model_type="\x1b[31m[bold]" + "x" * 60)
    for arguments in (
        ["inspect", source],
        ["plan", source, "--drop", "0"],
        ["plan", source, "--drop", "0", "--generic"],
    ):
        _, out, err = run(*arguments)
        for character in (out + err).replace("\n", ""):
            assert character.isprintable(), (arguments, ascii(character))
        assert "x" * 41 not in out + err
        assert "longlong" * 6 not in out + err
    out = run("inspect", source)[1]
    assert "[red]x[/red]" in out
    assert ":smile:" in out
    assert r"\x1b[31m" in out


@pytest.mark.parametrize("arguments", [[], ["--verify"]])
def test_verify_compares_the_bytes(arguments, run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "rewriter.writing.write.check_plan", lambda checkpoint, plan, with_bytes: asked.append(with_bytes)
    )
    ok(run("prune", GGUF, tmp_path / "x.gguf", "--drop", "1", *arguments))
    assert asked == [bool(arguments)]


def test_arguments_are_shown_safely(run, tmp_path):
    long = "\x1b[31m" + "y" * 200
    for arguments in (
        ["plan", GGUF, "--drop", long], ["plan", GGUF, "--stack", long, "--drop", "1"], ["plan", tmp_path / long],
        ["plan", GGUF, "--strategy", long, "--count", "1"], ["prune", GGUF, tmp_path / long / "x", "--drop", "1"],
        ["verify", tmp_path / long], ["plan", GGUF, "--strategy", "top", "--target-size", long],
        ["plan", GGUF, "--drop", "1", "-o", tmp_path / long / "x"], ["plan", GGUF, "--drop", "1" * 200],
    ):  # fmt: skip
        code, out, err = run(*arguments)
        assert code in (1, 2)
        assert (out + err).count("\n") == 1
        assert "\x1b" not in out + err
        assert "y" * 41 not in out + err
        assert "1" * 60 not in err


@pytest.mark.parametrize("name", ["x\x1b[31m.gguf", "new\nline.gguf", os.fsdecode(b"\xff\xfe.gguf")])
def test_odd_destinations_are_shown_safely(name, run, tmp_path):
    code, out, err = run("prune", GGUF, tmp_path / name, "--drop", "1")
    assert (code, err) == (0, "")
    assert (tmp_path / name).exists()
    assert "\x1b" not in out
    assert len(out.splitlines()) == 3


def test_metadata_values_are_shown_safely(run, tmp_path):
    source = huggingface(tmp_path / "in", layer_types=["\x1b[31m[red]" + "z" * 200] * 6)
    out = ok(run("plan", source, "--drop", "0"))
    assert "\x1b" not in out
    assert "z" * 61 not in out


# Real processes


def rewriter(*arguments, **how) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rewriter", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **how)


def test_the_module_runs(tmp_path):
    done = rewriter("prune", GGUF, tmp_path / "x.gguf", "--drop", "1")
    assert (done.returncode, done.stderr) == (0, "")
    failed = rewriter("prune", GGUF, tmp_path / "x.gguf", "--drop", "1")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == "rewriter: x.gguf exists already; --overwrite replaces it\n"


def test_a_terminal_that_knows_only_ascii(tmp_path):
    done = rewriter("inspect", GGUF, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def environment(request):
    """What is printed may be held back until the end, or not."""
    return {**os.environ, "PYTHONUNBUFFERED": request.param}


def test_a_full_or_closed_stdout(environment):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "rewriter", "inspect", str(GGUF), "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (1, "rewriter: no space left on device\n")


def test_a_reader_that_goes_away(environment):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "rewriter", "inspect", str(GGUF), "--json"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_progress_bar_on_a_terminal(tmp_path):
    code, seen = on_a_terminal("prune", MODELS / "tiny-llama-12L-F16.gguf", tmp_path / "x.gguf", "--drop", "1")
    assert code == 0
    assert "━" in seen
    assert re.search(r"5\.\d/5\.\d MB", seen)
    assert "next: rewriter verify" in seen


def test_errors_are_one_line_on_a_terminal_too(tmp_path):
    code, seen = on_a_terminal("plan", tmp_path / "x", "--drop", "1")
    assert (code, seen) == (1, "rewriter: cannot open x: no such file or directory\r\n")


def test_a_lone_file_from_end_to_end(run, tmp_path):
    write_config(tmp_path / "config.json", model_type="llama", num_hidden_layers=6)
    source = write_safetensors(tmp_path / "model.safetensors", llama_names(6))
    ok(run("prune", source, tmp_path / "out.safetensors", "--strategy", "first-n", "--count", "2", "--verify"))
    assert json.loads((tmp_path / "out.config.json").read_text())["num_hidden_layers"] == 2
    ok(run("verify", tmp_path / "out.safetensors", "--source", source))
    assert struct.unpack("<Q", (tmp_path / "out.safetensors").read_bytes()[:8])[0] % 8 == 0
