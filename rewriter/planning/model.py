"""A model: a checkpoint seen through its architecture. Made once for a command, and handed on. Pure.

A stack is one list of layers. The tensors of a LLaVA show two, `model.language_model.layers.N.` (stack `text`, counted
by `text_config.num_hidden_layers`) and `model.vision_tower.encoder.layers.N.` (stack `vision`, counted by
`vision_config.num_hidden_layers`). A plan drops layers of one stack; keys are relative to the scope of that stack
(`text_config`), so that `model.value("layer_types")` reads `text_config.layer_types`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rewriter.architectures.lookup import Stack, table_of
from rewriter.architectures.schema import Architecture
from rewriter.checkpoint import GGUF, Checkpoint, LayerMap
from rewriter.errors import RequestError, printable
from rewriter.planning.options import PlanOptions


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint, its architecture, all its stacks, and the one that the options name.

    `lists` are the numbered lists of its tensor names (`numbered_lists`). `unknown`: neither the tables nor the user
    describe the architecture, it was derived from names and counts.
    """

    checkpoint: Checkpoint
    architecture: Architecture
    stacks: tuple[Stack, ...]
    stack: Stack
    options: PlanOptions
    lists: Mapping[str, Mapping[str, None]]
    unknown: bool = False

    def key(self, name: str) -> str:
        """The whole metadata key for one that is relative to the stack's scope."""
        return self.stack.key(name)

    def value(self, name: str) -> Any:
        """The metadata under a key of the stack, None if there is nothing."""
        return self.checkpoint.value(self.stack.key(name))

    @property
    def metadata(self) -> Mapping[str, object]:
        """The metadata of the checkpoint."""
        return self.checkpoint.metadata

    @property
    def is_main(self) -> bool:
        """Whether the selected stack is the first one, which `main` names."""
        return self.stack is self.stacks[0]

    @property
    def is_gguf(self) -> bool:
        """Whether the GGUF table describes it."""
        return table_of(self.checkpoint) == GGUF

    @property
    def all_layers(self) -> LayerMap:
        """The layers of the stack if none is dropped, MTP layers included."""
        return self._layer_map(range(self.stack.count + self.stack.mtp_layers))

    def of(self, stack: Stack) -> Model:
        """The same model with another stack selected."""
        return replace(self, stack=stack)

    def with_options(self, **changes: Any) -> Model:
        """The same model with other options; those that decide about the stacks must stay."""
        return replace(self, options=replace(self.options, **changes))

    def keep(self, layers: Iterable[int]) -> LayerMap:
        """The layers `layers` of the stack. MTP layers stay too unless some are named or the options drop them.

        Raises RequestError for layers that do not exist, and if no main layer is left.
        """
        stack = self.stack
        kept = tuple(sorted(set(layers)))
        if not all(type(number) is int for number in kept):
            raise RequestError(f"layers are numbers, not {printable(kept)}; parse_layers reads text such as 3,7-9")
        total = stack.count + stack.mtp_layers
        if kept and (kept[0] < 0 or kept[-1] >= total):
            raise RequestError(f"layers run from 0 to {total - 1} in stack {stack.name}, not {kept[0]} to {kept[-1]}")
        if not kept or kept[0] >= stack.count:
            raise RequestError("at least one layer must stay")
        if self.options.drop_mtp:
            kept = tuple(layer for layer in kept if layer < stack.count)
        elif kept[-1] < stack.count:
            kept = (*kept, *range(stack.count, total))
        return self._layer_map(kept)

    def _layer_map(self, kept: Iterable[int]) -> LayerMap:
        stack = self.stack
        prefixes = (stack.prefix, *stack.entry.prefixes)
        return LayerMap(stack.name, tuple(kept), stack.count, prefixes, stack.mtp_layers)
