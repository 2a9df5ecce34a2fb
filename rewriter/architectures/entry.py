"""What one row of the tables says. Plain data: strings, numbers and tuples, so that a row can be a TOML file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A rule by layer number that a loader applies, and the list that overrides it.

    Layer i is `special` if (i + 1) % period == 0, or i % period == 0 with `first`, or i % period == the value of
    `offset_key`; else `other`. Once a drop breaks that, the list is written out under `explicit`:

    - form "per_layer": one of `special` and `other` for each layer. An empty list counts as absent.
    - form "cycle": as per_layer, but a shorter list is repeated over the layers.
    - form "special_indexes": the numbers of the special layers.
    - form "other_indexes": the numbers of more layers that are `other`, besides those by period.

    Without `explicit` the loader knows period and offset alone: others are searched for that give the same.
    `resets` are written along with the list. `none_left` is what the loader wants once every layer is special.
    """

    explicit: str = ""
    period_keys: tuple[str, ...] = ()
    default: int = 0
    special: object = True
    other: object = False
    first: bool = False
    offset_key: str = ""
    form: str = "per_layer"
    resets: tuple[tuple[str, object], ...] = ()
    none_left: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a loader ties to a layer's number and no metadata can change: see rewriter.limits for the kinds."""

    kind: str
    why: str
    value: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Tensors stored once, under the first layer of a kind, that all layers of that kind use.

    `names` are the beginnings of what follows the layer's number. The kind is an entry of the per-layer list `key`;
    without a key the tensors belong to layer 0 and all layers use them.
    """

    names: tuple[str, ...]
    key: str = ""
    kind: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stacked:
    """A tensor that holds something for every layer side by side: `axis` 0 is the outermost dimension.

    `lead` entries belong to no layer and come first. The name stands beside the stack, or is a whole name.
    """

    name: str
    axis: int
    lead: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStack:
    """One list of layers. Keys are relative to the stack's scope.

    The scope is the part of `count_key` before its last dot on the Hugging Face side (`text_config`), and
    `general.architecture` on the GGUF side. A key that begins with `/` is a whole key; `file.json:key` stands in
    another file of the directory. `count_key` may end in `[2]`: an entry of a list.
    """

    name: str
    prefixes: tuple[str, ...]  # what stands before a layer's number in tensor names; the first that is there counts
    count_key: str
    count_default: str = ""  # the key that counts where `count_key` is absent
    aliases: tuple[str, ...] = ()  # other keys for the same count; a loader prefers them
    counted_by: str = ""  # the per-layer list that counts where `count_key` is absent: then it stays absent
    fields: tuple[tuple[str, str], ...] = ()  # key -> rule, besides the default table
    defaults: tuple[tuple[str, int], ...] = ()  # key -> what the loader takes where it is absent
    pins: tuple[
        tuple[str, str], ...
    ] = ()  # key -> formula, written where it is absent: the loader derives it from the count
    patterns: tuple[Pattern, ...] = ()
    limits: tuple[Limit, ...] = ()
    beside: tuple[str, ...] = ()  # lists beside the stack numbered like it: heads of its layers
    # lists numbered by position: (name before the number, the list, "" for a list of layer numbers or the entry that
    # those layers have in a per-layer list)
    by_position: tuple[tuple[str, str, str], ...] = ()
    shared: tuple[Shared, ...] = ()
    absent_in_first: tuple[str, ...] = ()  # tensors that a loader does not expect in layer 0
    stacked: tuple[Stacked, ...] = ()
    prediction_key: str = ""  # how many prediction layers follow the main ones in the tensors
    optional: bool = False  # a file may hold only the other stacks, whatever its metadata counts
    stored_layers: bool = True  # False: all layers share their tensors, only the count changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """All stacks of a model type; the first one that a file has is its `main`."""

    name: str
    format: str
    stacks: tuple[LayerStack, ...]
    warnings: tuple[tuple[str, str], ...] = ()  # a key that is set, or "" -> what dropping layers then changes
