"""Where tokens look in our stream is where they look in transformers: short texts give the same states and logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from rewriter.scoring.forward.residual_stream import ResidualStream  # noqa: E402
from rewriter.system.threads import ThreadPool  # noqa: E402
from tests.support.oracle.hf_models import VOCABULARY, Row, build, save  # noqa: E402
from tests.support.oracle.streams import ROWS, close, reason, states, stream_of  # noqa: E402

pytestmark = pytest.mark.oracle

LENGTH = 4  # shorter than the windows of the rows
TOKENS = (np.arange(3 * LENGTH) * 7 % VOCABULARY).reshape(3, LENGTH)
# whose attention is not described: latent, relative, switched by norms or scales of their own
NOT_LOOKED = (
    "deepseek", "glm4_moe_lite", "t5", "mt5", "umt5", "mpnet", "deberta-v2", "llama4_text", "nanochat", "ministral3",
    "mimo_v2_flash", "stablelm-bias", "falcon-rw", "paligemma", "modernbert",
)  # fmt: skip


@pytest.mark.parametrize("row", [row for row in ROWS if not reason(row)], ids=lambda row: row.id)
def test_texts_are_read_as_the_model_reads_them(row: Row, tmp_path: Path) -> None:
    model = build(row)
    save(row, model, tmp_path)
    stream_of(tmp_path, row.stack, lambda stream: assert_read(row, model, stream, ThreadPool(1)))


def assert_read(row: Row, model: Any, stream: ResidualStream, team: ThreadPool) -> None:
    assert (None not in stream.attention_weights) == (not row.id.startswith(NOT_LOOKED))
    if not (None not in stream.attention_weights):
        return
    through, answer = states(row, model, torch.tensor(TOKENS))
    flat = [state.reshape(TOKENS.size, -1).numpy() for state in through]
    for number, layer in enumerate(stream.layers):
        before, after = flat[2 * number : 2 * number + 2]
        close(layer(before, 1.0, team, LENGTH), after, np.abs(after - before).mean())
    logits = answer.reshape(TOKENS.size, -1).numpy()
    close(stream.logits(flat[-1], team), logits, float(np.abs(logits).mean()))
