"""The page as a file: what it says, what it takes no markup from, how it is written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rewriter.planning.selection.strategies import STRATEGIES
from rewriter.units import format_score
from tests.support.builders import (
    HOSTILE,
    MODELS,
    ROOT,
    block_names,
    everything,
    huggingface,
    llama_names,
    split_gguf,
    write_gguf,
)
from tests.support.command_line import ours

pytest.importorskip("jinja2", reason="needs the extra `report`: jinja2")

TEMPLATES = ROOT / "rewriter" / "report" / "templates"
FAST = ("--metric", "magnitude-l1")


def page(source: Path, folder: Path, *more: str) -> str:
    """The page for `source`, as the program writes it."""
    done = ours(["report", str(source), "-o", str(folder / "page.html"), "--overwrite", *more], folder)
    assert (done.returncode, done.stderr) == (0, "")
    return (folder / "page.html").read_text(encoding="utf-8")


def data_of(text: str) -> list:
    """What the scripts of a page are given."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def rows(text: str) -> list[dict[str, str | None]]:
    return [attributes for _, attributes in Elements(text).found if "data-layer" in attributes]


def test_it_shows_every_layer_with_its_scores_and_every_component(tmp_path):
    text = page(MODELS / "tiny-llama-12L", tmp_path, *FAST, "--metric", "influence")
    scored = json.loads(ours(["score", str(MODELS / "tiny-llama-12L"), "--json", *FAST], tmp_path).stdout)
    assert [int(row["data-layer"]) for row in rows(text)] == list(range(12))
    assert all("magnitude-l1" in row["aria-label"] and "369 kB" in row["aria-label"] for row in rows(text))
    (stack,) = data_of(text)
    labels = [f", magnitude-l1 {format_score(row['score'])}" for row in scored["scores"]]
    assert all(label in row["aria-label"] for label, row in zip(labels, rows(text), strict=True))
    assert set(stack["ways"]) == {"magnitude-l1", "influence", *STRATEGIES}
    shown = Elements(text).text
    assert all(f"{part['survives']:.0%}" in shown and part["name"] in shown for part in scored["components"])


def test_the_usual_metrics_are_those_that_apply(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", 4)
    done = ours(["report", str(path), "-o", "page.html"], tmp_path)
    assert done.returncode == 0
    assert "influence does not apply" in done.stdout
    assert set(data_of((tmp_path / "page.html").read_text())[0]["ways"]) == {"magnitude-l1", *STRATEGIES}
    assert "influence has no scores here" in (tmp_path / "page.html").read_text()


def test_without_scores_no_weight_is_read(tmp_path):
    text = page(MODELS / "tiny-llama-12L-Q8_0.gguf", tmp_path, "--no-scores")
    assert set(data_of(text)[0]["ways"]) == {*STRATEGIES}
    assert "mean |w|" not in text
    assert "feed-forward" in text


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: huggingface(folder / "model", 6, shards=3),
        lambda folder: huggingface(folder / "model", 6) / "model.safetensors",
        lambda folder: write_gguf(folder / "model.gguf", 6),
        split_gguf,
    ],
    ids=["shards", "lone", "gguf", "split"],
)
def test_every_container_has_a_page(make, tmp_path):
    (stack,) = data_of(page(make(tmp_path), tmp_path, *FAST))
    assert (stack["layers"], stack["refused"], stack["doubt"]) == (6, "", "")


