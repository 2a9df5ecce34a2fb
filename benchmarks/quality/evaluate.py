"""What dropping layers really costs, and how near each way of choosing them comes to the best.

    python benchmarks/quality/evaluate.py                       # the two fixture models and what train.py has made
    python benchmarks/quality/evaluate.py path/to/model ...     # any Hugging Face directory
    python benchmarks/quality/evaluate.py --tiny

Every loss is kept in `results/NAME.json` under the set of dropped layers: a new metric costs only what is new.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import candidates
import numpy as np
import torch
from models import SPECS
from oracles import block_influence, greedy, random_sets, single_removal
from paths import FIXTURES, RESULTS, WORK
from subject import RATIOS, Subject

from rewriter.errors import RequestError
from rewriter.planning.selection.strategies import COUNTS_KEPT, STRATEGIES
from rewriter.scoring.metrics import METRICS

FIXTURE_MODELS = ("tiny-llama-12L", "tiny-llama-16L-bytes")
TOLERANCE = 1e-5  # nats, between a model without some layers and what `rewriter prune` writes


@dataclass(frozen=True)
class Reference:
    """At one ratio: what random sets and the greedy oracle cost."""

    count: int
    random: list[float]
    greedy: list[int]
    greedy_loss: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="*", type=Path)
    parser.add_argument("--tiny", action="store_true", help="a model of train.py --tiny, to check the scripts")
    parser.add_argument("--candidates", action="store_true", help="also what candidates.py proposes")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for directory in [WORK / "tiny"] if asked.tiny else asked.directories or known_models():
        subject = Subject(directory, WORK if asked.tiny else RESULTS)
        check_against_prune(subject)
        evaluate(subject, asked.candidates)


def known_models() -> list[Path]:
    trained = [WORK / name for name in SPECS if (WORK / name / "config.json").exists()]
    return [*(FIXTURES / name for name in FIXTURE_MODELS), *trained]


def check_against_prune(subject: Subject) -> None:
    """The tool's output, loaded anew, has the very loss that is used here for these dropped layers."""
    dropped = subject.candidates()[:1]
    with tempfile.TemporaryDirectory() as folder:
        pruned = Path(folder) / "pruned"
        rewriter("prune", subject.directory, pruned, "--drop", ",".join(map(str, dropped)))
        difference = abs(Subject(pruned, Path(folder)).loss([]) - subject.loss(dropped))
    if difference > TOLERANCE:
        sys.exit(f"{subject.name}: what rewriter prune writes is off by {difference:g} nats")


def rewriter(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "rewriter", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def evaluate(subject: Subject, with_candidates: bool) -> None:
    references = {ratio: reference(subject, subject.drop_count(ratio)) for ratio in RATIOS}
    singles = single_removal(subject)
    judged = subject.known().get("judged", {})  # what an earlier run tried is not forgotten
    judged |= {"greedy oracle": judge(subject, references, lambda count: sorted(greedy(subject, count)))}
    rankings = {"single-removal oracle": singles, "block influence (data)": block_influence(subject), **tool(subject)}
    if with_candidates:
        rankings |= candidates.rankings(subject)
        judged |= {name: judge(subject, references, how) for name, how in candidates.choosers(subject).items()}
    for name, scores in rankings.items():
        choose = lowest(subject.candidates(), scores)
        judged[name] = judge(subject, references, choose) | {
            "spearman": spearman(scores, singles, subject.candidates()),
            "scores": scores,
        }
    for name in STRATEGIES.keys() - COUNTS_KEPT:
        judged[name] = judge(subject, references, by_position(subject.candidates(), name))
    subject.save(
        base=subject.loss([]),
        half_error=half_error(subject),
        tokens=int((subject.windows[1] != -100).sum()),
        random={ratio: float(np.mean(each.random)) for ratio, each in references.items()},
        counts={ratio: each.count for ratio, each in references.items()},
        single=singles,
        judged=judged,
        training=training(subject),
    )
    show(subject, judged)


def training(subject: Subject) -> dict | None:
    path = subject.directory / "training.json"
    return json.loads(path.read_text()) if path.exists() else None


def reference(subject: Subject, count: int) -> Reference:
    best = greedy(subject, count)
    drawn = [subject.loss(each) for each in random_sets(subject, count)]
    subject.save()
    return Reference(count, drawn, sorted(best), subject.loss(best))


def tool(subject: Subject) -> dict[str, list[float]]:
    """The scores of every metric that `rewriter` has for this model."""
    scores = {}
    for name in METRICS:
        try:
            report = json.loads(rewriter("score", subject.directory, "--metric", name, "--json"))
        except subprocess.CalledProcessError as error:
            print(f"{subject.name}: {name}: {error.stderr.strip()}")
            continue
        scores[name] = [each["score"] for each in report["scores"]]
    return scores


def lowest(candidates: list[int], scores: list[float]) -> Callable[[int], list[int]]:
    return lambda count: sorted(sorted(candidates, key=lambda layer: scores[layer])[:count])


def by_position(candidates: list[int], name: str) -> Callable[[int], list[int] | None]:
    def choose(count: int) -> list[int] | None:
        try:
            return list(STRATEGIES[name](tuple(candidates), count))
        except RequestError:
            return None

    return choose


def judge(
    subject: Subject, references: dict[float, Reference], choose: Callable[[int], list[int] | None]
) -> dict[str, object]:
    """For each ratio the set that is chosen, what it costs, and where that lies between random and greedy."""
    return {str(ratio): at_ratio(subject, each, choose(each.count)) for ratio, each in references.items()}


def at_ratio(subject: Subject, reference: Reference, dropped: list[int] | None) -> dict[str, object] | None:
    if dropped is None:
        return None
    loss, mean = subject.loss(dropped), float(np.mean(reference.random))
    return {
        "dropped": dropped,
        "cost": loss - subject.loss([]),
        "gap": (mean - loss) / (mean - reference.greedy_loss),
        "percentile": 100 * float(np.mean([each < loss for each in reference.random])),
    }


def spearman(scores: list[float], true: list[float], candidates: list[int]) -> float:
    ranks = [np.argsort(np.argsort([values[layer] for layer in candidates])) for values in (scores, true)]
    return float(np.corrcoef(*ranks)[0, 1])


def half_error(subject: Subject) -> float:
    """Standard error of a cost (a loss less the base's), from the two halves of the windows, over all sets seen."""
    base = subject.losses[""]
    apart = [(half[0] - base[0]) - (half[1] - base[1]) for half in subject.losses.values()]
    return float(np.sqrt(np.mean(np.square(apart))) / 2)


def show(subject: Subject, judged: dict[str, dict]) -> None:
    print(f"\n{subject.name}: base {subject.loss([]):.3f}, error of a cost {half_error(subject):.3f}")
    for name, each in sorted(judged.items(), key=lambda item: -gaps(item[1])[1]):
        cells = "".join(f"{gap:8.2f}" for gap in gaps(each))
        dropped = each["0.25"] and each["0.25"]["dropped"]
        print(f"  {name:24}{cells}   rho {each.get('spearman', float('nan')):5.2f}   {dropped}")


def gaps(judged: dict) -> list[float]:
    return [judged[str(ratio)]["gap"] if judged[str(ratio)] else float("nan") for ratio in RATIOS]


if __name__ == "__main__":
    main()
