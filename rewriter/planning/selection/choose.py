"""From what a user asks for to the layers that stay: the one syntax for layers, sizes and ratios.

Pure: a size is turned into layers by asking `size_of`, which the caller supplies.
"""

from __future__ import annotations

from collections.abc import Callable

from rewriter.errors import RequestError, UnsupportedError, printable
from rewriter.planning.layer_ranges import parse_layers
from rewriter.planning.options import LayerSelection, default_protection
from rewriter.planning.selection import strategies
from rewriter.units import parse_size


def choose(
    selection: LayerSelection,
    count: int,
    size_of: Callable[[tuple[int, ...]], int],
    mtp_layers: int = 0,
    strategy: strategies.Strategy | None = None,
) -> tuple[int, ...]:
    """Return the layers to keep of a stack of `count` layers and `mtp_layers` more.

    `size_of(kept)` must give the output's size in bytes. `strategy` stands for one that is not by position: scores or
    a recipe. Raises RequestError when the request is incomplete, out of range, or leaves no layer.
    """
    check_request(selection)
    if selection.keep is not None:
        return parse_layers(selection.keep, count, mtp_layers)
    if selection.drop is not None:
        dropped = parse_layers(selection.drop, count, mtp_layers)
        kept = _without(dropped, count + mtp_layers)
    else:
        kept = _by_strategy(selection, count, size_of, strategy)
    if not kept or kept[0] >= count:
        raise RequestError(f"that would leave no layer: at most {count - 1} of the {count} can go")
    return kept


def check_request(selection: LayerSelection) -> None:
    """Raise RequestError for a request that is incomplete or contradicts itself."""
    ways = [name for name in ("drop", "keep", "strategy") if getattr(selection, name) is not None]
    amounts = [name for name in ("count", "ratio", "target_size") if getattr(selection, name) is not None]
    options = ", ".join("--" + name.replace("_", "-") for name in ways + amounts)
    if not ways and not amounts:
        raise RequestError(
            "which layers? Give --drop 3,7-9,-1 or --keep 0-20,31, or how much: --count, --ratio 0.25 or --target-size "
            "(with --strategy NAME, else by their scores)"
        )
    for several in (ways, amounts):
        if len(several) > 1:
            named = " and ".join("--" + name.replace("_", "-") for name in several)
            raise RequestError(f"{named} cannot be combined: give one")
    exact = selection.drop is not None or selection.keep is not None
    if exact and amounts:
        raise RequestError(f"{options} cannot be combined: an amount needs --strategy NAME, or scores")
    if exact and (selection.protect_first or selection.protect_last):
        raise RequestError("--protect-first and --protect-last go with an amount: --drop and --keep are exact")
    if selection.contiguous and not selection.scored:
        raise RequestError("--contiguous is about layers chosen by their scores")
    if selection.strategy is not None and not amounts:
        raise RequestError("how much? --strategy needs --count K, --ratio 0.25 or --target-size 4GiB")
    _check_amount(selection)


def _check_amount(selection: LayerSelection) -> None:
    if selection.ratio is not None and not 0 < selection.ratio < 1:
        raise RequestError(f"--ratio {selection.ratio:g}: write a number between 0 and 1, such as 0.25")
    if selection.count is not None and selection.count < 1:
        raise RequestError(f"--count must be at least 1, not {printable(selection.count)}")
    if selection.target_size is not None:
        parse_size(selection.target_size)


def _without(dropped: tuple[int, ...], count: int) -> tuple[int, ...]:
    gone = set(dropped)
    return tuple(number for number in range(count) if number not in gone)


def _by_strategy(
    selection: LayerSelection,
    count: int,
    size_of: Callable[[tuple[int, ...]], int],
    strategy: strategies.Strategy | None,
) -> tuple[int, ...]:
    strategy = strategy or strategies.find_strategy(selection.strategy or "")
    first, last = protection(selection, count)
    if last and selection.strategy in strategies.COUNTS_KEPT:
        raise RequestError(f"{selection.strategy} keeps the first layers alone: --protect-last contradicts it")
    # one that spares the last layer by itself must not spare the one before the protected ones as well
    spared = max(0, last - 1) if selection.strategy in strategies.SPARES_LAST else last
    candidates = tuple(range(first, count - spared))
    if selection.target_size is not None:
        protected = _protected(first, last) if len(candidates) < count - 1 else ""
        return _fitting(strategy, candidates, count, parse_size(selection.target_size), size_of, protected)
    amount = _amount(selection, count)
    if amount > len(candidates):
        why = "; --protect-first 0 --protect-last 0 lets all go" if selection.scored and count > 1 else ""
        raise RequestError(f"cannot drop {printable(amount)} layers: {len(candidates)} of the {count} may go{why}")
    if selection.scored and selection.ratio is not None:
        return _without(_nearest_amount(strategy, candidates, amount), count)
    return _without(strategy(candidates, amount), count)


def _protected(first: int, last: int) -> str:
    """What to say where no more may go because the ends are protected."""
    ends = {"first": first, "last": last}
    told = " and ".join(f"the {end} {number}" for end, number in ends.items() if number)
    options = " ".join(f"--protect-{end} 0" for end, number in ends.items() if number)
    return f" while {told} are protected; {options} lets more go" if told else ""


def protection(selection: LayerSelection, count: int) -> tuple[int, int]:
    """How many layers at the beginning and at the end may not go."""
    first, last = default_protection(count) if selection.scored else (0, 0)
    return (
        first if selection.protect_first is None else selection.protect_first,
        last if selection.protect_last is None else selection.protect_last,
    )


def _nearest_amount(strategy: strategies.Strategy, candidates: tuple[int, ...], amount: int) -> tuple[int, ...]:
    """The layers to drop, `amount` of them or, where the architecture does not let so many go, as near as it can be."""
    refused: UnsupportedError | None = None
    for other in sorted(range(1, len(candidates) + 1), key=lambda other: (abs(other - amount), other)):
        try:
            return strategy(candidates, other)
        except UnsupportedError as error:
            refused = refused or error
    raise refused or RequestError("no layer may go")


def _amount(selection: LayerSelection, count: int) -> int:
    """How many layers to drop."""
    if selection.ratio is not None:
        return max(1, round(selection.ratio * count))
    amount = selection.count or 0
    if selection.strategy not in strategies.COUNTS_KEPT:
        return amount
    if amount > count:
        raise RequestError(f"cannot keep the first {printable(amount)} layers: there are {count}")
    return count - amount


def _fitting(
    strategy: strategies.Strategy,
    candidates: tuple[int, ...],
    count: int,
    target: int,
    size_of: Callable[[tuple[int, ...]], int],
    protected: str,
) -> tuple[int, ...]:
    """The selection that drops the fewest layers and fits `target` bytes."""
    smallest = size_of(tuple(range(count)))
    refused: UnsupportedError | None = None
    for amount in range(min(len(candidates), count - 1) + 1):
        try:
            kept = _without(strategy(candidates, amount), count)
            size = size_of(kept)
        except RequestError:
            break  # this strategy can drop no more
        except UnsupportedError as error:
            refused = error  # this many cannot go, more perhaps can
            continue
        if size <= target:
            return kept
        smallest = min(smallest, size)
    if refused is not None:
        raise refused
    raise RequestError(f"no selection fits {target} bytes: the smallest output has {smallest}{protected}")
