"""What a checkpoint is made of: embedding, attention, feed-forward, head; how large each is, and how large its weights.

Rates by component are what DeepLight (Deng et al. 2020) prunes by: embeddings and dense layers bear different ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rewriter.architectures.lookup import Stack
from rewriter.checkpoint import Checkpoint
from rewriter.formats.dequantize import WeightMatrix, open_weights, workers
from rewriter.planning.model import Model
from rewriter.scoring.build.tensor_roles import layer_roles, outer_roles
from rewriter.scoring.metrics.weight_statistics import MAGNITUDES, magnitude_values, magnitudes
from rewriter.scoring.threads import scoring_threads
from rewriter.system.threads import ThreadPool

# part -> how the words of its roles begin, in the order in which they are tried
_PARTS = (
    ("embedding", ("token_embd", "position_embd", "token_types", "per_layer_token_embd", "v.patch", "v.position")),
    ("head", ("output", "cls")),
    ("attention", ("attn", "cross_attn", "indexer")),
    ("feed-forward", ("ffn", "exp_probs", "channel_mix")),
    ("state-space", ("ssm", "time_mix", "shortconv")),
)  # fmt: skip
_PIECES, _PIECE = 8, 1 << 15  # of a large tensor that are looked at, evenly spaced, and weights in one
Tally = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Component:
    """One part of the whole checkpoint.

    `magnitude` is the mean of |w|. `survives` is the share of its weights that stay where half of all weights of the
    checkpoint go by magnitude, under one threshold. Both are estimates from evenly spaced pieces of large tensors, and
    None where no weight was read.
    """

    name: str
    tensors: int
    parameters: int
    nbytes: int
    magnitude: float | None = None
    survives: float | None = None


def components(model: Model, threads: int | None = None) -> list[Component]:
    """The parts of the model, the largest first. Raises UnsupportedError for weights that cannot be decoded."""
    parts = _named(model.checkpoint, model.stacks)
    with open_weights(model.checkpoint) as weights, scoring_threads(threads or workers()) as team:
        tallies = {
            part: _tally(team, [weights[name] for name in names if name in weights]) for part, names in parts.items()
        }
    threshold = _median(tallies.values())
    return [_measured(each, tallies[each.name], threshold) for each in _sized(model.checkpoint, parts)]


def component_sizes(checkpoint: Checkpoint, stacks: tuple[Stack, ...]) -> list[Component]:
    """The parts of the checkpoint, the largest first, from the names of its tensors alone."""
    return _sized(checkpoint, _named(checkpoint, stacks))


def _sized(checkpoint: Checkpoint, parts: dict[str, set[str]]) -> list[Component]:
    members = {part: [tensor for tensor in checkpoint.tensors if tensor.name in names] for part, names in parts.items()}
    found = [
        Component(part, len(each), sum(tensor.parameters for tensor in each), sum(tensor.nbytes for tensor in each))
        for part, each in members.items()
    ]
    return sorted(found, key=lambda each: -each.nbytes)


def _measured(component: Component, tally: Tally, threshold: int) -> Component:
    count = max(1.0, float(tally.sum()))
    return replace(
        component,
        magnitude=float(tally @ magnitude_values()) / count,
        survives=float(tally[threshold + 1 :].sum()) / count,
    )


def _named(checkpoint: Checkpoint, stacks: tuple[Stack, ...]) -> dict[str, set[str]]:
    """Part -> the names of its tensors."""
    names = [tensor.name for tensor in checkpoint.tensors]
    outside = (name for name in names if all(stack.layer_of(name) is None for stack in stacks))
    words = {name: word for word, name in outer_roles(checkpoint, outside).items()}
    for stack in stacks:
        roles = layer_roles(checkpoint, stack, names)
        words.update({name: role.word if role else "" for name, role in roles.items()})
    parts: dict[str, set[str]] = {}
    for name in names:
        parts.setdefault(_part(words.get(name, "")), set()).add(name)
    return parts


def _part(word: str) -> str:
    if "norm" in word:
        return "norms"
    return next((part for part, beginnings in _PARTS if word.startswith(beginnings)), "other")


def _tally(team: ThreadPool, weights: Iterable[WeightMatrix]) -> Tally:
    """How often each magnitude occurs, from some pieces of each tensor, scaled up to all of it."""
    total = np.zeros(MAGNITUDES)
    for weight in weights:
        spans = list(weight.chunks(_PIECE))
        pieces = min(_PIECES, len(spans))
        taken = [spans[len(spans) * piece // pieces] for piece in range(pieces)]
        counts = np.sum(team.map(partial(_counted, weight), taken), axis=0)
        total += counts * (weight.size / max(1, counts.sum()))
    return total


def _counted(weight: WeightMatrix, span: tuple[int, int]) -> NDArray[np.int64]:
    return magnitudes(weight.read(*span))


def _median(tallies: Iterable[Tally]) -> int:
    """The number of the magnitude that half of all weights do not exceed."""
    running = np.cumsum(np.sum(list(tallies), axis=0))
    return int(np.searchsorted(running, running[-1] / 2))
