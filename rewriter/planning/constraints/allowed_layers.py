"""Which layers a plan may keep: the constraints of a stack, and the nearest selections that hold them. Pure."""

from __future__ import annotations

from rewriter.checkpoint import LayerMap
from rewriter.errors import UnsupportedError
from rewriter.planning.constraints.constraint import SEARCHED, Bound, broken, nearest
from rewriter.planning.constraints.limit_kinds import bound_for
from rewriter.planning.constraints.unknown_architecture import refuse_doubts
from rewriter.planning.layer_ranges import format_layers
from rewriter.planning.metadata.edits import period_fields, with_list_defaults
from rewriter.planning.metadata.layer_patterns import active_patterns, common_period, not_special, unsolvable_period
from rewriter.planning.metadata.quantization_config import refuse_unfollowed
from rewriter.planning.model import Model


def allowed_layers(model: Model, layers: LayerMap) -> tuple[LayerMap, tuple[str, ...]]:
    """The layers to keep, `layers` or with `align` the nearest that are allowed; and what was overruled.

    Raises UnsupportedError, naming selections that would work.
    """
    stack, options = model.stack, model.options
    if layers.dropped and not model.is_gguf:
        refuse_unfollowed(model, layers)
    if layers.dropped and model.unknown:
        refuse_doubts(model, layers)
    bounds = stack_bounds(model, layers)
    soft = tuple(bound.why for bound in bounds if bound.soft and broken((bound,), layers.main, stack.count))
    bounds = tuple(bound for bound in bounds if not bound.soft)
    bound = broken(bounds, layers.main, stack.count)
    if bound is None:
        return layers, soft
    sure = Bound("", period=common_period(model))
    search = not bound.never and stack.count <= SEARCHED
    others = nearest((*bounds, sure), layers.main, stack.count) if search else []
    if options.align and others:
        return model.keep((*others[0], *layers.kept[len(layers.main) :])), ()
    if options.force:
        return layers, (f"{bound.why}: written all the same (--force)", *soft)
    raise UnsupportedError(f"{bound.why}; {_alternatives(others, stack.count)}")


def _alternatives(others: list[tuple[int, ...]], count: int) -> str:
    if not others and count > SEARCHED:
        return f"among {count} layers no other drop was looked for"
    if not others:
        return "no drop avoids that"
    return f"this would work: {' or '.join(f'--keep {format_layers(kept)}' for kept in others)}"


def stack_bounds(model: Model, layers: LayerMap) -> tuple[Bound, ...]:
    """Every constraint on which layers of the stack may go; `layers` are those that would stay."""
    bounds = [bound_for(limit, model) for limit in model.stack.entry.limits]
    for key, rule in period_fields(model).items():
        bounds.append(Bound(f"{key} makes every {rule} layers a pattern that no list can replace", period=rule))
    bounds += [
        Bound(pattern.never_all, one_of=others)
        for pattern in active_patterns(model)
        if pattern.never_all and (others := not_special(model, pattern))
    ]
    step = unsolvable_period(model, layers)
    if step > 1:
        bounds.append(Bound(f"the loader knows only periods, of {step} together, and no others fit", period=step))
    return tuple(bounds)


def selection_bounds(model: Model) -> tuple[Bound, ...]:
    """The constraints that hold for every selection of layers of the stack; soft ones only with `strict`."""
    bounds = stack_bounds(with_list_defaults(model), model.all_layers)
    return tuple(bound for bound in bounds if model.options.strict or not bound.soft)
