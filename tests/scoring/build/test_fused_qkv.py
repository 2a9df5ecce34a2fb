"""Which rows of a fused projection are queries, keys and values, in each layout."""

import numpy as np
import pytest

from rewriter.scoring.build.fused_qkv import _rows

# two heads of size 1 for queries, keys and values, but for "partitioned": four partitions


@pytest.mark.parametrize(
    ("layout", "queries", "keys", "values"),
    [
        ("", [0, 1], [2, 3], [4, 5]),
        ("grouped", [0, 3], [1, 4], [2, 5]),
        ("grouped_if_many", [0, 3], [1, 4], [2, 5]),
    ],
)
def test_rows_of_each_layout(layout, queries, keys, values):
    found = [_rows(layout, np.arange(6), 2, 1, which).tolist() for which in range(3)]
    assert found == [queries, keys, values]


def test_one_key_head_is_not_grouped_if_many():
    assert _rows("grouped_if_many", np.arange(4), 1, 1, 0).tolist() == [0, 1]


def test_partitions_hold_queries_values_keys():
    found = [_rows("partitioned", np.arange(12), 4, 1, which).tolist() for which in range(3)]
    assert found == [[0, 3, 6, 9], [2, 5, 8, 11], [1, 4, 7, 10]]
