"""What may be asked for: which layers, and what else the output depends on. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from rewriter.architectures.schema import Architecture
from rewriter.planning.selection import strategies

RECIPE = "recipe:"  # how the names of published removal orders begin, among the strategies


@dataclass(frozen=True, slots=True)
class LayerSelection:
    """What was asked for. At most one of `drop`, `keep` and `strategy`; a strategy needs one amount.

    With an amount alone the layers go by their scores. `contiguous`: scored layers go as one block. Where nothing is
    said about protection, strategies by position protect nothing, and scores the ends (`default_protection`).
    """

    drop: str | None = None
    keep: str | None = None
    strategy: str | None = None
    count: int | None = None
    ratio: float | None = None
    target_size: str | None = None
    protect_first: int | None = None
    protect_last: int | None = None
    contiguous: bool = False

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

    What they cost is far more than any score that knows no data tells (docs/metrics.md).
    """
    return -(-count // 8), 2


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What may be asked for besides the layers.

    stack: the name of the stack, `main` for the default one.
    generic: go by tensor names and layer count where there are no rules.
    keep_fields, per_layer_fields: metadata lists to leave, or to cut like a list with one entry per layer.
    provenance: leave a record of the run in the output.
    force: write what the architecture refuses, with a warning. align: take the nearest selection that it does not.
    strict: refuse what would be written with a warning. drop_mtp: drop the MTP layers.
    architecture: an entry of the caller's own, in the place of the tables'.
    max_size: bytes that no file of the output should exceed. single_file: one file for all tensors.
    card: whether a directory gets a model card: None where it has one. base_model: what the Hub calls the source, for
    the card; chosen_by: what chose the layers, for the card.
    """

    stack: str = "main"
    generic: bool = False
    keep_fields: tuple[str, ...] = ()
    per_layer_fields: tuple[str, ...] = ()
    provenance: bool = True
    force: bool = False
    align: bool = False
    strict: bool = False
    drop_mtp: bool = False
    architecture: Architecture | None = None
    max_size: int | None = None
    single_file: bool = False
    card: bool | None = None
    base_model: str = ""
    chosen_by: str = ""

    @property
    def regroups(self) -> bool:
        """Whether the tensors go into files of their own."""
        return self.single_file or self.max_size is not None

    @property
    def rules(self) -> str:
        """The arguments that say which rules hold: what `verify` must be told where no record says it."""
        words = ["--generic"] if self.generic else []
        words += ["--architecture FILE"] if self.architecture else []
        words += [f"--keep-field {name}" for name in self.keep_fields]
        words += [f"--per-layer-field {name}" for name in self.per_layer_fields]
        return "".join(f" {word}" for word in words)

    @property
    def words(self) -> str:
        """The arguments that state these options again, without the stack."""
        words = ["--force"] if self.force else []
        words += ["--drop-mtp"] if self.drop_mtp else []
        words += [f"--shard-size {self.max_size}"] if self.max_size is not None else []
        words += ["--single-file"] if self.single_file else []
        words += [] if self.card is None else ["--card" if self.card else "--no-card"]
        words += [f"--base-model {self.base_model}"] if self.base_model else []
        return self.rules + "".join(f" {word}" for word in words)
