"""What one row of the tables says. Plain data: strings, numbers and tuples, so that a row can be a TOML file."""

from __future__ import annotations

from dataclasses import dataclass

from rewriter.architectures.compute import Compute, compute_of

FORMS = ("per_layer", "cycle", "special_indexes", "other_indexes")  # of a Pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A rule by layer number that a loader applies, and the list that overrides it.

    Layer i is `special` if (i + 1) % period == 0, or i % period == 0 with `first`, or i % period == `offset` or the
    value of `offset_key`, or i < `lead`; else `other`. Once a drop breaks that, the list is written out under
    `explicit`:

    - form "per_layer": one of `special` and `other` for each layer. An empty list counts as absent.
    - form "cycle": as per_layer, but a shorter list is repeated over the layers.
    - form "special_indexes": the numbers of the special layers. An empty list says that there are none.
    - form "other_indexes": the numbers of more layers that are `other`, besides those by period.

    Without `explicit` the loader knows period and offset alone: others are searched for that give the same. `resets`
    are written along with the list. `none_left` is what the loader wants once every layer is special; `never_all` says
    why it cannot have that. `when` is a key and the least value with which the loader applies the rule; where the key
    `unless` is there, that says it instead, and a null under `off` switches it off. Layers from the value of
    `until_key` on (`until` where it is absent) are special. `head` is what the first layers are, and i counts from the
    one after them. `beyond` says what the list has for MTP layers: "" nothing, "special" or, by their number,
    "pattern". With `fixed` the loader has a list of one length in mind, whatever the count.
    """

    explicit: str = ""
    period_keys: tuple[str, ...] = ()
    default: int = 0
    special: object = True
    other: object = False
    first: bool = False
    offset: int = -1
    offset_key: str = ""
    lead: int = 0
    head: tuple[object, ...] = ()
    until_key: str = ""
    until: int = 0
    unless: str = ""
    off: str = ""
    when: tuple[tuple[str, int], ...] = ()
    beyond: str = ""
    fixed: bool = False
    form: str = "per_layer"
    resets: tuple[tuple[str, object], ...] = ()
    none_left: tuple[tuple[str, object], ...] = ()
    never_all: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLimit:
    """What a loader ties to a layer's number and no metadata can change."""

    kind: str  # a function of rewriter.planning.constraints.limit_kinds: see the kinds
    why: str  # what is said to whoever breaks it
    value: object = None  # what the kind is about
    soft: bool = False  # what breaks it loads, and is written with a warning; only --strict refuses it


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTensors:
    """Tensors stored once, under the first layer of a kind, that all layers of that kind use.

    `names` are the beginnings of what follows the layer's number. The kind is an entry of the per-layer list `key`;
    without a key the tensors belong to layer 0 and all layers use them. `turns_key` is how many sets of them there
    are, each stored once: the layers of that kind use them in turn.
    """

    names: tuple[str, ...]
    key: str = ""
    kind: object = None
    turns_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackedTensor:
    """A tensor that holds something for every layer side by side: `axis` 0 is the outermost dimension.

    `lead` entries belong to no layer and come first. The name stands beside the stack, or is a whole name.
    """

    name: str
    axis: int
    lead: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StackRule:
    """One list of layers. Keys are relative to the stack's scope.

    The scope is the part of `count_key` before its last dot on the Hugging Face side (`text_config`), and
    `general.architecture` on the GGUF side. A key that begins with `/` is a whole key; `file.json:key` stands in
    another file of the directory. `count_key` may end in `[2]`: an entry of a list.
    """

    name: str  # for --stack: main, text, vision, encoder, decoder, ...
    prefixes: tuple[str, ...]  # what stands before a layer's number in tensor names; the first that is there counts
    count_key: str  # the key that counts the layers
    count_default: str = ""  # the key that counts where `count_key` is absent
    aliases: tuple[str, ...] = ()  # other keys for the same count; a loader prefers them
    counted_by: str = ""  # the per-layer list that counts where `count_key` is absent: then it stays absent
    fields: tuple[tuple[str, str], ...] = ()  # key -> rule, besides the default table
    defaults: tuple[tuple[str, object], ...] = ()  # key -> what the loader takes where it is absent
    # key -> formula, written where the key is absent: the loader derives it from the count
    pins: tuple[tuple[str, str], ...] = ()
    patterns: tuple[Pattern, ...] = ()  # what a loader makes of a layer's number, with a list that overrides it
    limits: tuple[LayerLimit, ...] = ()  # which layers may not go
    beside: tuple[str, ...] = ()  # lists beside the stack numbered like it: heads of its layers
    named_after: tuple[str, ...] = ()  # whole names, up to the number, of lists with entries for some of its layers
    # lists numbered by position: (name before the number, the list, "" for a list of layer numbers or the entry that
    # those layers have in a per-layer list)
    by_position: tuple[tuple[str, str, str], ...] = ()
    shared: tuple[SharedTensors, ...] = ()  # tensors of one layer that others use too
    absent_in_first: tuple[str, ...] = ()  # tensors that a loader does not expect in layer 0
    stacked: tuple[StackedTensor, ...] = ()  # tensors with a slice for every layer
    mtp_key: str = ""  # how many MTP layers follow the main ones in the tensors
    optional: bool = False  # a file may hold only the other stacks, whatever its metadata counts
    like: str = ""  # a nested config with a model type of its own: this stack has the rules of that type's main one
    stored_layers: bool = True  # where false, all layers share their tensors, only the count changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """All stacks of a model type; the first one that a file has is its `main`.

    Stacks of one name are alternatives: the first whose count the metadata states is meant, else the first.
    """

    name: str  # the model_type, or general.architecture
    format: str  # huggingface or gguf
    stacks: tuple[StackRule, ...]
    shown_by: tuple[str, ...] = ()  # lists whose names alone show it, in a lone file without a config
    warnings: tuple[tuple[str, str], ...] = ()  # a key that is set, or "" -> what dropping layers then changes

    @property
    def compute(self) -> Compute:
        """What the layers compute: the row of this name. A file of rules cannot state it."""
        return compute_of(self.format, self.name)
