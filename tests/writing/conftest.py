"""The sources that the tests of writing share."""

import pytest

from tests.support.builders import huggingface
from tests.support.write_jobs import KINDS, Job


@pytest.fixture(params=KINDS)
def job(request, tmp_path):
    return Job(request.param, tmp_path)


@pytest.fixture
def source(tmp_path):
    """Three shards, of which the first stays as it is when only the last layer goes; and a side file."""
    folder = huggingface(tmp_path / "in", shards=3)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "empty.txt").write_text("")
    return folder
