"""Model cards: what is written stays, what is added is right, and what cannot be changed safely is left alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rewriter import PlanOptions, make_output, make_plan, open_checkpoint, verify, write
from rewriter.errors import RequestError
from rewriter.formats.front_matter import CardError, edit, split
from rewriter.layout.model_card_text import HEALING, make_card
from rewriter.planning.saved_plan import load_plan, replan
from tests.support.builders import (
    ROOT,
    everything,
    huggingface,
    llama_names,
    write_config,
    write_gguf,
    write_safetensors,
)
from tests.support.cards import REAL

TAGS = ("pruned", "layer-pruning")
LINEAGE = {"base_model": "org/name", "base_model_relation": "pruned"}


def pruned(text: str | bytes | None, folder: Path, **options) -> str | None:
    """The card of the output for a source with the card `text`."""
    source = with_card(text, folder)
    plan = make_plan(open_checkpoint(source), [0, 2, 5], PlanOptions(**{"base_model": "org/name", **options}))
    write(plan, folder / "out")
    assert verify(folder / "out", source) == ()
    card = folder / "out" / "README.md"
    return card.read_bytes().decode() if card.exists() else None


def rewriter(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rewriter", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)


def with_card(text: str | bytes | None, folder: Path) -> Path:
    source = huggingface(folder / "in", layers=6)
    if text is not None:
        (source / "README.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    return source


def front(text: str) -> dict:
    """What PyYAML makes of the block at the head."""
    return yaml.safe_load(re.match(r"\ufeff?---\r?\n(.*?)\r?\n---", text, re.DOTALL)[1])


def edited(block: str, eol: str = "\n", lineage=LINEAGE, without=()) -> str:
    return edit(block, eol, lineage, TAGS, without)


# The front matter: YAML before, YAML after

BLOCKS = {
    "nothing": ("", "base_model: org/name\nbase_model_relation: pruned\ntags:\n- pruned\n- layer-pruning\n"),
    "comments alone": (
        "# mine\n",
        "# mine\nbase_model: org/name\nbase_model_relation: pruned\ntags:\n- pruned\n- layer-pruning\n",
    ),
    "order, quotes and comments": (
        "license: 'mit'   # really\n\n# our tags\ntags:\n  - \"a\"  # first\n  - b\n\n"
        "# the end\nlanguage: [en,  'de']\n",
        "license: 'mit'   # really\n\n# our tags\ntags:\n  - \"a\"  # first\n  - b\n  - pruned\n  - layer-pruning\n\n"
        "# the end\nlanguage: [en,  'de']\nbase_model: org/name\nbase_model_relation: pruned\n",
    ),
    "tags in a row": (
        "tags: [a, 'b c', ]\n",
        "tags: [a, 'b c', pruned, layer-pruning, ]\nbase_model: org/name\nbase_model_relation: pruned\n",
    ),
    "tags in rows": (
        "tags: [\n  a,\n  b\n]\nx: 1\n",
        "tags: [\n  a,\n  b, pruned, layer-pruning\n]\nx: 1\nbase_model: org/name\nbase_model_relation: pruned\n",
    ),
    "one tag": (
        "tags: a\nx: 1\n",
        "tags: ['a', 'pruned', 'layer-pruning']\nx: 1\nbase_model: org/name\nbase_model_relation: pruned\n",
    ),
    "no tags": ("tags: []\n", "tags: ['pruned', 'layer-pruning']\nbase_model: org/name\nbase_model_relation: pruned\n"),
    "empty tags": (
        "tags:\nx: 1\n",
        "tags: ['pruned', 'layer-pruning']\nx: 1\nbase_model: org/name\nbase_model_relation: pruned\n",
    ),
    "some of our tags": (
        "tags:\n- pruned\n- x\n",
        "tags:\n- pruned\n- x\n- layer-pruning\nbase_model: org/name\nbase_model_relation: pruned\n",
    ),
    "another base model": (
        'base_model: "a/b" # whence\nbase_model_relation: finetune\ntags: [pruned, layer-pruning]\n',
        "base_model: org/name # whence\nbase_model_relation: pruned\ntags: [pruned, layer-pruning]\n",
    ),
    "several base models": (
        "base_model:\n- a/b\n- c/d  # both\n# next\ntags: [pruned, layer-pruning]\n",
        "base_model: org/name\n# next\ntags: [pruned, layer-pruning]\nbase_model_relation: pruned\n",
    ),
    "indented": (
        "  license: mit\n  tags:\n  - a\n",
        "  license: mit\n  tags:\n  - a\n  - pruned\n  - layer-pruning\n"
        "  base_model: org/name\n  base_model_relation: pruned\n",
    ),
    "a text in lines": (
        "x: |\n  tags:\n  - a\n\n  base_model: no\ny: 'a\n\n  b'\n",
        "x: |\n  tags:\n  - a\n\n  base_model: no\ny: 'a\n\n  b'\nbase_model: org/name\nbase_model_relation: pruned\n"
        "tags:\n- pruned\n- layer-pruning\n",
    ),
    "other alphabets": (
        "language: 日本語 # ü\ntags:\n- 模型 # 🦙\n",
        "language: 日本語 # ü\ntags:\n- 模型 # 🦙\n- pruned\n- layer-pruning\nbase_model: org/name\n"
        "base_model_relation: pruned\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("eol", ["\n", "\r\n"])
@pytest.mark.parametrize("name", BLOCKS)
def test_the_front_matter_is_changed_where_it_must_be_and_nowhere_else(name, eol):
    before, after = (text.replace("\n", eol) for text in BLOCKS[name])
    assert edited(before, eol) == after
    assert edited(after, eol) == after  # a second time nothing changes
    assert yaml.safe_load(after)["base_model"] == "org/name"


def test_results_go_and_what_stands_around_them_stays():
    block = "a: 1\n# why\nmodel-index:\n- name: x\n  results:\n  - value: 0.9\n    # good\n\n# tail\nb: 2\n"
    assert edited(block, without=("model-index",)).startswith("a: 1\n# why\n\n# tail\nb: 2\nbase_model:")
    assert edited("model-index:\n- name: x\n", without=("model-index",)).startswith("base_model:")
    assert edited("model-index: [] # none\nb: 2\n", without=("model-index",)).startswith("b: 2\nbase_model:")


def test_a_name_that_yaml_would_take_for_a_number_is_quoted():
    for name in ("123", "1e5/1", "true", "gpt2", "null"):
        assert yaml.safe_load(edited("", lineage={"base_model": name}))["base_model"] == name


UNSAFE = {
    "not YAML": "a: [1\n",
    "tabs": "a:\n\t- b\n",
    "no mapping": "- a\n- b\n",
    "a text": "hello\n",
    "a mapping in a row": "{license: mit}\n",
    "twice": "tags: [a]\nlicense: mit\ntags: [b]\n",
    "an anchor": "tags: &t [a]\nother: *t\n",
    "an alias": "x: &t [a]\ntags: *t\n",
    "results that others mean": "model-index: &m\n- name: x\nother: *m\n",
    "tags of lists": "tags:\n- [a]\n",
    "tags of mappings": "tags:\n- a: b\n",
    "a tag of YAML": "tags: !!set {a, b}\n",
    "a key that is no text": "? [a]\n: b\n",
    "a bell": "a: \x07\n",
    "a merge": "x: &x {tags: [a]}\n<<: *x\ntags: *x\n",
    "deep": "a: " + "[" * 100_000 + "\n",
}


@pytest.mark.parametrize("name", UNSAFE)
def test_front_matter_that_is_not_plain_is_not_touched(name, tmp_path):
    with pytest.raises(CardError):
        edited(UNSAFE[name], without=("model-index",) if "model-index" in UNSAFE[name] else ())
    text = f"---\n{UNSAFE[name]}---\n# Title\n"
    assert pruned(text, tmp_path) == text


@pytest.mark.parametrize(
    "text", [b"---\nlicense: mit\n", b"---\n", b"---", b"\xef\xbb\xbf---\nx", b"\xff\xfe#", b"---\rlicense: mit\r---\r"]
)
def test_a_card_that_cannot_be_read_goes_along_and_it_is_said(text, tmp_path):
    source = with_card(text, tmp_path)
    done = rewriter("prune", source, tmp_path / "out", "--drop", "1")
    assert done.returncode == 0
    assert re.search(r"^note: README.md goes along as it is: .*$", done.stdout, re.MULTILINE)
    assert (tmp_path / "out" / "README.md").read_bytes() == text
    assert verify(tmp_path / "out", source) == ()


def test_a_huge_card_goes_along(tmp_path):
    text = b"# x\n" + b"a" * 4_000_000
    assert pruned(text, tmp_path) == text.decode()
    long = "---\nx: " + "a" * 1_100_000 + "\n---\n"
    assert make_card(make_plan(replace(open_checkpoint(tmp_path / "in"), card=long), [0, 1])).text is None


# The body


@pytest.mark.parametrize("eol", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("block", ["---\nlicense: mit\n---\n", "---\n---\n", "\n\n---\nlicense: mit\n---", ""])
def test_the_section_stands_under_the_title(block, mark, eol, tmp_path):
    body = "" if block.endswith("-") else "\nIntro.\n```\n# no title\n```\n\n# Title\n\nText.\n"
    text = mark + (block + body).replace("\n", eol)
    card = pruned(text, tmp_path)
    assert card.startswith(mark)
    assert ("\r\n" in card) == (eol == "\r\n" and "\n" in block + body)
    assert re.search(r"(?<!\r)\n", card) is None or "\r\n" not in card
    loaded = front(card.lstrip("\ufeff\r\n"))
    assert loaded == {**({"license": "mit"} if "mit" in block else {}), **LINEAGE, "tags": list(TAGS)}
    if body:
        title, section, rest = (card.index(part) for part in ("# Title", "## Pruned layers", "Text."))
        assert title < section < rest
        for part in body.replace("\n", eol).split("# Title"):
            assert part.strip() in card


def test_the_section_says_what_was_done(tmp_path):
    card = pruned("# Title\n", tmp_path)
    assert "This is [org/name](https://huggingface.co/org/name) without some of its layers." in card
    assert "| layers of the stack `main` | 6 | 3 |" in card
    assert "**1, 3-4**" in card
    assert "| 0 | 0 |\n| 2 | 1 |\n| 5 | 2 |\n" in card
    assert "Nothing was trained after that" in card
    assert HEALING in card
    assert "`rewriter prune SRC DST --stack main --keep 0,2,5`" in card


def test_a_second_run_tells_of_the_first_model(tmp_path):
    pruned("---\nmodel-index:\n- name: x\n---\n# Title\n", tmp_path)
    write(make_plan(open_checkpoint(tmp_path / "out"), [0, 2], PlanOptions()), tmp_path / "again")
    card = (tmp_path / "again" / "README.md").read_text()
    assert "This is [org/name](https://huggingface.co/org/name) without some of its layers." in card
    assert "| layers of the stack `main` | 3 | 2 |" in card
    assert "(`model-index`) do not hold for this one" in card
    assert "that are left in the stack `main`: 0, 5." in card
    assert {key: front(card)[key] for key in LINEAGE} == LINEAGE


@pytest.mark.parametrize("text", ["Title\n=====\n\nText.\n", "#### Deep\nText.", "Text without a title.\n", "", "# T"])
def test_every_body_gets_its_section_once(text, tmp_path):
    card = pruned(text, tmp_path)
    assert card.count("## Pruned layers") == card.count("<!-- rewriter: end -->") == 1
    again = tmp_path / "again"
    write(make_plan(open_checkpoint(tmp_path / "out"), [0, 2]), again)
    second = (again / "README.md").read_text()
    assert second.count("## Pruned layers") == second.count("<!-- rewriter: end -->") == 1
    assert "are left in the stack `main`: 0, 5." in second
    assert front(second) == front(card)  # what all this started from
    cut = re.compile(r"<!-- rewriter: pruned.*rewriter: end -->", re.DOTALL)
    assert cut.sub("", second) == cut.sub("", card)
    assert verify(again, tmp_path / "in") == ()


def test_a_mark_without_its_end_is_somebody_else_s(tmp_path):
    text = "# Title\n\n<!-- rewriter: pruned layers -->\nmine\n"
    assert pruned(text, tmp_path).endswith("\n\n<!-- rewriter: pruned layers -->\nmine\n")


# When there is a card, and what it names


def test_without_a_card_there_is_none_unless_it_is_asked_for(tmp_path):
    assert pruned(None, tmp_path / "a", base_model="") is None
    card = pruned(None, tmp_path / "b", card=True)
    assert card.startswith(
        "---\nbase_model: org/name\nbase_model_relation: pruned\ntags:\n- pruned\n- layer-pruning\n---\n"
    )
    assert "\n# name, pruned\n" in card


def test_no_card_leaves_it_as_it_is(tmp_path):
    assert pruned("# Title\n", tmp_path, card=False, base_model="") == "# Title\n"


def test_where_nothing_is_dropped_the_card_stays(tmp_path):
    source = with_card("# Title\n", tmp_path)
    plan = make_plan(open_checkpoint(source), range(6), PlanOptions(card=True))
    write(plan, tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == "# Title\n"
    assert plan.options.chosen_by == ""


@pytest.mark.parametrize("options", [{"card": True}, {"base_model": "org/name"}])
def test_a_file_has_no_card(options, tmp_path):
    write_config(tmp_path / "config.json", model_type="llama", num_hidden_layers=6)
    for source in (write_gguf(tmp_path / "x.gguf"), write_safetensors(tmp_path / "x.safetensors", llama_names(6))):
        with pytest.raises(RequestError, match=r"the README.md of a directory: x\.\w+ is a file"):
            make_plan(open_checkpoint(source), [0, 1], PlanOptions(**options))


@pytest.mark.parametrize("name", ["a/b/c", "../x", "a b", "a/", "-x/y", "x\ny/z", "a: b/c"])
def test_a_base_model_is_a_name_on_the_hub(name, tmp_path):
    with pytest.raises(RequestError, match="--base-model is ORG/NAME"):
        pruned("# x\n", tmp_path, base_model=name)


def test_a_base_model_for_no_card_is_refused(tmp_path):
    with pytest.raises(RequestError, match="--card writes one"):
        pruned(None, tmp_path)


def named(folder: Path, text: str, source: Path | None = None, **config) -> tuple[dict, str]:
    """The front matter of the output, and what is said about it."""
    source = source or with_card(text, folder)
    (source / "README.md").write_text(text)
    values = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**values, **config}))
    card = make_card(make_plan(open_checkpoint(source), [0, 2, 5]))
    return front(card.text), card.note


def test_the_cache_of_the_hub_names_the_model(tmp_path):
    source = huggingface(tmp_path / "models--org--a.name" / "snapshots" / "0123abc", layers=6)
    text = "---\nbase_model: other/thing\nbase_model_relation: finetune\n---\n# x\n"
    found, note = named(tmp_path, text, source, _name_or_path="x/y")
    assert (found["base_model"], found["base_model_relation"], note) == ("org/a.name", "pruned", "")


def test_the_config_names_the_model_unless_that_is_what_it_was_made_from(tmp_path):
    found, note = named(tmp_path / "a", "# x\n", _name_or_path="org/name")
    assert (found["base_model"], note) == ("org/name", "")
    for path in ("/home/me/model", "name", "a/b/c", "./x", 7):
        found, note = named(tmp_path / f"b{path!r}".replace("/", "|"), "# x\n", _name_or_path=path)
        assert "base_model" not in found
        assert note == "README.md names no base_model: which it is, only --base-model says"
    for base in ("org/name", "[other/x, org/name]"):
        found, note = named(tmp_path / base[:1], f"---\nbase_model: {base}\n---\n", _name_or_path="org/name")
        assert found == {"base_model": yaml.safe_load(base), "tags": list(TAGS)}
        assert note.startswith("README.md keeps the base_model of its source")


# A dry run, saved plans, records, the command line


def test_the_plan_knows_the_card(tmp_path):
    source = with_card(REAL, tmp_path)
    words = ("--drop", "1", "--base-model", "org/name")
    described = json.loads(rewriter("plan", source, *words, "--json").stdout)
    sizes = {file["name"]: file["bytes"] for file in described["files"]}
    rewriter("prune", source, tmp_path / "out", *words)
    assert sizes == {name: len(data) for name, data in everything(tmp_path / "out").items()}
    assert described["card"] == {
        "file": "README.md", "section": True, "note": "",
        "changes": {**LINEAGE, "tags": ["pruned", "layer-pruning"], "model-index": None},
    }  # fmt: skip
    assert "  README.md: base_model: " in rewriter("plan", source, *words).stdout


def test_saved_plans_and_resumed_runs_write_the_same_card(tmp_path):
    source = with_card(REAL, tmp_path)
    words = ("--ratio", "0.3", "--base-model", "org/name")
    rewriter("prune", source, tmp_path / "one", *words, "--resume", "--checksums", "--verify")
    rewriter("plan", source, *words, "-o", tmp_path / "plan.json")
    rewriter("prune", source, tmp_path / "two", "--plan", tmp_path / "plan.json", "--checksums")
    assert everything(tmp_path / "one") == everything(tmp_path / "two")
    assert re.search(r"\*\*, chosen by [a-z0-9-]+\.", (tmp_path / "two" / "README.md").read_text())
    assert verify(tmp_path / "one", source, checksums=True) == ()
    (tmp_path / "one" / "README.md").write_text("damaged")
    assert [problem.where for problem in verify(tmp_path / "one", checksums=True)] == ["README.md"]
    (tmp_path / "one" / "README.md").unlink()
    assert [problem.where for problem in verify(tmp_path / "one", source)] == ["README.md"]


def test_a_plan_with_a_card_fits_the_gguf_of_the_model(tmp_path):
    source = with_card("# x\n", tmp_path)
    rewriter("plan", source, "--drop", "1", "--card", "--base-model", "org/name", "-o", tmp_path / "plan.json")
    plan, same = replan(load_plan(tmp_path / "plan.json"), open_checkpoint(write_gguf(tmp_path / "x.gguf", layers=6)))
    assert not same
    assert plan.options.card is None
    sibling = huggingface(tmp_path / "sibling", layers=6, bos_token_id=7)
    plan, same = replan(load_plan(tmp_path / "plan.json"), open_checkpoint(sibling))
    assert not same
    assert (plan.options.card, plan.options.base_model) == (True, "")


def test_a_real_card(tmp_path):
    card = pruned(REAL, tmp_path)
    before, after = front(REAL), front(card)
    assert "model-index" in before
    assert after.pop("tags") == [*before.pop("tags"), *TAGS]
    assert {**before, **LINEAGE} == {**after, "model-index": before["model-index"]}
    _, block, rest = split(REAL)
    for line in block[: block.index("base_model")].splitlines():
        assert line in card
    assert "base_model: org/name   # what it was tuned from\nbase_model_relation: pruned\ndatasets: [" in card
    assert card.endswith(rest[rest.index("## Usage") :])


def test_the_same_plan_gives_the_same_bytes_whatever_the_output_is_called(tmp_path):
    source = with_card(REAL, tmp_path)
    plan = make_plan(open_checkpoint(source), [0, 2], PlanOptions(base_model="org/name"))
    one, other = (
        {file.name: file.pieces for file in make_output(plan, name).files}["README.md"] for name in ("a", "b")
    )
    assert one == other


@pytest.mark.oracle
@pytest.mark.parametrize("eol", ["\n", "\r\n"])
@pytest.mark.parametrize("text", [REAL, "# Title\n", "\ufeff---\nlicense: mit\n---\n", "---\n---\nx"])
def test_the_hub_s_own_library_reads_our_card(text, eol, tmp_path):
    from huggingface_hub import ModelCard

    pruned(text.replace("\n", eol), tmp_path)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.base_model == "org/name"
    assert card.data.to_dict()["base_model_relation"] == "pruned"
    assert card.data.tags[-2:] == list(TAGS)
    assert card.data.eval_results is None
    assert "## Pruned layers" in card.text
