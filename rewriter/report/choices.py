"""The selections of layers that a page offers, and the tables by which it judges one that a person picks.

Laws:
- What a strategy drops and what the output then weighs is computed here, by the functions that plan and lay out.
- selection.js judges a selection by the tables; if `doubt` is empty, it allows, refuses and warns as `make_plan` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from rewriter.architectures.schema import Pattern
from rewriter.checkpoint import LayerMap
from rewriter.errors import RequestError, RewriterError, UnsupportedError
from rewriter.planning.constraints.allowed_layers import selection_constraints, stack_constraints
from rewriter.planning.constraints.constraint import Constraint, first_violated
from rewriter.planning.metadata.edits import rules_by_key, with_implied_lists
from rewriter.planning.metadata.layer_patterns import common_period, implicit_patterns
from rewriter.planning.metadata.quantization_config import has_expressions
from rewriter.planning.model import Model
from rewriter.planning.options import LayerSelection
from rewriter.planning.plan import Plan, plan_model, warnings_by_case
from rewriter.planning.selection.choose import choose
from rewriter.planning.selection.strategies import Strategy

Layers = tuple[int, ...]
Sizes = tuple[int, int, int]  # tensors, parameters, bytes of tensors
_SHARE = 0.25  # of the layers: the page begins with it


def choices(model: Model, strategies: Mapping[str, Strategy | None], size_of: Callable[[Plan], int]) -> dict[str, Any]:
    """Everything that decides about the layers of the stack, as JSON values.

    strategies: name -> what chooses the layers, None for one by position.
    size_of: gives the bytes of all files of a plan's output.
    """
    known, stack = with_implied_lists(model), model.stack
    table = _Table(model, known, size_of)
    if table.place(table.every) is None:
        return {"refused": table.refusals[0]}
    bounds = selection_constraints(model.with_options(strict=True))
    weights = [table.weight(layer) for layer in table.every]
    table.late += _distinct_states(table)
    ways = {name: _rows(table, name, strategy) for name, strategy in strategies.items()}
    additive = all(table.adds_up(kept, weights) for kept in table.sizes)
    return {
        "refused": table.refusals[0] if table.refusals and len(table.sizes) < 2 else "",
        "doubt": _doubt(known) or "".join(table.refusals[:1]),
        "layers": stack.count,
        "bounds": [_stated(bound) for bound in bounds],
        "late": [_stated(bound) for bound in table.late],
        "patterns": [_pattern(*each) for each in implicit_patterns(known)],
        "period": common_period(known),
        "warnings": list(warnings_by_case(known)),
        "quarter": max(1, round(_SHARE * stack.count)),
        "ways": ways,
        "selections": [
            [table.bits(kept), nbytes, *(() if additive and kept != table.every else sizes)]
            for kept, (nbytes, sizes) in table.sizes.items()
        ],
        "weights": weights,
        "mtp_weight": table.missing(table.every, drop_mtp=True),
        "additive": additive,
        "beside": table.beside(),
    }


@dataclass
class _Table:
    """The selections that can be planned: kept layers -> bytes of all files of the output, and what its tensors are.

    refusals: why others cannot, although no bound forbids them. late: the layers that a plan refuses to drop.
    """

    model: Model
    known: Model
    size_of: Callable[[Plan], int]
    sizes: dict[Layers, tuple[int, Sizes]] = field(default_factory=dict)
    places: dict[Layers, int | None] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    late: list[Constraint] = field(default_factory=list)

    @property
    def every(self) -> Layers:
        return tuple(range(self.model.stack.count))

    def place(self, kept: Layers) -> int | None:
        """The place of a selection in `sizes`, None if it cannot be planned."""
        if kept not in self.places:
            place = len(self.sizes)
            self.places[kept] = place if self._add(kept) else None
        return self.places[kept]

    def _add(self, kept: Layers) -> bool:
        stack = self.model.stack
        layers = LayerMap(stack.name, kept, stack.count)
        bounds = (*stack_constraints(self.known, layers), *self.late)
        if first_violated((bound for bound in bounds if not bound.soft), kept, stack.count):
            return False
        try:
            plan = plan_model(self.model, kept)
            self.sizes[kept] = (self.size_of(plan), _sizes(plan))
        except RewriterError as error:
            self.refusals.append(str(error))
            return False
        return True

    def weight(self, layer: int) -> Sizes:
        """What goes with a layer; nothing if it may not go: then `late` says why."""
        kept = tuple(each for each in self.every if each != layer)
        try:
            return self.missing(kept, force=True) if kept else (0, 0, 0)
        except RewriterError as error:
            self.late.append(Constraint(str(error), stay=frozenset((layer,))))
            return (0, 0, 0)

    def missing(self, kept: Layers, **options: bool) -> Sizes:
        """What of all tensors goes."""
        return _less(self.sizes[self.every][1], _sizes(plan_model(self.model.with_options(**options), kept)))

    def adds_up(self, kept: Layers, weights: list[Sizes]) -> bool:
        """Whether the sizes are those of all tensors without the weights of each layer that goes."""
        gone = [weights[layer] for layer in set(self.every) - set(kept)]
        return _less(self.sizes[self.every][1], *gone) == self.sizes[kept][1]

    def beside(self) -> list[float]:
        """About how many bytes the files hold besides the tensors: at all, and for each tensor."""
        found = [(sizes[0], nbytes - sizes[2]) for nbytes, sizes in self.sizes.values()]
        (most, large), (fewest, small) = max(found), min(found)
        each = (large - small) / (most - fewest) if most > fewest else 0.0
        return [large - each * most, each]

    def bits(self, kept: Layers) -> str:
        """The dropped layers as bits, layer 0 the lowest, in hexadecimal."""
        return f"{sum(1 << layer for layer in set(self.every) - set(kept)):x}"


def _sizes(plan: Plan) -> Sizes:
    return len(plan.tensors), plan.parameters, plan.nbytes


def _less(sizes: Sizes, *gone: Sizes) -> Sizes:
    tensors, parameters, nbytes = (all_ - sum(each[at] for each in gone) for at, all_ in enumerate(sizes))
    return tensors, parameters, nbytes


def _rows(table: _Table, name: str, strategy: Strategy | None) -> list[list[int]]:
    """How many layers a strategy can drop, ascending from 0, and the place of the selection that it makes then."""
    rows = [[0, 0]]
    count = table.model.stack.count
    for amount in range(1, count):
        try:
            kept = choose(LayerSelection(strategy=name, count=amount), count, lambda kept: 0, strategy=strategy)
        except (RequestError, UnsupportedError):
            continue
        place = table.place(kept)
        rows += [] if place is None else [[count - len(kept), place]]
    return sorted(rows)


def _stated(bound: Constraint) -> dict[str, Any]:
    """The members that differ from the default."""
    found = {member.name: getattr(bound, member.name) for member in fields(bound)}
    return {
        name: sorted(item) if isinstance(item, frozenset) else item
        for name, item in found.items()
        if item != getattr(Constraint(""), name)
    }


def _distinct_states(table: _Table) -> Iterator[Constraint]:
    """Hidden states that a field takes side by side must not become one."""
    for key, rule in rules_by_key(table.known).items():
        value = table.known.metadata[key]
        if rule != "apart_states" or not isinstance(value, list | tuple):
            continue
        for negative in (False, True):
            states = {each % (table.model.stack.count + 1) for each in value if (each < 0) == negative}
            why = f"{key}: takes the hidden states {list(value)}: two would become the same"
            yield Constraint(why, apart=tuple(sorted(states)))


def _doubt(model: Model) -> str:
    """What only a plan can tell of a selection."""
    if model.unknown:
        return "nobody has described this architecture"
    if has_expressions(model):
        return "expressions in the quantization settings may come to mean other layers"
    return ""


def _pattern(kinds: tuple[object, ...], pattern: Pattern, offset: int | None) -> dict[str, Any]:
    """A pattern that the loader knows by period and offset alone: 1 are the special layers, 0 the others."""
    numbers = {repr(pattern.special): 1, repr(pattern.other): 0}
    for kind in (*pattern.head, *kinds):
        numbers.setdefault(repr(kind), len(numbers))
    head, each = ([numbers[repr(kind)] for kind in listed] for listed in (pattern.head, kinds))
    return {"kinds": each, "head": head, "offset": offset}
