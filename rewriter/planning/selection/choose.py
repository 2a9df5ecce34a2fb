"""From what a user asks for to the layers that stay: the one syntax for layers, sizes and ratios.

Pure: a size is turned into layers by asking `size_of`, which the caller supplies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from rewriter.architectures.schema import Architecture
from rewriter.errors import RequestError, UnsupportedError, shown
from rewriter.planning.selection import strategies
from rewriter.planning.selection.strategies import Layers

_ITEM = re.compile(r"(?P<one>-?(?:0|[1-9][0-9]*))|(?P<low>0|[1-9][0-9]*)-(?P<high>0|[1-9][0-9]*)")
_SIZE = re.compile(
    r"(?P<number>[0-9]{1,15}(?:[.][0-9]{1,9})?) ?(?:(?P<scale>[KMGT])(?P<binary>i)?)?B?", re.IGNORECASE | re.ASCII
)
RECIPE = "recipe:"  # how the names of published removal orders begin, among the strategies
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True, slots=True)
class Selection:
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
class Options:
    """What may be asked for besides the layers.

    stack: the name of the stack, `main` for the default one.
    generic: go by tensor names and layer count where there are no rules.
    keep_fields, per_layer_fields: metadata lists to leave, or to cut like a list with one entry per layer.
    provenance: leave a record of the run in the output.
    force: write what the architecture refuses, with a warning. align: take the nearest selection that it does not.
    strict: refuse what would be written with a warning. drop_mtp: drop the prediction layers.
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


def parse_layers(text: str, count: int, predictions: int = 0) -> tuple[int, ...]:
    """Return the layers that `text` names (`3,7-9,-1`), ascending, each once, for a stack of `count`.

    Prediction layers come after the main ones and may be named by their number; negative numbers count main layers
    only. Blanks beside commas are harmless. Raises RequestError. Bounds are checked before a range is expanded:
    `0-99999999999` must not fill memory.
    """
    chosen = bytearray(count + predictions)  # a million ranges of thousands of layers take no time
    for item in (part.strip(" ") for part in text.split(",")):
        match = _ITEM.fullmatch(item)
        if match is None or item == "-0" or len(item) > 40:
            raise RequestError(
                f"{shown(item)!r} is not a layer: write numbers from 0 and ranges, such as 3,7-9,-1 (-1 is the last)"
            )
        low, high = match["low"] or match["one"], match["high"] or match["one"]
        span = _span(int(low), int(high), item, count, predictions)
        chosen[span.start : span.stop] = b"\1" * len(span)
    return tuple(number for number, one in enumerate(chosen) if one)


def _span(low: int, high: int, item: str, count: int, predictions: int) -> range:
    total = count + predictions
    if not -count <= low < total or not -count <= high < total:
        more = f", and {count}-{total - 1} for prediction" if predictions else ""
        raise RequestError(
            f"layer {shown(item)} is out of range: the stack has {count} layers, 0-{count - 1} or -{count} to -1{more}"
        )
    if low > high:
        raise RequestError(f"the range {shown(item)} runs backwards: write {high}-{low}")
    return range(low % count if low < 0 else low, (high % count if high < 0 else high) + 1)


def format_layers(layers: tuple[int, ...]) -> str:
    """The shortest way to write `layers` (ascending) in the same syntax: `0-3,5`."""
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs(layers))


def moves(numbers: Mapping[int, int]) -> list[tuple[Layers, Layers]]:
    """Old and new numbers of layers that stay neighbours: 4-6 become 3-5."""
    found: list[tuple[Layers, Layers]] = []
    for old, new in numbers.items():
        if found and old == found[-1][0][-1] + 1 and new == found[-1][1][-1] + 1:
            found[-1] = ((*found[-1][0], old), (*found[-1][1], new))
        else:
            found.append(((old,), (new,)))
    return found


def runs(layers: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """The first and last number of every run of `layers` (ascending) without a gap."""
    start = 0
    for index in range(1, len(layers) + 1):
        if index == len(layers) or layers[index] != layers[index - 1] + 1:
            yield layers[start], layers[index - 1]
            start = index


def parse_size(text: str) -> int:
    """Bytes in `4GiB` (powers of 1024), `4GB` or `4G` (powers of 1000) or `4000000`."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise RequestError(f"{shown(text)!r} is not a size: write it as 4GiB, 4.5GB or 4000000000")
    base = 1024 if match["binary"] else 1000
    return int(Fraction(match["number"]) * base ** _POWER[(match["scale"] or "").lower()])


def choose(
    selection: Selection,
    count: int,
    size_of: Callable[[tuple[int, ...]], int],
    predictions: int = 0,
    strategy: strategies.Strategy | None = None,
) -> tuple[int, ...]:
    """Return the layers to keep of a stack of `count` layers and `predictions` more.

    `size_of(kept)` must give the output's size in bytes. `strategy` stands for one that is not by position: scores or
    a recipe. Raises RequestError when the request is incomplete, out of range, or leaves no layer.
    """
    check_request(selection)
    if selection.keep is not None:
        return parse_layers(selection.keep, count, predictions)
    if selection.drop is not None:
        dropped = parse_layers(selection.drop, count, predictions)
        kept = _without(dropped, count + predictions)
    else:
        kept = _by_strategy(selection, count, size_of, strategy)
    if not kept or kept[0] >= count:
        raise RequestError(f"that would leave no layer: at most {count - 1} of the {count} can go")
    return kept


def check_request(selection: Selection) -> None:
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


def _check_amount(selection: Selection) -> None:
    if selection.ratio is not None and not 0 < selection.ratio < 1:
        raise RequestError(f"--ratio {selection.ratio:g}: write a number between 0 and 1, such as 0.25")
    if selection.count is not None and selection.count < 1:
        raise RequestError(f"--count must be at least 1, not {shown(selection.count)}")
    if selection.target_size is not None:
        parse_size(selection.target_size)


def _without(dropped: tuple[int, ...], count: int) -> tuple[int, ...]:
    gone = set(dropped)
    return tuple(number for number in range(count) if number not in gone)


def _by_strategy(
    selection: Selection,
    count: int,
    size_of: Callable[[tuple[int, ...]], int],
    strategy: strategies.Strategy | None,
) -> tuple[int, ...]:
    strategy = strategy or strategies.find(selection.strategy or "")
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
        raise RequestError(f"cannot drop {shown(amount)} layers: {len(candidates)} of the {count} may go{why}")
    if selection.scored and selection.ratio is not None:
        return _without(_nearest_amount(strategy, candidates, amount), count)
    return _without(strategy(candidates, amount), count)


def _protected(first: int, last: int) -> str:
    """What to say where no more may go because the ends are protected."""
    ends = {"first": first, "last": last}
    told = " and ".join(f"the {end} {number}" for end, number in ends.items() if number)
    options = " ".join(f"--protect-{end} 0" for end, number in ends.items() if number)
    return f" while {told} are protected; {options} lets more go" if told else ""


def protection(selection: Selection, count: int) -> tuple[int, int]:
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


def _amount(selection: Selection, count: int) -> int:
    """How many layers to drop."""
    if selection.ratio is not None:
        return max(1, round(selection.ratio * count))
    amount = selection.count or 0
    if selection.strategy not in strategies.COUNTS_KEPT:
        return amount
    if amount > count:
        raise RequestError(f"cannot keep the first {shown(amount)} layers: there are {count}")
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
