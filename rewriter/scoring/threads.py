"""The threads that share the work of a metric, and one thread of numpy's linear algebra for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from threadpoolctl import threadpool_limits

from rewriter.system.threads import ThreadPool


@contextmanager
def scoring_threads(count: int) -> Iterator[ThreadPool]:
    """Give `count` threads in which numpy's linear algebra has one thread and warns of nothing: scoring reports it.

    Left alone, OpenBLAS takes as many threads as there are cores for each of ours. They wait for each other, spinning
    (twice the processor time, over ten times on a busy machine), and sums depend on how many there are.
    """
    with threadpool_limits(1, "blas"), ThreadPool(count, _begin, abandonable=True) as threads:
        yield threads


def _begin() -> None:
    np.seterr(all="ignore")
    threadpool_limits(1, "blas")  # an OpenBLAS that uses OpenMP keeps the number for each thread
