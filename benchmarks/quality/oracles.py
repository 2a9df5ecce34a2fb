"""What looks at data or at the true loss: the references that data-free scores are held against."""

import itertools
import math

import numpy as np
import torch
from subject import Subject

RANDOM_SETS = 64


def greedy(subject: Subject, count: int) -> frozenset[int]:
    """One layer at a time, each time the one whose removal costs least."""
    dropped: frozenset[int] = frozenset()
    for _ in range(count):
        left = [dropped | {layer} for layer in subject.candidates() if layer not in dropped]
        dropped = min(left, key=subject.loss)
    return dropped


def random_sets(subject: Subject, count: int) -> list[tuple[int, ...]]:
    """Different sets of candidates: all there are, or 64 drawn with a fixed seed."""
    candidates = subject.candidates()
    if math.comb(len(candidates), count) <= RANDOM_SETS:
        return list(itertools.combinations(candidates, count))
    draw, sets = np.random.default_rng(0), set()
    while len(sets) < RANDOM_SETS:
        sets.add(tuple(sorted(draw.choice(candidates, count, replace=False).tolist())))
    return sorted(sets)


def single_removal(subject: Subject) -> list[float]:
    """The true loss after each single removal."""
    return [subject.loss([layer]) for layer in range(len(subject.layers))]


def block_influence(subject: Subject) -> list[float]:
    """ShortGPT, on the held-out text."""
    return turning(subject, subject.windows[0])


@torch.no_grad()
def turning(subject: Subject, ids: torch.Tensor) -> list[float]:
    """1 - the mean cosine of each layer's input and output."""
    turned: list[float] = []

    def watch(_: torch.nn.Module, inputs: tuple, output: torch.Tensor | tuple) -> None:
        after = output if isinstance(output, torch.Tensor) else output[0]
        turned.append(1 - torch.cosine_similarity(inputs[0], after, dim=-1).mean().item())

    hooks = [layer.register_forward_hook(watch) for layer in subject.layers]
    subject.model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return turned
