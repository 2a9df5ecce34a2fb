"""The page judges and offers what the program does: selection.js against make_plan, the table against choose."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from rewriter.architectures.lookup import Stack
from rewriter.checkpoint import Checkpoint
from rewriter.errors import CheckpointError, RequestError, UnsupportedError
from rewriter.planning.layer_ranges import format_layers
from rewriter.planning.open_model import open_model
from rewriter.planning.options import LayerSelection, PlanOptions
from rewriter.planning.plan import Plan, make_plan
from rewriter.planning.selection.choose import choose
from rewriter.planning.selection.strategies import COUNTS_KEPT, STRATEGIES
from rewriter.report.choices import choices
from rewriter.scoring.score import LayerScore, Scores
from rewriter.scoring.suggest import by_scores
from tests.support.checkpoints import llama
from tests.support.javascript import interpreter
from tests.support.named_stacks import IDS, STACKS

SCRIPT = str(Path(__file__).parents[2] / "rewriter" / "report" / "templates" / "selection.js")
JUDGE = """({ stack, selections }) => selections.map((kept) => ({
  refusal: stack.refused || refusal(stack, kept), warnings: warningsOf(stack, kept),
  left: sizesWithout(stack, without(range(0, stack.layers), kept)) }))"""
SELECTIONS = "(stack) => stack.selections.map(([bits]) => layersOf(bits))"
METRIC = "a-metric"


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    running = interpreter(SCRIPT)
    yield running
    running.close()


def size_of(plan: Plan) -> int:
    """An output whose files have 100 bytes for each tensor besides them."""
    return plan.nbytes + 5000 + 100 * len(plan.tensors)


def decided(checkpoint: Checkpoint, stack: Stack, scores: list[float] | None = None) -> dict[str, Any]:
    """What the page knows of the stack, with strategies by position; with scores another one and one by them."""
    options = PlanOptions(stack=stack.name)
    model = open_model(checkpoint, options)
    strategies = dict.fromkeys(("bottom", "top", "middle"))
    if scores is not None:
        chosen = Random(checkpoint.name + stack.name).choice(list(STRATEGIES))
        strategies |= {METRIC: by_scores(model, as_scores(stack, scores)), chosen: None}
    return choices(model, strategies, size_of)


def as_scores(stack: Stack, scores: list[float]) -> Scores:
    return Scores(METRIC, stack.name, tuple(LayerScore(layer, value, 0) for layer, value in enumerate(scores)))


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


@pytest.mark.parametrize(("checkpoint", "stack"), STACKS, ids=IDS)
def test_it_allows_refuses_warns_and_weighs_as_the_plan_does(script, checkpoint: Checkpoint, stack: Stack):
    made = decided(checkpoint, stack)
    selections = random_selections(stack.count, 4, Random(stack.name))
    if "bounds" not in made:  # the whole stack is refused
        assert made["refused"]
        assert all(planned(checkpoint, stack, kept)[1] for kept in selections)
        return
    for kept, judged in zip(selections, script.ask(JUDGE, {"stack": made, "selections": selections}), strict=True):
        plan, error = planned(checkpoint, stack, kept)
        assert bool(judged["refusal"]) == bool(error)
        if plan is None:
            known = error.startswith(f"{judged['refusal']}; ") or (made["late"] and judged["refusal"] in error)
            assert made["refused"] or known
            continue
        assert judged["warnings"] == list(plan.warnings)
        if judged["left"]["exact"]:  # what files hold besides the tensors is linear here
            left = tuple(judged["left"][name] for name in ("tensors", "parameters", "bytes", "files"))
            assert left == (len(plan.tensors), plan.parameters, plan.nbytes, size_of(plan))
    assert not made["doubt"] or made["refused"]


def test_most_stacks_can_be_pruned_on_the_page_with_exact_sizes():
    made = [decided(checkpoint, stack) for checkpoint, stack in STACKS[::5]]
    assert len([each for each in made if not each["refused"]]) > 0.9 * len(made)
    assert len([each for each in made if each["refused"] or each["additive"]]) > 0.9 * len(made)


def asked_of_the_program(
    checkpoint: Checkpoint, stack: Stack, name: str, scores: list[float], **amount: Any
) -> list[int]:
    """The layers that the program drops for `--strategy NAME` and an amount."""
    selection, options = LayerSelection(strategy=name, **amount), PlanOptions(stack=stack.name)
    strategy = by_scores(open_model(checkpoint, options), as_scores(stack, scores)) if selection.scored else None
    kept = choose(selection, stack.count, lambda kept: size_of(make_plan(checkpoint, kept, options)), 0, strategy)
    make_plan(checkpoint, kept, options)
    return [layer for layer in range(stack.count) if layer not in kept]


def check_rows(checkpoint: Checkpoint, stack: Stack, made: dict[str, Any], name: str, scores: list[float]) -> None:
    """The rows of a strategy are all that the program can drop by it, with the sizes that it would have."""
    rows = dict(made["ways"][name])
    for count in range(1, stack.count):
        amount = stack.count - count if name in COUNTS_KEPT else count
        try:
            gone = asked_of_the_program(checkpoint, stack, name, scores, count=amount)
        except (RequestError, UnsupportedError):
            assert count not in rows
            continue
        bits, nbytes, *sizes = made["selections"][rows[count]]
        assert bits == f"{sum(1 << layer for layer in gone):x}"
        kept = [layer for layer in range(stack.count) if layer not in gone]
        plan = make_plan(checkpoint, kept, PlanOptions(stack=stack.name))
        assert nbytes == size_of(plan)
        assert made["additive"] or sizes == [len(plan.tensors), plan.parameters, plan.nbytes]


CHOSEN = [pair for pair in zip(STACKS, IDS, strict=True) if 3 < pair[0][1].count <= 24]


@pytest.mark.parametrize(("checkpoint", "stack"), [pair[0] for pair in CHOSEN], ids=[pair[1] for pair in CHOSEN])
def test_the_table_has_what_the_program_chooses(checkpoint: Checkpoint, stack: Stack):
    chance = Random(checkpoint.name + stack.name)
    scores = [chance.choice((0.125, 0.5, chance.random())) for _ in range(stack.count)]
    made = decided(checkpoint, stack, scores)
    if made["refused"]:
        return
    for name in made["ways"]:
        check_rows(checkpoint, stack, made, name, scores)


def test_all_strategies_on_a_plain_stack(script):
    checkpoint, chance = llama(24), Random(3)
    stack = open_model(checkpoint).stack
    scores = [chance.random() for _ in range(24)]
    model = open_model(checkpoint)
    strategies = {METRIC: by_scores(model, as_scores(stack, scores)), **dict.fromkeys(STRATEGIES)}
    made = choices(model, strategies, size_of)
    for name in strategies:
        check_rows(checkpoint, stack, made, name, scores)
        rows = made["ways"][name]
        sizes = [row[1] for row in made["selections"]]
        for target in (sizes[0], sizes[0] - 1, sizes[0] - 400):
            row = next(row for row in rows if sizes[row[1]] <= target)  # as the page looks it up
            gone = asked_of_the_program(checkpoint, stack, name, scores, target_size=str(target))
            assert made["selections"][row[1]][0] == f"{sum(1 << layer for layer in gone):x}"
        quarter = asked_of_the_program(checkpoint, stack, name, scores, ratio=0.25)
        assert len(quarter) == made["quarter"]
    listed = script.ask(SELECTIONS, made)
    assert [f"{sum(1 << layer for layer in gone):x}" for gone in listed] == [row[0] for row in made["selections"]]


def test_a_refused_selection_has_near_ones_in_the_table(script):
    checkpoint = llama(24)
    made = decided(checkpoint, open_model(checkpoint).stack, [float(layer) for layer in range(24)])
    code = "({ stack, gone }) => nearestListed(stack, gone)"
    picked = [4, 5, 6, 7, 9]
    near = [len(set(each) ^ set(picked)) for each in script.ask(code, {"stack": made, "gone": picked})]
    dropping = [each for each in script.ask(SELECTIONS, made) if each]
    assert near == sorted(len(set(each) ^ set(picked)) for each in dropping)[:3]
    assert max(near) < 5


def test_layers_are_written_as_the_program_writes_them(script):
    lists = [[], [0], [0, 1, 2], [3, 7, 8, 9, 11], list(range(128))]
    assert script.ask("(lists) => lists.map(formatLayers)", lists) == [format_layers(tuple(each)) for each in lists]
