"""Short ways to write rows of the Hugging Face tables."""

from __future__ import annotations

from typing import Any

from rewriter.architectures.entry import Architecture, LayerStack


def decoder(
    *names: str,
    prefixes: tuple[str, ...] = ("model.layers.", "layers."),
    count_key: str = "num_hidden_layers",
    warnings: tuple[tuple[str, str], ...] = (),
    **others: Any,
) -> tuple[Architecture, ...]:
    """One row for each of `names`: model types with a single stack. `others` are further fields of LayerStack.

    Any decoder may carry prediction layers after its own: they show in the tensors.
    """
    others = {"prediction_key": "num_nextn_predict_layers", **others}
    stack = LayerStack(name="main", prefixes=prefixes, count_key=count_key, **others)
    return tuple(Architecture(name=name, format="huggingface", stacks=(stack,), warnings=warnings) for name in names)


def several(name: str, *stacks: LayerStack, warnings: tuple[tuple[str, str], ...] = ()) -> tuple[Architecture, ...]:
    """One row: a model type with several stacks, the main one first."""
    return (Architecture(name=name, format="huggingface", stacks=stacks, warnings=warnings),)
