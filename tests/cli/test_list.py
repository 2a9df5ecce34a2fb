"""`rewriter list`: the strategies and the architectures."""

from __future__ import annotations

import re

import pytest

from tests.support.command_line import ok


@pytest.mark.parametrize("kind", ["strategies", "architectures"])
def test_list(kind, run):
    out = ok(run("list", kind))
    words = {
        "strategies": [
            "top",
            "bottom",
            "even-alternate",
            "odd-alternate",
            "symmetric",
            "deepest-but-last",
            "middle",
            "first-n",
        ],
        "architectures": [
            "llama",
            "mistral",
            "qwen2",
            "qwen3",
            "gemma3",
            "phi3",
            "gpt2",
            "bert",
            "vit",
            "t5",
            "mixtral",
        ],
    }
    assert all(re.search(rf"(^|\s){word}\s", out) for word in words[kind])
