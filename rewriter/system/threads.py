"""Threads that share work, for the copy engine, hashing and scoring."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from rewriter.system.signals import STOP, StoppedError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

POLL = 0.1  # seconds between two looks at whether to stop


class ThreadPool:
    """`workers` threads. Results come in the order of the items, so they do not depend on the number of threads.

    `initializer` is called in each thread. After a stop the pool waits for its threads, since they may write files,
    unless they are `abandonable`: one call of LAPACK can take minutes.
    """

    def __init__(
        self, workers: int, initializer: Callable[[], object] | None = None, abandonable: bool = False
    ) -> None:
        self.workers = workers
        self._executor = ThreadPoolExecutor(workers, "worker", initializer)
        self._abandonable = abandonable
        self._failed = False

    def __enter__(self) -> ThreadPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._failed = kind is not None
        self._executor.shutdown(not (self._abandonable and kind is StoppedError), cancel_futures=True)

    def map(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """`function` of every item.

        Raises StoppedError after a signal, else what `function` raised for the first of the items that it failed for.
        """
        self._failed = False
        futures = [self._submit(function, item) for item in items]
        try:
            for future in futures:
                while not future.done():
                    STOP.check()
                    wait((future,), POLL)
        finally:
            for future in futures:
                future.cancel()
        if self._failed:
            errors = [error for future in futures if (error := future.exception())]
            raise next((error for error in errors if not isinstance(error, StoppedError)), errors[0])
        return [future.result() for future in futures]

    def check(self) -> None:
        """Raise StoppedError if there is no use in going on with an item: after a signal, or if another has failed."""
        if self._failed:
            raise StoppedError
        STOP.check()

    def _submit(self, function: Callable[[_Item], _Result], item: _Item) -> Future[_Result]:
        def call() -> _Result:
            self.check()
            return function(item)

        future = self._executor.submit(call)
        future.add_done_callback(self._note)
        return future

    def _note(self, future: Future[Any]) -> None:
        if not future.cancelled() and future.exception():
            self._failed = True