def test_an_architecture_without_rules_is_shown_and_nothing_can_be_picked(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", 6, "unheard-of")
    text = page(path, tmp_path)
    assert data_of(text) == [None]
    assert len(rows(text)) == 6
    assert "--generic tries it" in Elements(text).text
    assert not any("tabindex" in row for row in rows(text))


def test_with_generic_the_plan_has_the_last_word(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", 6, "unheard-of")
    (stack,) = data_of(page(path, tmp_path, "--generic", *FAST))
    assert stack["doubt"]
    assert stack["refused"] == ""
    assert "--generic" in stack["commands"]["prune"]


def test_an_entry_of_ones_own_is_in_the_command(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", 6, "mine")
    toml = ours(["list", "architectures", "--toml", "gguf/llama"], tmp_path).stdout
    (tmp_path / "mine one.toml").write_text(toml.replace('name = "llama"', 'name = "mine"', 1))
    (stack,) = data_of(page(path, tmp_path, "--architecture", "mine one.toml", *FAST))
    assert "--architecture 'mine one.toml'" in stack["commands"]["plan"]
    assert stack["doubt"] == ""


def test_a_model_that_contradicts_itself_says_so(tmp_path):
    text = page(huggingface(tmp_path / "model", 6, num_hidden_layers=7), tmp_path, *FAST)
    assert "Nothing can be dropped here" in text
    assert "expected 6" in Elements(text).text


def test_names_are_no_markup(tmp_path):
    names = [*block_names(3), f"{HOSTILE}.weight"]
    path = write_gguf(tmp_path / f"x{HOSTILE.replace('/', '_')}.gguf", 3, names=names)
    config = huggingface(tmp_path / HOSTILE.replace("/", "_"), 3, model_type=HOSTILE)
    for source in (path, config):
        text = page(source, tmp_path, *FAST)
        tags = [tag for tag, _ in Elements(text).found]
        assert "img" not in tags
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b]", text)
        assert not any(name.startswith("on") for _, attributes in Elements(text).found for name in attributes)
        assert tags.count("script") == 3


def test_nothing_is_loaded_from_anywhere(tmp_path):
    text = page(MODELS / "tiny-llama-12L", tmp_path, *FAST)
    assert not re.search(r"https?:|//[a-z]+\.", text)
    assert "default-src 'none'" in text
    linked = [attributes for _, attributes in Elements(text).found if {"src", "href"} & set(attributes)]
    assert [attributes["href"] for attributes in linked if attributes.get("href")] == ["data:,"]


def test_128_layers_and_three_metrics_make_a_small_page(tmp_path):
    source = huggingface(tmp_path / "model", names=llama_names(128), num_hidden_layers=128)
    page(source, tmp_path, *FAST, "--metric", "magnitude-l2", "--metric", "variance")
    assert (tmp_path / "page.html").stat().st_size < 200_000


def test_the_same_model_gives_the_same_page(tmp_path):
    model = MODELS / "tiny-llama-12L-Q8_0.gguf"
    assert page(model, tmp_path, *FAST) == page(model, tmp_path, *FAST)


def test_the_name_of_the_page_is_that_of_the_model(tmp_path):
    source = write_gguf(tmp_path / "model.gguf", 3)
    assert ours(["report", str(source), "--no-scores"], tmp_path).returncode == 0
    assert (tmp_path / "model-report.html").exists()


def test_an_earlier_page_is_replaced_only_if_asked_and_nothing_else_ever(tmp_path):
    source = write_gguf(tmp_path / "model.gguf", 3)
    again = ["report", str(source), "--no-scores", "-o", "page.html"]
    assert ours(again, tmp_path).returncode == 0
    refused = ours(again, tmp_path)
    assert (refused.returncode, refused.stderr) == (1, "rewriter: page.html exists already; --overwrite replaces it\n")
    assert ours([*again, "--overwrite"], tmp_path).returncode == 0
    before = everything(tmp_path)
    other = ours(["report", str(source), "--no-scores", "-o", str(source), "--overwrite"], tmp_path)
    assert (other.returncode, "no page of an earlier run" in other.stderr) == (1, True)
    missing = ours([*again[:-1], "nowhere/page.html"], tmp_path)
    assert (missing.returncode, missing.stderr.endswith("does not exist; make it first\n")) == (1, True)
    assert everything(tmp_path) == before


def test_wrong_usage(tmp_path):
    source = str(write_gguf(tmp_path / "model.gguf", 3))
    both = ours(["report", source, "--no-scores", *FAST], tmp_path)
    unknown = ours(["report", source, "--metric", "nonsense"], tmp_path)
    assert (both.returncode, unknown.returncode) == (2, 2)
    assert "nothing to choose by is called 'nonsense'" in unknown.stderr
    assert "\n" not in both.stderr.strip()
    assert sorted(os.listdir(tmp_path)) == ["model.gguf"]


def test_without_jinja2_it_says_what_to_install(tmp_path):
    source = write_gguf(tmp_path / "model.gguf", 3)
    code = f"""
import sys; sys.modules["jinja2"] = None
import rewriter.cli; sys.argv = ["rewriter", "report", {str(source)!r}, "--no-scores"]
rewriter.cli.main()"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "rewriter: a report needs jinja2: pip install 'rewriter[report]'\n")
    assert sorted(os.listdir(tmp_path)) == ["model.gguf"]


def test_only_the_report_loads_jinja2():
    modules = "rewriter.cli.command_group, rewriter.cli.score, rewriter.cli.report"
    code = f"import sys, {modules}; assert 'jinja2' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


TEXT_ON = [
    *((text, ground) for text in ("ink", "soft") for ground in ("paper", "card", "hover", "track")),
    ("keep", "card"), ("drop", "drop-paper"), ("warn", "warn-paper"), ("paper", "drop"), ("drop", "card"),
    ("keep", "paper"),
]  # fmt: skip


@pytest.mark.parametrize("theme", [0, 1, 2], ids=["light", "dark", "chosen-dark"])
def test_the_colours_can_be_told_apart(theme):
    """WCAG 2 AA: 4.5 for text, 3 for what must be seen."""
    blocks = re.findall(r":root[^{]*\{([^}]*--paper[^}]*)\}", (TEMPLATES / "page.css").read_text())
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[theme]))
    assert not [pair for pair in TEXT_ON if contrast(colours[pair[0]], colours[pair[1]]) < 4.5]
    bars = ("m0", "m1", "m2", "m3", "ms", "keep", "drop")
    assert not [name for name in bars if contrast(colours[name], colours["track"]) < 3]
    assert blocks[1].split() == blocks[2].split()
