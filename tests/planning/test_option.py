"""Every option is declared once: records, saved plans, commands and batches are loops over the fields."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rewriter.architectures.custom import from_values
from rewriter.cli.batch_keys import KEYS, settings
from rewriter.cli.options import PLANNING, WRITING, request_of
from rewriter.layout.output import WriteOptions
from rewriter.planning.option import from_written, options_of
from rewriter.planning.options import LayerSelection, PlanOptions
from rewriter.planning.provenance import options_from_json, options_to_json
from rewriter.system.untrusted import ShapeError

OWN = from_values(
    {
        "name": "zephyr", "format": "huggingface",
        "stacks": [{"name": "text", "prefixes": ["layers."], "count_key": "n"}],
    }
)  # fmt: skip
EVERY = PlanOptions(
    stack="text", generic=True, keep_fields=("a", "b"), per_layer_fields=("c",), provenance=False, force=True,
    align=True, strict=True, drop_mtp=True, architecture=OWN, max_size=5_000_000_000, single_file=True, card=False,
    base_model="org/name", chosen_by="influence",
)  # fmt: skip
# Written by the version before options were declared by fields.
EVERY_JSON = (
    '{"generic": true, "keep_fields": ["a", "b"], "per_layer_fields": ["c"], "force": true, "drop_mtp": true, '
    '"architecture": {"name": "zephyr", "format": "huggingface", "stacks": [{"name": "text", "prefixes": ["layers."], '
    '"count_key": "n"}]}, "max_size": 5000000000, "single_file": true, "card": false, "base_model": "org/name", '
    '"chosen_by": "influence"}'
)
DEFAULT_JSON = (
    '{"generic": false, "keep_fields": [], "per_layer_fields": [], "force": false, "drop_mtp": false, '
    '"architecture": null, "max_size": null, "single_file": false}'
)
EVERY_ARGUMENT = (
    "--generic --architecture FILE --keep-field a --keep-field b --per-layer-field c --force --drop-mtp "
    "--shard-size 5000000000 --single-file --no-card --base-model org/name"
)


@pytest.mark.parametrize(("options", "text"), [(EVERY, EVERY_JSON), (PlanOptions(), DEFAULT_JSON)])
def test_the_json_of_options_is_that_of_earlier_versions(options, text):
    assert json.dumps(options_to_json(options)) == text
    recorded = replace(options, stack="main", provenance=True, align=False, strict=False)
    assert options_from_json(json.loads(text)) == recorded


def test_records_of_the_first_versions_have_fewer_options():
    first = {name: value for name, value in json.loads(DEFAULT_JSON).items() if name not in ("max_size", "single_file")}
    assert options_from_json(first) == PlanOptions()
    for name in first:
        with pytest.raises(ShapeError):
            options_from_json({key: value for key, value in first.items() if key != name})


def test_the_arguments_of_a_record_are_those_of_earlier_versions():
    assert " ".join(EVERY.arguments) == EVERY_ARGUMENT
    assert " ".join(EVERY.rule_arguments) == EVERY_ARGUMENT.partition(" --force")[0]
    assert PlanOptions().arguments == []


def test_no_two_options_share_a_name():
    names = [name for option in (*PLANNING, *WRITING) for name in option.names]
    assert len(set(names)) == len(names)
    fields = [option.field for option in (*PLANNING, *WRITING)]
    assert len(set(fields)) == len(fields)


@pytest.mark.parametrize("kind", [LayerSelection, PlanOptions, WriteOptions])
def test_options_are_given_by_name(kind):
    with pytest.raises(TypeError):
        kind(True)
    assert from_written(kind, {}) == kind()


def written(option) -> object:
    """A value for the option as a batch would have it, other than its default."""
    own = {"ratio": 0.5, "sparsity": 0.5, "shard-size": "5GB", "count": 3, "protect-first": 1, "protect-last": 1}
    return own.get(option.names[0], True if option.kind is bool else ["x"] if option.kind is list else "x")


@pytest.mark.parametrize(
    "option", [each for each in options_of(PlanOptions, WriteOptions) if each.help], ids=lambda option: option.field
)
def test_a_key_of_a_batch_sets_its_field(option, tmp_path):
    value = written(option)
    if option.field == "architecture":
        value = str(tmp_path / "none.toml")
    for name in option.names:
        assert KEYS[name].kind is option.kind
    try:
        made = settings({"drop": "1", option.names[0]: value})
    except Exception as error:
        assert option.field == "architecture" and "none.toml" in str(error)  # noqa: PT017, PT018
        return
    changed = {
        each.field
        for part in (made.request.options, made.write_options)
        for each in options_of(type(part))
        if getattr(part, each.field) != each.default
    }
    assert changed == {option.field}


def test_layers_given_twice_add_up():
    assert request_of({"drop": ["1", "3-4"]}).selection == LayerSelection(drop="1,3-4")
