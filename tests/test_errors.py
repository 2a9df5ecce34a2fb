"""What is printed is safe to print."""

from __future__ import annotations

import pytest

from rewriter.errors import printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x" * 40, "x" * 40),
        ("x" * 41, "x" * 39 + "…"),
        ("a\x1b[31m\n\u202e\udcff", r"a\x1b[31m\n\u202e\udcff"),
        ("ünï ½ \U0001f600", "ünï ½ \U0001f600"),
        (None, "None"),
    ],
)
def test_shown(text, expected):
    assert printable(text) == expected
