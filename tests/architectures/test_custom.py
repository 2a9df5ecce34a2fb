"""An architecture of one's own, in TOML."""

from __future__ import annotations

import json
import re
import tomllib

import pytest
from typer.testing import CliRunner

from rewriter.architectures.custom import as_toml, from_values, load_architecture, to_values
from rewriter.architectures.lookup import entries, named_entry
from rewriter.cli.command_group import app
from rewriter.errors import CheckpointError, RequestError, RewriterError, UnsupportedError
from rewriter.formats import open_checkpoint
from rewriter.planning.constraints import custom_rules
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import Plan, make_plan
from rewriter.writing.verify import verify
from tests.support.builders import FIXTURES, huggingface
from tests.support.checkpoints import changes, hf, numbered

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


OWN = """name = "mine"
format = "huggingface"
[[stacks]]
name = "main"
prefixes = ["deep.floors."]
count_key = "floors"
fields = [["lifts", "per_layer"]]
"""


@pytest.fixture
def own(tmp_path):
    names = ["in.weight", *(f"deep.floors.{n}.weight" for n in range(4))]
    source = huggingface(tmp_path / "in", names=names, model_type="tower", floors=4, lifts=[1, 2, 3, 4])
    (tmp_path / "own.toml").write_text(OWN)
    return source, tmp_path / "own.toml"


def test_a_model_that_the_tables_do_not_know(own, tmp_path):
    source, entry = own
    refused = CliRunner().invoke(app, ["prune", str(source), str(tmp_path / "out"), "--drop", "1"])
    assert isinstance(refused.exception, UnsupportedError)
    done = CliRunner().invoke(
        app, ["prune", str(source), str(tmp_path / "out"), "--drop", "1", "--architecture", str(entry)]
    )
    assert (done.exit_code, "warning" in done.output) == (0, False), done.output
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["floors"], config["lifts"]) == (3, [1, 3, 4])
    assert verify(tmp_path / "out", source) == ()  # the entry is read from the record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("per_layer", "there is no rule per_lair; there are"),
        ("huggingface", "is for gguf files"),
    ],
)
def test_an_entry_that_does_not_fit(own, change, message):
    source, entry = own
    other = {"per_layer": "per_lair", "huggingface": "gguf"}[change]
    entry.write_text(OWN.replace(change, other))
    with pytest.raises(RewriterError, match=message):
        make_plan(open_checkpoint(source), [0], PlanOptions(architecture=load_architecture(entry)))


def test_an_entry_of_the_tables_is_printed_to_start_from(tmp_path):
    done = CliRunner().invoke(app, ["list", "architectures", "--toml", "gguf/llama"])
    (tmp_path / "x.toml").write_text(done.output)
    assert load_architecture(tmp_path / "x.toml") == named_entry("gguf/llama")
    with pytest.raises(RequestError, match="write huggingface/llama or gguf/llama"):
        named_entry("llama")
    with pytest.raises(RequestError, match="no entry nothing"):
        named_entry("nothing")


EXAMPLE = re.findall(r"```toml\n(.*?)```", (FIXTURES.parent / "docs/rules.md").read_text(), re.DOTALL)[0]
ZEPHYR = {
    "text_config": {"num_hidden_layers": 8, "dense_lead": 2, "heads_in_layer": list(range(8))},
    "vision_config": {"depth": 3},
}
ZEPHYR_NAMES = [*numbered("model.language_model.layers.", 8), *numbered("model.visual.blocks.", 3)]


def zephyr(rules: str, **text: object) -> Plan:
    own = from_values(tomllib.loads(rules))
    config = {**ZEPHYR, "text_config": {**ZEPHYR["text_config"], **text}}
    return make_plan(hf("zephyr", ZEPHYR_NAMES, config), [0, 2, 3, 4, 6, 7], PlanOptions(architecture=own))


def test_the_example_of_the_docs():
    after = changes(zephyr(EXAMPLE))
    assert after["text_config.num_hidden_layers"] == 6
    assert (after["text_config.dense_lead"], after["text_config.heads_in_layer"]) == (1, [0, 2, 3, 4, 6, 7])
    kinds = ["linear_attention", "linear_attention", "full_attention"]
    assert after["text_config.layer_types"] == [*kinds, *kinds]
    with pytest.raises(UnsupportedError, match="layer 0 makes the values that all others use"):
        make_plan(
            hf("zephyr", ZEPHYR_NAMES, ZEPHYR), [1, 2], PlanOptions(architecture=from_values(tomllib.loads(EXAMPLE)))
        )


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ('"text_config.num_hidden_layers"', '"num_hidden_layers"', "by num_hidden_layers, which is not in config.json; "
         "the tensors have 8 layers; text_config.num_hidden_layers would agree"),
        ('"text_config.num_hidden_layers"', '"text_config.n_layers"', "by text_config.n_layers, which is not in"),
        ('"vision_config.depth"', '"vision_config.layers"', "stack vision by vision_config.layers"),
        ('"dense_lead"', '"dense_led"', r"text_config.dense_led, .*; did you mean text_config.dense_lead\?"),
        ('"dense_lead"', '"text_config.dense_lead"', r"did you mean text_config.dense_lead\?"),
        ("value = [0]\n", "", "a limit of the kind must_keep can do nothing with no value"),
        ("[0]", '[["x"]]', "a limit of the kind must_keep can do nothing with the value"),
    ],
)  # fmt: skip
def test_rules_that_do_not_fit_the_checkpoint(right, wrong, said):
    with pytest.raises(CheckpointError, match=said):
        zephyr(EXAMPLE.replace(right, wrong))


def test_a_pattern_whose_list_is_misspelt():
    rules = EXAMPLE.replace('"layer_types"', '"layer_typs"')
    with pytest.raises(CheckpointError, match=r"text_config.layer_typs, .*; did you mean text_config.layer_types\?"):
        zephyr(rules, layer_types=["full_attention"] * 8)


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: f"{entry.format}-{entry.name}")
def test_every_entry_of_ours_is_one_that_a_user_may_write(entry):
    assert custom_rules.check_words(from_values(tomllib.loads(as_toml(entry)))) is None
