"""Plans, from names and metadata alone: no file is opened here."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewriter.checkpoint import FieldEdit
from rewriter.errors import CheckpointError, RequestError, UnsupportedError
from rewriter.planning.open_model import open_model
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import effective_metadata, find_problems, make_plan, planned_checkpoint
from tests.support.checkpoints import (
    changes,
    gemma3,
    gemma3_gguf,
    ggml,
    hf,
    llama,
    llama_gguf,
    names,
    numbered,
    t5,
    t5_gguf,
    with_metadata,
)

BARE = PlanOptions(provenance=False)


# -- layers and names


def test_kept_layers_are_renumbered_and_all_else_stays():
    plan = make_plan(llama(5), [0, 2, 4])
    assert names(plan) == {
        "model.embed_tokens.weight": "model.embed_tokens.weight",
        "model.layers.0.weight": "model.layers.0.weight",
        "model.layers.2.weight": "model.layers.1.weight",
        "model.layers.4.weight": "model.layers.2.weight",
        "lm_head.weight": "lm_head.weight",
    }
    assert [tensor.name for tensor in plan.dropped] == ["model.layers.1.weight", "model.layers.3.weight"]
    assert plan.edits == (FieldEdit("num_hidden_layers", 5, 3, "count", "config.json"),)
    assert (plan.parameters, plan.nbytes) == (5 * 6, 5 * 24)
    assert plan.warnings == ()


def test_keeping_every_layer_changes_nothing():
    for checkpoint in (llama(), llama_gguf(), t5(), t5_gguf(), gemma3(), gemma3_gguf()):
        plan = make_plan(checkpoint, range(6), BARE)
        assert plan.edits == ()
        assert plan.dropped == ()
        assert all(copy.name == copy.tensor.name for copy in plan.tensors)


def test_keep_is_a_set():
    assert make_plan(llama(), [5, 0, 5, 2]).layers.kept == (0, 2, 5)


@pytest.mark.parametrize(
    ("keep", "message"), [([], "at least one layer"), ([6], "0 to 5"), ([-1, 2], "0 to 5"), ([0, 99], "0 to 5")]
)
def test_layers_that_are_not_there(keep, message):
    with pytest.raises(RequestError, match=message):
        make_plan(llama(), keep)


@given(st.integers(1, 14), st.data())
@settings(derandomize=True, deadline=None, max_examples=60)
def test_every_kept_layer_is_there_under_its_new_number(count, data):
    kept = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1)))
    plan = make_plan(llama(count), kept)
    layers = [copy for copy in plan.tensors if "layers" in copy.name]
    assert [(copy.tensor.name, copy.name) for copy in layers] == [
        (f"model.layers.{old}.weight", f"model.layers.{new}.weight") for new, old in enumerate(kept)
    ]
    assert len(plan.tensors) + len(plan.dropped) == count + 2


# -- prefixes


# -- counts


@pytest.mark.parametrize("stated", [5, 7, 0, -6, True, "6", [6], 6.5])
def test_a_count_that_contradicts_the_tensors(stated):
    with pytest.raises(CheckpointError, match="num_hidden_layers: expected 6, as the tensors have layers, found"):
        make_plan(llama(num_hidden_layers=stated), [0])
    with pytest.raises(CheckpointError, match=r"llama.block_count: expected 6"):
        make_plan(llama_gguf(block_count=stated), [0])


def test_true_is_not_one_layer():
    with pytest.raises(CheckpointError, match="num_hidden_layers: expected 1, as the tensors have layers, found True"):
        make_plan(llama(1, num_hidden_layers=True), [0])


@pytest.mark.parametrize("config", [{"model_type": "llama"}, {"num_hidden_layers": None}])
def test_a_count_that_is_left_out_is_written(config):
    plan = make_plan(hf("llama", numbered("model.layers.", 4), config), [0, 1])
    assert plan.edits == (FieldEdit("num_hidden_layers", None, 2, "count", "config.json"),)


def test_the_count_of_another_stack_must_be_right_too():
    with pytest.raises(CheckpointError, match=r"vision_config.num_hidden_layers: expected 3"):
        make_plan(gemma3(vision=3, vision_config={"num_hidden_layers": 2}), [0])


# -- stacks


@pytest.mark.parametrize(
    ("stack", "prefix", "key"),
    [
        ("main", "decoder", "num_decoder_layers"),
        ("decoder", "decoder", "num_decoder_layers"),
        ("encoder", "encoder", "num_layers"),
    ],
)
def test_t5_stacks(stack, prefix, key):
    plan = make_plan(t5(decoder=4, encoder=5), [1, 2], PlanOptions(stack=stack))
    assert plan.layers.stack == prefix
    assert changes(plan) == {key: 2}
    other = {"encoder": "decoder", "decoder": "encoder"}[prefix]
    assert all(new == old for old, new in names(plan).items() if old.startswith(other))
    assert names(plan)[f"{prefix}.block.2.layer.0.w"] == f"{prefix}.block.1.layer.0.w"


BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"


@pytest.mark.parametrize(
    ("stack", "after"),
    [("decoder", {"num_decoder_layers": 2}), ("encoder", {"num_layers": 2, "num_decoder_layers": 6})],
)
@pytest.mark.parametrize("left_out", [{}, {"num_decoder_layers": None}])
def test_a_decoder_count_that_is_left_out_is_pinned(stack, after, left_out):
    """T5Config takes num_layers for it, and would follow the encoder."""
    assert changes(make_plan(t5(num_layers=6, **left_out), [0, 5], PlanOptions(stack=stack))) == after


@pytest.mark.parametrize(
    ("stack", "keep", "after"),
    [("decoder", [0, 5], {"t5.decoder_block_count": 2}), ("encoder", range(6), {}), ("encoder", range(5), None)],
)
def test_a_decoder_count_that_is_left_out_is_pinned_in_gguf(stack, keep, after):
    checkpoint = t5_gguf(block_count=6)
    if after is None:
        with pytest.raises(UnsupportedError, match="no encoder shorter than its decoder"):
            make_plan(checkpoint, keep, PlanOptions(stack=stack))
    else:
        assert changes(make_plan(checkpoint, keep, PlanOptions(stack=stack))) == after


def test_a_gguf_encoder_may_become_as_short_as_the_decoder():
    plan = make_plan(t5_gguf(decoder=3), [0, 1, 2], PlanOptions(stack="encoder"))
    assert changes(plan) == {"t5.block_count": 3}
    with pytest.raises(UnsupportedError, match="prune --stack decoder first"):
        make_plan(t5_gguf(decoder=3), [0, 1], PlanOptions(stack="encoder"))


def test_a_hugging_face_encoder_may_be_shorter_than_the_decoder():
    assert changes(make_plan(t5(), [0], PlanOptions(stack="encoder"))) == {"num_layers": 1}


def test_a_t5_without_a_decoder():
    checkpoint = hf("t5", numbered("encoder.block.", 4), {"num_layers": 4, "num_decoder_layers": 4})
    plan = make_plan(checkpoint, [0, 1])
    assert plan.layers.stack == "encoder"
    assert changes(plan) == {"num_layers": 2}


# -- architectures without an entry


def test_an_unknown_architecture_is_refused():
    with pytest.raises(UnsupportedError, match=r"no rules for architecture 'newmodel' .* --generic tries it"):
        make_plan(hf("newmodel", numbered("model.layers.", 2), {"num_hidden_layers": 2}), [0])
    with pytest.raises(UnsupportedError, match=r"no config.json .* --generic"):
        make_plan(hf("", numbered("model.layers.", 2)), [0])
    with pytest.raises(UnsupportedError, match="no rules for architecture 'mistral'"):
        make_plan(ggml("mistral", numbered("blk.", 2), {"block_count": 2}), [0])  # no such name in llama.cpp


GENERIC = PlanOptions(generic=True)


@pytest.mark.parametrize(
    ("checkpoint", "after"),
    [
        (hf("new", numbered("a.b.", 4), {"num_hidden_layers": 4}), {"num_hidden_layers": 2}),
        (hf("new", numbered("a.b.", 4), {"n_layer": 4, "num_layers": 4}), {"n_layer": 2, "num_layers": 2}),
        (hf("new", numbered("a.b.", 4), {"text_config": {"n_layers": 4}}), {"text_config.n_layers": 2}),
        (hf("new", [*numbered("a.b.", 4), *numbered("c.", 2)], {"num_hidden_layers": 4}), {"num_hidden_layers": 2}),
        (hf("new", [*numbered("a.b.", 4), "mm.0.w", "mm.2.w"], {"num_layers": 4}), {"num_layers": 2}),
        (hf("", numbered("a.b.", 4)), {}),
        (ggml("new", numbered("blk.", 4), {"block_count": 4}), {"new.block_count": 2}),
        (
            hf("new", numbered("a.b.", 4), {"num_layers": 4, "layer_types": list("abcd")}),
            {"num_layers": 2, "layer_types": ["b", "d"]},
        ),
        (
            ggml("new", numbered("blk.", 4), {"block_count": 4, "feed_forward_length": (1, 2, 3, 4)}),
            {"new.block_count": 2, "new.feed_forward_length": (2, 4)},
        ),
    ],
)
def test_generic(checkpoint, after):
    plan = make_plan(checkpoint, [1, 3], GENERIC)
    assert changes(plan) == after
    prefix = plan.stack.prefix
    assert names(plan)[f"{prefix}3.weight"] == f"{prefix}1.weight"
    assert len(plan.dropped) == 2
    assert ["no rules for architecture" in warning for warning in plan.warnings] == [True]


WINDOW = {"num_layers": 4, "sliding_window": 128}


@pytest.mark.parametrize(
    ("checkpoint", "way_out"),
    [
        (hf("new", numbered("a.", 4), WINDOW), "sliding_window"),
        (
            ggml("new", numbered("blk.", 4), {"block_count": 4, "attention.sliding_window": 9}),
            "attention.sliding_window",
        ),
    ],
)
def test_generic_refuses_a_window_that_only_some_layers_may_have(checkpoint, way_out):
    with pytest.raises(UnsupportedError, match=f"if all have it, --keep-field {way_out}$"):
        make_plan(checkpoint, [1, 3], GENERIC)
    assert len(changes(make_plan(checkpoint, [1, 3], PlanOptions(generic=True, keep_fields=(way_out,))))) == 1
    assert make_plan(checkpoint, range(4), GENERIC).edits == ()


@pytest.mark.parametrize(
    "more",
    [{"sliding_window": None}, {"use_sliding_window": False}, {"layer_types": list("abcd")}, {"sliding_window": 0}],
)
def test_generic_takes_a_window_that_is_off_or_listed(more):
    assert changes(make_plan(hf("new", numbered("a.", 4), {**WINDOW, **more}), [1, 3], GENERIC))["num_layers"] == 2


@pytest.mark.parametrize(
    ("checkpoint", "said"),
    [
        (hf("new", numbered("a.", 4), {"num_hidden_layers": 5}), ["a.N has 4", "num_hidden_layers is 5"]),
        (hf("new", numbered("a.", 4), {"hidden_size": 4}), ["a.N has 4", "counts in the metadata: none"]),
        (hf("new", ["a.w"], {"num_hidden_layers": 4}), ["lists in the tensors: none"]),
        (hf("new", [*numbered("a.", 4), *numbered("b.", 4)], {"num_hidden_layers": 4}), ["a.N has 4", "b.N has 4"]),
        (hf("", [*numbered("a.", 4), *numbered("b.", 3)]), ["a.N has 4", "b.N has 3"]),
        (hf("new", numbered("a.", 4), {"num_hidden_layers": 4, "v": {"num_layers": 4}}), ["v.num_layers is 4"]),
        (hf("new", ["a.0.w", "a.2.w"], {"num_hidden_layers": 2}), ["lists in the tensors: none"]),
        (hf("new", ["a.0.w", "a.01.w"], {"num_hidden_layers": 2}), ["lists in the tensors: none"]),
        (hf("new", numbered("a.", 1), {"num_hidden_layers": True}), ["counts in the metadata: none"]),
        (ggml("new", numbered("blk.", 4), {"block_count": 5}), ["blk.N has 4", "new.block_count is 5"]),
    ],
)
def test_generic_says_what_is_missing(checkpoint, said):
    with pytest.raises(UnsupportedError) as caught:
        make_plan(checkpoint, [0], GENERIC)
    assert all(words in str(caught.value) for words in ["--generic needs one list", *said])


def test_generic_refuses_an_unknown_list():
    with pytest.raises(UnsupportedError, match="--per-layer-field what"):
        make_plan(hf("new", numbered("a.", 4), {"num_hidden_layers": 4, "what": [1] * 4}), [0], GENERIC)


NUMBERS = {"num_layers": 4, "first_dense": 1, "every_n": 2, "size": 3, "block_size": 512, "is_first": True, "first": 0}


def test_generic_refuses_numbers_that_may_be_of_layers():
    checkpoint = hf("new", numbered("a.", 4), NUMBERS)
    with pytest.raises(UnsupportedError, match=r"^first_dense is 1: .* --keep-field first_dense .*; so may every_n$"):
        make_plan(checkpoint, [1, 3], GENERIC)
    kept = PlanOptions(generic=True, keep_fields=("first_dense", "every_n"))
    assert changes(make_plan(checkpoint, [1, 3], kept)) == {"num_layers": 2}
    assert make_plan(checkpoint, range(4), GENERIC).edits == ()


@pytest.mark.parametrize(
    "more",
    [
        {"vision": {"model_type": "tower", "depth": 3}},  # a model of its own
        {"rope_scaling": {"first": 2}},
        {"n_layer": 4},  # says the count again
    ],
)
def test_generic_takes_numbers_that_are_not_about_these_layers(more):
    assert (
        changes(make_plan(hf("new", numbered("a.", 4), {"num_layers": 4, **more}), [1, 3], GENERIC))["num_layers"] == 2
    )


def test_generic_refuses_a_number_of_a_gguf():
    checkpoint = ggml("new", numbered("blk.", 4), {"block_count": 4, "dense_lead": 2})
    with pytest.raises(UnsupportedError, match=r"^dense_lead is 2: .* --keep-field dense_lead "):
        make_plan(checkpoint, [1, 3], GENERIC)


@pytest.mark.parametrize(("kept", "moved"), [([0, 1, 3], ""), ([1, 2, 3], "layer 2 would become layer 1")])
def test_generic_layers_of_other_shapes(kept, moved):
    checkpoint = hf("new", numbered("a.", 4), {"num_layers": 4})
    tensors = (each._replace(shape=(3 if at < 2 else 6, 2)) for at, each in enumerate(checkpoint.tensors))
    checkpoint = replace(checkpoint, tensors=tuple(tensors))
    if moved:
        with pytest.raises(UnsupportedError, match=f"{moved}, which holds tensors of other shapes, and no field"):
            make_plan(checkpoint, kept, GENERIC)
    else:
        assert len(make_plan(checkpoint, kept, GENERIC).dropped) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attn_layers", [4, 3]), ("exits", None), ("exit_layers", [-1, -4]), ("reuse_groups", [[1, 2], [3, 4]]),
        ("sparse_blocks", "1,3"), ("sparse_block_range", "1-3"), ("layer_ids", ["0", "3"]), ("mixer", "LLLG"),
        ("block_pattern", ["recurrent", "attention"]), ("attention_types", [[["global", "local"], 2]]),
    ],
)  # fmt: skip
def test_generic_refuses_what_may_say_which_layers_differ(name, value):
    checkpoint = hf("new", numbered("a.", 4), {"num_layers": 4, name: value})
    if value is None:
        assert changes(make_plan(checkpoint, [1, 3], GENERIC)) == {"num_layers": 2}
        return
    with pytest.raises(UnsupportedError, match=f"{name}.* --keep-field {name} leaves it"):
        make_plan(checkpoint, [1, 3], GENERIC)
    kept = PlanOptions(generic=True, keep_fields=(name,))
    assert changes(make_plan(checkpoint, [1, 3], kept)) == {"num_layers": 2}


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden_act", "gelu"), ("mlp_ratio", 4.0), ("strides", [1, 2]), ("use_blocks", True), ("block_size", 128)],
)
def test_generic_takes_what_says_nothing_of_layers(name, value):
    checkpoint = hf("new", numbered("a.", 4), {"num_layers": 4, name: value})
    assert changes(make_plan(checkpoint, [1, 3], GENERIC)) == {"num_layers": 2}


def test_generic_names_a_field_as_it_has_to_be_given():
    config = {"text_config": {"num_layers": 4, "first_dense": 2}, "first_dense": 2}
    checkpoint = hf("new", numbered("a.", 4), config)
    with pytest.raises(UnsupportedError, match=r"--keep-field text_config\.first_dense ") as caught:
        make_plan(checkpoint, [1, 3], GENERIC)
    name = str(caught.value).partition("--keep-field ")[2].split()[0]
    assert len(changes(make_plan(checkpoint, [1, 3], PlanOptions(generic=True, keep_fields=(name,))))) == 1


MIXED = [*numbered("a.", 6, "norm"), *(f"a.{layer}.{'dense' if layer < 2 else 'expert'}" for layer in range(6))]


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        ({"num_attention_heads": 4, "intermediate_size": 48}, False),  # the same for all
        ({"layer_types": list("xyxyxy")}, False),  # of something else
        ({"layer_types": list("ddeeee")}, True),
        ({"mlp_only_layers": [0, 1]}, True),
        ({"first_k_dense_replace": 2}, True),
        ({"first_k_dense_replace": 3}, False),
        ({"num_key_value_heads": [4, 4, 2, 2, 2, 2]}, True),
    ],
)
def test_generic_layers_of_other_kinds_must_be_told_apart_by_the_metadata(said, fits):
    checkpoint = hf("new", MIXED, {"num_layers": 6, **said})
    if fits:
        assert make_plan(checkpoint, [1, 2, 3, 4, 5], GENERIC).layers.dropped == (0,)
    else:
        with pytest.raises(UnsupportedError, match="layer 2 would become layer 1, which holds other tensors"):
            make_plan(checkpoint, [1, 2, 3, 4, 5], GENERIC)
    assert make_plan(checkpoint, [0, 1, 2, 3], GENERIC).layers.dropped == (4, 5)


def test_generic_refuses_a_broken_period():
    with pytest.raises(UnsupportedError, match="sliding_window_pattern makes every 2 layers a pattern"):
        make_plan(hf("new", numbered("a.", 4), {"num_hidden_layers": 4, "sliding_window_pattern": 2}), [0, 2], GENERIC)


def test_generic_does_not_replace_the_rules_there_are():
    model = open_model(t5(), GENERIC)
    assert model.architecture.name == "t5"
    assert [stack.name for stack in model.stacks] == ["decoder", "encoder"]


# -- what contradicts itself


def test_problems_lists_every_one():
    checkpoint = gemma3(6, 2, vision_config={"num_hidden_layers": 3}, layer_types=["x"] * 5, mlp_only_layers=[9])
    checkpoint = with_metadata(checkpoint, {"text_config.num_hidden_layers": 7})
    assert [(problem.where, problem.found.rpartition(": ")[2]) for problem in find_problems(checkpoint, BARE)] == [
        ("text_config.num_hidden_layers", "7"),
        ("vision_config.num_hidden_layers", "3"),
        ("text_config.layer_types", "has 5 entries for 6 layers"),
        ("text_config.mlp_only_layers", "names layer 9 of 6"),
    ]
    assert all("\n" not in str(problem) for problem in find_problems(checkpoint, BARE))


@pytest.mark.parametrize("checkpoint", [llama(), llama_gguf(), t5(), t5(num_layers=6), gemma3(), gemma3_gguf(12)])
def test_no_problems(checkpoint):
    assert find_problems(checkpoint, BARE) == ()


@pytest.mark.parametrize(
    "checkpoint",
    [
        llama(layer_types=list("abcdef"), mlp_only_layers=[0, 5], max_window_layers=4),
        llama_gguf(attention__head_count_kv=(1, 2, 3, 4, 5, 6), leading_dense_block_count=2),
        t5(num_layers=6),
        gemma3(),
        gemma3_gguf(),
    ],
)
@pytest.mark.parametrize("keep", [[0, 2], [3, 4, 5], range(5)])
def test_a_result_agrees_with_itself(checkpoint, keep):
    assert find_problems(planned_checkpoint(make_plan(checkpoint, keep, BARE)), BARE) == ()


@pytest.mark.parametrize(
    ("first", "second"), [([0, 2, 3, 5], [1, 3]), ([1, 2, 3, 4, 5], [0, 4]), ([0, 4, 5], [0, 2]), (range(6), [0, 1])]
)
@pytest.mark.parametrize(
    "checkpoint",
    [
        llama(layer_types=list("abcdef"), mlp_only_layers=[0, 2, 5], max_window_layers=4),
        llama_gguf(attention__head_count_kv=(1, 2, 3, 4, 5, 6), leading_dense_block_count=2),
        t5(),
        gemma3(),
        gemma3_gguf(),
    ],
)
def test_two_runs_are_one(checkpoint, first, second):
    twice = planned_checkpoint(make_plan(planned_checkpoint(make_plan(checkpoint, first, BARE)), second, BARE))
    once = planned_checkpoint(make_plan(checkpoint, [list(first)[number] for number in second], BARE))
    assert [tensor.name for tensor in twice.tensors] == [tensor.name for tensor in once.tensors]
    assert [tensor.offset for tensor in twice.tensors] == [tensor.offset for tensor in once.tensors]
    assert effective_metadata(twice, BARE) == effective_metadata(once, BARE)
