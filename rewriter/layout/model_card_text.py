"""The model card of a pruned model: the README.md of a Hugging Face directory. Text in, text out.

Laws:
- What somebody has written stays. Our own section stands between two marks, and is replaced when the output is pruned
  again. Results of the unpruned model (`model-index`) go: they do not hold any more.
- Nothing is invented: where nobody says which model on the Hub this comes from, the card does not either.
- No clock: the same input and plan give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rewriter.checkpoint import CARD
from rewriter.formats.front_matter import CardError, contains, edit, end_of_line, get, split
from rewriter.formats.hub_id import is_hub_name
from rewriter.planning.layer_ranges import format_layers, moves
from rewriter.planning.model_card import writes_card
from rewriter.planning.plan import Plan
from rewriter.planning.provenance import composed, origin_of
from rewriter.units import format_bytes, format_count
from rewriter.version import VERSION

TAGS = ("pruned", "layer-pruning")
RELATION = "pruned"
_RESULTS = "model-index"  # results of evaluations: huggingface.co/docs/hub/model-cards
_BEGIN, _END = "<!-- rewriter: pruned layers -->", "<!-- rewriter: end -->"
_HEADING = re.compile(r" {0,3}(?:#{1,6}(?:[ \t]|$)|=+[ \t]*$)")
_FENCE = re.compile(r" {0,3}(```|~~~)")

HEALING = """\
Dropping layers costs quality, and training wins some of it back. Measure before and after, on what the model is for.

