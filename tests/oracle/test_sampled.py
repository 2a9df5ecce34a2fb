"""The metrics that read text say what transformers says of the same tokens with the layers taken out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from rewriter.formats import open_checkpoint  # noqa: E402
from rewriter.formats.dequantize import open_weights  # noqa: E402
from rewriter.planning.open_model import open_model  # noqa: E402
from rewriter.scoring.build.residual_stream import build_residual_stream  # noqa: E402
from rewriter.scoring.metrics import sampled_text  # noqa: E402
from rewriter.scoring.model import ScoringModel  # noqa: E402
from rewriter.scoring.score import score_layers  # noqa: E402
from rewriter.system.threads import ThreadPool  # noqa: E402
from tests.support.builders import FIXTURES  # noqa: E402

pytestmark = pytest.mark.oracle

SOURCE = FIXTURES / "models" / "tiny-llama-12L"
COUNT = 12


class Judge:
    """The model in torch, and how far it comes from itself without some layers on the text that the metrics read."""

    def __init__(self, source: Path) -> None:
        self.model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
        self.layers = list(self.model.model.layers)
        self.tokens = torch.from_numpy(text_of(source))
        self.whole = self.prediction(())

    def prediction(self, gone: Iterable[int]) -> torch.Tensor:
        self.model.model.layers = torch.nn.ModuleList(x for n, x in enumerate(self.layers) if n not in set(gone))
        with torch.no_grad():
            return self.model(input_ids=self.tokens, use_cache=False).logits.double().log_softmax(-1)

    def cost(self, gone: Iterable[int]) -> float:
        return float((self.whole.exp() * (self.whole - self.prediction(gone))).sum(-1).mean())


def text_of(source: Path) -> np.ndarray:
    checkpoint = open_checkpoint(source)
    with open_weights(checkpoint) as weights:
        stream = build_residual_stream(open_model(checkpoint), weights)
        return sampled_text.sampled_tokens(ScoringModel((), ThreadPool(1), stream), stream)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(SOURCE)


def test_the_text_is_from_all_over_and_the_models_own(judge: Judge):
    assert judge.tokens.shape == (sampled_text.SEQUENCES, sampled_text.LENGTH)
    spread, own = judge.tokens.chunk(2)
    vocabulary = judge.model.config.vocab_size
    assert 0 <= int(judge.tokens.min()) < int(judge.tokens.max()) < vocabulary
    assert len(spread.unique()) == spread.numel()  # no token twice
    losses = [float(-judge.prediction(())[half][:, :-1].gather(2, judge.tokens[half][:, 1:, None]).mean())
              for half in (slice(None, len(spread)), slice(len(spread), None))]  # fmt: skip
    assert losses[1] < losses[0] - 2  # nats: the model knows its own text
    assert len(own.unique()) > 20


def test_the_cost_of_each_layer_alone(judge: Judge):
    found = score_layers(open_checkpoint(SOURCE), "sampled-removal").values
    assert found == pytest.approx([judge.cost((layer,)) for layer in range(COUNT)], rel=1e-3)


def test_layers_go_as_each_is_missed_least_of_those_that_are_left(judge: Judge):
    scores = score_layers(open_checkpoint(SOURCE), "sampled-greedy").values
    gone: list[int] = []
    for _ in range(4):
        left = [layer for layer in range(2, COUNT - 2) if layer not in gone]
        gone.append(min(left, key=lambda layer: judge.cost((*gone, layer))))
        assert scores[gone[-1]] == pytest.approx(judge.cost(gone), rel=1e-3)
    assert sorted(range(COUNT), key=scores.__getitem__)[:4] == gone
