"""Put what `evaluate.py` measured into `docs/metrics.md`, between its two markers.

python benchmarks/quality/table.py
"""

import json
import math
import re

from evaluate import FIXTURE_MODELS, gaps
from models import SPECS
from paths import REPOSITORY, RESULTS

PAGE = REPOSITORY / "docs" / "metrics.md"
BEGIN, END = "<!-- measured: benchmarks/quality/table.py -->", "<!-- end of measured -->"


QUANTISED = """\
How the scores of a quantised model rank its layers, against those of the model that it was made from (Spearman; Q8_0 /
Q5_0 / Q4_0):

"""
PROTOTYPES = """\
What was tried before the tool had it, the gap as above (`benchmarks/quality/candidates.py`; not on every model, so
there is no worst). `data` is held-out text. `sampled` text is a chain: each token is drawn from what the model predicts
after the one before it, seen alone; `random` is ids drawn evenly; `mixed` is as many sequences of both. In brackets
stands how attention was modelled: as it is (real), without positions (content), as each token's own value (own).
`jointly` means that after each layer the others are scored again on what is left.

"""


def main() -> None:
    names = [name for name in (*FIXTURE_MODELS, *SPECS) if (RESULTS / f"{name}.json").exists()]
    results = [json.loads((RESULTS / f"{name}.json").read_text()) for name in names]
    page = PAGE.read_text("utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(before + BEGIN + "\n\n" + tables(results) + "\n" + END + after, "utf-8")


def tables(results: list[dict]) -> str:
    tool = [name for name in ways(results) if not is_prototype(name)]
    prototypes = [name for name in ways(results) if is_prototype(name)]
    return "\n".join(
        [
            models_table(results),
            gap_table(results, tool),
            rho_table(results, tool),
            QUANTISED + quantised_table(),
            PROTOTYPES + gap_table(results, prototypes),
        ]
    )


def is_prototype(name: str) -> bool:
    """Whether a way to choose was only tried: it says in brackets how attention was modelled."""
    return re.search(r"\((real|content|own|uniform)\)", name) is not None


def models_table(results: list[dict]) -> str:
    """Each model, how long it was trained, and what dropping a quarter of its layers costs."""
    head = ["model", "layers", "trained on", "loss", "random sets", "greedy oracle", "error of a cost"]
    return table(head, [model_row(each) for each in results])


def model_row(result: dict) -> list[str]:
    name, base = result["model"], result["base"]
    trained = f"{result['training']['tokens'] / 1e6:.1f}M tokens" if result["training"] else "(fixture)"
    aside = ", kept aside" if name in SPECS and SPECS[name].aside else ""
    best = result["judged"]["greedy oracle"]["0.25"]["cost"]
    costs = [f"{cost:.3f}" for cost in (base, result["random"]["0.25"] - base, best, result["half_error"])]
    return [f"{name}{aside}", str(result["layers"]), trained, *costs]


def gap_table(results: list[dict], names: list[str]) -> str:
    """For every way to choose the share of the way from random to greedy; the best on its worst model first."""
    head = ["dropped by", "worst at 25 %", *(f"{each['model']}" for each in results)]
    rows = [(worst(results, name), row(results, name)) for name in names]
    return table(head, [cells for _, cells in sorted(rows, key=lambda each: (math.isnan(each[0]), -each[0]))])


def row(results: list[dict], name: str) -> list[str]:
    return [name, number(worst(results, name)), *(" / ".join(map(number, measured(each, name))) for each in results)]


def rho_table(results: list[dict], names: list[str]) -> str:
    """Spearman of the scores with the true loss after each single removal."""
    head = ["Spearman", *(each["model"] for each in results)]
    names = [name for name in names if any("spearman" in each["judged"].get(name, {}) for each in results)]
    found = {name: [each["judged"].get(name, {}).get("spearman", math.nan) for each in results] for name in names}
    return table(head, [[name, *map(number, values)] for name, values in found.items()])


def quantised_table() -> str:
    """Spearman of the scores of quantised models with those of their sources."""
    found = json.loads((RESULTS / "quantised.json").read_text())
    names = dict.fromkeys(name for each in found.values() for name in each)
    values = [[each.get(name, {"": math.nan}).values() for each in found.values()] for name in names]
    cells = [[" / ".join(map(number, each)) for each in row] for row in values]
    return table(["Spearman", *found], [[name, *row] for name, row in zip(names, cells, strict=True)])


def ways(results: list[dict]) -> list[str]:
    return list(dict.fromkeys(name for each in results for name in each["judged"]))


def worst(results: list[dict], name: str) -> float:
    """At 25 %, over the models that read from left to right; none where it was not measured on each of them."""
    known = [measured(each, name)[1] for each in results if not is_masked(each)]
    return math.nan if any(map(math.isnan, known)) else min(known)


def is_masked(result: dict) -> bool:
    return result["model"] in SPECS and SPECS[result["model"]].masked


def measured(result: dict, name: str) -> list[float]:
    return gaps(result["judged"][name]) if name in result["judged"] else [math.nan] * 3


def number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
