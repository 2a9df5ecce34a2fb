"""Short ways to write rows of the Hugging Face tables."""

from __future__ import annotations

from typing import Any

from rewriter.architectures.schema import Architecture, StackRule

ALIAS = ("num_hidden_layers",)


def decoder(
    *names: str,
    prefixes: tuple[str, ...] = ("model.layers.", "layers."),
    count_key: str = "num_hidden_layers",
    warnings: tuple[tuple[str, str], ...] = (),
    **others: Any,
) -> tuple[Architecture, ...]:
    """One row for each of `names`: model types with a single stack. `others` are further fields of StackRule.

    Any decoder may carry MTP layers after its own: they show in the tensors.
    """
    others = {"mtp_key": "num_nextn_predict_layers", **others}
    stack = StackRule(name="main", prefixes=prefixes, count_key=count_key, **others)
    return tuple(Architecture(name=name, format="huggingface", stacks=(stack,), warnings=warnings) for name in names)


def several(name: str, *stacks: StackRule, warnings: tuple[tuple[str, str], ...] = ()) -> tuple[Architecture, ...]:
    """One row: a model type with several stacks, the main one first."""
    return (Architecture(name=name, format="huggingface", stacks=stacks, warnings=warnings),)


def part(name: str, count_key: str, *prefixes: str, **others: Any) -> StackRule:
    """A stack of a model of several, with `model.` before its prefixes or without. `others` are further fields."""
    with_outer = tuple(spelling for prefix in prefixes for spelling in (f"model.{prefix}", prefix))
    return StackRule(name=name, prefixes=with_outer, count_key=count_key, **others)


def keep(*keys: str) -> tuple[tuple[str, str], ...]:
    """Lists that have nothing to do with the layers, however many entries they have."""
    return tuple((key, "keep") for key in keys)


def encoder(*names: str, outer: str, inner: str = "encoder.layer.", **others: Any) -> tuple[Architecture, ...]:
    """Model types with one stack, `inner` with or without the name `outer` before it."""
    return decoder(*names, prefixes=(f"{outer}.{inner}", inner), **others)


def vit_prefixes(outer: str) -> tuple[str, ...]:
    """The names of old and of transformers 5."""
    return (f"{outer}.encoder.layer.", "encoder.layer.", f"{outer}.layers.", "layers.")
