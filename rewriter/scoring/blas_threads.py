"""One thread of numpy's linear algebra for each of ours. It sets that for numpy, so it is imported before numpy is.

Left alone, OpenBLAS has as many threads as there are cores for each of our calls: they wait for each other, spinning
(twice the processor time, over ten times where others use the machine), and sums depend on how many there are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_LATE = "numpy" in sys.modules  # a program that uses us has loaded it, and the environment is read no more

if not _LATE:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ.setdefault("MKL_NUM_THREADS", "1")  # this one is torch's as well: who has set it knows why


@contextmanager
def one_thread() -> Iterator[None]:
    """The same for a numpy that was there before, where threadpoolctl is installed."""
    limits = None
    if _LATE:
        with suppress(ImportError):
            from threadpoolctl import threadpool_limits

            limits = threadpool_limits(1, "blas")
    try:
        yield
    finally:
        if limits is not None:
            limits.restore_original_limits()
