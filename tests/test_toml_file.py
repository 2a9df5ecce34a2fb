"""An architecture of one's own, in TOML."""

from __future__ import annotations

import tomllib

import pytest

from rewriter.architectures.stacks import entries
from rewriter.architectures.toml_file import as_toml, from_values, load_architecture, to_values
from rewriter.errors import CheckpointError

GOOD = {"name": "new", "format": "huggingface", "stacks": [{"name": "main", "prefixes": ["h."], "count_key": "n"}]}


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: f"{entry.format}-{entry.name}")
def test_every_entry_survives_a_round_trip(entry, tmp_path):
    (tmp_path / "x.toml").write_text(as_toml(entry), encoding="utf-8")
    assert load_architecture(tmp_path / "x.toml") == entry
    assert from_values(to_values(entry)) == entry


def test_an_ordinary_decoder_is_three_facts():
    entry = from_values(
        tomllib.loads('name="a"\nformat="gguf"\n[[stacks]]\nname="main"\nprefixes=["blk."]\ncount_key="n"')
    )
    assert (entry.name, entry.stacks[0].prefixes, entry.stacks[0].count_key) == ("a", ("blk.",), "n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nam": "x"}, "has no member nam; there are name, format, stacks"),
        ({"name": 3}, "name must be of type str"),
        ({"format": "onnx"}, "format must be huggingface or gguf"),
        ({"stacks": []}, "needs stacks"),
        ({"stacks": {}}, "must be an array"),
        ({"stacks": [3]}, "must be a table"),
        ({"stacks": [{"name": "main"}]}, "needs prefixes, count_key"),
        ({"stacks": [{"name": "main", "prefixes": [], "count_key": "n"}]}, "with a name and prefixes"),
        ({"stacks": [{"name": "main", "prefixes": "h.", "count_key": "n"}]}, "prefixes must be an array"),
        ({"stacks": [{"name": "main", "prefixes": [1], "count_key": "n"}]}, "prefixes must be of type str"),
        ({"stacks": [{**GOOD["stacks"][0], "fields": [["a"]]}]}, "fields must hold arrays of 2"),
        ({"stacks": [{**GOOD["stacks"][0], "patterns": [{"default": True}]}]}, "must be of type int"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(CheckpointError) as caught:
        from_values({**GOOD, **change})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff", b"name = ", b"[" * 5000])
def test_what_is_no_toml(content, tmp_path):
    (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.toml"):
        load_architecture(tmp_path / "x.toml")
