"""What the scores take a block of a GGUF for is what llama.cpp computes in it.

As in test_streams.py, a prompt of one token attends to itself alone. What a file does not say (activations, which norm
stands where, how experts are chosen) llama.cpp has built in: rewriter/architectures/compute.py says the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewriter import open_checkpoint
from rewriter.errors import UnsupportedError
from rewriter.formats.dequantize import open_weights
from rewriter.planning.open_model import open_model
from rewriter.scoring.build.residual_stream import build_residual_stream
from rewriter.scoring.forward.residual_stream import ResidualStream
from rewriter.system.threads import ThreadPool
from tests.support.gguf_files import fixture, random, write
from tests.support.gguf_specs import SPECS, Spec

pytest.importorskip("xllamacpp")

from tests.support.gguf_files import typed
from tests.support.oracle import llamacpp

pytestmark = pytest.mark.oracle

TOKENS = (0, 5, 17, 40)

REFUSED: Mapping[str, str] = {  # architecture -> why; all others are described, and equal
    **dict.fromkeys(("bailingmoe3", "falcon-h1", "granitehybrid", "jamba", "kimi-linear", "mamba", "mamba2"), "ssm_a"),
    **dict.fromkeys(("nemotron_h", "nemotron_h_moe", "plamo2"), "ssm_a"),
    **dict.fromkeys(("afmoe", "dots3note", "hrm_text", "hy_v4", "laguna", "minimax-01", "muse-glimmer"), "attn_gate"),
    **dict.fromkeys(("qwen35", "qwen35moe", "qwen3next", "qwen4exp", "spark2_5"), "attn_gate"),
    **dict.fromkeys(("rwkv6", "rwkv7"), "channel_mix"),
    **dict.fromkeys(("rwkv6qwen2", "arwkv7"), "time_mix"),
    **dict.fromkeys(("lfm2", "lfm2moe"), "shortconv"),
    **dict.fromkeys(("dflash", "eagle3"), "no token embeddings"),
    **dict.fromkeys(("gemma4-assistant", "pockettts"), "attn_qkv"),
    "arctic": "ffn_norm_exps",
    "cogvlm": "vis_attn",
    "deepseek4": "attn_kv",
    "gemma3n": "altup",
    "gemma4": "inp_gate",
    "glm5-next": "hc_attn",
    "graniteswitch": "lora",
    "grovemoe": "ffn_down_chexps",
    "kimi-k3": "attn_res_score",
    "minimax-m3": "indexer",
    "smallthinker": "router reads the stream before attention",
    "talkie": "layer_output_scale",
    "wavtokenizer-dec": "convnext",
}


@dataclass(frozen=True, slots=True)
class Variant:
    """What the files of the table leave out: keys without the architecture's name, tensors."""

    name: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # of every block


EXPERTS = {"ffn_gate_inp.weight": (32, 4), "ffn_up_exps.weight": (32, 48, 4), "ffn_gate_exps.weight": (32, 48, 4)}
EXPERTS |= {"ffn_down_exps.weight": (48, 32, 4)}
SCALES = {"embedding_scale": 3.0, "residual_scale": 0.4, "logit_scale": 5.0}
BIASES = {"attn_q.bias": (32,), "attn_k.bias": (16,), "attn_v.bias": (16,), "attn_output.bias": (32,)}
NORMALISED = {"expert_weights_norm": True, "expert_weights_scale": 2.5}
VARIANTS = (
    Variant("llama", {"expert_count": 4, "expert_used_count": 2}, EXPERTS),
    Variant("llama", {}, BIASES),
    Variant("granite", SCALES),
    Variant("minicpm", SCALES),
    Variant("minicpm", {"logit_scale": 2.0}),
    Variant("command-r", {"logit_scale": 0.3}),
    Variant("gemma2", {"final_logit_softcapping": 2.0}),
    Variant("gptneox", {"use_parallel_residual": False}),
    Variant("gptneox", {"use_parallel_residual": True}),
    Variant("mpt", {"attention.clamp_kqv": 0.5}),
    Variant("olmo", {"attention.clamp_kqv": 0.5}),
    Variant("dbrx", {"attention.clamp_kqv": 0.5}),
    Variant("grok", {"embedding_scale": 3.0, "logit_scale": 2.0, "final_logit_softcapping": 5.0}),
    Variant("falcon", {}, {"attn_norm_2.weight": (32,), "attn_norm_2.bias": (32,)}),
    *(
        Variant(name, NORMALISED)
        for name in ("dots1", "glm4moe", "bailingmoe2", "exaone-moe", "deepseek32", "mistral4")
    ),
    *(Variant(name, {"expert_gating_func": 1}) for name in ("dots1", "glm4moe", "deepseek32", "cohere2moe")),
    *(Variant(name, {}, {"exp_probs_b.bias": (4,)}) for name in ("dots1", "glm4moe", "bailingmoe2", "ernie4_5-moe")),
)

