"""Files of an output written by executors: the same bytes, whoever writes them, however often, and whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import pytest

from rewriter import CheckpointError, OutputError, WriteOptions, make_plan, open_checkpoint, verify, write
from rewriter.errors import RequestError
from rewriter.writing.distribute import write_task
from rewriter.writing.executors import ProcessPool, workers
from tests.support.builders import everything, huggingface, split_gguf, write_gguf, write_safetensors
from tests.support.workers import Gate

KEEP = (0, 2, 3, 5)
SOURCES = {
    "directory": lambda folder: huggingface(folder / "in", shards=3),
    "split": lambda folder: split_gguf(folder / "in", files=3),
    "gguf": lambda folder: write_gguf(folder / "in.gguf"),
    "lone": lambda folder: write_safetensors(folder / "in.safetensors", [f"h.{n}.w" for n in range(6)]),
}


@pytest.fixture
def source(tmp_path):
    """Three shards, a side file, an empty one."""
    folder = huggingface(tmp_path / "in", shards=3)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "empty.txt").write_text("")
    return folder


def pruned(source, target, executor=None, keep=KEEP, **how):
    """What is in the folder of the output afterwards."""
    options = {"progress": how.pop("progress")} if "progress" in how else {}
    target.parent.mkdir(exist_ok=True)
    write(make_plan(open_checkpoint(source), keep), target, WriteOptions(**how), executor=executor, **options)
    return everything(target.parent)


def spawned(count: int, **named) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, get_context("spawn"), **named)


EXECUTORS = {"threads": lambda: ThreadPoolExecutor(2), "pool": lambda: spawned(2), "processes": lambda: ProcessPool(2)}


@pytest.mark.parametrize("make", EXECUTORS.values(), ids=EXECUTORS)
def test_every_executor_writes_the_same(make, source, tmp_path):
    local = pruned(source, tmp_path / "local" / "out")
    moved: list[int] = []
    with make() as executor:
        there = pruned(source, tmp_path / "spread" / "out", executor, progress=moved.append)
        assert pruned(source, tmp_path / "again" / "out", executor, hardlink=True, verify_bytes=True) == local
    assert there == local
    assert sum(moved) == sum(map(len, local.values()))
    assert min(moved) >= 0
    assert verify(tmp_path / "spread" / "out", source) == ()


@pytest.mark.parametrize("kind", ["split", "gguf"])
@pytest.mark.parametrize("how", [{}, {"checksums": True}, {"resume": True}, {"sync": False}], ids=str)
def test_every_kind_and_way(kind, how, tmp_path):
    source = SOURCES[kind](tmp_path)
    local = pruned(source, tmp_path / "local" / "out.gguf", **how)
    with ThreadPoolExecutor(3) as executor:
        assert pruned(source, tmp_path / "spread" / "out.gguf", executor, **how) == local


def test_paths_may_be_relative(source, tmp_path, monkeypatch):
    local = pruned(source, tmp_path / "local" / "out")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with spawned(1, initializer=os.chdir, initargs=("/",)) as executor:
        write(make_plan(open_checkpoint("in"), KEEP), "here/out", executor=executor)
    assert everything(tmp_path / "here") == local


# Workers that die, and those that only seem to


@pytest.mark.parametrize("kind", ["pool", "processes"])
def test_a_worker_that_is_killed_costs_nothing(kind, source, tmp_path, monkeypatch):
    local = pruned(source, tmp_path / "local" / "out")
    gate = Gate(tmp_path)
    for name in ("PYTHONPATH", "GATE"):
        monkeypatch.setenv(name, gate.environment[name])
    killed: list[int] = []

    def kill() -> None:
        killed.append(gate.waiting()[0])
        os.kill(killed[0], signal.SIGKILL)
        if kind == "processes":  # another takes its place, and the same task
            gate.waiting(3)
        gate.open()

    killer = threading.Thread(target=kill)
    killer.start()
    with EXECUTORS[kind]() as executor:
        there = pruned(source, tmp_path / "spread" / "out", executor)
    killer.join()
    assert killed
    assert there == local


class Lost(Executor):
    """Loses the worker of every task, the `chances` first times; the worker may have done its work before."""

    def __init__(self, chances: int, works: bool) -> None:
        self.chances, self.works, self.given = chances, works, 0

    def submit(self, function, /, *arguments, **named) -> Future:
        self.given += 1
        future: Future = Future()
        lost = self.given <= self.chances
        if self.works or not lost:
            function(*arguments, **named)
        if lost:
            future.set_exception(BrokenExecutor())
        else:
            future.set_result(None)
        return future


@pytest.mark.parametrize("works", [True, False])
@pytest.mark.parametrize("chances", [1, 2, 1000])
def test_what_is_lost_is_given_out_again_and_then_done_here(chances, works, source, tmp_path):
    local = pruned(source, tmp_path / "local" / "out")
    executor = Lost(chances, works)
    assert pruned(source, tmp_path / "spread" / "out", executor) == local
    files = len(local)
    assert executor.given == files + min(chances, files)


class Twice(Executor):
    """Has every task done by two threads at the same time."""

    def submit(self, function, /, *arguments, **named) -> Future:
        future: Future = Future()
        start = threading.Barrier(2)

        def run() -> None:
            start.wait()
            function(*arguments, **named)

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        future.set_result(None)
        return future


@pytest.mark.parametrize("kind", ["directory", "split"])
def test_a_task_may_be_done_twice_at_once(kind, tmp_path):
    source = SOURCES[kind](tmp_path)
    name = "out" if kind == "directory" else "out.gguf"
    local = pruned(source, tmp_path / "local" / name)
    for number in range(10):
        assert pruned(source, tmp_path / f"{number}" / name, Twice()) == local


class Kept(Executor):
    """Keeps the tasks; `act` comes before each. Those after the first `most` are never done."""

    def __init__(self, act=lambda task: None, most: int = 1000) -> None:
        self.tasks, self.act, self.most = [], act, most

    def submit(self, function, /, *arguments, **named) -> Future:
        future: Future = Future()
        self.tasks.append(arguments[0])
        if len(self.tasks) > self.most:
            return future
        try:
            self.act(arguments[0])
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.mark.parametrize("kind", ["directory", "split"])
def test_who_comes_too_late_changes_nothing(kind, tmp_path):
    source = SOURCES[kind](tmp_path)
    executor = Kept()
    name = "out" if kind == "directory" else "out.gguf"
    local = pruned(source, tmp_path / "spread" / name, executor)
    for task in executor.tasks:
        with pytest.raises(OutputError, match="does not see"):
            write_task(task)
    assert everything(tmp_path / "spread") == local


@pytest.mark.parametrize("resume", [True, False])
def test_a_worker_of_a_killed_run_changes_nothing_in_the_next_one(resume, source, tmp_path):
    """Its coordinator was killed and left the folder in which that worker still writes."""
    good = pruned(source, tmp_path / "local" / "out", keep=(0, 1))
    child = os.fork()
    if not child:
        keep = (0, 1) if resume else KEEP
        pruned(source, tmp_path / "spread" / "out", Kept(most=1), keep, resume=resume, progress=lambda n: os._exit(9))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (attempts,) = (tmp_path / "spread" / ".out.rewriter-tmp").glob("attempts-*")

    def ghost(task) -> None:
        with pytest.raises(OutputError, match="does not see"):
            write_task(replace(task, attempts=str(attempts)))

    second = Kept(ghost)
    assert pruned(source, tmp_path / "spread" / "out", second, keep=(0, 1), resume=resume) == good
    assert len(second.tasks) == len(good) - resume  # what it had finished is used


# What goes wrong


def left(folder):
    return sorted(os.listdir(folder))


def test_a_source_that_changes_is_noticed_by_the_worker(source, tmp_path):
    (tmp_path / "spread").mkdir()

    def touch(task) -> None:
        os.utime(source / "model-00002-of-00003.safetensors")

    with pytest.raises(CheckpointError, match=r"has changed, or the worker on .* sees another"):
        pruned(source, tmp_path / "spread" / "out", Kept(touch))
    assert left(tmp_path / "spread") == []


def test_a_worker_of_another_version_says_so(source, tmp_path, monkeypatch):
    executor = Kept(lambda task: monkeypatch.setattr("rewriter.writing.distribute.VERSION", "0.0.9"))
    with pytest.raises(OutputError, match=r"has rewriter 0\.0\.9, the run was started by .*: install the same"):
        pruned(source, tmp_path / "spread" / "out", executor)
    assert left(tmp_path / "spread") == []


def test_a_worker_without_the_filesystem_says_so(source, tmp_path):
    def blind(task):
        write_task(replace(task, attempts="/nowhere/at/all"))

    with pytest.raises(OutputError, match=r"the worker on .* does not see /nowhere/at: workers need the same filesys"):
        pruned(source, tmp_path / "spread" / "out", Kept(blind))

    def without_sources(task):
        write_task(replace(task, sources=tuple(("/nowhere/model", stamp) for _, stamp in task.sources)))

    with pytest.raises(OutputError, match="does not see /nowhere/model"):
        pruned(source, tmp_path / "spread" / "out", Kept(without_sources))
    assert left(tmp_path / "spread") == []


def test_whatever_a_worker_raises_becomes_one_line(source, tmp_path):
    def broken(task):
        raise ZeroDivisionError("a\nb")

    with pytest.raises(OutputError, match=r"could not be written by a worker: ZeroDivisionError: a$") as caught:
        pruned(source, tmp_path / "spread" / "out", Kept(broken))
    assert "\n" not in str(caught.value)


def test_a_task_that_is_cancelled_is_an_error(source, tmp_path):
    class Cancelled(Executor):
        def submit(self, function, /, *arguments, **named):
            future: Future = Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future

    with pytest.raises(OutputError, match="the cluster has given it up"):
        pruned(source, tmp_path / "spread" / "out", Cancelled())


class Stopped(BaseException):
    pass


def test_a_stop_in_the_middle_leaves_nothing(source, tmp_path):
    started, go_on = threading.Event(), threading.Event()
    task = []

    class Slow(ThreadPoolExecutor):
        def submit(self, function, /, *arguments, **named):
            def run():
                task.append(arguments[0])
                started.set()
                go_on.wait()
                return function(*arguments)

            return super().submit(run)

    def stop(nbytes):
        if started.is_set():
            raise Stopped

    with Slow(1) as executor:
        with pytest.raises(Stopped):
            pruned(source, tmp_path / "spread" / "out", executor, progress=stop)
        assert left(tmp_path / "spread") == []
        go_on.set()  # the thread finds that nobody waits for it
    assert len(task) == 1  # the others were cancelled
    assert left(tmp_path / "spread") == []


# Executors by name


def test_executors_by_name():
    with workers("threads=3") as crew:
        assert (type(crew.executor), crew.count) == (ThreadPoolExecutor, 3)
    with workers("processes") as crew:
        assert crew.executor.submit(os.getpid).result() != os.getpid()


NO_EXECUTORS = ["", "dask", "dask=", "threads=", "threads=0", "threads=1025", "threads=x", "fork=2", "processes=-1"]


@pytest.mark.parametrize("text", [*NO_EXECUTORS, pytest.param(f"threads={'9' * 5000}", id="digits")])
def test_what_is_no_executor(text):
    with pytest.raises(RequestError, match="is no executor: write processes=4"), workers(text):
        pass


def test_a_lost_process_is_replaced():
    with ProcessPool(1) as executor:
        first = executor.submit(os.getpid).result()
        with pytest.raises(BrokenExecutor):
            executor.submit(os._exit, 3).result()
        assert executor.submit(os.getpid).result() not in (first, os.getpid())


MASKS = """
import signal
import subprocess
import sys
from multiprocessing import resource_tracker
from rewriter.writing.executors import ProcessPool
with ProcessPool(1) as executor:
    held = executor.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ()).result()
    status = open(f"/proc/{resource_tracker._resource_tracker._pid}/status").read()
blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
print({signal.SIGINT, signal.SIGHUP} <= held, signal.SIGTERM in held, blocked >> signal.SIGHUP - 1 & 1)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="there is no /proc that says what is held back")
def test_workers_leave_signals_to_us_from_their_first_moment():
    """While they start, too, and Python's own process that cleans up after them: both would print tracebacks."""
    done = subprocess.run([sys.executable, "-c", MASKS], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True False 1\n", "")


ENDS = """
import os
from rewriter.writing.executors import ProcessPool
made = ProcessPool(1)
made.submit(len, "a").result()
os._exit(3)
"""


def test_an_end_at_once_is_silent():
    """As after a signal: Python's resource tracker would print what it cleans up."""
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
