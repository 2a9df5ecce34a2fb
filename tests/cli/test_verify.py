"""`rewriter verify`: one line for each problem."""

from __future__ import annotations

import re

from tests.support.builders import MODELS
from tests.support.command_line import ok

LLAMA, GGUF = MODELS / "tiny-llama-12L", MODELS / "tiny-llama-12L-Q4_K_M.gguf"


def test_verify_prints_one_line_for_each_problem(run, tmp_path):
    target = tmp_path / "x.gguf"
    ok(run("prune", GGUF, target, "--drop", "3"))
    raw = bytearray(target.read_bytes())
    raw[-1] ^= 1
    raw[-300_000] ^= 1
    target.write_bytes(raw)
    assert ok(run("verify", target))
    code, out, err = run("verify", target, "--source", GGUF)
    assert (code, err) == (1, "")
    assert len(out.splitlines()) == 2
    for line in out.splitlines():
        assert re.fullmatch(r"tensor .*: expected the source's \d+ bytes, found another byte at \d+", line)
