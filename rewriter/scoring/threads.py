"""Threads that share the work of a metric, and that no signal can make wait for ever."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_PATIENCE = 2.0  # seconds in which a thread ends what it has begun; one that does not is left behind


class Team:
    """Threads that share work. Results come in the order of the items: they do not depend on the number of threads.

    A signal may raise an exception in the thread that waits, at any moment. It therefore shares with the others only
    what has no lock that such an exception could leave taken (as those of `concurrent.futures` are), and waits for
    none of them for ever.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._asked: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[Thread] = []

    def __enter__(self) -> Team:
        for _ in range(self.workers if self.workers > 1 else 0):
            thread = Thread(target=self._serve, daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Let the threads go, and wait a little: they may be reading files that are closed next."""
        for _ in self._threads:
            self._asked.put(None)
        latest = time.monotonic() + _PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, latest - time.monotonic()))

    def _serve(self) -> None:
        with np.errstate(all="ignore"):  # of each thread its own: scoring says what is not finite
            for help_ in iter(self._asked.get, None):
                help_()

    def map(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """`function` of every item. Raises what it raises for the first of those that it fails for."""
        if not self._threads:
            return list(map(function, items))
        work = _Work(function, list(items))
        for _ in self._threads:
            self._asked.put(work.help)
        try:
            for _ in self._threads:
                work.ended.get()
        finally:
            work.left.clear()
        return [outcome.result() for outcome in work.outcomes]


class _Outcome:
    """What comes of one item: a value, or what was raised within `with`."""

    value: Any = None
    failure: BaseException | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        self.failure = error
        return True

    def result(self) -> Any:
        """The value; raises what was raised."""
        if self.failure is not None:
            raise self.failure
        return self.value


class _Work:
    """One call of `map`: what is left to be done, and what has come of the rest."""

    def __init__(self, function: Callable[[Any], Any], items: list[Any]) -> None:
        self.outcomes = [_Outcome() for _ in items]
        self.left = deque(zip(items, self.outcomes, strict=True))
        self.ended: SimpleQueue[None] = SimpleQueue()  # one for each thread that has found nothing left
        self._function = function

    def help(self) -> None:
        """Take one item after the other until none is left, or one fails: those before it are taken already."""
        with suppress(IndexError):  # of an empty deque
            while True:
                item, outcome = self.left.popleft()
                with outcome:
                    outcome.value = self._function(item)
                if outcome.failure is not None:
                    self.left.clear()
        self.ended.put(None)
