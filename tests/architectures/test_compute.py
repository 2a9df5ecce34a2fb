"""What the layers of a model type compute: one row for both of its spellings."""

from dataclasses import fields

import pytest

from rewriter.architectures.compute import _ROWS, Compute, compute_of, compute_within
from rewriter.architectures.lookup import entries


def test_every_row_is_about_an_entry():
    assert {name for name, _ in _ROWS} <= {(entry.format, entry.name) for entry in entries()}


def test_no_name_is_in_two_rows_and_every_row_says_something():
    assert len(dict(_ROWS)) == len(_ROWS)
    assert Compute() not in dict(_ROWS).values()


def test_every_member_is_used_by_a_row():
    usual = Compute()
    unused = {each.name for each in fields(Compute)}
    for _, row in _ROWS:
        unused -= {each.name for each in fields(Compute) if getattr(row, each.name) != getattr(usual, each.name)}
    assert not unused


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: f"{entry.format}-{entry.name}")
def test_an_entry_has_what_its_row_says(entry):
    assert entry.compute == compute_of(entry.format, entry.name)


def test_what_holds_for_one_side_alone():
    ours, theirs = compute_of("huggingface", "gemma2"), compute_of("gguf", "gemma2")
    assert (ours.activation, theirs.activation) == ("gelu_new", "gelu_new")
    assert (ours.gain_offset, theirs.gain_offset) == (1.0, 0.0)
    assert (ours.softcap, theirs.softcap) == (0.0, 30.0)


def test_a_stack_computes_what_its_own_model_type_does():
    found = compute_within("huggingface", "paligemma", "gemma")
    assert found.activation == "gelu_new"
    assert found.unknown_attention  # paligemma's, though gemma's is known
    assert compute_within("huggingface", "gemma", "gemma") == compute_of("huggingface", "gemma")
