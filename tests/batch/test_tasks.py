"""The tasks of a batch: values in, values out, in this process or in another."""

import pickle

import pytest

from rewriter import CheckpointError, make_plan, open_checkpoint
from rewriter.architectures.lookup import named_entry
from rewriter.batch.jobs import read_batch
from rewriter.batch.tasks import choose_layers, inspect_job, plan_job
from rewriter.cli.batch_keys import KEYS, settings
from rewriter.errors import RequestError
from rewriter.planning.options import LayerSelection, PlanOptions
from rewriter.request import PruneRequest
from tests.support.builders import write_gguf


@pytest.fixture
def job(tmp_path):
    write_gguf(tmp_path / "model.gguf")

    def read(text):
        (tmp_path / "jobs.toml").write_text(f'[[job]]\nsource = "model.gguf"\noutput = "out.gguf"\n{text}')
        (found,) = read_batch(tmp_path / "jobs.toml", KEYS, settings).jobs
        return found

    return read


def test_a_job_is_planned_as_prune_plans_it_and_once_more_before_it_is_written(job):
    planned = inspect_job(job('drop = "1"'), None, whole=False)
    expected = make_plan(open_checkpoint(planned.job.source), planned.kept)
    assert planned.error == ""
    assert not planned.done
    assert 1 not in planned.kept
    assert planned.kept == expected.layers.kept
    again = planned.make_plan()
    assert (again.layers, again.edits, again.tensors) == (expected.layers, expected.edits, expected.tensors)


def test_a_source_that_has_changed_since_is_not_planned_again(job, tmp_path):
    planned = inspect_job(job('drop = "1"'), None, whole=False)
    write_gguf(tmp_path / "model.gguf", fields={"general.name": ("string", "another")})
    with pytest.raises(CheckpointError, match="has changed since it was planned"):
        planned.make_plan()


def test_what_a_job_cannot_do_is_in_its_error_and_nothing_is_raised(job, tmp_path):
    assert "out of range" in inspect_job(job('drop = "99"'), None, whole=False).error
    (tmp_path / "model.gguf").unlink()
    assert "is not there" in inspect_job(job('drop = "1"'), None, whole=False).error


def test_layers_are_chosen_on_one_file_for_another(job, tmp_path):
    write_gguf(tmp_path / "other.gguf")
    inspected = inspect_job(job('choose-on = "other.gguf"\nstrategy = "top"\ncount = 1'), None, whole=False)
    assert inspected.plan is None  # its layers are not known yet
    chosen = choose_layers(inspected.job.choose_on, inspected.job.settings.request)
    planned = plan_job(inspected, chosen, whole=False)
    assert planned.error == ""
    assert planned.kept == chosen.saved.kept
    assert "chosen on other.gguf" in planned.notes
    failed = plan_job(inspected, choose_layers(str(tmp_path / "missing.gguf"), inspected.job.settings.request), False)
    assert "missing.gguf" in failed.error
    assert failed.plan is None


def test_only_a_whole_plan_says_what_changes(job):
    short, whole = (inspect_job(job('drop = "1"'), None, each).plan for each in (False, True))
    assert {"stack", "layers", "bytes", "files"} <= short.keys() < whole.keys()


def test_a_request_with_rules_of_its_own_goes_to_another_process(job):
    options = PlanOptions(architecture=named_entry("gguf/llama"), keep_fields=("a",), max_size=10**9)
    request = PruneRequest(LayerSelection(drop="1"), options)
    assert pickle.loads(pickle.dumps(request)) == request
    planned = inspect_job(job('drop = "1"'), None, whole=False)
    assert pickle.loads(pickle.dumps(planned)) == planned


def test_a_plan_and_a_file_to_choose_on_cannot_be_combined(job, tmp_path):
    with pytest.raises(RequestError, match="plan"):
        job('plan = "plan.json"\ndrop = "1"')
