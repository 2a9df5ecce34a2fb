"""The one syntax for layers, strictly."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewriter.errors import RequestError
from rewriter.planning.layer_ranges import format_layers, parse_layers

quick = settings(derandomize=True, deadline=None, max_examples=100)


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("3,7-9,-1", (3, 7, 8, 9, 11)),
        ("0", (0,)),
        ("11", (11,)),
        ("-1", (11,)),
        ("-12", (0,)),
        ("0-11", tuple(range(12))),
        ("5-5", (5,)),
        ("5,3,4", (3, 4, 5)),
        ("3,3,3", (3,)),
        ("2-5,4-7,5", (2, 3, 4, 5, 6, 7)),
        ("11,-1", (11,)),
        ("-1,-2", (10, 11)),
        ("3, 5", (3, 5)),
        (" 0-3 , -1  ", (0, 1, 2, 3, 11)),
    ],
)
def test_layers(text, layers):
    assert parse_layers(text, 12) == layers


@pytest.mark.parametrize(
    "text",
    [
        "", ",", "3,", ",3", "3,,4", " ", "3, ", ", 3", "3 4", "3 -4", "0 - 3", "3,\n4", "3\n", "3\t",
        "\u00a03", "3\u200b",
        "-", "--1", "-0", "3-", "-3--1", "-3-1", "3--1", "1-2-3", "5-7-", "1..3", "1:3", "3;4",
        "1_0", "+1", "1e1", "0x1", "01", "007", "1-02", "1.0", "1,5.", "x", "all", "None", "last",
        "\u0663", "\u00b2", "\uff13", "\u096a-\u096b", "1\u20135", "\u22121", "3\x00", "3\x1b[2J", "[3]", "*", "9" * 41,
    ],
)  # fmt: skip
def test_what_is_no_layer(text):
    with pytest.raises(
        RequestError, match="is not a layer: write numbers from 0 and ranges, such as 3,7-9,-1"
    ) as caught:
        parse_layers(text, 12)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["12", "-13", "0-12", "12-13", "99999999999999999999", "-99999999999", "3,12"])
def test_out_of_range_says_what_is_valid(text):
    with pytest.raises(RequestError, match=r"out of range: the stack has 12 layers, 0-11 or -12 to -1"):
        parse_layers(text, 12)


def test_a_range_that_runs_backwards_says_which_one_was_meant():
    with pytest.raises(RequestError, match="the range 9-7 runs backwards: write 7-9"):
        parse_layers("9-7", 12)


@pytest.mark.parametrize("text", ["0-99999999999", "0-9999999999999999999999999999999999", "99999999998-99999999999"])
def test_a_huge_range_is_refused_at_once(text):
    began = time.monotonic()
    with pytest.raises(RequestError, match="out of range"):
        parse_layers(text, 12)
    assert time.monotonic() - began < 0.1


def test_what_was_typed_is_shown_cut():
    with pytest.raises(RequestError) as caught:
        parse_layers("x" * 5000, 12)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize(
    ("layers", "text"),
    [((), ""), ((4,), "4"), ((0, 1), "0-1"), ((0, 1, 2, 3, 5), "0-3,5"), ((1, 2, 8, 9), "1-2,8-9")],
)  # fmt: skip
def test_format_layers(layers, text):
    assert format_layers(layers) == text


@quick
@given(st.sets(st.integers(0, 60), min_size=1))
def test_what_is_formatted_parses_to_the_same(layers):
    ordered = tuple(sorted(layers))
    text = format_layers(ordered)
    assert parse_layers(text, 61) == ordered
    assert len(text.split(",")) == sum(number - 1 not in layers for number in layers)  # no run is split


@quick
@given(st.text("0123456789-,+_ e", max_size=12), st.integers(1, 20))
def test_whatever_is_typed_is_layers_or_a_usage_error(text, count):
    try:
        layers = parse_layers(text, count)
    except RequestError:
        return
    assert layers
    assert layers == tuple(sorted(set(layers)))
    assert 0 <= layers[0] <= layers[-1] < count


@quick
@given(st.integers(1, 30), st.data())
def test_negative_numbers_count_from_the_end(count, data):
    number = data.draw(st.integers(-count, -1))
    assert parse_layers(str(number), count) == (count + number,)
