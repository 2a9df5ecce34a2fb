"""MTP layers: kept by default, renumbered after the main ones, dropped when named or with --drop-mtp."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from rewriter.cli.command_group import app
from rewriter.formats import open_checkpoint
from rewriter.planning.options import PlanOptions
from rewriter.planning.plan import make_plan
from rewriter.report.json_values import describe
from rewriter.writing.verify import verify
from tests.support.builders import huggingface, llama_names, write_gguf

RUN = CliRunner()


def names_of(path):
    return {tensor.name for tensor in open_checkpoint(path).tensors}


@pytest.fixture
def gguf_file(tmp_path):
    return write_gguf(tmp_path / "in.gguf", layers=7, fields={"nextn_predict_layers": 2})


def prune(source, target, *arguments):
    result = RUN.invoke(app, ["prune", str(source), str(target), *arguments])
    assert result.exit_code == 0, result.output + str(result.exception)
    assert verify(target, source) == ()
    return open_checkpoint(target)


def test_inspect_tells_them_apart(gguf_file):
    stack = describe(open_checkpoint(gguf_file))["stacks"][0]
    assert (stack["layers"], stack["prediction_layers"], len(stack["per_layer"])) == (5, 2, 7)


@pytest.mark.parametrize("arguments", [("--drop", "1,3"), ("--keep", "0,2,4"), ("--drop", "1,-2")])
def test_they_stay_by_default(gguf_file, tmp_path, arguments):
    pruned = prune(gguf_file, tmp_path / "out.gguf", *arguments)
    assert pruned.metadata["llama.block_count"] == 5
    assert pruned.metadata["llama.nextn_predict_layers"] == 2
    assert "blk.4.ffn_down.weight" in names_of(tmp_path / "out.gguf")


@pytest.mark.parametrize("arguments", [("--drop", "1,5,6"), ("--keep", "0,2-4", "--drop-mtp")])
def test_they_go_when_named(gguf_file, tmp_path, arguments):
    pruned = prune(gguf_file, tmp_path / "out.gguf", *arguments)
    assert pruned.metadata["llama.block_count"] == 4
    assert pruned.metadata["llama.nextn_predict_layers"] == 0


def test_one_of_them_goes(gguf_file, tmp_path):
    pruned = prune(gguf_file, tmp_path / "out.gguf", "--drop", "0,5")
    assert pruned.metadata["llama.block_count"] == 5
    assert pruned.metadata["llama.nextn_predict_layers"] == 1


def test_ratios_count_main_layers_only(gguf_file):
    result = RUN.invoke(app, ["plan", str(gguf_file), "--strategy", "top", "--ratio", "0.4", "--json"])
    described = json.loads(result.output)
    assert described["layers"]["dropped"] == [3, 4]
    assert described["prediction_layers"] == {"before": 2, "after": 2}


@pytest.mark.parametrize(("stored", "after"), [(True, 1), (False, 1)])
def test_a_hugging_face_count_leaves_them_out(tmp_path, stored, after):
    """Saved again by transformers, a checkpoint has the number without the tensors: it is left as it is."""
    names = llama_names(5 if stored else 4)
    source = huggingface(tmp_path / "in", layers=4, names=names, model_type="new", num_nextn_predict_layers=1)
    pruned = prune(source, tmp_path / "out", "--drop", "1", "--generic")
    assert pruned.metadata["num_hidden_layers"] == 3
    assert pruned.metadata["num_nextn_predict_layers"] == after
    assert ("model.layers.3.mlp.down_proj.weight" in names_of(tmp_path / "out")) == stored


def test_the_api_keeps_them_unless_told(gguf_file):
    checkpoint = open_checkpoint(gguf_file)
    assert make_plan(checkpoint, [0, 1]).layers.kept == (0, 1, 5, 6)
    assert make_plan(checkpoint, [0, 1, 6]).layers.kept == (0, 1, 6)
    assert make_plan(checkpoint, [0, 1], PlanOptions(drop_mtp=True)).layers.kept == (0, 1)
