"""What a person meets in a shell: help, completion, colours, how much is said, and errors that name the way out."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from rewriter.cli.command_group import COMMANDS, app
from rewriter.errors import OutputError, did_you_mean
from tests.support.builders import MODELS, ROOT, huggingface, prune, write_gguf
from tests.support.command_line import ok

LLAMA, GGUF = MODELS / "tiny-llama-12L", MODELS / "tiny-llama-12L-Q4_K_M.gguf"


def walked() -> dict[str, object]:
    """Every command by the words that call it, groups as well."""
    found, waiting = {}, [((), get_command(app))]
    while waiting:
        words, command = waiting.pop()
        found[" ".join(words)] = command
        names = command.list_commands(None) if hasattr(command, "list_commands") else []
        waiting += [((*words, name), command.get_command(None, name)) for name in names]
    return found


ALL = walked()


def test_all_commands_are_walked():
    assert {"", *COMMANDS, "list strategies", "list metrics", "list recipes", "list architectures"} == set(ALL)


# Help


@pytest.mark.parametrize("words", ALL)
def test_every_command_has_an_example_and_its_exit_codes(words, run):
    text = " ".join(ok(run(*words.split(), "--help")).split())
    assert re.search(rf"Example[^:]*: .*rewriter {words}", text)
    assert re.search(r"Exit codes: 0 .* 1 .* 2 wrong usage · 128\+N stopped by signal N", text)
    assert "--quiet -q" in text
    assert "--verbose -v" in text
    assert "`" not in text
    usage = text.partition("Usage: ")[2][:200]
    assert usage.startswith(f"rewriter {words} [OPTIONS]".replace("  ", " "))


def test_what_others_call_a_plan(run, tmp_path):
    for words in (["--dry-run"], ["a", "b", "--drop", "1", "--dry-run"]):
        code, out, err = run("prune", *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "did you mean rewriter plan?" in err
    assert "--dry-run" not in ok(run("prune", "--help"))
    assert completed("rewriter prune a b --dry") == []


def test_a_name_on_the_hub_and_json(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hint = "if that is a name on the Hub, fetch it first: hf download meta-llama/Llama-2-7b --local-dir Llama-2-7b\n"
    assert run("inspect", "meta-llama/Llama-2-7b")[2].endswith(hint)
    assert "config.json is JSON, no checkpoint: give the directory that it is in" in run(
        "inspect", LLAMA / "config.json"
    )[2]  # fmt: skip
    assert f"such as {MODELS}/" in run("inspect", MODELS)[2]


def test_what_would_be_ignored_is_refused(run):
    code, _, err = run("plan", GGUF, "--strategy", "top", "--count", "1", "--sparsity", "0.5")
    assert (code, err.startswith("rewriter: --sparsity is about layers chosen by")) == (2, True)
    assert run("plan", GGUF, "--count", "3", "--sparsity", "0.5") == (2, "", err)  # the default is another metric
    assert run("score", GGUF, "--sparsity", "0.5") == (2, "", "rewriter: --sparsity goes with --metric lamp\n")
    assert "did you mean recipe:shortgpt-llama-2-7b?" in run(
        "plan", GGUF, "--strategy", "shortgpt-llama-2-7b", "--count", "1"
    )[2]  # fmt: skip


def test_a_number_that_is_none(run):
    code, _, err = run("plan", GGUF, "--ratio", "25%")
    assert (code, err) == (2, "rewriter: --ratio 25%: write a number between 0 and 1, such as 0.25\n")
    assert run("plan", GGUF, "--ratio", "25")[2] == err.replace("25%", "25")


def test_an_output_that_is_called_what_it_is_not_is_spoken_of(run, tmp_path):
    for source, name, kind in ((LLAMA, "x.gguf", "a Hugging Face directory"), (GGUF, "x.safetensors", "a GGUF file")):
        out = ok(run("prune", source, tmp_path / name, "--drop", "1"))
        assert f"note: {name} sounds like" in out
        assert f"but is {kind}, as the source: nothing is converted" in out
    assert "sounds like" not in ok(run("prune", GGUF, tmp_path / "y.gguf", "--drop", "1"))


def test_help_is_a_command_too(run):
    assert ok(run("help", "prune")) == ok(run("prune", "--help"))
    assert ok(run("help")).strip() == ok(run("--help")).strip()
    code, out, _ = run()
    assert (code, out.strip()) == (2, ok(run("--help")).strip())


def test_a_model_without_rules_is_inspected_by_those_that_are_given(run, tmp_path):
    source = write_gguf(tmp_path / "model.gguf", arch="something")
    assert "no rules for it: --generic may work" in ok(run("inspect", source))
    generic = json.loads(ok(run("inspect", source, "--generic", "--json")))
    rules = tmp_path / "mine.toml"
    rules.write_text(ok(run("list", "architectures", "--toml", "gguf/llama")).replace("llama", "something"))
    mine = json.loads(ok(run("inspect", source, "--architecture", rules, "--json")))
    assert generic == mine
    assert mine["known"]
    assert [(stack["name"], stack["layers"]) for stack in mine["stacks"]] == [
        ("main", len(mine["stacks"][0]["per_layer"]))
    ]
    assert run("inspect", source, "--architecture", tmp_path / "none.toml")[0] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan"], "missing argument 'SRC' (see rewriter plan --help)"),
        (["plan", "a", "--nothing"], "no such option: --nothing (see rewriter plan --help)"),
        (["plan", "a", "b"], "got unexpected extra argument(s) (b) (see rewriter plan --help)"),
        (["plan", "a", "--drop"], "option '--drop' requires an argument (see rewriter --help)"),
        (["plan", "a", "--protect-first", "-1"], "invalid value for '--protect-first'"),
        (["list", "strategis"], "no such command 'strategis'. Did you mean 'strategies'? (see rewriter list --help)"),
        (["--nothing"], "no such option: --nothing (see rewriter --help)"),
    ],
)
def test_wrong_usage_is_one_line_that_names_the_help(words, message, run):
    code, out, err = run(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"rewriter: {message}")


# How much is said


@pytest.mark.parametrize("before", [True, False])
def test_quiet_says_nothing(before, run, tmp_path):
    target, page = tmp_path / "x", tmp_path / "x.html"
    for command in (["plan", LLAMA, "--drop", "1"], ["prune", LLAMA, target, "--drop", "1", "--hardlink"],
                    ["verify", target, "--source", LLAMA], ["inspect", GGUF], ["checksums", GGUF],
                    ["list", "strategies"], ["score", LLAMA], ["report", GGUF, "-o", page, "--no-scores"]):  # fmt: skip
        assert ok(run("-q", *command) if before else run(*command, "--quiet")) == ""
    assert target.exists()
    assert page.exists()


def test_quiet_keeps_errors_and_json(run, tmp_path):
    assert run("prune", LLAMA, tmp_path / "x", "--drop", "99", "-q")[2].startswith("rewriter: layer 99 is out of range")
    assert json.loads(ok(run("inspect", GGUF, "--json", "-q")))["name"] == GGUF.name
    source = huggingface(tmp_path / "bad", layers=4, num_hidden_layers=5)
    code, out, err = run("verify", source, "-q")
    assert (code, out.count("\n"), err) == (1, 1, "")


def test_verbose_says_what_is_done(run, tmp_path):
    code, out, err = run("prune", LLAMA, tmp_path / "x", "--drop", "1", "-v", "--no-share", "--verify")
    assert code == 0
    assert out.startswith(f"{tmp_path}/x: stack main, 12 layers -> 11")
    for line in ("model-00002-of-00003.safetensors (1,990,536 bytes", "rules: huggingface/llama, the metadata says",
                 "stacks: main (12 layers)", "num_hidden_layers follows by the rule count", "9 go\n", "(--no-share)",
                 "every byte compared, waited for the disk, "):  # fmt: skip
        assert line in err
    assert json.loads(run("-v", "plan", LLAMA, "--drop", "1", "--json")[1])["kind"] == "rewriter-plan"


def test_verbose_names_the_files_that_are_verified(run, tmp_path):
    ok(run("prune", GGUF, tmp_path / "x.gguf", "--drop", "1"))
    code, out, err = run("verify", tmp_path / "x.gguf", "--source", GGUF, "-v")
    assert (code, out.startswith("ok: ")) == (0, True)
    assert [line.split(" (")[0] for line in err.splitlines() if line.startswith("read: ")] == [
        f"read: {tmp_path}/x.gguf",
        f"read: {GGUF}",
    ]


def test_quiet_and_verbose_contradict_each_other(run):
    code, out, err = run("-q", "inspect", GGUF, "-v")
    assert (code, out, err) == (2, "", "rewriter: --quiet and --verbose cannot be combined: give one\n")


def test_a_log_breaks_no_names_and_ends_lines_with_their_text(run, tmp_path, monkeypatch):
    output = f"{'long-' * 30}{{stem}}-{{strategy}}.gguf"
    (tmp_path / "jobs.toml").write_text(
        f'[[job]]\nsource = "{GGUF}"\nstrategy = "middle"\ncount = 1\noutput = "{output}"\n'
    )
    monkeypatch.chdir(tmp_path)
    shown = {}
    for columns in ("", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        for command in (["batch", "jobs.toml", "--dry-run"], ["inspect", LLAMA], ["score", GGUF, "--metric", "lamp"]):
            lines = ok(run(*command)).splitlines()
            assert lines == [line.rstrip() for line in lines]
            assert len(max((line for line in lines if "─" in line), key=len)) < 250
            shown[columns, command[0]] = lines
    name = output.format(stem=GGUF.stem, strategy="middle")
    assert any(name in line for line in shown["", "batch"])
    assert not any(name in line for line in shown["80", "batch"])
    assert shown["", "inspect"] == shown["80", "inspect"]


# Colours


def on_a_terminal(*arguments: object, **environment: str) -> str:
    ours, theirs = pty.openpty()
    variables = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "rewriter", *map(str, arguments)],
        stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, cwd=ROOT,
        env={**variables, "TERM": "xterm", **environment},
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    while select.select([ours], [], [], 20)[0]:
        try:
            seen += os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
    os.close(ours)
    process.wait()
    return seen.decode()


STYLED = re.compile(r"\x1b\[[0-9;]*m")
COLOURED = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-79]|4[0-7]|9[0-7]|[34]8;[25];[0-9;]+)(?:;[0-9]+)*m")
SHOWN = {"help": ["--help"], "help of a command": ["prune", "--help"], "table": ["inspect", GGUF]}


@pytest.mark.parametrize("arguments", SHOWN.values(), ids=SHOWN)
def test_colours_follow_the_environment(arguments):
    assert STYLED.search(on_a_terminal(*arguments))
    assert not COLOURED.search(on_a_terminal(*arguments, NO_COLOR="1"))
    assert not STYLED.search(on_a_terminal(*arguments, TERM="dumb"))


@pytest.mark.parametrize("arguments", SHOWN.values(), ids=SHOWN)
def test_a_pipe_is_coloured_only_by_force(arguments):
    def printed(**environment: str) -> str:
        variables = {**os.environ, "TERM": "xterm", **environment}
        done = subprocess.run([sys.executable, "-m", "rewriter", *map(str, arguments)], capture_output=True, text=True,
                              check=False, cwd=ROOT, env=variables)  # fmt: skip
        return done.stdout + done.stderr

    assert not STYLED.search(printed())
    assert STYLED.search(printed(FORCE_COLOR="1"))


# Completion


def completed(line: str, folder: Path = MODELS, **more: str) -> list[str]:
    """What bash is offered for the last word of `line`."""
    words = re.split(r"(?<!\\) ", line)  # bash's own script joins them by newlines, as they were typed
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "_REWRITER_COMPLETE": "complete_bash",
                   "COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1), **more}  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "rewriter"], capture_output=True, text=True, check=True, cwd=folder,
                          env=environment)  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


def test_what_is_offered(tmp_path):
    assert completed("rewriter ") == list(COMMANDS)
    assert completed("rewriter pr") == ["prune"]
    assert completed("rewriter list m") == ["metrics"]
    assert completed("rewriter prune a b --target") == ["--target-size"]
    assert completed("rewriter prune a b --strategy even") == ["even-alternate"]
    assert "recipe:shortgpt-llama-2-7b" in completed("rewriter plan a --strategy ")
    assert completed("rewriter score a --metric magnitude") == ["magnitude-l1", "magnitude-l2"]
    assert completed("rewriter list architectures --toml gguf/gemma3n") == ["gguf/gemma3n"]
    assert completed(f"rewriter prune {GGUF.name} x --stack m") == ["main"]
    assert completed("rewriter prune nothing x --stack m") == []
    assert completed("rewriter --version ver") == ["verify"]


@pytest.mark.parametrize("number", ["", "x", "-1", "99", "9" * 5000, "\u00b2"])
def test_a_place_that_is_none_is_the_last_word_or_a_new_one(number):
    assert completed("rewriter pr", COMP_CWORD=number) in (["prune"], list(COMMANDS))
    assert completed("rewriter plan a --strategy recipe :", COMP_CWORD=number)


@pytest.mark.parametrize("typed", ["my\\ model.gguf", "'my\\ model.gguf'"])
def test_the_stacks_of_a_source_with_a_blank_in_its_name(typed, tmp_path):
    name = typed if typed[0] == "'" else "my model.gguf"
    shutil.copy(GGUF, tmp_path / name.strip("'"))
    assert completed(f"rewriter prune {typed} x --stack m", tmp_path) == ["main"]
    line = f"rewriter prune {typed} x --stack m"
    zsh = {"_REWRITER_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
    assert any("main" in word for word in completed(line, tmp_path, **zsh))


def test_help_is_completed_too():
    assert completed("rewriter help ") == list(COMMANDS)
    assert completed("rewriter help p") == ["plan", "prune"]
    assert completed("rewriter help list m") == ["metrics"]
    assert completed("rewriter help nothing p") == ["plan", "prune"]


def test_a_recipe_is_completed_although_bash_breaks_its_name():
    assert "shortgpt-llama-2-7b" in completed("rewriter plan a --strategy recipe :")
    assert completed("rewriter plan a --strategy recipe : shortgpt-m") == ["shortgpt-mistral-7b"]
    assert completed("rewriter plan a --strategy = recipe : shortgpt-m") == ["shortgpt-mistral-7b"]


def test_a_value_is_completed_behind_an_equals_sign():
    assert completed("rewriter plan a --strategy = even") == ["even-alternate"]
    assert "middle" in completed("rewriter plan a --count = 3 --strategy =")
    assert completed("rewriter plan a --strategy = top --coun") == ["--count"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_s_own_script(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    (tmp_path / "rewriter").write_text(f'#!/bin/sh\nexec {sys.executable} -m rewriter "$@"\n')
    (tmp_path / "rewriter").chmod(0o755)
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }

    def ask(text: str) -> str:
        done = subprocess.run([shell, "-c", text], capture_output=True, text=True, env=environment, check=True)
        return done.stdout

    script = ask("rewriter --show-completion; true")
    assert "_REWRITER_COMPLETE" in script
    assert "completion installed in" in ask("rewriter --install-completion; true")
    if shell == "bash":
        (tmp_path / "script").write_text(script)
        asked = "COMP_WORDS=(rewriter ver); COMP_CWORD=1; _rewriter_completion rewriter; echo ${COMPREPLY[@]}"
        assert ask(f"source {tmp_path}/script; {asked}") == "verify\n"
    if shell == "fish":
        (tmp_path / "script").write_text(script)
        assert ask(f"source {tmp_path}/script; complete -C 'rewriter ver'").split()[0] == "verify"


# Errors that name the way out


@pytest.mark.parametrize(
    ("arguments", "question"),
    [
        (["--stack", "Main", "--drop", "1"], "did you mean --stack main?"),
        (["--strategy", "midle", "--count", "1"], "did you mean middle?"),
        (["--strategy", "influenc", "--count", "1"], "did you mean influence?"),
        (["--strategy", "recipe:shortgpt-llama2-7b", "--count", "1"], "did you mean recipe:shortgpt-llama-2-7b?"),
        (["--drop", "1", "--keep-field", "llama.block_cout"], "did you mean llama.block_count?"),
    ],
)
def test_a_name_that_is_nearly_right(arguments, question, run):
    code, _, err = run("plan", GGUF, *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert err.endswith(f"; {question}\n")


def test_a_command_and_an_entry_that_are_nearly_right(run, tmp_path):
    assert "Did you mean 'prune'?" in run("prun")[2]
    assert run("list", "architectures", "--toml", "gguf/lama")[2].endswith("; did you mean gguf/llama?\n")
    (tmp_path / "mine.toml").write_text(
        ok(run("list", "architectures", "--toml", "gguf/llama")).replace("name", "nam", 1)
    )
    code, _, err = run("plan", GGUF, "--drop", "1", "--architecture", tmp_path / "mine.toml")
    assert (code, err.endswith("; did you mean name?\n")) == (1, True)


def test_a_file_that_is_nearly_there(run):
    assert run("inspect", MODELS / "tiny-llama-12")[2].endswith(f"; did you mean {LLAMA}?\n")
    assert run("inspect", MODELS / "nothing" / "x")[2].endswith("; its folder does not exist either\n")
    assert "did you mean" not in run("inspect", MODELS / "zzz")[2]


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"PK\3\4" + bytes(40), ["a PyTorch or zip file", "convert_hf_to_gguf.py"]),
        (b"\x80\2" + bytes(40), ["a pickle", "save_pretrained"]),
        (b"\x80\4" + bytes(40), ["a pickle", "save_pretrained"]),
        (b"who knows", ["neither a GGUF nor", "convert_hf_to_gguf.py"]),
        (b"version https://git-lfs.github.com/spec/v1\n", ["Git LFS pointer", "git lfs pull"]),
        (b"", ["is empty"]),
    ],
)
def test_another_kind_of_file(start, words, run, tmp_path):
    (tmp_path / "model.bin").write_bytes(start)
    code, _, err = run("inspect", tmp_path / "model.bin")
    assert (code, err.count("\n")) == (1, 1)
    assert all(word in err for word in ["model.bin is ", *words])


def test_a_directory_of_another_kind(run, tmp_path):
    source = huggingface(tmp_path / "inside")
    assert run("inspect", tmp_path)[2].endswith(f"did you mean {source}?\n")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "pytorch_model.bin").write_bytes(b"PK\3\4")
    assert "pytorch_model.bin would have to be converted first: " in run("inspect", tmp_path / "torch")[2]


def test_that_names_end_alike_does_not_make_them_near(run, tmp_path):
    write_gguf(tmp_path / "fits.gguf")
    assert "did you mean" not in run("inspect", tmp_path / "missing.gguf")[2]
    assert run("inspect", tmp_path / "fit.GGUF")[2].endswith(f"; did you mean {tmp_path}/fits.gguf?\n")


def test_guesses_are_shown_safely():
    assert did_you_mean("x\x1bab", ["x\x1babc"]) == r"; did you mean x\x1babc?"
    assert did_you_mean("abc", ["xyz"]) == ""
    assert did_you_mean("a" * 10_000, [f"b{number}" for number in range(100_000)]) == ""


# What somebody has added to an output


def test_what_was_added_to_an_output_is_not_lost(tmp_path):
    source = huggingface(tmp_path / "in")
    target = prune(source, tmp_path / "out", [0, 1, 2])
    (target / "logs").mkdir()
    (target / "logs" / "mine.txt").write_text("mine")
    (target / "model-00009-of-00009.safetensors").write_bytes(b"")  # as an earlier output with more shards
    with pytest.raises(OutputError, match=re.escape("would lose logs/mine.txt: move")):
        prune(source, target, [0, 1], overwrite=True)
    assert (target / "logs" / "mine.txt").read_text() == "mine"
    shutil.rmtree(target / "logs")
    prune(source, target, [0, 1], overwrite=True)
    assert not (target / "model-00009-of-00009.safetensors").exists()


def test_a_wrong_count_is_said_once(run, tmp_path):
    shutil.copytree(LLAMA, tmp_path / "bad")
    config = tmp_path / "bad" / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 12', '"num_hidden_layers": 11'))
    code, out, _ = run("verify", tmp_path / "bad", "--source", LLAMA)
    assert (code, out) == (1, "num_hidden_layers: expected 12, as the tensors have layers, found 11\n")
