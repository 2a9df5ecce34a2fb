"""The page judges and chooses as the program does: choosing.js against make_plan, choose and by_scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from rewriter.architectures.lookup import Stack, select
from rewriter.checkpoint import Checkpoint
from rewriter.errors import CheckpointError, RequestError, RewriterError, UnsupportedError
from rewriter.planning.layer_ranges import format_layers
from rewriter.planning.options import LayerSelection, PlanOptions
from rewriter.planning.plan import Plan, make_plan, open_stacks
from rewriter.planning.selection.choose import choose
from rewriter.planning.selection.strategies import STRATEGIES
from rewriter.report.choices import choices
from rewriter.scoring.score import LayerScore, Scores
from rewriter.scoring.suggest import by_scores
from rewriter.units import parse_size
from tests.support.checkpoints import llama
from tests.support.javascript import interpreter
from tests.support.named_stacks import IDS, STACKS

SCRIPT = str(Path(__file__).parents[2] / "rewriter" / "report" / "templates" / "choosing.js")
JUDGE = """({ stack, selections }) => selections.map((kept) => ({
  refusal: refusal(stack, kept), others: refusal(stack, kept) ? alternatives(stack, kept).map(formatLayers) : [],
  warnings: warningsOf(stack, kept), left: weigh(stack, kept), size: stack.rest && outputSize(stack, kept) }))"""
CHOOSE = """({ stack, requests }) => requests.map((asked) => {
  try { return choose(stack, asked); } catch (error) {
    if (error instanceof Mistaken || error instanceof Refused) return { error: error.message };
    throw error;
  }
})"""


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    running = interpreter(SCRIPT)
    yield running
    running.close()


def size_of(plan: Plan) -> int:
    """An output whose files have 100 bytes for each tensor besides them."""
    return plan.nbytes + 5000 + 100 * len(plan.tensors)


def decided(checkpoint: Checkpoint, stack: Stack, scores: dict[str, list[float]] | None = None) -> dict[str, Any]:
    """What the page knows of the stack."""
    options = PlanOptions(stack=stack.name)
    architecture, stacks = open_stacks(checkpoint, options)
    made = choices(checkpoint, architecture, stacks, select(stacks, stack.name), options, size_of)
    return {**made, "scores": scores or {}, "recipes": {"recipe:one": list(range(stack.count))[::-2]}}


def random_selections(count: int, many: int, chance: Random) -> list[list[int]]:
    """Without some layers here and there, and without a block at the end or the beginning."""
    selections = []
    for _ in range(many):
        gone = chance.sample(range(count), chance.randrange(1, count))
        at = chance.randrange(1, count)
        selections += [[each for each in range(count) if each not in gone], list(range(at)), list(range(at, count))]
    return selections


def planned(checkpoint: Checkpoint, stack: Stack, kept: list[int]) -> tuple[Plan | None, str]:
    """The plan, or why there is none."""
    try:
        return make_plan(checkpoint, kept, PlanOptions(stack=stack.name)), ""
    except (CheckpointError, UnsupportedError) as error:
        return None, str(error)


def expected_refusal(judged: dict[str, Any]) -> str:
    """What make_plan says, made of what the page says."""
    others = " or ".join(f"--keep {each}" for each in judged["others"])
    return f"{judged['refusal']}; {f'this would work: {others}' if others else 'no drop avoids that'}"


@pytest.mark.parametrize(("checkpoint", "stack"), STACKS, ids=IDS)
def test_it_allows_refuses_warns_and_weighs_as_the_plan_does(script, checkpoint: Checkpoint, stack: Stack):
    made = decided(checkpoint, stack)
    selections = random_selections(stack.count, 4, Random(stack.name))
    for kept, judged in zip(selections, script.ask(JUDGE, {"stack": made, "selections": selections}), strict=True):
        plan, error = planned(checkpoint, stack, kept)
        assert bool(judged["refusal"]) == bool(error)
        if plan is None:
            assert made["refused"] or error == expected_refusal(judged) or (made["late"] and judged["refusal"] in error)
            continue
        assert judged["warnings"] == list(plan.warnings)
        assert judged["left"] == {"tensors": len(plan.tensors), "parameters": plan.parameters, "bytes": plan.nbytes}
        assert judged["size"][0] <= size_of(plan) <= judged["size"][1]
    assert not made["doubt"] or made["refused"]


def test_most_stacks_can_be_pruned_on_the_page():
    refused = [decided(checkpoint, stack)["refused"] for checkpoint, stack in STACKS[::5]]
    assert len([why for why in refused if not why]) > 0.9 * len(refused)


def asking(
    strategy: str, by: str, amount: Any, first: int | None = None, last: int | None = None, contiguous: bool = False
) -> dict[str, Any]:
    """What the page asks choosing.js for."""
    return {
        "strategy": strategy, "by": by, "amount": amount, "first": first, "last": last, "contiguous": contiguous,
    }  # fmt: skip


def requests(count: int, size: int, names: list[str], chance: Random) -> Iterator[dict[str, Any]]:
    """Ways to ask for layers, as the page puts them."""
    for name in names:
        for by in ("count", "ratio", "size"):
            amounts = {
                "count": chance.randrange(1, count + 1), "ratio": chance.choice((0.1, 0.25, 0.5, 0.75)),
                "size": str(chance.randrange(size // 3, size + 2)),
            }  # fmt: skip
            ends = [chance.choice((None, None, 0, 1, 2)) for _ in range(2)]
            block = chance.random() < 0.3 and name == "a-metric"
            yield asking(name, by, amounts[by], ends[0], ends[1], block)


def asked_of_the_program(checkpoint: Checkpoint, stack: Stack, asked: dict[str, Any], scores: list[float]) -> list[int]:
    amount = {{"size": "target_size"}.get(asked["by"], asked["by"]): asked["amount"]}
    selection = LayerSelection(
        strategy=asked["strategy"], protect_first=asked["first"], protect_last=asked["last"],
        contiguous=asked["contiguous"], **amount,
    )  # fmt: skip
    options = PlanOptions(stack=stack.name)
    rows = tuple(LayerScore(layer, value, 0) for layer, value in enumerate(scores))
    strategy = None
    if selection.scored:
        strategy = by_scores(checkpoint, options, Scores("a-metric", stack.name, rows), selection.contiguous)
    kept = choose(selection, stack.count, lambda kept: size_of(make_plan(checkpoint, kept, options)), 0, strategy)
    return list(kept)


CHOSEN = [pair for pair in zip(STACKS, IDS, strict=True) if 3 < pair[0][1].count <= 24]


@pytest.mark.parametrize(("checkpoint", "stack"), [pair[0] for pair in CHOSEN], ids=[pair[1] for pair in CHOSEN])
def test_it_chooses_the_layers_that_the_program_chooses(script, checkpoint: Checkpoint, stack: Stack):
    chance = Random(checkpoint.name + stack.name)
    scores = [chance.choice((0.125, 0.5, chance.random())) for _ in range(stack.count)]
    made = decided(checkpoint, stack, {"a-metric": scores})
    if made["refused"]:
        return
    size = size_of(make_plan(checkpoint, range(stack.count), PlanOptions(stack=stack.name)))
    asked = list(requests(stack.count, size, ["a-metric", chance.choice(list(STRATEGIES))], chance))
    for each, found in zip(asked, script.ask(CHOOSE, {"stack": made, "requests": asked}), strict=True):
        try:
            kept = asked_of_the_program(checkpoint, stack, each, scores)
        except (RequestError, UnsupportedError):
            assert "error" in found, each
            continue
        if found.get("close") or ("error" in found and each["by"] == "size"):
            assert each["by"] == "size"  # within what is not known of the headers
            continue
        assert found == {"kept": kept, **({"close": False} if each["by"] == "size" else {})}, each


def test_all_strategies_on_a_plain_stack(script):
    checkpoint, chance = llama(24), Random(3)
    stack = open_stacks(checkpoint, PlanOptions())[1][0]
    scores = [chance.random() for _ in range(24)]
    made = decided(checkpoint, stack, {"a-metric": scores})
    names = ["a-metric", *STRATEGIES]
    grid = [
        asking(name, by, amount, first, last, block)
        for name in names
        for block in ((False, True) if name == "a-metric" else (False,))
        for by, amounts in (("count", range(1, 26)), ("ratio", (0.02, 0.1, 0.3125, 0.5, 0.9)))
        for amount in amounts
        for first, last in ((None, None), (0, 0), (3, 1), (0, 5))
    ]
    for each, found in zip(grid, script.ask(CHOOSE, {"stack": made, "requests": grid}), strict=True):
        try:
            assert found == {"kept": asked_of_the_program(checkpoint, stack, each, scores)}, each
        except RewriterError:
            assert "error" in found, each


def test_sizes_are_read_as_the_program_reads_them(script):
    texts = ["1", "4GiB", "4.5GB", "1.000000001 kB", "0.3MiB", "7k", "999999999999999", "2.5 tib"]
    assert script.ask("(texts) => texts.map(parseSize)", texts) == [parse_size(text) for text in texts]
    wrong = ["", "-1", "1e3", "4 XB", "GB", "1.", ".5GB"]
    refused = "(texts) => texts.filter((text) => { try { parseSize(text); } catch { return true; } })"
    assert script.ask(refused, wrong) == wrong


def test_layers_are_written_as_the_program_writes_them(script):
    lists = [[], [0], [0, 1, 2], [3, 7, 8, 9, 11], list(range(128))]
    assert script.ask("(lists) => lists.map(formatLayers)", lists) == [format_layers(tuple(each)) for each in lists]


def test_a_period_of_128_layers_is_searched_fast_enough(script):
    checkpoint = llama(128)
    stack = open_stacks(checkpoint, PlanOptions())[1][0]
    scores = [Random(1).random() for _ in range(128)]
    made = decided(checkpoint, stack, {"a-metric": scores})
    made["bounds"].append({"why": "aligned", "period": 6})
    asked = asking("a-metric", "count", 32)
    found = script.ask(CHOOSE, {"stack": made, "requests": [asked, {**asked, "amount": 30}]})
    assert "error" in found[0]
    assert len(found[1]["kept"]) == 98
