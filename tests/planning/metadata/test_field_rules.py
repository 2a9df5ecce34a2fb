"""Every field rule, by what it makes of literal values."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewriter.checkpoint import LayerMap
from rewriter.errors import CheckpointError
from rewriter.planning.metadata import field_rules
from rewriter.planning.metadata.field_rules import RULES, apply

PREFIXES = ("model.layers.",)
SIX = LayerMap("main", (0, 2, 3, 5), 6, PREFIXES)  # 1 and 4 go
SINGLE = LayerMap("main", (5,), 6, PREFIXES)
LATE = LayerMap("main", (3, 4, 5), 6, PREFIXES)

quick = settings(derandomize=True, deadline=None, max_examples=60)


@pytest.mark.parametrize(
    ("rule", "value", "after"),
    [
        ("count", 6, 4),
        ("per_layer", list("abcdef"), list("acdf")),
        ("per_layer", tuple("abcdef"), tuple("acdf")),
        ("per_layer", [0, 1, 2, 3, 4, 5], [0, 2, 3, 5]),
        ("per_layer", [True, False, True, False, True, False], [True, True, False, False]),
        ("per_layer", [[0], [1], [2], [3], [4], [5]], [[0], [2], [3], [5]]),
        ("per_layer", "M-*ME-", "M*M-"),
        ("per_layer_and_more", list("abcdefgh"), list("acdfgh")),
        ("apart_states", (1, 4, 6), (1, 3, 4)),
        ("stage_names", ["stem", *(f"stage{n}" for n in range(1, 7))], ["stem", *(f"stage{n}" for n in range(1, 5))]),
        ("stage_names", ["stage2", "stage6"], ["stage1", "stage4"]),
        ("scalar_or_per_layer", 8, 8),
        ("scalar_or_per_layer", False, False),
        ("scalar_or_per_layer", 0.5, 0.5),
        ("scalar_or_per_layer", "gelu_", "gelu_"),
        ("scalar_or_per_layer", "silu__", "silu__"),  # as long as the stack, and still one value
        ("scalar_or_per_layer", [8, 7, 6, 5, 4, 3], [8, 6, 5, 3]),
        ("scalar_or_per_layer", (8, 7, 6, 5, 4, 3), (8, 6, 5, 3)),
        ("layer_indexes", [0, 3], [0, 2]),
        ("layer_indexes", (5, 1, 0), (3, 0)),
        ("layer_indexes", [1, 4], []),
        ("layer_indexes", [], []),
        ("layer_indexes", [3, 3, 1], [2, 2]),
        ("leading_count", 0, 0),
        ("leading_count", 1, 1),
        ("leading_count", 2, 1),
        ("leading_count", 3, 2),
        ("leading_count", 6, 4),
        ("trailing_count", 0, 0),
        ("trailing_count", 1, 1),
        ("trailing_count", 2, 1),
        ("trailing_count", 3, 2),
        ("trailing_count", 6, 4),
        ("period", [0, 1, 2, 3, 4, 5], [0, 2, 3, 5]),
        ("period", 1, 1),
        ("period", 0, 0),
        ("keep", list("abcdef"), list("abcdef")),
        ("keep", 6, 6),
        ("layer_names", ["lm_head"], ["lm_head"]),
    ],
)
def test_rule(rule, value, after):
    found = apply(rule, "key", value, SIX)
    assert found == after
    assert type(found) is type(after)


@pytest.mark.parametrize("rule", RULES)
def test_null_has_no_layers_to_follow(rule):
    assert apply(rule, "key", None, SIX) is None


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        ("count", 7, "says 7 layers, the tensors have 6"),
        ("count", 4, "says 4 layers, the tensors have 6"),
        ("count", True, "expected a number, found True"),
        ("count", "6", "expected a number, found 6"),
        ("count", 6.0, "expected a number, found 6.0"),
        ("count", [6], "expected a number"),
        ("per_layer", [1, 2, 3, 4, 5], "has 5 entries for 6 layers"),
        ("per_layer", [1, 2, 3, 4, 5, 6, 7], "has 7 entries for 6 layers"),
        ("per_layer", "M-*M", "has 4 entries for 6 layers"),
        ("per_layer", 6, "expected a list, found 6"),
        ("per_layer", {"0": 1}, "expected a list"),
        ("scalar_or_per_layer", [1, 2], "has 2 entries for 6 layers"),
        ("layer_indexes", [6], "names layer 6 of 6"),
        ("layer_indexes", [0, -1], "names layer -1 of 6"),
        ("layer_indexes", [True], "expected a number, found True"),
        ("layer_indexes", [1.0], "expected a number, found 1.0"),
        ("layer_indexes", ["1"], "expected a number, found 1"),
        ("layer_indexes", 1, "expected a list, found 1"),
        ("layer_indexes", "123", "expected a list, found 123"),
        ("leading_count", True, "expected a number, found True"),
        ("leading_count", "3", "expected a number, found 3"),
        ("leading_count", [1], "expected a number"),
        ("trailing_count", False, "expected a number, found False"),
        ("trailing_count", 1.5, "expected a number, found 1.5"),
        ("period", True, "expected a number, found True"),
        ("period", "2", "expected a number, found 2"),
        ("period", [1, 2], "has 2 entries for 6 layers"),
        ("layer_names", "model.layers.1", "expected a list"),
        ("layer_names", 1, "expected a list"),
    ],
)
def test_a_value_that_contradicts_the_layers(rule, value, message):
    with pytest.raises(CheckpointError) as caught:
        apply(rule, "some.key", value, SIX)
    assert str(caught.value).startswith("some.key: " + message)


@pytest.mark.parametrize("key", ["k" * 200, "a\x1b[2Jb"])
def test_errors_show_a_hostile_key_safely(key):
    with pytest.raises(CheckpointError) as caught:
        apply("count", key, 7, SIX)
    assert len(str(caught.value)) < 140
    assert str(caught.value).isprintable()


NAMES = ["model.layers.0.mlp", "model.layers.1.mlp", "model.layers.3", "model.layers.5.a.7.b", "lm_head"]


@pytest.mark.parametrize(
    ("names", "after"),
    [
        (NAMES, ["model.layers.0.mlp", "model.layers.2", "model.layers.3.a.7.b", "lm_head"]),
        (tuple(NAMES), ("model.layers.0.mlp", "model.layers.2", "model.layers.3.a.7.b", "lm_head")),
        (["layers.3.mlp", "layers.4.mlp"], ["layers.2.mlp"]),  # written without `model.`
        (["re:model.layers.3.*", r"re:.*layers\.4\..*"], ["re:model.layers.3.*", r"re:.*layers\.4\..*"]),
        (["visual.layers.3.mlp", "model.encoder.layers.1"], ["visual.layers.3.mlp", "model.encoder.layers.1"]),
        (["xmodel.layers.3", "model_layers.3"], ["xmodel.layers.3", "model_layers.3"]),
        (["modelXlayers.3"], ["modelXlayers.3"]),
        (["model.layers.30.mlp", "model.layers.6"], ["model.layers.30.mlp", "model.layers.6"]),
        (["model.layers.3x", "model.layers.", "model.layers"], ["model.layers.3x", "model.layers.", "model.layers"]),
        (["model.layers.\u0663.mlp"], ["model.layers.\u0663.mlp"]),
        ([3, "layers.3"], [3, "layers.2"]),
        ({"layers.3": 1, "layers.4": 2, "lm_head": 3}, {"layers.2": 1, "lm_head": 3}),
        ([], []),
    ],
)  # fmt: skip
def test_layer_names(names, after):
    assert apply("layer_names", "ignore", names, SIX) == after
    assert type(apply("layer_names", "ignore", names, SIX)) is type(after)


def test_layer_names_keep_the_order_of_a_mapping():
    names = {"z": 0, "model.layers.5": 1, "a": 2, "model.layers.0": 3}
    assert list(apply("layer_names", "k", names, SIX)) == ["z", "model.layers.3", "a", "model.layers.0"]


def test_layer_names_under_another_spelling_of_the_prefix():
    layers = LayerMap("text", (1,), 2, ("language_model.model.layers.", "model.language_model.layers."))
    names = ["model.layers.1.q", "language_model.layers.1.q", "language_model.model.layers.0.q", "vision.layers.1"]
    assert apply("layer_names", "k", names, layers) == [
        "model.layers.0.q",
        "language_model.layers.0.q",
        "vision.layers.1",
    ]


@pytest.mark.parametrize(
    ("layers", "dropped", "numbers"),
    [(SIX, (1, 4), {0: 0, 2: 1, 3: 2, 5: 3}), (SINGLE, (0, 1, 2, 3, 4), {5: 0}), (LATE, (0, 1, 2), {3: 0, 4: 1, 5: 2})],
)
def test_a_layer_map(layers, dropped, numbers):
    assert layers.dropped == dropped
    assert layers.numbers == numbers


@st.composite
def two_maps(draw):
    """Kept A of some layers, kept B of those, and both in one step."""
    count = draw(st.integers(1, 12))
    first = draw(st.sets(st.integers(0, count - 1), min_size=1))
    kept = tuple(sorted(first))
    second = tuple(sorted(draw(st.sets(st.integers(0, len(kept) - 1), min_size=1))))
    both = tuple(kept[number] for number in second)
    maps = ((kept, count), (second, len(kept)), (both, count))
    return tuple(LayerMap("main", numbers, total, PREFIXES) for numbers, total in maps)


def value_for(rule: str, count: int, draw):
    return {
        "count": lambda: count,
        "per_layer": lambda: draw(st.lists(st.integers(), min_size=count, max_size=count)),
        "scalar_or_per_layer": lambda: draw(st.tuples(*[st.booleans()] * count)),
        "layer_indexes": lambda: draw(st.lists(st.integers(0, count - 1))),
        "leading_count": lambda: draw(st.integers(0, count)),
        "trailing_count": lambda: draw(st.integers(0, count)),
        "one_based_indexes": lambda: draw(st.lists(st.integers(1, count))),
        "last_index": lambda: draw(st.integers(-1, count - 1)),
        "prediction_count": lambda: draw(st.integers(0, 2)),
        "hidden_state": lambda: draw(st.lists(st.integers(0, count))),
        "apart_states": lambda: [draw(st.integers(0, count))],
        "per_layer_and_more": lambda: [*range(count), "more", "most"],
        "stage_indexes": lambda: sorted(draw(st.sets(st.integers(0, count), min_size=1))),
        "stage_names": lambda: ["stem", *(f"stage{number + 1}" for number in range(count))],
        "run_length": lambda: [[[str(number) for number in range(count)], 1]],
        "keyed": lambda: {f"{number:02}": number for number in draw(st.sets(st.integers(0, count - 1)))},
        "layer_pairs": lambda: [[number, 7] for number in draw(st.lists(st.integers(0, count - 1)))],
        "period": lambda: [str(number) for number in range(count)],
        "keep": lambda: list(range(count)),
        "names_within": lambda: {"a": [{f"layers.{number}.mlp": 4 for number in range(count)}]},
        "root_of_count": lambda: 0.0,
        "layer_names": lambda: [f"layers.{number}.mlp" for number in range(count)] + ["lm_head"],
    }[rule]()


@quick
@given(two_maps(), st.sampled_from(sorted(RULES)), st.data())
def test_two_runs_are_one(maps, rule, data):
    first, second, both = maps
    value = value_for(rule, first.count, data.draw)
    assert apply(rule, "k", apply(rule, "k", value, first), second) == apply(rule, "k", value, both)


@quick
@given(st.integers(1, 12), st.sampled_from(sorted(RULES)), st.data())
def test_keeping_every_layer_changes_nothing(count, rule, data):
    value = value_for(rule, count, data.draw)
    everything = LayerMap("main", tuple(range(count)), count, PREFIXES)
    assert apply(rule, "k", value, everything) == value


@quick
@given(two_maps(), st.integers(0, 14), st.integers(0, 14))
def test_thresholds_count_the_kept_layers_on_their_side(maps, leading, trailing):
    layers = maps[0]
    assert field_rules.leading_count(leading, layers) == sum(old < leading for old in layers.kept)
    assert field_rules.trailing_count(trailing, layers) == sum(old >= layers.count - trailing for old in layers.kept)


def test_a_list_without_the_mtp_layer_is_cut_as_if_it_were_not_there():
    layers = LayerMap("main", (0, 2, 3), 3, PREFIXES, mtp_layers=1)  # 3 is the MTP layer
    assert apply("per_layer", "k", [7, 8, 9], layers) == [7, 9]
    assert apply("per_layer", "k", [7, 8, 9, 10], layers) == [7, 9, 10]
    assert apply("per_layer_and_more", "k", [7, 8, 9], layers) == [7, 9]


def test_a_range_in_which_no_layer_is_left_is_not_the_whole():
    assert apply("last_index", "k", 2, LATE) == -2
    assert apply("last_index", "k", 3, LATE) == 0


@pytest.mark.parametrize(
    ("rule", "value", "after"),
    [
        ("run_length", [[["a", "b"], 3]], [[["a", "a", "b", "b"], 1]]),
        ("keyed", {"00": 1, "4": 2, "05": 3}, {"00": 1, "03": 3}),
        ("layer_pairs", [[0, 7], [1, 8], [5, 9, 9]], [[0, 7], [3, 9, 9]]),
    ],
)
def test_layers_inside_other_values_follow(rule, value, after):
    assert apply(rule, "k", value, SIX) == after


@pytest.mark.parametrize(("rule", "value"), [("root_of_count", True), ("keyed", {"x": 1}), ("keyed", {"²": 1})])
def test_what_only_looks_like_a_number_is_refused(rule, value):
    with pytest.raises(CheckpointError):
        apply(rule, "k", value, SIX)


def test_a_module_of_an_mtp_layer_follows():
    layers = LayerMap("main", (0, 2, 3), 3, PREFIXES, mtp_layers=1)
    assert apply("layer_names", "k", ["model.layers.3.mlp"], layers) == ["model.layers.2.mlp"]


def test_a_wildcard_is_one_layer_only_if_no_other_begins_alike():
    ten, eleven = (LayerMap("main", tuple(range(1, count)), count, PREFIXES) for count in (10, 11))
    assert apply("layer_names", "k", ["model.layers.1*"], ten) == ["model.layers.0.*"]
    assert apply("layer_names", "k", ["model.layers.1*"], eleven) == ["model.layers.1*"]  # and of layer 10
