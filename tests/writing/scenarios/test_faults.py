"""A run is made to fail, to be killed and to be stopped at every system call that a good run makes.

After each: the output is absent (or the earlier one intact) or complete, the input is as it was, the same command run
again succeeds, and nothing else is left.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import nullcontext, redirect_stdout, suppress
from importlib import import_module
from pathlib import Path

import pytest

import rewriter.cli
from rewriter import OutputError, RewriterError, open_checkpoint, verify
from rewriter.cli.state import RunState
from rewriter.system.signals import STOP, StoppedError
from rewriter.writing.executors import workers
from rewriter.writing.staging import clear_directory
from rewriter.writing.write import save
from tests.support import faults
from tests.support.builders import ROOT, everything, huggingface, prune, write_gguf
from tests.support.faults import Calls, watching
from tests.support.write_jobs import FIRST, KINDS, Job

main = import_module("rewriter.cli.program")
EARLIER = [1, 3]


class Scene:
    """A job that is run again and again, with something in its way each time."""

    def __init__(self, kind: str, overwrite: bool, folder: Path, executor: str = "") -> None:
        self.job, self.overwrite, self.executor = Job(kind, folder), overwrite, executor
        self.first = self.job.folder / FIRST[kind]
        assert verify(folder / "good" / FIRST[kind], self.job.source) == ()
        if overwrite:
            prune(self.job.source, self.job.target, EARLIER)
        self.earlier = everything(self.job.folder)

    def reset(self) -> None:
        """As it was before the run."""
        if self.overwrite:
            prune(self.job.source, self.job.target, EARLIER, overwrite=True)
        elif self.job.kind == "directory" and self.job.target.exists():
            __import__("shutil").rmtree(self.job.target)
        else:
            for path in self.job.folder.iterdir():
                path.unlink()
        assert everything(self.job.folder) == self.earlier

    def run(self, calls: Calls) -> None:
        with watching(calls), workers(self.executor) if self.executor else nullcontext() as crew:
            self.job.run(overwrite=self.overwrite, executor=crew and crew.executor)

    def calls(self) -> list[str]:
        """The names of the calls that a good run makes."""
        calls = Calls()
        self.run(calls)
        self.job.check_success()
        self.reset()
        return calls.names

    def points(self, among: Collection[str] = faults.WATCHED) -> Iterator[int]:
        """The number of each call `among` these; after what is done there the same command must succeed."""
        for number in faults.points(self.calls(), among):
            yield number
            assert everything(self.job.source.parent) == self.job.before, f"the input has changed at call {number}"
            self.run_again(number)
            self.reset()

    def run_again(self, number: int) -> None:
        """What stands there must be an output of ours, so `--overwrite` may replace it."""
        self.job.run(overwrite=True)
        assert everything(self.job.folder) == self.job.good, f"call {number}"
        assert no_strays(self.job.folder), f"call {number}"

    def state(self) -> str:
        """What a user finds there: the names tell of nothing but an output."""
        found = everything(self.job.folder)
        assert no_strays(self.job.folder), found.keys()
        return {repr(self.earlier): "as before", repr(self.job.good): "complete"}[repr(found)]

    def state_after_kill(self) -> str:
        """Of a set there may be files, but not the one to open first."""
        found = {name: data for name, data in everything(self.job.folder).items() if ".rewriter-tmp/" not in name}
        if found in (self.earlier, self.job.good):
            return "complete" if found == self.job.good else "as before"
        assert self.job.kind in ("split", "lone"), found.keys()
        assert not os.path.lexists(self.first)
        return "absent"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """A test survives no power cut anyway."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def no_strays(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if "rewriter-tmp" in path.name]


SCENES = {f"{kind}{'-overwrite' * overwrite}": (kind, overwrite) for kind in KINDS for overwrite in (False, True)}


QUICK = ("gguf",)  # the others are slow


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in (*SCENES, "threads", "executor")
    ]
)
def scene(request, tmp_path, monkeypatch):
    if request.param == "threads":
        monkeypatch.setattr("rewriter.writing.copy._LARGE", 0)  # bytes: every file is worth a thread
    executor = "threads=1" if request.param == "executor" else ""  # more of them would make other calls each time
    return Scene(*SCENES.get(request.param, ("directory", False)), tmp_path, executor)


def check_failed_run(scene: Scene, calls: Calls, number: int) -> str:
    """Run with `calls`: what is said must be true."""
    said = ""
    try:
        scene.run(calls)
    except (RewriterError, OSError) as error:  # the command line makes one line of both
        said = str(error)
    state = scene.state()
    where = f"call {number}, {calls.names[number - 1 : number]}: {said}"
    if not said or "is complete, but" in said:
        assert state == "complete", where
    else:
        assert state == "as before", where
    return said


def test_an_error_at_every_call(scene):
    said = {check_failed_run(scene, Calls(faults.failing(number, errno.EIO)), number) for number in scene.points()}
    assert len(said) > 5


