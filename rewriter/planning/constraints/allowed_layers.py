"""Which layers a plan may keep: the constraints of a stack, and the nearest selections that hold them. Pure."""

from __future__ import annotations

from rewriter.checkpoint import LayerMap
from rewriter.errors import UnsupportedError
from rewriter.planning.constraints.constraint import Constraint, first_violated
from rewriter.planning.constraints.limit_kinds import constraint_for
from rewriter.planning.constraints.search import MOST_SEARCHED, nearest_allowed
from rewriter.planning.constraints.unknown_architecture import check_unknown_architecture
from rewriter.planning.layer_ranges import format_layers
from rewriter.planning.metadata.edits import period_fields, with_implied_lists
from rewriter.planning.metadata.layer_patterns import active_patterns, common_period, ordinary_layers, unsolvable_period
from rewriter.planning.metadata.quantization_config import check_module_names
from rewriter.planning.model import Model


def allowed_layers(model: Model, layers: LayerMap) -> tuple[LayerMap, tuple[str, ...]]:
    """The layers to keep, `layers` or with `align` the nearest that are allowed; and what was overruled.

    Raises UnsupportedError, naming selections that would work.
    """
    stack, options = model.stack, model.options
    if layers.dropped and not model.is_gguf:
        check_module_names(model, layers)
    if layers.dropped and model.unknown:
        check_unknown_architecture(model, layers)
    constraints = stack_constraints(model, layers)
    soft = tuple(
        constraint.why
        for constraint in constraints
        if constraint.soft and first_violated((constraint,), layers.main, stack.count)
    )
    constraints = tuple(constraint for constraint in constraints if not constraint.soft)
    constraint = first_violated(constraints, layers.main, stack.count)
    if constraint is None:
        return layers, soft
    sure = Constraint("", period=common_period(model))
    search = not constraint.never and stack.count <= MOST_SEARCHED
    others = nearest_allowed((*constraints, sure), layers.main, stack.count) if search else []
    if options.align and others:
        return model.keep((*others[0], *layers.kept[len(layers.main) :])), ()
    if options.force:
        return layers, (f"{constraint.why}: written all the same (--force)", *soft)
    raise UnsupportedError(f"{constraint.why}; {_alternatives(others, stack.count)}")


def _alternatives(others: list[tuple[int, ...]], count: int) -> str:
    if not others and count > MOST_SEARCHED:
        return f"among {count} layers no other drop was looked for"
    if not others:
        return "no drop avoids that"
    return f"this would work: {' or '.join(f'--keep {format_layers(kept)}' for kept in others)}"


def stack_constraints(model: Model, layers: LayerMap) -> tuple[Constraint, ...]:
    """Every constraint on which layers of the stack may go; `layers` are those that would stay."""
    constraints = [constraint_for(limit, model) for limit in model.stack.entry.limits]
    for key, rule in period_fields(model).items():
        constraints.append(
            Constraint(f"{key} makes every {rule} layers a pattern that no list can replace", period=rule)
        )
    constraints += [
        Constraint(pattern.never_all, one_of=others)
        for pattern in active_patterns(model)
        if pattern.never_all and (others := ordinary_layers(model, pattern))
    ]
    step = unsolvable_period(model, layers)
    if step > 1:
        constraints.append(
            Constraint(f"the loader knows only periods, of {step} together, and no others fit", period=step)
        )
    return tuple(constraints)


def selection_constraints(model: Model) -> tuple[Constraint, ...]:
    """The constraints that hold for every selection of layers of the stack; soft ones only with `strict`."""
    constraints = stack_constraints(with_implied_lists(model), model.all_layers)
    return tuple(constraint for constraint in constraints if model.options.strict or not constraint.soft)
