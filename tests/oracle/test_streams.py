"""What the scores take a layer for is what transformers computes in it.

A sequence of one token attends to itself alone: attention gives the token's own value, whatever its scores, positions
and masks are. There our stream, with nothing taken off the values, must be the model: what enters the first layer, what
each layer makes of it, and the logits.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from rewriter.errors import UnsupportedError  # noqa: E402
from rewriter.scoring.forward.residual_stream import ResidualStream  # noqa: E402
from rewriter.system.threads import ThreadPool  # noqa: E402
from tests.support.oracle.hf_models import (  # noqa: E402
    VOCABULARY,
    Row,
    build,
    save,
)
from tests.support.oracle.streams import ROWS, XLARGE, close, reason, states, stream_of  # noqa: E402

pytestmark = pytest.mark.oracle


COUNT = 24
IDS = np.arange(COUNT) * VOCABULARY // COUNT + VOCABULARY // (2 * COUNT)  # the rows that a stream starts with


@pytest.fixture
def team() -> ThreadPool:
    return ThreadPool(1)


def made(row: Row) -> Any:
    """The model, whose choice of experts is biased and whose attention has no sinks, which take from the values."""
    model = build(row)
    with torch.no_grad():
        for name, value in (*model.named_buffers(), *model.named_parameters()):
            if "correction" in name or "expert_bias" in name:
                value.add_(torch.randn_like(value), alpha=0.3)
            if "sink" in name:
                value.fill_(-1e4)
    return model


@pytest.mark.parametrize("row", [row for row in ROWS if reason(row)], ids=lambda row: row.id)
def test_what_is_not_described_is_refused(row: Row, tmp_path: Path) -> None:
    save(row, build(row), tmp_path)
    with pytest.raises(UnsupportedError, match=reason(row)):
        stream_of(tmp_path, row.stack, lambda _: None)


@pytest.mark.parametrize("row", [row for row in ROWS if not reason(row)], ids=lambda row: row.id)
def test_the_stream_is_the_model(row: Row, tmp_path: Path, team: ThreadPool) -> None:
    model = made(row)
    save(row, model, tmp_path)
    stream_of(tmp_path, row.stack, lambda stream: assert_equal(row, model, stream, team))


def assert_equal(row: Row, model: Any, stream: ResidualStream, team: ThreadPool) -> None:
    ids = torch.tensor(IDS)
    entering = states(row, model, ids[None])[0][0]
    close(stream.start(COUNT), entering[0].numpy(), float(entering.abs().mean()))
    through, answer = states(row, model, ids[:, None])
    assert len(stream.layers) == len(through) // 2
    for number, layer in enumerate(stream.layers):
        before, after = (state[:, 0].numpy() for state in through[2 * number : 2 * number + 2])
        close(layer(before, 1.0, team), after, np.abs(after - before).mean())
        assert number == 0 or torch.equal(through[2 * number - 1], through[2 * number]), "something lies between layers"
    close(stream.logits(through[-1][:, 0].numpy(), team), answer[:, 0].numpy(), float(answer.abs().mean()))
    if "CausalLM" in row.model or "LMHead" in row.model:
        assert stream.head is not None


def test_a_base_model_has_no_head_though_its_embedding_is_there(tmp_path: Path) -> None:
    row = next(row for row in ROWS if row.id == "llama-base")
    save(row, build(row), tmp_path)
    stream_of(tmp_path, "", assert_headless)
    tied = replace(row, id="tied", model="LlamaForCausalLM", config=XLARGE | {"tie_word_embeddings": True})
    (tmp_path / "tied").mkdir()
    save(tied, build(tied), tmp_path / "tied")
    stream_of(tmp_path / "tied", "", assert_headed)


def assert_headless(stream: ResidualStream) -> None:
    assert stream.head is None


def assert_headed(stream: ResidualStream) -> None:
    assert stream.head is not None
