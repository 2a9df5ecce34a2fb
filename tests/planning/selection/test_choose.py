"""The one syntax for layers, sizes and amounts, strictly."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewriter.errors import RequestError
from rewriter.planning.layer_ranges import format_layers, parse_layers
from rewriter.planning.options import LayerSelection, PlanOptions
from rewriter.planning.selection.choose import choose
from rewriter.units import parse_size

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


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("4GiB", 4 * 2**30), ("4GB", 4 * 10**9), ("4G", 4 * 10**9), ("4Gi", 4 * 2**30), ("4gib", 4 * 2**30),
        ("4gb", 4 * 10**9), ("1TiB", 2**40), ("1TB", 10**12), ("3MiB", 3 * 2**20), ("3M", 3 * 10**6),
        ("2KiB", 2048), ("2K", 2000), ("2kB", 2000), ("4000000", 4000000), ("17B", 17), ("4 GiB", 4 * 2**30),
        ("4.5GB", 4_500_000_000), ("0.5KiB", 512), ("1.1GB", 1_100_000_000), ("0.1KiB", 102), ("0", 0),
        ("123456789012345", 123456789012345),
    ],
)  # fmt: skip
def test_sizes(text, nbytes):
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    "text",
    [
        "", "GiB", "4X", "4GiBs", "4GGB", "-4GB", "+4GB", "4,5GB", "4.GB", ".5GB", "1e9", "4  GB", " 4GB", "4GB ",
        "4GB\n", "1_000", "0x10", "4PB", "nan", "inf", "\u0664GB", "4\u00a0GB", "1" * 16, "1.2.3", "4BB", "4bib",
    ],
)  # fmt: skip
def test_what_is_no_size(text):
    with pytest.raises(RequestError, match="is not a size: write it as 4GiB"):
        parse_size(text)


def sizes(kept):
    """1000 bytes outside the layers, 100 in each."""
    return 1000 + 100 * len(kept)


def chosen(layers=12, size_of=sizes, /, **asked):
    return choose(LayerSelection(**asked), layers, size_of)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({"drop": "3,7-9,-1"}, (0, 1, 2, 4, 5, 6, 10)),
        ({"keep": "0-3,-1"}, (0, 1, 2, 3, 11)),
        ({"keep": "0-11"}, tuple(range(12))),
        ({"drop": "1-11"}, (0,)),
        ({"strategy": "top", "count": 4}, tuple(range(8))),
        ({"strategy": "top", "count": 11}, (0,)),
        ({"strategy": "bottom", "count": 4}, tuple(range(4, 12))),
        ({"strategy": "deepest-but-last", "count": 4}, (0, 1, 2, 3, 4, 5, 6, 11)),
        ({"strategy": "first-n", "count": 4}, (0, 1, 2, 3)),
        ({"strategy": "first-n", "count": 12}, tuple(range(12))),
        ({"strategy": "first-n", "ratio": 0.25}, tuple(range(9))),
        ({"strategy": "top", "count": 2, "protect_last": 3}, (0, 1, 2, 3, 4, 5, 6, 9, 10, 11)),
        ({"strategy": "bottom", "count": 2, "protect_first": 3}, (0, 1, 2, 5, 6, 7, 8, 9, 10, 11)),
        ({"strategy": "middle", "count": 2, "protect_first": 4, "protect_last": 4}, (0, 1, 2, 3, 4, 7, 8, 9, 10, 11)),
    ],
)
def test_choose(asked, kept):
    assert chosen(**asked) == kept


@pytest.mark.parametrize(
    ("ratio", "count", "dropped"),
    [(0.25, 12, 3), (0.01, 12, 1), (0.5, 12, 6), (0.9, 12, 11), (0.29, 12, 3), (1 / 3, 32, 11), (0.125, 12, 2)],
)  # fmt: skip
def test_a_ratio_drops_at_least_one(ratio, count, dropped):
    """max(1, round(r * L))"""
    assert len(chosen(count, strategy="top", ratio=ratio)) == count - dropped


@pytest.mark.parametrize(
    ("target", "dropped"),
    [("2200", 0), ("5GB", 0), ("2199", 1), ("2100", 1), ("2099", 2), ("1.5kB", 7), ("1100", 11)],
)
def test_a_target_size_drops_the_fewest_layers_that_fit(target, dropped):
    assert chosen(strategy="top", target_size=target) == tuple(range(12 - dropped))


@pytest.mark.parametrize(
    ("asked", "smallest"),
    [
        ({"target_size": "1099"}, 1100),
        ({"target_size": "1999", "protect_first": 9, "protect_last": 1}, 2000),
        ({"target_size": "1999", "protect_first": 10, "protect_last": 10}, 2200),
    ],
)
def test_a_target_size_that_nothing_fits_names_the_smallest(asked, smallest):
    with pytest.raises(
        RequestError,
        match=f"no selection fits .* bytes: the smallest output has {smallest}( while the first .* lets more go)?$",
    ):
        chosen(strategy="top", **asked)


def test_a_target_size_beyond_what_a_strategy_can_drop():
    with pytest.raises(RequestError, match=r"the smallest output has 1600$"):
        chosen(strategy="even-alternate", target_size="1599")


def test_a_target_size_asks_for_the_exact_size_of_each_selection():
    """Layer N weighs N bytes: 4 and deeper make 56 + 4."""
    assert chosen(12, sum, strategy="bottom", target_size="60") == tuple(range(4, 12))
    assert chosen(12, sum, strategy="bottom", target_size="59") == tuple(range(5, 12))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "which layers"),
        ({"protect_first": 2}, "which layers"),
        ({"strategy": "top"}, "how much"),
        ({"strategy": "top", "protect_last": 1}, "how much"),
        ({"drop": "1", "keep": "2"}, "--drop and --keep cannot be combined"),
        ({"drop": "1", "strategy": "top", "count": 1}, "--drop and --strategy cannot be combined"),
        ({"keep": "1", "strategy": "top", "count": 1}, "cannot be combined"),
        ({"strategy": "top", "count": 1, "ratio": 0.5}, "--count and --ratio cannot be combined"),
        ({"strategy": "top", "count": 1, "target_size": "1GB"}, "--count and --target-size cannot be combined"),
        ({"strategy": "top", "ratio": 0.5, "target_size": "1GB"}, "cannot be combined"),
        ({"drop": "1", "count": 1}, "an amount needs --strategy"),
        ({"keep": "1", "ratio": 0.5}, "an amount needs --strategy"),
        ({"drop": "1", "target_size": "1GB"}, "an amount needs --strategy"),
        ({"drop": "1", "protect_first": 1}, "go with an amount"),
        ({"keep": "1", "protect_last": 1}, "go with an amount"),
        ({"drop": ""}, "is not a layer"),
        ({"keep": ""}, "is not a layer"),
        ({"drop": "0-11"}, "would leave no layer: at most 11 of the 12 can go"),
        ({"drop": "0-5,6-11"}, "would leave no layer"),
        ({"drop": "12"}, "out of range"),
        ({"strategy": "top", "count": 12}, "would leave no layer"),
        ({"strategy": "top", "count": 13}, "cannot drop 13 layers: 12 of the 12 may go"),
        ({"strategy": "top", "count": 0}, "--count must be at least 1, not 0"),
        ({"strategy": "top", "count": -1}, "--count must be at least 1, not -1"),
        ({"strategy": "first-n", "count": 0}, "--count must be at least 1, not 0"),
        ({"strategy": "first-n", "count": 13}, "cannot keep the first 13 layers: there are 12"),
        ({"strategy": "top", "count": 5, "protect_first": 4, "protect_last": 4}, "cannot drop 5 layers: 4 of the 12"),
        ({"strategy": "top", "count": 1, "protect_first": 9, "protect_last": 9}, "cannot drop 1 layers: 0 of the 12"),
        ({"strategy": "even-alternate", "count": 7}, "at most 6"),
        ({"strategy": "nonsense", "count": 1}, "no strategy is called 'nonsense'; there are top, bottom"),
        ({"strategy": "", "count": 1}, "no strategy is called ''"),
        ({"strategy": "Top", "count": 1}, "no strategy is called 'Top'"),
        ({"strategy": "top", "ratio": 0.0}, "write a number between 0 and 1"),
        ({"strategy": "top", "ratio": 1.0}, "write a number between 0 and 1"),
        ({"strategy": "top", "ratio": -0.5}, "write a number between 0 and 1"),
        ({"strategy": "top", "ratio": 25.0}, "write a number between 0 and 1"),
        ({"strategy": "top", "ratio": float("nan")}, "write a number between 0 and 1"),
        ({"strategy": "top", "ratio": float("inf")}, "write a number between 0 and 1"),
        ({"strategy": "top", "ratio": 0.99}, "would leave no layer"),
        ({"strategy": "top", "target_size": "huge"}, "'huge' is not a size"),
    ],
)
def test_usage_errors(asked, message):
    with pytest.raises(RequestError) as caught:
        chosen(**asked)
    assert message in str(caught.value)


def test_the_only_layer_cannot_go():
    with pytest.raises(RequestError, match="would leave no layer"):
        chosen(1, drop="0")


@quick
@given(st.integers(1, 40), st.data())
def test_drop_and_keep_are_complements(count, data):
    some = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    text = format_layers(tuple(sorted(some)))
    assert chosen(count, keep=text) == tuple(sorted(some))
    if len(some) < count:
        assert chosen(count, drop=text) == tuple(sorted(set(range(count)) - some))


@quick
@given(st.integers(2, 30), st.integers(0, 5000))
def test_a_target_size_is_the_least_drop_that_fits(count, target):
    try:
        kept = chosen(count, strategy="middle", target_size=str(target))
    except RequestError:
        assert target < sizes((0,))
        return
    assert sizes(kept) <= target
    assert len(kept) == count or sizes((*kept, 0)) > target


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (PlanOptions(), ""),
        (PlanOptions(stack="encoder", provenance=False), ""),
        (PlanOptions(generic=True), " --generic"),
        (
            PlanOptions(generic=True, keep_fields=("a", "b"), per_layer_fields=("c",)),
            " --generic --keep-field a --keep-field b --per-layer-field c",
        ),
    ],
)
def test_options_are_stated_again(options, words):
    assert options.words == words
