"""Executors that carry out tasks: worker processes of this machine, threads, or a cluster behind a Dask scheduler."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from rewriter.errors import OutputError, RequestError, printable
from rewriter.system.signals import SIGNALS
from rewriter.system.threads import ThreadPool

DEFAULT_WORKERS = min(2, os.cpu_count() or 1)  # copying waits for the disk: more of them only wait together
# A terminal sends these to the workers as well, also while they start; only the parent acts on them.
_PARENT_ONLY = {*SIGNALS} - {signal.SIGTERM}
_PATIENCE = 10  # seconds to wait for a scheduler, and for its first worker


@dataclass(frozen=True, slots=True)
class Workers:
    """An executor, and how many tasks it carries out at once."""

    executor: Executor
    count: int


class ProcessPool(Executor):
    """`count` worker processes, each started for its first task. One that is lost fails the task that it had.

    A ProcessPoolExecutor breaks as a whole when it loses a process; here each thread owns one process and its pipe.
    """

    def __init__(self, count: int) -> None:
        self._threads = ThreadPoolExecutor(count, initializer=_block_signals)
        self._own = threading.local()
        self._lock = threading.Lock()
        self._processes: list[BaseProcess] = []
        self._cancelled = False

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Have a worker call `function`; the future raises BrokenExecutor if the worker dies over it."""
        return self._threads.submit(self._call, function, arguments, named)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers; with `cancel_futures` at once, in the middle of their tasks."""
        self._threads.shutdown(wait and not cancel_futures, cancel_futures=cancel_futures)
        with self._lock:
            self._cancelled = cancel_futures
            for process in self._processes if wait or cancel_futures else ():
                process.terminate()
        self._threads.shutdown(wait)

    def _call(self, *task: Any) -> Any:
        pipe: Connection = getattr(self._own, "pipe", None) or self._start()
        try:
            pipe.send(task)
            succeeded, result = pipe.recv()
        except (EOFError, OSError):
            del self._own.pipe
            raise BrokenExecutor("the worker process has ended") from None
        if succeeded:
            return result
        raise result

    def _start(self) -> Connection:
        """Start this thread's process. It inherits which signals are blocked, as Python's resource tracker does."""
        context = get_context("spawn")
        self._own.pipe, other_end = context.Pipe()
        with self._lock:
            if self._cancelled:
                raise BrokenExecutor("the pool is shut down")
            resource_tracker.ensure_running()
            _block_signals()  # starting the tracker unblocks some (Python before 3.12)
            process = context.Process(target=_work, args=(other_end,), daemon=True)
            process.start()
            self._processes.append(process)
        other_end.close()
        return self._own.pipe  # type: ignore[no-any-return]


def _block_signals() -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, _PARENT_ONLY)


def _work(pipe: Connection) -> None:
    """Carry out the tasks that come through `pipe` until its other end is closed. A worker ends with its parent."""
    for number in _PARENT_ONLY:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()
    with suppress(EOFError, ConnectionError), ThreadPoolExecutor(1) as thread:
        while True:
            function, arguments, named = pipe.recv()
            future = thread.submit(function, *arguments, **named)  # it holds whatever the task raises
            error = future.exception()
            answer = error is None, error or future.result()
            try:
                pipe.send(answer)
            except (AttributeError, TypeError, ValueError) as error:  # it cannot be pickled
                pipe.send((False, TypeError(f"{type(answer[1]).__name__}: {error}")))


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


@contextmanager
def workers(text: str) -> Iterator[Workers]:
    """Give the workers that `text` names, `processes=4`, `threads=4` or `dask=tcp://HOST:PORT`, and close them after.

    Raises RequestError for anything else, OutputError if they cannot be reached.
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
    local: dict[str, Callable[[int], Executor]] = {"processes": ProcessPool, "threads": ThreadPoolExecutor}
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
    """Let loggers print nothing; each has a level of its own, whatever that of its package is."""
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
    _silence("distributed", "tornado", "asyncio")  # errors are reported once, by us
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