- For one task: fine-tune the pruned model on it as you would the whole one. That was enough for BERT, RoBERTa and XLNet
  ([Sajjad et al., Poor Man's BERT](https://arxiv.org/abs/2004.03844)).
- A language model, on one GPU: a little training with QLoRA on general text
  ([Gromov et al. 2024](https://arxiv.org/abs/2403.17887)). Up to about a quarter of the layers, benchmarks of multiple
  choice may hardly change even without; text that is generated suffers first
  ([Men et al. 2024, ShortGPT](https://arxiv.org/abs/2403.03853)).
- Where many layers are gone: go on with pre-training all weights, which does better than LoRA then
  ([Kim et al. 2024, Shortened LLaMA](https://arxiv.org/abs/2402.02834);
  [Xia et al. 2023, Sheared LLaMA](https://arxiv.org/abs/2310.06694)).
- Where the unpruned model can run beside it: distil, with that as the teacher
  ([Muralidharan et al. 2024, Minitron](https://arxiv.org/abs/2407.14679)).
"""


@dataclass(frozen=True, slots=True)
class Card:
    """What becomes of a card. `text` is None where it goes along as it is; `note` is for the user, in one line."""

    text: str | None
    note: str = ""
    changes: Mapping[str, object] = field(default_factory=dict)


def make_card(plan: Plan) -> Card | None:
    """The card of the output; None where the plan has nothing to do with one."""
    checkpoint = plan.checkpoint
    if not writes_card(checkpoint, plan.layers, plan.options):
        return None
    if checkpoint.card is None and checkpoint.has_card:
        return Card(None, f"{CARD} goes along as it is: it is not UTF-8, or far too long")
    title = plan.options.base_model.rpartition("/")[2] or checkpoint.name
    try:
        return _extended(plan, f"# {_plain(title)}, pruned\n" if checkpoint.card is None else checkpoint.card)
    except CardError as error:
        return Card(None, f"{CARD} goes along as it is: {error}")


def _extended(plan: Plan, text: str) -> Card:
    head, yaml, rest = split(text)
    eol = end_of_line(text)
    entries, note = _lineage(plan, yaml, _BEGIN in rest)
    results = (_RESULTS,) if contains(yaml, _RESULTS) else ()
    left_out = bool(results) or (_BEGIN in rest and f"(`{_RESULTS}`)" in rest)  # of a run before as well
    new = edit(yaml, eol, entries, TAGS, results)
    end = rest.index("\n") + 1 if "\n" in rest else len(rest)
    section = "\n".join(_section(plan, _base(plan, yaml, _BEGIN in rest), left_out)).replace("\n", eol)
    tail = rest[:end] if rest[:end].endswith("\n") else rest[:end] + eol
    changes = {**entries, "tags": list(TAGS), **dict.fromkeys(results)}
    return Card(head + new + tail + _placed(rest[end:], section, eol), note, changes)


def _lineage(plan: Plan, yaml: str, ours: bool) -> tuple[dict[str, str], str]:
    """What the front matter says about where the model comes from, and what there is to be told.

    `base_model` of the source's own card is what the source was made from: it is kept for want of the source's name,
    and with it what the relation was. A card of ours says the model that all this started from.
    """
    base = plan.options.base_model
    if base:
        return {"base_model": base, "base_model_relation": RELATION}, ""
    if ours and get(yaml, "base_model_relation") == RELATION:
        return {}, ""
    if contains(yaml, "base_model"):
        return {}, f"{CARD} keeps the base_model of its source: what the Hub calls the source, only --base-model says"
    return {"base_model_relation": RELATION}, f"{CARD} names no base_model: which it is, only --base-model says"


def _base(plan: Plan, yaml: str, ours: bool) -> str:
    """What the Hub calls the model that all this started from, "" where nothing says it."""
    base = get(yaml, "base_model") if ours and get(yaml, "base_model_relation") == RELATION else None
    return plan.options.base_model or (base if isinstance(base, str) and is_hub_name(base) else "")


def _placed(body: str, section: str, eol: str) -> str:
    """`body` with `section` in the place of an earlier one, else after its first heading, else at its top."""
    begin = body.find(_BEGIN)
    end = body.find(_END, begin)
    if -1 < begin < end:
        return body[:begin] + section.removesuffix(eol) + body[end + len(_END) :]
    at = _after_heading(body)
    above, below = body[:at], body[at:].lstrip("\r\n")
    above += eol * (2 if above and not above.endswith("\n") else 1) if above else ""
    return above + section + (eol + below if below else "")


def _after_heading(body: str) -> int:
    """Where the line of the first heading ends, 0 without one. What a fence holds is no heading."""
    at, fence = 0, ""
    for line in body.splitlines(keepends=True):
        at += len(line)
        mark = _FENCE.match(line)
        if mark and fence in ("", mark[1]):
            fence = "" if fence else mark[1]
        elif not fence and _HEADING.match(line.rstrip("\r\n")):
            return at
    return 0


def _section(plan: Plan, base: str, results: bool) -> Iterator[str]:
    layers, checkpoint = plan.layers, plan.checkpoint
    whole = f"[{base}](https://huggingface.co/{base})" if base else f"`{_plain(checkpoint.name)}`"
    parameters = sum(tensor.parameters for tensor in checkpoint.tensors)
    nbytes = sum(tensor.nbytes for tensor in checkpoint.tensors)
    chosen = f", chosen by {_plain(plan.options.chosen_by)}" if plan.options.chosen_by else ""
    yield f"{_BEGIN}\n## Pruned layers\n"
    yield f"This is {whole} without some of its layers. The others were renumbered, and their weights are the same, bit"
    yield "for bit. **Nothing was trained after that.**\n"
    yield "| | before | after |\n|---|---|---|"
    yield f"| layers of the stack `{_plain(layers.stack)}` | {layers.count} | {len(layers.main)} |"
    yield f"| parameters | {format_count(parameters)} | {format_count(plan.parameters)} |"
    yield f"| bytes of weights | {format_bytes(nbytes)} | {format_bytes(plan.nbytes)} |\n"
    yield f"Dropped, counted from 0: **{_list(layers.dropped)}**{chosen}.\n"
    yield "| layer before | layer now |\n|---|---|"
    yield from (f"| {_list(old)} | {_list(new)} |" for old, new in moves(layers.numbers))
    yield from _earlier(plan)
    if results:
        yield f"\nThe results of the unpruned model (`{_RESULTS}`) do not hold for this one: they were left out."
    yield f"\nMade with rewriter {VERSION}: `rewriter prune SRC DST {_arguments(plan)}`\n"
    yield f"### How to heal it\n\n{HEALING}{_END}\n"


def _arguments(plan: Plan) -> str:
    return f"--stack {_plain(plan.layers.stack)} --keep {format_layers(plan.layers.kept)}"


def _earlier(plan: Plan) -> Iterator[str]:
    """Where the source was pruned before: which layers of the first model are left."""
    if plan.provenance is None or not plan.checkpoint.provenance:
        return
    origin = composed(origin_of(plan.checkpoint), plan.layers)
    first = _plain(origin.name)
    for stack, kept in origin.layers.items():
        yield f"\nLayers of `{first}`, the first model, that are left in the stack `{_plain(stack)}`: {_list(kept)}."


def _list(layers: tuple[int, ...]) -> str:
    return format_layers(layers).replace(",", ", ")


def _plain(text: str) -> str:
    """A name as Markdown shows it: what could be more than text is left out."""
    return re.sub(r"[^\w .,:+()/=-]", "", text)[:200]