# What a fixture says that no model of that architecture does.
CORRECTED = {"qwen": {"attention.head_count_kv": 4}}


def file(spec: Spec, path: Path, variant: Variant | None = None) -> Path:
    """The spec's file, whose attention has no sinks: those take from the values."""
    metadata, shapes, _ = fixture(spec.fixture)
    keys = CORRECTED.get(spec.name, {}) | dict(variant.keys if variant else {})
    more = {} if variant is None else added(variant, shapes)
    replaced = {name.rpartition("_exps")[0] for name in more if "_exps" in name}  # experts instead
    kept = {name: shape for name, shape in shapes.items() if name.rpartition(".")[0] not in replaced}
    told = typed(spec, metadata) | {f"{spec.name}.{key}": value for key, value in keys.items()}
    return write(path, told, kept | more, lambda name: weights(name, (kept | more)[name]))


def added(variant: Variant, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The variant's tensors for every block; a bias of the choice of experts where there are experts."""
    blocks = {int(name.split(".")[1]) for name in shapes if name.startswith("blk.")}
    routed = {block for block in blocks if f"blk.{block}.ffn_gate_inp.weight" in shapes}
    return {
        f"blk.{block}.{name}": shape
        for name, shape in variant.tensors.items()
        for block in sorted(routed if "probs" in name else blocks)
    }


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape[::-1], -1e4, np.float32) if "sinks" in name else random(name, shape)


def assert_equal(spec: Spec, path: Path) -> None:
    checkpoint = open_checkpoint(path)
    with open_weights(checkpoint) as opened:
        stream = build_residual_stream(open_model(checkpoint), opened)
        found = through(stream)
    for row, token in zip(found, TOKENS, strict=True):
        wanted = llamacpp.answer(spec.question, path, [token])[0]
        assert row.shape == wanted.shape
        assert np.abs(row - wanted).max() < 5e-3 * np.abs(wanted).mean()  # llama.cpp looks its GELU up in F16


def through(stream: ResidualStream) -> np.ndarray:
    """Of each token at position 0."""
    team, x = ThreadPool(1), np.concatenate([stream.embed(np.array([[token]])) for token in TOKENS])
    for layer in stream.layers:
        x = layer(x, 1.0, team)
    return stream.logits(x, team)


RUN = [spec for spec in SPECS if spec.name not in REFUSED]


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.name in REFUSED], ids=str)
def test_what_is_not_described_is_refused(spec: Spec, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(file(spec, tmp_path / "model.gguf"))
    model = open_model(checkpoint)
    with open_weights(checkpoint) as opened, pytest.raises(UnsupportedError, match=REFUSED[spec.name]):
        build_residual_stream(model, opened)


def test_whatever_is_described_can_be_run():
    assert not [spec.name for spec in RUN if fixture(spec.fixture)[2]]


@pytest.mark.parametrize("spec", RUN, ids=str)
def test_the_stream_is_the_model(spec: Spec, tmp_path: Path) -> None:
    assert_equal(spec, file(spec, tmp_path / "model.gguf"))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda each: f"{each.name}-{','.join([*each.keys, *each.tensors])}")
def test_what_a_file_may_say_besides(variant: Variant, tmp_path: Path) -> None:
    spec = next(spec for spec in SPECS if spec.name == variant.name)
    assert_equal(spec, file(spec, tmp_path / "model.gguf", variant))


# ---- several tokens: where they look

TEXT = (3, 17, 40, 8)
NOT_LOOKED = (  # besides those of the tables: latent attention, and what the tables say is not known
    "mistral3", "modern-bert", "gpt-oss", "llama4", "deepseek2", "mistral4", "deepseek32", "glm-dsa", "plm",
    "t5encoder", "minicpm3", "mpt", "jais", "grok", "gemma-embedding", "cohere2", "cohere2moe", "exaone-moe", "maple",
    "step35", "granite_swa", "smollm3", "baichuan",
)  # fmt: skip


@pytest.mark.parametrize("spec", RUN, ids=str)
def test_a_text_is_read_as_llama_cpp_reads_it(spec: Spec, tmp_path: Path) -> None:
    """Or nobody says how it is read."""
    path = file(spec, tmp_path / "model.gguf")
    checkpoint = open_checkpoint(path)
    with open_weights(checkpoint) as opened:
        stream = build_residual_stream(open_model(checkpoint), opened)
        assert (None not in stream.attention_weights) == (spec.name not in NOT_LOOKED)
        if None not in stream.attention_weights:
            wanted = llamacpp.answer(spec.question, path, list(TEXT))
            assert np.abs(read(stream) - wanted).max() < 1e-2 * np.abs(wanted).mean()


def read(stream: ResidualStream) -> np.ndarray:
    team, x = ThreadPool(1), stream.embed(np.array([TEXT]))
    for layer in stream.layers:
        x = layer(x, 1.0, team, len(TEXT))
    return stream.logits(x, team)
