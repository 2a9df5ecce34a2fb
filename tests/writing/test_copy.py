"""Each way to copy bytes gives the same file, and a failure leaves nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import types

import numpy as np
import pytest
from safetensors.numpy import save_file

from rewriter import (
    CheckpointError,
    OutputError,
    verify,
)
from tests.support.builders import (
    everything,
    huggingface,
    prune,
    tensors_of,
)
from tests.support.doubles import patched, refused
from tests.support.write_jobs import FIRST, Job, link_counts


def failing(code: int, after: int = 0):
    """An OSError on every call but the first `after` ones, which answer short."""
    calls = []

    def copy(*arguments, **named):
        calls.append(1)
        if len(calls) > after:
            raise OSError(code, os.strerror(code))
        return REAL[len(arguments)](*arguments, **named)

    return copy


def short_range(source, target, count, offset_src=None):
    return os.copy_file_range(source, target, min(count, 7), offset_src=offset_src)


def short_sendfile(target, source, offset, count):
    return os.sendfile(target, source, offset, min(count, 5))


REAL = {3: short_range, 4: short_sendfile}


FALL_BACK = [errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP]


COPIES = {
    "short ranges": {"copy_file_range": short_range},
    "short sendfile": {"copy_file_range": failing(errno.EXDEV), "sendfile": short_sendfile},
    "short reads": {
        "copy_file_range": failing(errno.ENOSYS),
        "sendfile": failing(errno.EINVAL),
        "pread": lambda descriptor, count, offset: os.pread(descriptor, min(count, 3), offset),
    },
    "short writes": {
        "copy_file_range": failing(errno.ENOSYS),
        "sendfile": failing(errno.EINVAL),
        "write": lambda descriptor, data: os.write(descriptor, data[:11]),
    },
    "half way": {"copy_file_range": failing(errno.EINVAL, after=3), "sendfile": failing(errno.EINVAL, after=4)},
    **{f"no ranges: {errno.errorcode[code]}": {"copy_file_range": failing(code)} for code in FALL_BACK},
    **{
        f"by hand: {errno.errorcode[code]}": {"copy_file_range": failing(code), "sendfile": failing(code)}
        for code in FALL_BACK
    },
}


@pytest.mark.parametrize("functions", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("kind", ["gguf", "directory"])
def test_every_way_to_copy_gives_the_same_file(kind, functions, tmp_path, monkeypatch):
    job = Job(kind, tmp_path)
    counted = []
    patched(monkeypatch, "rewriter.writing.copy", **functions)
    job.run(progress=counted.append)
    job.check_success()
    assert sum(counted) == sum(map(len, job.good.values()))
    assert all(counted)


def failing_write(nth: int, code: int):
    """Every write counts, by whatever call; number `nth` fails."""
    calls = []

    def counting(real):
        def call(*arguments, **named):
            calls.append(1)
            if len(calls) == nth:
                raise OSError(code, os.strerror(code))
            return real(*arguments, **named)

        return call

    return {name: counting(getattr(os, name)) for name in ("write", "copy_file_range", "sendfile", "fsync")}


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_disk_leaves_nothing(job, nth, code, monkeypatch):
    patched(monkeypatch, "rewriter.writing.copy", **failing_write(nth, code))
    with pytest.raises(OutputError, match=f"^cannot write {FIRST['directory']}.*: {os.strerror(code).lower()}$"):
        job.run()
    job.check_nothing_happened()


def test_a_source_that_became_shorter(job, monkeypatch):
    patched(monkeypatch, "rewriter.writing.copy", copy_file_range=lambda *args, **named: 0)
    with pytest.raises(CheckpointError, match=r"ended at byte [0-9]+ while it was copied"):
        job.run()
    job.check_nothing_happened()


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES])
def test_where_no_link_can_be_made_it_is_copied(code, source, tmp_path, monkeypatch):
    prune(source, tmp_path / "plain", range(5))
    patched(monkeypatch, "rewriter.writing.copy", link=refused(code))
    target = prune(source, tmp_path / "out", range(5), hardlink=True)
    assert everything(target) == everything(tmp_path / "plain")
    assert set(link_counts(target).values()) == {1}


@pytest.mark.parametrize("there", [True, False])
def test_the_disk_is_offered_to_begin_early(there, tmp_path, monkeypatch):
    """`sync_file_range` of whole steps, where the system has it; the result does not depend on it."""
    source = huggingface(tmp_path / "in")
    tensors = {f"model.layers.{layer}.w": np.full((1 << 19,), layer, "float32") for layer in range(6)}
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    asked = []
    library = {"sync_file_range": lambda *numbers: asked.append(numbers[2].value)} if there else {}
    monkeypatch.setattr("rewriter.system.calls.libc", library.get)
    target = prune(source, tmp_path / "out", [1, 2, 5])
    assert (4 << 20 < sum(asked) <= 6 << 20) if there else not asked
    assert tensors_of(target)["model.layers.2.w"] == tensors_of(source)["model.layers.5.w"]


def test_no_call_that_could_share_is_made(source, tmp_path, monkeypatch):
    patched(monkeypatch, "rewriter.writing.copy", copy_file_range=lambda *a, **n: pytest.fail("shares on XFS"))
    monkeypatch.setattr(
        "rewriter.system.calls.fcntl",
        types.SimpleNamespace(**{**vars(fcntl), "ioctl": lambda *a: pytest.fail("shares")}),
    )
    target = prune(source, tmp_path / "out", range(5), share=False)
    assert verify(target, source) == ()


def test_copies_that_share_nothing_fall_back(source, tmp_path, monkeypatch):
    prune(source, tmp_path / "plain", range(5))
    patched(monkeypatch, "rewriter.writing.copy", sendfile=refused(errno.EINVAL))
    target = prune(source, tmp_path / "out", range(5), share=False)
    assert everything(target) == everything(tmp_path / "plain")


def test_where_nothing_can_be_cloned_it_is_copied(source, tmp_path, monkeypatch):
    prune(source, tmp_path / "plain", range(5))
    monkeypatch.setattr(
        "rewriter.system.calls.fcntl", types.SimpleNamespace(**{**vars(fcntl), "ioctl": refused(errno.EOPNOTSUPP)})
    )
    target = prune(source, tmp_path / "out", range(5))
    assert everything(target) == everything(tmp_path / "plain")
