"""`rewriter score` and what it says; scores across the forms of one model."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rewriter import open_checkpoint
from rewriter.errors import UnsupportedError
from rewriter.planning.selection.published_orders import RECIPES
from rewriter.report.plot import about_bars, bar_lengths
from rewriter.scoring.metrics import METRICS
from rewriter.scoring.score import DEFAULTS, score_layers
from tests.support.builders import MODELS, huggingface, write_config, write_gguf
from tests.support.command_line import ok, on_a_terminal

HF, F16 = MODELS / "tiny-llama-12L", MODELS / "tiny-llama-12L-F16.gguf"
Q8, Q4 = MODELS / "tiny-llama-12L-Q8_0.gguf", MODELS / "tiny-llama-12L-Q4_K_M.gguf"


QUICK = [name for name in METRICS if not name.startswith("sampled")]  # the others take many seconds


# ---- what it says next


def test_the_next_command_has_the_options_that_were_given(run, tmp_path):
    rules = tmp_path / "my rules.toml"
    rules.write_text(ok(run("list", "architectures", "--toml", "gguf/llama")))
    more = ["--architecture", rules, "--keep-field", "general.name", "--shard-size", "1MB", "--no-card", "--strict"]
    line = ok(run("score", Q8, "--metric", "magnitude-l2", "--count", "3", *more, "--no-provenance")).splitlines()[-1]
    words = shlex.split(line.removeprefix("next: rewriter "))
    words[words.index("tiny-llama-12L-Q8_0-pruned.gguf")] = str(tmp_path / "o.gguf")
    assert words[:5] == ["prune", str(Q8), str(tmp_path / "o.gguf"), "--drop", "2-4"]
    assert sorted(words[5:]) == sorted([*map(str, more), "--no-provenance"])
    assert "8 layers" not in ok(run(*words))


# ---- the forms of one model


@pytest.fixture(scope="module")
def scored() -> dict[Path, dict[str, tuple[float, ...]]]:
    return {
        path: {name: score_layers(open_checkpoint(path), name).values for name in QUICK} for path in (HF, F16, Q8, Q4)
    }


def ranks(values: tuple[float, ...]) -> np.ndarray:
    return np.argsort(np.argsort(values))


def spearman(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


@pytest.mark.parametrize("name", QUICK)
def test_a_gguf_scores_like_the_model_it_was_made_from(name, scored):
    """The conversion permutes rows of queries and keys and rounds norms to nothing: only sums change their order."""
    one, other = scored[HF][name], scored[F16][name]
    assert other == pytest.approx(one, rel=2e-2 if name == "neighbour-cosine" else 2e-3)
    assert spearman(one, other) == pytest.approx(1)


@pytest.mark.parametrize("path", [Q8, Q4], ids=lambda path: path.stem[-6:])
@pytest.mark.parametrize("name", QUICK)
def test_a_quantised_model_ranks_like_its_source(name, path, scored):
    assert spearman(scored[F16][name], scored[path][name]) >= 0.95


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["sampled-removal", "sampled-greedy"])
def test_sampled_text_ranks_a_quantised_model_like_its_source(name):
    """Though each file samples a text of its own, and greedy choices that are nearly tied part ways for good."""
    whole, plain, *quantised = (score_layers(open_checkpoint(path), name).values for path in (HF, F16, Q8, Q4))
    assert spearman(whole, plain) == pytest.approx(1)
    assert all(spearman(plain, each) >= 0.95 for each in quantised)
    assert all({3, 4} <= set(np.argsort(each)[:3].tolist()) for each in (plain, *quantised))


# ---- how far it is


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_how_far_it_is(name):
    told: list[tuple[str, float]] = []
    source = F16 if name in QUICK else MODELS / "tiny-llama-16L-bytes"
    scores = score_layers(open_checkpoint(source), name, on_progress=lambda metric, share: told.append((metric, share)))
    shares = [share for _, share in told]
    assert {metric for metric, _ in told} == {name}
    assert len(told) >= len(scores.layers) - 1
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.2
    assert 0.6 < shares[-1] <= 1  # how many layers sampled-greedy tries is not known before


def test_scoring_shows_a_bar_on_a_terminal():
    code, seen = on_a_terminal("score", F16, "--metric", "stream-removal")
    assert code == 0
    assert re.search(r"scoring by stream-removal.*━.*\d+%", seen)
    code, seen = on_a_terminal("score", F16, "--metric", "stream-removal", "-q")
    assert "scoring by" not in seen


@pytest.mark.parametrize(("metric", "warned"), [("stream-removal", True), ("influence", False)])
def test_scoring_that_will_take_long_says_what_is_quick(metric, warned, run, monkeypatch):
    monkeypatch.setattr("rewriter.cli.verbose._LOOK", 0)
    monkeypatch.setattr("rewriter.cli.verbose._LONG", -1)
    code, out, err = run("score", F16, "--metric", metric)
    assert code == 0
    assert f"scored by {metric}" in out
    line = rf"{metric} will take about \d+ minutes more here; influence reads every weight only once\n"
    assert bool(re.fullmatch(line, err)) == warned
    assert (err == "") != warned
    assert run("score", F16, "--metric", metric, "-q")[1:] == ("", "")


# ---- the command


def numbers(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line.split()[:1] and line.split()[0].isdigit()]


def test_the_table_has_every_layer_and_what_to_do_next(run):
    out = ok(run("score", F16, "--metric", "magnitude-l1"))
    assert "scored by magnitude-l1" in out
    assert numbers(out) == [str(layer) for layer in range(12)]
    assert out.count("protected") == 4
    assert sum(line.rstrip().endswith("drop") for line in out.splitlines()) == 3
    assert "is a prior" in out
    assert "rewriter prune" in out
    for part in ("embedding", "attention", "feed-forward", "norms"):
        assert part in out


def test_json_has_every_layer(run):
    value = json.loads(ok(run("score", F16, "--json", "--count", "2")))
    assert list(value) == [
        "schema",
        "metric",
        "why",
        "stack",
        "protected",
        "scores",
        "suggested",
        "refusal",
        "shared",
        "components",
    ]
    assert (value["stack"], value["protected"], value["why"], value["refusal"]) == ("main", [0, 1, 10, 11], "", "")
    assert value["metric"] == DEFAULTS[0]
    assert [row["layer"] for row in value["scores"]] == list(range(12))
    ordered = sorted(value["scores"], key=lambda row: row["score"])
    assert [row["rank"] for row in ordered] == list(range(1, 13))
    free = [row["layer"] for row in ordered if row["layer"] not in value["protected"]]
    assert value["suggested"] == sorted(free[:2])
    whole = sum(tensor.parameters for tensor in open_checkpoint(F16).tensors)
    assert sum(part["parameters"] for part in value["components"]) == whole
    assert {tuple(part) for part in value["components"]} == {
        ("name", "tensors", "parameters", "bytes", "magnitude", "survives")
    }


@pytest.mark.slow  # three times the default metric
def test_what_is_suggested_is_what_prune_drops(run, tmp_path):
    suggested = json.loads(ok(run("score", Q4, "--json", "--ratio", "0.3")))["suggested"]
    code, out, err = run("prune", Q4, tmp_path / "out.gguf", "--ratio", "0.3")
    assert code == 0
    assert f"scored by {DEFAULTS[0]}" in out + err
    kept = [layer for layer in range(12) if layer not in suggested]
    again = json.loads(ok(run("plan", Q4, "--keep", ",".join(map(str, kept)), "--json")))
    assert open_checkpoint(tmp_path / "out.gguf").metadata["llama.block_count"] == again["layers"]["after"]
    planned = json.loads(ok(run("plan", Q4, "--ratio", "0.3", "--json")))
    assert planned["layers"]["dropped"] == suggested


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_model_of_few_layers_is_scored_and_nothing_is_suggested(layers, run, tmp_path):
    source = huggingface(tmp_path / "in", layers)
    value = json.loads(ok(run("score", source, "--json")))
    assert [row["layer"] for row in value["scores"]] == list(range(layers))
    assert value["suggested"] == []
    hint = "; --protect-first 0 --protect-last 0 lets all go" if layers > 1 else ""
    assert value["refusal"] == f"cannot drop 1 layers: 0 of the {layers} may go{hint}"
    last = ok(run("score", source)).splitlines()[-1]
    assert last == f"nothing is suggested: {value['refusal']}"
    unprotected = ["--protect-first", "0", "--protect-last", "0"]
    assert len(json.loads(ok(run("score", source, "--json", *unprotected)))["suggested"]) == (layers > 1)
    code, out, err = run("score", source, "--count", "1")
    assert (code, out, err) == (2, "", f"rewriter: {value['refusal']}\n")
    ok(run("report", source, "-o", tmp_path / "page.html"))


def test_options_of_a_suggestion(run):
    def suggested(*more: str) -> dict:
        return json.loads(ok(run("score", F16, "--json", "--metric", "magnitude-l2", *more)))

    block = suggested("--count", "4", "--contiguous")["suggested"]
    assert block == list(range(block[0], block[0] + 4))
    everywhere = suggested("--count", "4", "--protect-first", "0", "--protect-last", "0")
    assert everywhere["protected"] == []
    sizes = {len(suggested("--target-size", str(size))["suggested"]) for size in (5_500_000, 4_500_000, 3_000_000)}
    assert len(sizes) == 3
    assert suggested("--ratio", "0.5")["suggested"]
    lamp = [
        json.loads(ok(run("score", F16, "--json", "--metric", "lamp", "--sparsity", each)))["scores"]
        for each in ["0.5", "0.9"]
    ]
    assert lamp[0] != lamp[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metric", "nothing"], "nothing to choose by is called 'nothing'; there are the metrics"),
        (["--drop", "3"], "score suggests layers"),
        (["--keep", "3"], "score suggests layers"),
        (["--metric", "lamp", "--strategy", "lamp"], "cannot be combined"),
        (["--metric", "alpha", "--sparsity", "0.5"], "--sparsity goes with --metric lamp"),
        (["--metric", "lamp", "--sparsity", "1"], "between 0 and 1"),
        (["--strategy", "top", "--count", "2"], "top has no scores"),
        (["--metric", "recipe:shortgpt-llama-2-7b", "--count", "2"], "this model has"),
        (["--plot", "scores.txt"], "a picture is a .png"),
        (["--plot", "scores.pdf"], "a picture is a .png or .svg"),
        (["--ratio", "1"], "between 0 and 1"),
        (["--count", "9"], "8 of the 12 may go"),
        (["--target-size", "10"], "no selection fits"),
        (["--stack", "vision"], "there is no stack"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_scored_is_one_line(run, arguments, words):
    code, out, err = run("score", F16, *arguments)
    assert code in (1, 2)
    assert not out
    assert err.count("\n") == 1
    assert words in err


def test_a_picture_needs_matplotlib(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run("score", F16, "--metric", "magnitude-l1", "--plot", tmp_path / "scores.png")
    assert code
    assert "pip install 'rewriter[plot]'" in err
    assert not (tmp_path / "scores.png").exists()


def test_a_picture(run, tmp_path):
    pytest.importorskip("matplotlib")
    for kind in ("png", "svg"):
        for name in ("one", "two"):
            picture = tmp_path / f"{name}.{kind}"
            out = ok(run("score", F16, "--metric", "magnitude-l1", "--plot", picture))
            assert f"saved: {picture}" in out.splitlines()
    out = ok(run("score", F16, "--metric", "magnitude-l1", "--json", "--plot", picture, "--overwrite"))
    assert json.loads(out)["metric"] == "magnitude-l1"
    assert (tmp_path / "one.png").read_bytes()[:4] == b"\x89PNG"
    assert b"<svg" in (tmp_path / "one.svg").read_bytes()
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_bars_start_at_0_or_say_that_they_do_not():
    assert bar_lengths([98.0, 99.0, 100.0]) == pytest.approx([0.98, 0.99, 1.0])
    assert bar_lengths([0.0, 0.0]) == [0.0, 0.0]
    assert about_bars([98.0, 100.0]) == ""
    assert bar_lengths([1.0, 10.0, 100.0]) == pytest.approx([0.05, 0.525, 1.0])
    assert "logarithm" in about_bars([1.0, 100.0])
    assert bar_lengths([-3.0, -2.0]) == pytest.approx([0.05, 1.0])
    assert "lowest" in about_bars([-3.0, -2.0])


def test_where_the_default_does_not_apply_the_next_one_is_taken_and_says_why(run, tmp_path):
    """Layers with a tensor that nobody knows."""
    folder = huggingface(tmp_path / "model", 8, names=[f"model.layers.{layer}.secret.weight" for layer in range(8)])
    value = json.loads(ok(run("score", folder, "--json")))
    assert value["metric"] == DEFAULTS[-1]
    assert value["why"].startswith(f"{DEFAULTS[0]} does not apply: ")
    code, _, err = run("score", folder, "--metric", DEFAULTS[0])
    assert code
    assert "this metric follows the residual stream, and here it cannot" in err


def test_an_unknown_architecture_is_refused_as_elsewhere(run, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", arch="something")
    code, _, err = run("score", path)
    assert code
    assert "something" in err
    assert json.loads(ok(run("score", path, "--generic", "--json", "--metric", "magnitude-l2")))["scores"]


def test_an_amount_alone_prunes_by_scores_and_nothing_alone_asks(run, tmp_path):
    code, _, err = run("prune", F16, tmp_path / "out.gguf")
    assert code
    assert "--ratio 0.25" in err
    code, _, err = run("prune", F16, tmp_path / "out.gguf", "--drop", "3", "--ratio", "0.5")
    assert code
    assert "cannot be combined" in err
    code, _, err = run("prune", F16, tmp_path / "out.gguf", "--strategy", "top", "--count", "2", "--contiguous")
    assert code
    assert "--contiguous is about layers chosen by their scores" in err


def test_lists(run):
    metrics = ok(run("list", "metrics"))
    assert [line.split()[0] for line in metrics.splitlines()] == list(METRICS)
    assert all(len(line.split()) > 4 for line in metrics.splitlines())
    recipes = ok(run("list", "recipes"))
    for recipe in RECIPES.values():
        assert f"recipe:{recipe.name}: {recipe.model}" in recipes
        assert recipe.paper in recipes


def test_a_plan_made_by_scores_of_one_file_fits_its_quantised_sibling(run, tmp_path):
    ok(run("plan", F16, "--ratio", "0.25", "-o", tmp_path / "plan.json"))
    code, out, err = run("prune", Q4, tmp_path / "out.gguf", "--plan", tmp_path / "plan.json")
    assert code == 0, (out, err)
    assert open_checkpoint(tmp_path / "out.gguf").metadata["llama.block_count"] == 9


# ---- shapes that are not those of the architecture

WIDTH, FEED, VOCABULARY = 8, 16, 32
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (WIDTH, WIDTH), "self_attn.v_proj": (WIDTH, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (FEED, WIDTH), "mlp.up_proj": (FEED, WIDTH),
    "mlp.down_proj": (WIDTH, FEED), "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,),
}  # fmt: skip
OUTSIDE = {"model.embed_tokens": (VOCABULARY, WIDTH), "lm_head": (VOCABULARY, WIDTH), "model.norm": (WIDTH,)}


Draw = Callable[[str, tuple[int, ...]], np.ndarray]


def normal(seed: int = 0) -> Draw:
    draw = np.random.default_rng(seed)
    return lambda name, shape: draw.normal(0, 0.3, shape)


def llama_of_shapes(folder: Path, changed: dict[str, tuple[int, ...]], draw: Draw | None = None) -> Path:
    folder.mkdir()
    shapes = OUTSIDE | {f"model.layers.{n}.{part}": shape for n in range(8) for part, shape in SHAPES.items()} | changed
    draw = draw or normal()
    weights = {f"{name}.weight": draw(name, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    write_config(folder / "config.json", model_type="llama", architectures=["LlamaForCausalLM"], num_hidden_layers=8,
                 hidden_size=WIDTH, num_attention_heads=2, num_key_value_heads=2, vocab_size=VOCABULARY)  # fmt: skip
    return folder


@pytest.mark.parametrize("metric", METRICS)
def test_shapes_that_fit_are_scored(metric, tmp_path):
    assert len(score_layers(open_checkpoint(llama_of_shapes(tmp_path / "in", {})), metric).values) == 8


def one_odd(value: float) -> Draw:
    """A single odd weight, in layer 5."""
    plain = normal()

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        values = plain(name, shape)
        if name == "model.layers.5.mlp.up_proj":
            values[3, 2] = value
        return values

    return draw


def every(value: float) -> Draw:
    return lambda name, shape: np.full(shape, value)


ODD: dict[str, Draw] = {
    "zero": every(0), "constant": every(1), "tiny": every(1e-42), "huge": every(1e38),
    "not numbers": every(np.nan), "infinite": every(np.inf),
    "zero but for the embedding": lambda name, shape: np.full(shape, float("embed" in name)),
    "huge embedding": lambda name, shape: np.full(shape, 1e38 if "embed" in name else 0.1),
    "huge at random": lambda name, shape: 1e38 * normal()(name, shape),
    "one huge": one_odd(3e38), "one not a number": one_odd(np.nan),
    "one infinite": one_odd(np.inf), "one -infinite": one_odd(-np.inf),
}  # fmt: skip


@pytest.mark.filterwarnings("error")  # numpy's
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ODD)
def test_odd_weights_give_numbers_or_are_refused(kind, metric, tmp_path):
    """Whatever the weights are: a number for each layer, or a reason that is one."""
    checkpoint = open_checkpoint(llama_of_shapes(tmp_path / "in", {}, ODD[kind]))
    try:
        values = score_layers(checkpoint, metric).values
    except UnsupportedError as error:
        assert "infinite" in str(error)  # noqa: PT017  # one of two outcomes
        assert kind not in ("zero", "constant", "tiny", "zero but for the embedding")
    else:
        assert len(values) == 8
        assert np.isfinite(values).all()


def test_a_model_of_zeros_is_scored_and_reported(run, tmp_path):
    """Such files exist: made to test loaders with."""
    folder = llama_of_shapes(tmp_path / "in", {}, ODD["zero"])
    for metric in METRICS:
        rows = json.loads(ok(run("score", folder, "--metric", metric, "--json")))["scores"]
        assert len({row["score"] for row in rows}) <= 2  # sampled-greedy and neighbour-cosine have layers of their own
    ok(run("report", folder, "-o", tmp_path / "report.html"))


def test_one_layer_is_named_where_it_alone_has_no_score(tmp_path):
    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return np.where("layers.2.mlp.up" in name, np.nan, normal()(name, shape))

    checkpoint = open_checkpoint(llama_of_shapes(tmp_path / "in", {}, draw))
    for metric, which in (
        ("lamp", "layer 2"),
        ("neighbour-cosine", "2 of 8 layers"),
        ("sampled-greedy", r"\d of 8 layers"),
    ):
        with pytest.raises(UnsupportedError, match=f"^{metric} gives no number for {which}: there are weights"):
            score_layers(checkpoint, metric)


def test_scores_that_are_all_equal_are_said_to_be(run, tmp_path):
    zeros = llama_of_shapes(tmp_path / "in", {}, ODD["zero"])
    line = f"all scores are equal: {DEFAULTS[0]} cannot tell these layers apart"
    assert json.loads(ok(run("score", zeros, "--json")))["why"] == line
    assert line in ok(run("score", zeros)).splitlines()
    assert f"scored by {DEFAULTS[0]} ({line})" in ok(run("plan", zeros, "--count", "1")).splitlines()
    assert line in ok(run("prune", zeros, tmp_path / "out", "--count", "1"))
    assert "all scores are equal" not in ok(run("plan", F16, "--count", "1", "--strategy", "influence"))


@pytest.mark.parametrize("metric", METRICS)
def test_one_hidden_unit_is_enough(metric, tmp_path):
    units = {f"model.layers.{n}.mlp.{part}": (1, WIDTH) for n in range(8) for part in ("gate_proj", "up_proj")}
    units |= {f"model.layers.{n}.mlp.down_proj": (WIDTH, 1) for n in range(8)}
    assert len(score_layers(open_checkpoint(llama_of_shapes(tmp_path / "in", units)), metric).values) == 8


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", [*(f"model.layers.5.{part}" for part in SHAPES), *OUTSIDE])
def test_shapes_that_do_not_fit_are_scored_by_what_is_left_or_refused(name, axis, tmp_path):
    """Whatever a file says its shapes are, no metric ends in an error of numpy's."""
    shape = list((OUTSIDE | {f"model.layers.5.{part}": shape for part, shape in SHAPES.items()})[name])
    shape[axis % len(shape)] += 1
    checkpoint = open_checkpoint(llama_of_shapes(tmp_path / "in", {name: tuple(shape)}))
    for metric in METRICS:
        with suppress(UnsupportedError):
            assert len(score_layers(checkpoint, metric).values) == 8
    assert len(score_layers(checkpoint).values) == 8  # the last default applies everywhere
