"""Who carries out tasks: worker processes of this machine, threads, or a cluster behind a Dask scheduler."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from typing import Any

from rewriter.errors import OutputError, RequestError, printable
from rewriter.system.calls import block_signals
from rewriter.system.signals import SIGNALS
from rewriter.system.threads import ThreadPool

DEFAULT_WORKERS = min(2, os.cpu_count() or 1)  # copying waits for the disk: more of them only wait together
# a terminal sends them to the workers as well, also while these start
_LEFT_TO_US = {*SIGNALS} - {signal.SIGTERM}
# What Python's resource tracker says when a signal ends us at once: it has cleaned up, and nobody can do anything.
_UNSAID = "ignore:resource_tracker:UserWarning"
_PATIENCE = 10  # seconds to wait for a scheduler, and for its first worker


@dataclass(frozen=True, slots=True)
class Workers:
    """An executor, and how many tasks it carries out at once."""

    executor: Executor
    count: int


class Processes(Executor):
    """`count` worker processes, each started for its first task. One that is lost fails the task that it had.

    A pool of several would break as a whole; so each worker is a pool of its own, and is replaced.
    """

    def __init__(self, count: int) -> None:
        if _UNSAID not in sys.warnoptions:  # Python's resource tracker starts with these
            sys.warnoptions.append(_UNSAID)
        self._slots = ThreadPoolExecutor(count)
        self._mine = threading.local()
        self._pools: set[ProcessPoolExecutor] = set()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Have a worker call `function`; the future raises BrokenExecutor if the worker dies over it."""
        return self._slots.submit(self._ask, function, *arguments, **named)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the workers go; with `cancel_futures` at once, whatever they do."""
        self._slots.shutdown(False, cancel_futures=cancel_futures)
        if cancel_futures:
            for pool in tuple(self._pools):
                for process in tuple((pool._processes or {}).values()):
                    process.terminate()
        self._slots.shutdown(wait)
        for pool in tuple(self._pools):
            pool.shutdown(wait)

    def _ask(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        pool = getattr(self._mine, "pool", None)
        if pool is None:
            block_signals(_LEFT_TO_US)  # what is started inherits this: Python's resource tracker, and the worker
            pool = self._mine.pool = ProcessPoolExecutor(1, get_context("spawn"), _begin)
            self._pools.add(pool)
            block_signals(_LEFT_TO_US)  # starting the tracker has let some in again (Python before 3.12)
        try:
            return pool.submit(function, *arguments, **named).result()
        except BrokenProcessPool:
            self._pools.discard(pool)
            self._mine.pool = None
            pool.shutdown()  # its thread ends first: at exit Python would wake it over a pipe that it just closed
            raise


def _begin() -> None:
    """A worker leaves Ctrl-C to the program that started it, and does not outlive that."""
    for number in _LEFT_TO_US:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


@contextmanager
def workers(text: str) -> Iterator[Workers]:
    """Give the workers that `text` names, `processes=4`, `threads=4` or `dask=tcp://HOST:PORT`, and close them after.

    Raises RequestError for anything else, OutputError where they cannot be reached.
    """
    kind, _, value = text.partition("=")
    if kind == "dask" and value:
        if not re.fullmatch(r"(?!(tcp|tls)://)[a-z]+://.+|.+:[0-9]{1,5}/?", value):
            raise RequestError(
                f"{printable(text, 120)} has no port: write dask=tcp://HOST:8786, where `dask scheduler` is"
            )
        with _dask(value) as cluster:
            yield cluster
        return
    local: dict[str, Callable[[int], Executor]] = {"processes": Processes, "threads": ThreadPoolExecutor}
    count = value if value or "=" in text else str(DEFAULT_WORKERS)
    if kind not in local or not re.fullmatch("[0-9]{1,4}", count) or not 0 < int(count) <= 1024:
        raise RequestError(
            f"{printable(text)!r} is no executor: write processes=4, threads=4 or dask=tcp://HOST:PORT (a Dask "
            f"scheduler)"
        )
    executor, ended = local[kind](int(count)), False
    try:
        yield Workers(executor, int(count))
        ended = True
    finally:  # after an error or a signal nobody waits for the rest
        executor.shutdown(cancel_futures=not ended)


def _silence(*packages: str) -> None:
    """Let loggers say nothing; they have levels of their own, whatever that of their package is."""
    for name in (*packages, *logging.root.manager.loggerDict):
        if name.partition(".")[0] in packages:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _patiently(function: Callable[..., Any], argument: Any, **named: Any) -> Any:
    """Call `function`, which waits for up to _PATIENCE, in a thread: a signal ends the wait with StoppedError."""
    with ThreadPool(1, abandonable=True) as pool:
        return pool.map(partial(function, timeout=_PATIENCE, **named), [argument])[0]


@contextmanager
def _dask(address: str) -> Iterator[Workers]:
    try:
        import dask
        from distributed import Client
    except ImportError:
        raise RequestError("a cluster needs Dask: pip install 'rewriter[dask]'") from None
    _silence("distributed", "tornado", "asyncio")  # what goes wrong is said once, by us
    headers = {"distributed.admin.large-graph-warning-threshold": "1 TB"}  # a task holds the header of its file
    with dask.config.set(headers):
        try:
            client = _patiently(Client, address, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            reason = printable(str(error).partition("\n")[0] or type(error).__name__, 120)
            raise OutputError(f"no Dask scheduler answers at {printable(address, 80)}: {reason}") from None
        try:
            try:
                _patiently(client.wait_for_workers, 1)  # they may have been started together with us
            except TimeoutError:
                raise OutputError(
                    f"the Dask scheduler at {printable(address, 80)} has no workers: start `dask worker`"
                ) from None
            yield Workers(client.get_executor(pure=False), sum(client.nthreads().values()))
        finally:
            client.close(timeout=_PATIENCE)
