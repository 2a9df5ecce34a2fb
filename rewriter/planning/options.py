"""What may be asked for: which layers, and what else the output depends on. Values only."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rewriter.architectures.custom import load_architecture
from rewriter.architectures.schema import Architecture
from rewriter.errors import RequestError
from rewriter.planning.option import Recorded, arguments, option, options_of
from rewriter.planning.selection import strategies
from rewriter.units import parse_size

RECIPE = "recipe:"  # how the names of published removal orders begin, among the strategies
_LAYERS, _FIELDS, _REFUSALS = "Which layers", "Unknown architectures", "What cannot be kept exact"
_FILES, _CARD = "Into which files", "Model card"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSelection:
    """What was asked for. At most one of `drop`, `keep` and `strategy`; a strategy needs one amount.

    With an amount alone the layers go by their scores. `contiguous`: scored layers go as one block. Without
    protection, strategies by position protect nothing, and scores the ends (`default_protection`).
    `sparsity` is a setting of the metric `lamp`.
    """

    drop: str | None = option(
        None,
        "Layers to drop: 3,7-9,-1 (from 0; -1 is the last).",
        metavar="LAYERS",
        panel=_LAYERS,
        repeats=True,
        read=",".join,
    )
    keep: str | None = option(
        None, "Layers to keep, the others go: 0-20,31.", metavar="LAYERS", panel=_LAYERS, repeats=True, read=",".join
    )
    strategy: str | None = option(
        None, "How to choose: by position, recipe:NAME, or a metric (see `rewriter list`); else by score.",
        metavar="NAME", panel=_LAYERS, completion="strategies",
    )  # fmt: skip
    count: int | None = option(None, "How many to drop (first-n: to keep).", metavar="K", panel=_LAYERS)
    ratio: float | None = option(None, "The share of layers to drop, 0.25.", metavar="R", panel=_LAYERS)
    target_size: str | None = option(
        None, "Drop the fewest layers that make the output fit, 4GiB.", metavar="SIZE", panel=_LAYERS
    )
    protect_first: int | None = option(
        None, "Never drop the first N (by score: ceil(L/8) unless given, else 0).",
        metavar="N", panel=_LAYERS, least=0,
    )  # fmt: skip
    protect_last: int | None = option(
        None, "Never drop the last N (by score: 2 unless given, else 0).", metavar="N", panel=_LAYERS, least=0
    )
    contiguous: bool = option(False, "By score: as one block.", panel=_LAYERS)
    sparsity: float | None = option(
        None, "With the metric lamp: the sparsity it is about, 0.8.", metavar="S", panel=_LAYERS
    )

    @property
    def sized(self) -> bool:
        """Whether it says how many layers go."""
        return (self.count, self.ratio, self.target_size) != (None, None, None)

    @property
    def scored(self) -> bool:
        """Whether the layers go by their scores: no list of them, no strategy by position."""
        listed = self.drop is not None or self.keep is not None
        by_position = self.strategy in strategies.STRATEGIES or (self.strategy or "").startswith(RECIPE)
        return not listed and not by_position and (self.strategy is not None or self.sized)


def default_protection(count: int) -> tuple[int, int]:
    """How many layers at the beginning and at the end scores never suggest: ceil(count / 8), and 2.

    They cost far more than any score that knows no data tells (docs/metrics.md).
    """
    return -(-count // 8), 2


def _shard_size(text: str) -> int:
    """A size in bytes. Raises RequestError for none, and for 0."""
    size = parse_size(text)
    if not size:
        raise RequestError("--shard-size must be at least 1 byte")
    return size


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What may be asked for besides the layers.

    stack: the name of the stack, `main` for the default one.
    generic: go by tensor names and layer count if there are no rules.
    keep_fields, per_layer_fields: metadata lists to leave, or to cut like a list with one entry per layer.
    align: take the nearest selection that the architecture does not refuse. force: write what it refuses, with a
    warning. strict: refuse what would be written with a warning. drop_mtp: drop the MTP layers.
    architecture: an entry of the caller's own, in the place of the tables'.
    max_size: bytes that no file of the output should exceed. single_file: one file for all tensors.
    card: whether a directory gets a model card: None if it has one. base_model: the name of the source on the Hub, for
    the card; chosen_by: what chose the layers, for the card.
    provenance: leave a record of the run in the output.
    """

    stack: str = option(
        "main", "Which stack: encoder, decoder, text, vision, ... (`inspect` shows them).",
        metavar="NAME", panel=_LAYERS, completion="stacks",
    )  # fmt: skip
    generic: bool = option(
        False, "Go by tensor names and layer count alone.", panel=_FIELDS, is_rule=True, recorded=Recorded.ALWAYS
    )
    keep_fields: tuple[str, ...] = option(
        (), "This list is not about layers: leave it.",
        names=("keep-field",), metavar="KEY", panel=_FIELDS, is_rule=True, read=tuple, recorded=Recorded.ALWAYS,
    )  # fmt: skip
    per_layer_fields: tuple[str, ...] = option(
        (), "This list has one entry per layer: cut it.",
        names=("per-layer-field",), metavar="KEY", panel=_FIELDS, is_rule=True, read=tuple, recorded=Recorded.ALWAYS,
    )  # fmt: skip
    align: bool = option(False, "Take the nearest selection that works.", panel=_REFUSALS)
    force: bool = option(
        False, "Write what was refused for what it computes, with a warning.",
        panel=_REFUSALS, recorded=Recorded.ALWAYS,
    )  # fmt: skip
    strict: bool = option(False, "Refuse what would be written with a warning.", panel=_REFUSALS)
    drop_mtp: bool = option(False, "Drop the MTP layers too.", panel=_LAYERS, recorded=Recorded.ALWAYS)
    architecture: Architecture | None = option(
        None, "Rules of your own: an entry in TOML.",
        metavar="FILE", panel=_FIELDS, is_rule=True, kind=Path, read=load_architecture, recorded=Recorded.ALWAYS,
    )  # fmt: skip
    max_size: int | None = option(
        None,
        "Files of at most SIZE (5GB): shards with an index, or a split GGUF. A larger tensor gets its own. "
        "Without a choice of layers all stay.",
        names=("shard-size", "split-max-size"), metavar="SIZE", panel=_FILES, kind=str, read=_shard_size,
        beside_plan=True, recorded=Recorded.SINCE_LATER,
    )  # fmt: skip
    single_file: bool = option(
        False, "One file: model.safetensors without an index, or a GGUF that is not split.",
        panel=_FILES, beside_plan=True, recorded=Recorded.SINCE_LATER,
    )  # fmt: skip
    card: bool | None = option(
        None, "Write README.md: what was dropped, and how to heal it. Without, one that is there is extended.",
        panel=_CARD, beside_plan=True, recorded=Recorded.IF_GIVEN,
    )  # fmt: skip
    base_model: str = option(
        "", "For the card: what the Hub calls SRC.",
        metavar="ORG/NAME", panel=_CARD, beside_plan=True, recorded=Recorded.IF_GIVEN,
    )  # fmt: skip
    chosen_by: str = option("", recorded=Recorded.IF_GIVEN)
    provenance: bool = option(
        True, "Leave no record of this run in the output.", names=("no-provenance",), negated=True, beside_plan=True
    )

    @property
    def reshards(self) -> bool:
        """Whether the tensors go into files of their own."""
        return self.single_file or self.max_size is not None

    @property
    def arguments(self) -> list[str]:
        """The arguments that state the recorded options again. A record has no paths: a file of rules is FILE."""
        return arguments(self._values, [each for each in options_of(PlanOptions) if each.recorded and each.help])

    @property
    def rule_arguments(self) -> list[str]:
        """Those of them that say which rules hold: `verify` needs them if no record says it."""
        return arguments(self._values, [each for each in options_of(PlanOptions) if each.is_rule])

    @property
    def _values(self) -> dict[str, Any]:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**values, "architecture": self.architecture and "FILE"}
