"""Data-free ways to choose layers that the tool does not have: prototypes on transformers' own modules.

Each follows sequences of token ids that need no text: drawn at random, or sampled from the model's own prediction of
the next token. What attention does to them is modelled in one of these ways:

    own      a token's own value, times the root of kappa (as the tool's stream metrics)
    uniform  the mean of all values so far
    content  real attention, but as if every token stood at the same place (no rotation)
    real     the model as it is

Scores are the divergence of the head's prediction without a layer (`removal`), or how far a layer turns the stream
(`influence`). `jointly` drops one layer at a time and scores the others again on what is left.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from oracles import turning
from subject import Subject

KAPPA = 0.1
BURN_IN = 4  # tokens sampled and forgotten before a sequence starts
EXPAND = ("o_proj", "c_proj", "dense")


@dataclass(frozen=True)
class Probe:
    """Ids, (sequences, length), and how attention sees them."""

    subject: Subject
    ids: torch.Tensor
    attention: str = "real"

    @torch.no_grad()
    def prediction(self, dropped: list[int]) -> torch.Tensor:
        """Log-probabilities, (sequences, length, vocabulary)."""
        with ATTENTION[self.attention](self.subject), self.subject.without(dropped):
            return self.subject.model(input_ids=self.ids).logits.log_softmax(-1)

    @cached_property
    def whole(self) -> torch.Tensor:
        return self.prediction([])

    def divergence(self, dropped: list[int]) -> float:
        """KL of the prediction without these layers from that with all."""
        return (self.whole.exp() * (self.whole - self.prediction(dropped))).sum(-1).mean().item()

    def removal(self) -> list[float]:
        return [self.divergence([layer]) for layer in range(len(self.subject.layers))]

    def influence(self) -> list[float]:
        with ATTENTION[self.attention](self.subject):
            return turning(self.subject, self.ids)

    def jointly(self, count: int) -> list[int]:
        """One layer at a time, each time the one that is missed least."""
        dropped: list[int] = []
        for _ in range(count):
            left = [[*dropped, layer] for layer in self.subject.candidates() if layer not in dropped]
            dropped = min(left, key=self.divergence)
        return sorted(dropped)


def rankings(subject: Subject) -> dict[str, list[float]]:
    return {
        f"{name} {how}": getattr(probe, how)()
        for name, probe in probes(subject).items()
        for how in ("removal", "influence")
    }


def choosers(subject: Subject) -> dict[str, Callable[[int], list[int]]]:
    return {f"{name} jointly": probe.jointly for name, probe in probes(subject).items()}


def probes(subject: Subject) -> dict[str, Probe]:
    random = random_ids(subject, 16, 32)
    found = {
        "data (real)": Probe(subject, subject.windows[0][::2, :64]),
        "random (real)": Probe(subject, random),
        "random (content)": Probe(subject, random, "content"),
        "random (uniform)": Probe(subject, random, "uniform"),
    }
    if not subject.is_masked:
        sampled = sampled_ids(subject, 16, 32)
        found["sampled (content)"] = Probe(subject, sampled, "content")
        found["mixed (real)"] = Probe(subject, torch.cat([random_ids(subject, 8, 64), sampled_ids(subject, 8, 64)]))
        found["sampled (own)"] = Probe(subject, sampled[:, ::4].reshape(-1, 1), "own")
    return found


def random_ids(subject: Subject, sequences: int, length: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary(subject), (sequences, length), generator=draw)


@torch.no_grad()
def sampled_ids(subject: Subject, sequences: int, length: int) -> torch.Tensor:
    """Chains in which each token is drawn from what the model predicts after the one before, seen alone.

    The chains stand at places all over the context: a learned position 0 is unlike the others.
    """
    draw = torch.Generator().manual_seed(0)
    ids = torch.linspace(0, vocabulary(subject) - 1, sequences).long()[:, None]
    places = torch.linspace(0, subject.context - 1, sequences).long()[:, None]
    with own(subject):
        for _ in range(length + BURN_IN - 1):
            chances = subject.model(input_ids=ids[:, -1:], position_ids=places).logits[:, -1].softmax(-1)
            ids = torch.cat([ids, torch.multinomial(chances, 1, generator=draw)], 1)
    return ids[:, BURN_IN:]


def vocabulary(subject: Subject) -> int:
    """Without the mask, which is the last entry."""
    return subject.model.config.vocab_size - subject.is_masked


@contextlib.contextmanager
def own(subject: Subject) -> Iterator[None]:
    """What a sequence of one token adds is its own value: here it is scaled on its way into the output projection."""
    outputs = [child for part in attentions(subject) for name, child in part.named_children() if name in EXPAND]
    hooks = [each.register_forward_pre_hook(lambda _, given: (given[0] * KAPPA**0.5,)) for each in outputs]
    yield
    for hook in hooks:
        hook.remove()


@contextlib.contextmanager
def uniform(subject: Subject) -> Iterator[None]:
    scaled = [(part, part.scaling) for part in attentions(subject)]
    for part, _ in scaled:
        part.scaling = 1e-9  # at 0 torch's own attention gives NaN
    yield
    for part, scaling in scaled:
        part.scaling = scaling


@contextlib.contextmanager
def content(subject: Subject) -> Iterator[None]:
    rotaries = [part for part in subject.model.modules() if type(part).__name__.endswith("RotaryEmbedding")]
    hooks = [
        part.register_forward_hook(lambda *given: (torch.ones_like(given[-1][0]), torch.zeros_like(given[-1][1])))
        for part in rotaries
    ]
    yield
    for hook in hooks:
        hook.remove()


@contextlib.contextmanager
def real(_: Subject) -> Iterator[None]:
    yield


def attentions(subject: Subject) -> list[torch.nn.Module]:
    return [part for layer in subject.layers for part in layer.modules() if hasattr(part, "scaling")]


ATTENTION = {"own": own, "uniform": uniform, "content": content, "real": real}