@pytest.mark.parametrize("forever", [False, True])
def test_a_full_disk_at_every_call(scene, forever):
    for number in scene.points(faults.WRITING):
        once = faults.failing(number, errno.ENOSPC, faults.WRITING)
        act = faults.full_disk(number) if forever else once
        said = check_failed_run(scene, Calls(act), number)
        assert not said or "no space left on device" in said.lower(), (number, said)


def test_a_short_answer_to_every_call(scene):
    for number in (faults.ALL, *scene.points(faults.SHORT)):
        scene.run(Calls(shorten=number))
        assert scene.state() == "complete"
        scene.reset()


@pytest.mark.slow
def test_a_kill_at_every_call(scene):
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    states = set()
    for number in scene.points():
        calls = Calls(faults.at(number, die))
        ended, state = faults.in_child(lambda calls=calls: scene.run(calls)), scene.state_after_kill()
        if os.WTERMSIG(ended) != signal.SIGKILL:  # who waits for an executor looks at it more or less often
            assert (scene.executor, ended, state) == ("threads=1", 0, "complete")
        states.add(state)
        if number % 2:  # without --overwrite what was there before is there again, or the run succeeds
            with pytest.raises(RewriterError) if scene.first.exists() or scene.overwrite else nullcontext():
                scene.job.run()
            assert scene.state() in ("as before", "complete")
    assert {"as before", "complete"} <= states


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def command_line(scene: Scene, stderr: Path, calls: Calls) -> None:
    """The program as a child runs it."""
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
    words = ["prune", str(scene.job.source), str(scene.job.target), "--keep", "0,2,5"]
    words += ["--executor", scene.executor] if scene.executor else []
    sys.argv = ["rewriter", *words, *["--overwrite"] * scene.overwrite]
    with watching(calls):
        try:
            rewriter.cli.main()
        except SystemExit as end:
            sys.stderr.flush()
            os._exit(end.code or 0)


@pytest.fixture(scope="module")
def _warm(tmp_path_factory):
    """What the command line imports is imported before the children are forked: one good run does it."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    source = write_gguf(tmp_path_factory.mktemp("warm") / "source.gguf")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()), suppress(SystemExit):
        patch.setattr(RunState, "committed", False)
        patch.setattr(sys, "argv", ["rewriter", "prune", str(source), f"{source}.out", "--drop", "1"])
        rewriter.cli.main()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_warm")
@pytest.mark.slow
def test_a_signal_at_every_call(scene, tmp_path):
    stderr = tmp_path / "stderr"
    for number in scene.points():
        which = SIGNALS[number % 3]
        act = faults.at(number, lambda which=which: main._stop(which, None))  # any thread may be at that call
        calls = Calls(act=act) if number % 2 else Calls(after=act)
        code = os.waitstatus_to_exitcode(faults.in_child(lambda calls=calls: command_line(scene, stderr, calls)))
        said, state = stderr.read_text(), scene.state()
        if code == 0:
            assert (state, said) == ("complete", ""), number
            continue
        assert code == 128 + which, (number, said)
        ends = {"as before": "nothing was written", "complete": "the output is complete"}
        assert said == f"rewriter: stopped by {which.name}; {ends[state]}\n", number


def writers() -> list[threading.Thread]:
    """The threads that write files, not the one of a progress bar."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("worker")]


@pytest.mark.usefixtures("_warm")
@pytest.mark.parametrize("while_starting", [True, False])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_no_thread_writes_while_all_is_removed(while_starting, times, tmp_path, monkeypatch):
    """Somebody presses Ctrl-C again and again, while a thread starts or is in a slow system call."""
    monkeypatch.setattr("rewriter.writing.copy._LARGE", 0)  # bytes: every file is worth a thread
    scene, stderr, begun = Scene("directory", False, tmp_path), tmp_path / "stderr", []

    def interrupt() -> None:
        begun.append(time.monotonic())
        for _ in range(times * (len(begun) == 1)):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.05)

    def act(number: int, name: str) -> None:
        if threading.current_thread() in writers() and name in faults.WRITING:
            if not while_starting:
                interrupt()
            time.sleep(0.02)
        assert not (name == "rmdir" and writers())

    def start(thread: threading.Thread) -> None:
        real(thread)
        if while_starting and thread in writers():
            interrupt()

    real = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start)
    code = os.waitstatus_to_exitcode(faults.in_child(lambda: command_line(scene, stderr, Calls(act))))
    assert (code, stderr.read_text()) == (130, "rewriter: stopped by SIGINT; nothing was written\n")
    assert scene.state() == "as before"


