"""The front matter of a model card: what is not changed keeps every byte, however it is written."""

from __future__ import annotations

import pytest

from rewriter.formats.front_matter import CardError, contains, edit, end_of_line, get, split
from tests.support.cards import REAL

FORMS = {
    "lines that end in CRLF": "license: mit\r\nx: [1,\r\n  2]\r\n",
    "lists with and without indentation": "language:\n- en\nx:\n  - a\n",
    "flow without blanks": "x: [a,b,  c ]\ny: {a: 1,b: 2}\n",
    "blanks": "license:   mit\na : 1\nb: 1   \nc: 1\t# a comment\n",
    "a long line": "x: " + "word " * 80 + "\n",
    "texts of several lines": "a: >-\n  one\n  two\nb: one\n  two\n  three\nc: \"one\n  two\"\nd: |+\n  x\n\n",
    "nothing in three spellings": "a: ~\nb: null\nc:\n",
    "numbers and booleans": "a: 1e3\nb: 0x1F\nc: 01\nd: 1_000\ne: 1.50\nf: yes\n",
    "anchors": "a: &x [1, 2]\nb: *x\nc: &unused 1\n",
    "escapes and Unicode": 'a: "caf\\u00e9 \\x41"\nb: 日本\nc: \U0001f600\n',
    "comments": "# top\na: 1  # one\n\n\n# middle\nb: 2\n",
    "four blanks": "a:\n    b: 1\n    c:\n        - d\n",
    "tags and dates": "a: !!str 1\nb: 2024-01-01T00:00:00Z\n",
    "a real card": "".join(split(REAL)[1].partition("base_model:")[0]).replace("tags:", "labels:"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("last", [True, False])
def test_every_other_byte_stays(form, last):
    others = FORMS[form]
    eol = end_of_line(others)
    before = f"base_model: x/y  # why{eol}tags:{eol}- a{eol}"
    after = f"base_model: org/new  # why{eol}tags:{eol}- a{eol}- pruned{eol}"
    one, another = (others + before, others + after) if last else (before + others, after + others)
    assert edit(one, eol, {"base_model": "org/new"}, ("pruned",), ()) == another


UNSAFE = ("a: 1\na: 2\n", "? [a]\n: 1\n", "a: [", "- a\n", f"a: {'[' * 200}{']' * 200}")


@pytest.mark.parametrize("text", UNSAFE)
def test_what_cannot_be_changed_safely(text):
    with pytest.raises(CardError):
        edit(text, "\n", {"base_model": "org/new"}, ("pruned",), ())


def test_what_it_says():
    yaml = "a: x\nb: [x, 'y']\nc: {x: 1}\nd:\n"
    assert [get(yaml, key) for key in "abcde"] == ["x", ["x", "y"], None, None, None]
    assert [contains(yaml, key) for key in "de"] == [True, False]
