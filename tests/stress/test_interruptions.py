"""The stress program, small: `python -m tests.stress` runs it whole."""

import sys

import pytest

from tests.stress.interruptions import stress


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_150_interruptions():
    figures = stress(150)
    assert figures.failures == []
    assert sum(count for (_, end), count in figures.ends.items() if end == "stopped") > 50
