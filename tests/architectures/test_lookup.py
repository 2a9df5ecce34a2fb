"""Where a checkpoint has its layers, by the tables and the names of its tensors."""

from itertools import chain

import pytest

from rewriter.architectures.lookup import entries, numbered_lists, resolve
from rewriter.errors import CheckpointError, RequestError, UnsupportedError
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import make_plan
from tests.support.checkpoints import (
    changes,
    ggml,
    hf,
    names,
    numbered,
    t5,
)
from tests.support.named_fixtures import checkpoint_from, named_fixtures


@pytest.mark.parametrize(
    ("architecture", "prefix", "count_key"),
    [
        ("llama", "model.layers.", "num_hidden_layers"),
        ("llama", "layers.", "num_hidden_layers"),
        ("llama", "base_model.model.model.layers.", "num_hidden_layers"),
        ("mistral", "model.layers.", "num_hidden_layers"),
        ("qwen2", "layers.", "num_hidden_layers"),
        ("qwen3", "model.layers.", "num_hidden_layers"),
        ("phi3", "model.layers.", "num_hidden_layers"),
        ("mixtral", "model.layers.", "num_hidden_layers"),
        ("gemma3_text", "layers.", "num_hidden_layers"),
        ("gpt2", "transformer.h.", "n_layer"),
        ("gpt2", "h.", "n_layer"),
        ("bert", "bert.encoder.layer.", "num_hidden_layers"),
        ("bert", "encoder.layer.", "num_hidden_layers"),
        ("bert", "wrapped.bert.encoder.layer.", "num_hidden_layers"),
        ("vit", "vit.encoder.layer.", "num_hidden_layers"),
        ("vit", "encoder.layer.", "num_hidden_layers"),
        ("vit", "vit.layers.", "num_hidden_layers"),
        ("vit", "layers.", "num_hidden_layers"),
        ("gemma3", "language_model.model.layers.", "text_config.num_hidden_layers"),
        ("gemma3", "model.language_model.layers.", "text_config.num_hidden_layers"),
        ("t5", "decoder.block.", "num_decoder_layers"),
    ],
)
def test_prefixes_are_found_in_the_names(architecture, prefix, count_key):
    inner, _, outer = count_key.rpartition(".")[::-1]
    config = {outer: {inner: 3}} if outer else {inner: 3}
    plan = make_plan(hf(architecture, ["first.weight", *numbered(prefix, 3)], config), [0, 2])
    assert names(plan)[f"{prefix}2.weight"] == f"{prefix}1.weight"
    assert plan.stack.prefix == prefix
    assert changes(plan) == {count_key: 2}


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3", "phi3", "gpt2", "bert"])
def test_gguf_architectures(architecture):
    plan = make_plan(ggml(architecture, numbered("blk.", 3), {"block_count": 3}), [0, 1])
    assert changes(plan) == {f"{architecture}.block_count": 2}


@pytest.mark.parametrize(
    "prefixes", [("model.layers.", "layers."), ("a.model.layers.", "b.model.layers."), ("a.layers.", "b.layers.")]
)
def test_two_prefixes_that_could_both_be_meant(prefixes):
    checkpoint = hf("llama", [name for prefix in prefixes for name in numbered(prefix, 2)], {"num_hidden_layers": 2})
    with pytest.raises(CheckpointError, match="several names") as caught:
        make_plan(checkpoint, [0])
    assert all(prefix in str(caught.value) for prefix in prefixes)


def test_no_layers_at_all():
    with pytest.raises(UnsupportedError, match=r"show no layers \(expected model.layers.N\)"):
        make_plan(hf("llama", ["lm_head.weight"], {"num_hidden_layers": 2}), [0])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["0", "1", "01"], "'01' is not a layer number"),
        (["00", "1"], "'00' is not a layer number"),
        (["0", "1", "x"], "'x' is not a layer number"),
        (["0", "1", ""], "'' is not a layer number"),
        (["0", "-1"], "'-1' is not a layer number"),
        (["0", "1", "\u0662"], "is not a layer number"),
        (["0", "2"], "layer 1 is missing among 2"),
        (["1", "2"], "layer 0 is missing among 2"),
        (["0", "9999999"], "'9999999' is not a layer number"),
        (["0", "9" * 5000], "is not a layer number"),
    ],
)
def test_gaps_and_aliases(labels, message):
    checkpoint = hf("llama", [f"model.layers.{label}.w" for label in labels], {"num_hidden_layers": len(labels)})
    with pytest.raises(CheckpointError, match=message) as caught:
        make_plan(checkpoint, [0])
    assert len(str(caught.value)) < 150


def test_a_stack_that_is_not_there_names_those_that_are():
    with pytest.raises(RequestError, match=r"no stack 'vision' here; .* has: decoder, encoder \(main is decoder\)"):
        make_plan(t5(), [0], PlanOptions(stack="vision"))


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: f"{entry.format}-{entry.name}")
def test_every_entry_has_a_fixture_with_its_real_names(entry):
    files = named_fixtures(entry)
    assert files
    there = [checkpoint_from(entry, file) for file in files]
    stacks = chain.from_iterable(resolve(each, entry, numbered_lists(each)) for each in there)
    assert {stack.name for stack in stacks} == {stack.name for stack in entry.stacks}