def test_a_handler_raises_nothing_and_the_first_signal_is_the_one(monkeypatch):
    monkeypatch.setattr(STOP, "number", 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # at the same moment: `timeout` sends two
        main._stop(number, None)
    assert STOP.number == signal.SIGINT
    with pytest.raises(StoppedError):
        STOP.check()


TWICE = """
import os, signal, sys, time
from importlib import import_module
main = import_module('rewriter.cli.program')
def run():
    print("READY", flush=True)
    while True:
        time.sleep(0.01)  # nothing is polled
main._run = run
main.main()
"""


def test_a_second_signal_ends_the_program_at_once():
    process = subprocess.Popen(
        [sys.executable, "-c", TWICE], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "READY\n"
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(main._ONE_REQUEST + 0.2)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=5)[1]
    assert (process.returncode, said) == (
        128 + signal.SIGTERM, "rewriter: stopped by SIGTERM; at once; the next run clears what is left\n"
    )  # fmt: skip


DROPPED = """
import signal, sys, weakref
from importlib import import_module
main = import_module('rewriter.cli.program')
from rewriter.system.signals import STOP, StoppedError
class Thing:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
class Named:
    def __set_name__(self, owner, name):
        signal.raise_signal(signal.SIGTERM)
def run():
    if sys.argv[1] == "class":
        type("Owner", (), {"name": Named()})
    thing = Thing()
    held = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGTERM))
    if sys.argv[1] == "weakref":
        Thing.__del__ = lambda self: None
    del thing
    STOP.check()
main._run = run
main.main()
"""


@pytest.mark.parametrize("where", ["weakref", "del", "class"])
def test_a_signal_where_python_drops_or_hides_what_is_raised(where):
    """Whoever presses Ctrl-C while a module is imported may meet such a callback, or a class that is being made."""
    process = subprocess.run(
        [sys.executable, "-c", DROPPED, where], cwd=ROOT, capture_output=True, text=True, check=False
    )
    said = "rewriter: stopped by SIGTERM; nothing was written\n"
    assert (process.returncode, process.stderr) == (128 + signal.SIGTERM, said)


def test_a_plan_a_page_or_a_picture_appears_whole(tmp_path):
    """All of them are saved in one way."""
    checkpoint = open_checkpoint(write_gguf(tmp_path / "in.gguf"))
    (tmp_path / "here").mkdir()
    path = tmp_path / "here" / "plan.json"
    save(b"earlier", path, False, checkpoint)
    with watching(Calls()) as counted:
        save(b"new", path, True, checkpoint)
    ends = set()
    for number in faults.points(counted.names):
        path.write_bytes(b"earlier")
        with watching(Calls(faults.failing(number, errno.ENOSPC))), suppress(RewriterError, OSError):
            save(b"new", path, True, checkpoint)
        ends.add(path.read_bytes())
        assert os.listdir(tmp_path / "here") == ["plan.json"]
    assert ends == {b"earlier", b"new"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_saved_replaces_no_input_no_link_and_no_folder(overwrite, tmp_path):
    source = write_gguf(tmp_path / "in.gguf")
    (tmp_path / "link").symlink_to("in.gguf")
    (tmp_path / "folder").mkdir()
    before = everything(tmp_path)
    for name in ("in.gguf", "link", "folder", "none/x"):
        with pytest.raises(OutputError):
            save(b"new", tmp_path / name, overwrite, open_checkpoint(source))
    assert everything(tmp_path) == before


def test_what_could_not_be_cleared_away_says_why(tmp_path):
    """Some Pythons close a directory twice where that fails, and tell of the second time."""

    def fill() -> None:
        (tmp_path / "left" / "of" / "a run").mkdir(parents=True, exist_ok=True)
        (tmp_path / "left" / "of" / "a file").touch()

    fill()
    with watching(Calls()) as counted:
        clear_directory(tmp_path)
    for number in faults.points(counted.names):
        fill()
        with pytest.raises(OSError, match=os.strerror(errno.EIO)), watching(Calls(faults.failing(number, errno.EIO))):
            clear_directory(tmp_path)


COMMANDS = {
    "processes": ["prune", "in", "here/out", "--drop", "1", "--executor", "processes=2"],
    "batch": ["batch", "jobs.toml", "--results", "here/results.jsonl"],
    "plan": ["plan", "in", "--drop", "1", "-o", "here/plan.json"],
    "checksums": ["checksums", "in"],
}


@pytest.mark.parametrize("moment", range(6))
@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_to_all_processes(command, moment, tmp_path):
    """A terminal sends it to the workers too, while they start as well, and people press Ctrl-C again and again."""
    huggingface(tmp_path / "in", shards=4)
    (tmp_path / "here").mkdir()
    (tmp_path / "jobs.toml").write_text('[[job]]\nsource = "in"\noutput = "here/{ratio}"\nratio = [0.2, 0.5]\n')
    code = "import sys; from rewriter.cli import main; sys.stdout.write('+'); sys.stdout.flush(); main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *COMMANDS[command]], cwd=tmp_path, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.read(1) == "+"
    time.sleep(0.05 + 0.12 * moment)
    which = SIGNALS[moment % 3]
    for _ in range(1 + moment // 2):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, which)
        time.sleep(0.01)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (0, 128 + which)
    assert "Traceback" not in said
    assert process.returncode == 0 or f"rewriter: stopped by {which.name}; " in said.splitlines()[-1]
    assert command == "batch" or said.count("\n") == (process.returncode != 0)
    assert no_strays(tmp_path / "here")
    assert not [path for path in (tmp_path / "here").iterdir() if path.name.startswith(".")]
