"""Which layers to drop, from their positions alone.

Every strategy is a function `strategy(candidates, count)`: `candidates` are the numbers of the layers that may
go, ascending from 0; it returns the `count` of them to drop, ascending. Its docstring is its help text.
"""

from __future__ import annotations

from collections.abc import Callable

from rewriter.errors import RequestError, did_you_mean, printable

Layers = tuple[int, ...]
Strategy = Callable[[Layers, int], Layers]


def top(candidates: Layers, count: int) -> Layers:
    """Drop the last layers (Sajjad et al. 2020: top-layer dropping)."""
    return candidates[len(candidates) - count :]


def bottom(candidates: Layers, count: int) -> Layers:
    """Drop the first layers (Sajjad et al. 2020: bottom-layer dropping)."""
    return candidates[:count]


def even_alternate(candidates: Layers, count: int) -> Layers:
    """Drop every other layer from the top down: 12, 10, 8, ... counted from 1 (Sajjad et al. 2020)."""
    return _alternate(candidates, count, parity=1, name="even-alternate")


def odd_alternate(candidates: Layers, count: int) -> Layers:
    """Drop every other layer from the top down: 11, 9, 7, ... counted from 1 (Sajjad et al. 2020)."""
    return _alternate(candidates, count, parity=0, name="odd-alternate")


def _alternate(candidates: Layers, count: int, parity: int, name: str) -> Layers:
    """`parity` is that of the numbers counted from 0: the paper's even layers are our odd ones."""
    alternate = [number for number in candidates if number % 2 == parity]
    if count > len(alternate):
        raise RequestError(f"{name} can drop at most {len(alternate)} layers here, not {count}")
    return tuple(alternate[len(alternate) - count :])


def symmetric(candidates: Layers, count: int) -> Layers:
    """Keep as many layers at the bottom as at the top, one more at the bottom if odd (Sajjad et al. 2020)."""
    start = (len(candidates) - count + 1) // 2
    return candidates[start : start + count]


def middle(candidates: Layers, count: int) -> Layers:
    """Drop one block from the middle; where it cannot be centred, the lower of the two places."""
    start = (len(candidates) - count) // 2
    return candidates[start : start + count]


def deepest_but_last(candidates: Layers, count: int) -> Layers:
    """Drop the deepest layers but keep the very last one (Gromov et al. 2024, the simple strategy)."""
    if count > len(candidates) - 1:
        raise RequestError(f"deepest-but-last can drop at most {len(candidates) - 1} layers here, not {count}")
    return candidates[len(candidates) - 1 - count : len(candidates) - 1]


def first_n(candidates: Layers, count: int) -> Layers:
    """Keep only the first layers: `--count` says how many stay (a draft model for speculative decoding)."""
    return top(candidates, count)


STRATEGIES: dict[str, Strategy] = {
    function.__name__.replace("_", "-"): function
    for function in (
        top, bottom, even_alternate, odd_alternate, symmetric, deepest_but_last, middle, first_n,
    )
}  # fmt: skip
SPARES_LAST = frozenset({"deepest-but-last"})  # strategies that never drop the last of their candidates
COUNTS_KEPT = frozenset({"first-n"})  # strategies whose --count says how many layers stay


def scoreless(name: str) -> RequestError:
    """The error for whoever wants the scores of what chooses by position."""
    return RequestError(f"{name} has no scores; name a metric (rewriter list metrics)")


def find_strategy(name: str) -> Strategy:
    """Return the strategy called `name`; raise RequestError naming the others."""
    if name not in STRATEGIES:
        raise RequestError(
            f"no strategy is called '{printable(name)}'; there are {', '.join(STRATEGIES)}, recipe:NAME and the "
            f"metrics of "
            f"rewriter list metrics{did_you_mean(name, STRATEGIES)}"
        )
    return STRATEGIES[name]
