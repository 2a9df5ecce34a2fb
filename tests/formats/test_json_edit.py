"""JSON is read strictly, and edited so that every other byte stays."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewriter.errors import CheckpointError
from rewriter.formats.json_edit import edit, flatten, json_roundtrip, parse
from rewriter.system.files import read_document

quick = settings(derandomize=True, deadline=None, max_examples=100)

# Nothing here is as json.dumps would write it.
ODD = """\
{
  "z": 1e-05,  "nan": NaN,
  "inf": -Infinity, "big": 123456789012345678901234567890,
  "float" : 1.0E+2, "zero": -0.0,
  "text": "caf\\u00e9 \u00e9 \\/ \\ud83d\\ude00 \U0001f600", "count": 6 ,
  "a": {"b":{ "count":6, "list": [1,2 , 3] }, "empty": {}, "none": [ ]},
  "types": ["x","y", "z"]
}

"""


@pytest.mark.parametrize(
    ("changes", "old", "new"),
    [
        ({"count": 4}, '"count": 6 ,', '"count": 4 ,'),
        ({"a.b.count": 4}, '"count":6, "list"', '"count":4, "list"'),
        ({"a.b.list": [1, 3]}, "[1,2 , 3]", "[1, 3]"),
        ({"types": ["x", "z"]}, '["x","y", "z"]', '["x", "z"]'),
        ({"types": []}, '["x","y", "z"]', "[]"),
        ({"z": None}, "1e-05", "null"),
        ({"nan": True}, "NaN", "true"),
        ({"inf": "x"}, "-Infinity", '"x"'),
        ({"text": 1}, '"caf\\u00e9 \u00e9 \\/ \\ud83d\\ude00 \U0001f600"', "1"),
        ({"new": 1}, '["x","y", "z"]\n', '["x","y", "z"],\n  "new": 1\n'),
        ({"a.b.new": 1}, "[1,2 , 3] }", '[1,2 , 3],\n      "new": 1 }'),
        ({"a.empty.new": 1}, '"empty": {}', '"empty": {"new": 1}'),
        ({"a.new": 1}, '"none": [ ]}', '"none": [ ],\n    "new": 1}'),
        ({}, "z", "z"),
    ],
)
def test_every_other_byte_stays(changes, old, new):
    assert ODD.count(old) == 1 or not changes
    found = edit(ODD, changes)
    assert found == ODD.replace(old, new, 1)


def test_several_changes_at_once():
    found = edit(ODD, {"count": 100, "a.b.count": 2, "types": ["x"], "new": [1], "z": 0})
    value = parse(found, "x")
    assert (value["count"], value["a"]["b"]["count"], value["types"], value["new"], value["z"]) == (
        100,
        2,
        ["x"],
        [1],
        0,
    )
    assert list(value) == [*parse(ODD, "x"), "new"]


INDENTS = ["  ", "    ", "\t", " ", ""]


@pytest.mark.parametrize("indent", INDENTS)
@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_indented_text_stays_as_if_dumped_anew(indent, end):
    before = {"count": 6, "types": ["a", "b", "c"], "in": {"count": 6, "types": ["a"]}, "last": {}}
    after = {"count": 4, "types": ["a", "c"], "in": {"count": 3, "types": ["b"]}, "last": {}}
    changes = {"count": 4, "types": ["a", "c"], "in.count": 3, "in.types": ["b"]}
    assert edit(json.dumps(before, indent=indent) + end, changes) == json.dumps(after, indent=indent) + end


@pytest.mark.parametrize("indent", [*INDENTS, None])
def test_keys_are_added_as_if_dumped_anew(indent):
    before = {"count": 6, "in": {"count": 6}}
    after = {"count": 6, "in": {"count": 6, "types": ["a", "b"]}, "types": ["c"], "text": "\u00e9"}
    changes = {"in.types": ["a", "b"], "types": ["c"], "text": "\u00e9"}
    assert edit(json.dumps(before, indent=indent), changes) == json.dumps(after, indent=indent)


@pytest.mark.parametrize(
    ("text", "changes", "after"),
    [
        ("{}", {"a": 1}, '{"a": 1}'),
        (" { } ", {"a": 1}, ' {"a": 1 } '),
        ("{}", {"a.b.c": 1}, '{"a": {"b": {"c": 1}}}'),
        ('{"a": {}}', {"a.b": [1, 2]}, '{"a": {"b": [1, 2]}}'),
        ('{"a":1}', {"b": 2}, '{"a":1, "b": 2}'),
        ('{"a": [1, 2]}', {"a": 5}, '{"a": 5}'),
        ('{"a": 5}', {"a": [1, 2]}, '{"a": [1, 2]}'),
        ('{"a": {"a": {"a": 1}}, "b": 1}', {"a.a.a": 2}, '{"a": {"a": {"a": 2}}, "b": 1}'),
        ('{"x": "\\"a\\": 1", "a": 1}', {"a": 2}, '{"x": "\\"a\\": 1", "a": 2}'),
        ('{"x": "{", "y": ["}", {"a": 1}], "a": 1}', {"a": 2}, '{"x": "{", "y": ["}", {"a": 1}], "a": 2}'),
        ('{"\\u0061": 1}', {"a": 2}, '{"\\u0061": 2}'),
        ('{\n  "a": 5\n}', {"a": [1, 2]}, '{\n  "a": [\n    1,\n    2\n  ]\n}'),
        ('{\n  "a": []\n}', {"a": [1]}, '{\n  "a": [\n    1\n  ]\n}'),
        ('{\n  "a": [1, 2]\n}', {"a": [1]}, '{\n  "a": [1]\n}'),
        ('{\r\n  "a": 1,\r\n  "b": 2\r\n}\r\n', {"a": 3}, '{\r\n  "a": 3,\r\n  "b": 2\r\n}\r\n'),
        ('{"a": 1}', {"a": float("inf")}, '{"a": Infinity}'),
    ],
)
def test_edited(text, changes, after):
    assert edit(text, changes) == after


keys = st.sampled_from(["a", "b", "c", "\u00e9", 'q"', "\\"])
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6)
members = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))


@quick
@given(
    st.dictionaries(keys, members, max_size=5), members, keys, st.sampled_from([None, 0, 2, "\t"]), st.booleans(),
)  # fmt: skip
def test_a_change_changes_one_value(value, new, key, indent, ascii_only):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert list(parse(edit(text, {key: new}), "x").items()) == list({**value, key: new}.items())


@quick
@given(st.dictionaries(keys, members, min_size=1, max_size=5), st.sampled_from([None, 2, "\t"]), st.data())
def test_the_same_value_again_changes_at_most_its_own_bytes(value, indent, data):
    text = json.dumps(value, indent=indent)
    key = data.draw(st.sampled_from(sorted(value)))
    assert edit(text, {key: value[key]}) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ('{"a": 1,}', "Expecting property name"),
        ("{'a': 1}", "Expecting property name"),
        ('{"a": 1} x', "Extra data"),
        ('{"a": 01}', "Expecting"),
        ('{"a": "\n"}', "Invalid control character"),
        ("\ufeff{}", "BOM"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('{"x": [{"a": {}, "b": 1, "a": 1}]}', "the key 'a' stands twice"),
        ('{"a": 1, "\\u0061": 2}', "the key 'a' stands twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("9" * 5000, "Exceeds the limit"),
        ('{"a": -' + "1" * 10_000 + "}", "Exceeds the limit"),
    ],
)
def test_what_is_not_valid(text, reason):
    with pytest.raises(CheckpointError) as caught:
        parse(text, "config.json")
    assert str(caught.value).startswith("config.json is not valid JSON: ")
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 140


def test_names_from_the_file_are_shown_safely():
    with pytest.raises(CheckpointError) as caught:
        parse('{"\\u001b[2J\\u202e": 1, "\\u001b[2J\\u202e": 2}', "\x1b]0;x\x07" + "n" * 100)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", ["1e-05", "NaN", "-Infinity", '"\\ud800"', "123456789012345678901234567890", "[[]]"])
def test_what_other_tools_write_is_read(value):
    assert list(parse(f'{{"a": {value}}}', "x")) == ["a"]


def test_what_is_no_utf_8(tmp_path):
    (tmp_path / "good").write_bytes("caf\u00e9".encode())
    assert read_document(tmp_path / "good", "x").text == "caf\u00e9"
    (tmp_path / "bad").write_bytes(b"{}\xff")
    with pytest.raises(CheckpointError, match=r"config\.json is not UTF-8: invalid start byte at byte 2"):
        read_document(tmp_path / "bad", "config.json")


def test_flatten():
    value = {"a": 1, "b": {"c": [{"d": 1}], "e": {"f": None}}, "g": {}}
    assert flatten(value) == {
        "a": 1, "b": value["b"], "b.c": [{"d": 1}], "b.e": {"f": None}, "b.e.f": None, "g": {},
    }  # fmt: skip


def test_plain():
    assert json_roundtrip({"a": (1, (2,)), "b": None}) == {"a": [1, [2]], "b": None}


@pytest.mark.parametrize("unit", ["  ", "    ", "\t"])
def test_a_large_flat_object_takes_the_style_of_its_text(unit):
    text = json.dumps({"metadata": {"x": 1}, "weight_map": {"a": "one"}}, indent=unit) + "\n"
    new = {'b.\u00e4"': "two", "c": "three"}
    expected = json.dumps({"metadata": {"x": 1}, "weight_map": new}, indent=unit) + "\n"
    assert edit(text, {"weight_map": new}) == expected
