"""What one row of the tables says. Plain data: strings, numbers and tuples, so that a row can be a TOML file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A rule by layer number that a loader applies where the metadata has no per-layer list.

    Layer i is `special` if (i + 1) % period == 0 (`first` false) or i % period == 0 (`first` true), else
    `other`. Once a drop breaks that, the list is written out under `explicit`, which the loader reads.
    """

    explicit: str
    period_keys: tuple[str, ...]
    default: int
    special: object
    other: object
    first: bool = False
    none_left: tuple[tuple[str, object], ...] = ()  # what the loader wants once every layer is special

    def value(self, layer: int, period: int) -> object:
        """What the loader takes for `layer`. A period of 0 means that no layer is special."""
        place = layer if self.first else layer + 1
        return self.special if period and place % period == 0 else self.other


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStack:
    """One list of layers. Keys are relative to the stack's scope.

    The scope is the part of `count_key` before its last dot on the Hugging Face side (`text_config`), and
    `general.architecture` on the GGUF side.
    """

    name: str
    prefixes: tuple[str, ...]  # what stands before a layer's number in tensor names; the first that is there counts
    count_key: str
    count_default: str = ""  # the key that counts where `count_key` is absent
    fields: tuple[tuple[str, str], ...] = ()  # key -> rule, besides the default table
    defaults: tuple[tuple[str, int], ...] = ()  # key -> what the loader takes where it is absent
    patterns: tuple[Pattern, ...] = ()
    first_layer_only: tuple[str, ...] = ()  # tensors that only layer 0 has, but every layer uses
    exact_counts: tuple[int, ...] = ()  # layer counts that make the loader compute something else
    at_least: str = ""  # the stack that must not become longer than this one


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """All stacks of a model type; the first one that a file has is its `main`."""

    name: str
    format: str
    stacks: tuple[LayerStack, ...]
    warn_fields: tuple[tuple[str, str], ...] = ()  # a key that is true -> what dropping layers then changes
