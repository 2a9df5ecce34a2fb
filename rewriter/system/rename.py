"""The two renames that the standard library lacks: one that never replaces, one that swaps.

Linux: renameat2(2). macOS: renamex_np(2). Elsewhere, and on filesystems without it, the nearest that the system has.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from rewriter.system.calls import libc

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2  # linux/fs.h: RENAME_NOREPLACE, RENAME_EXCHANGE
_APPLES = {_NOREPLACE: 4, _EXCHANGE: 2}  # sys/stdio.h of macOS: RENAME_EXCL, RENAME_SWAP
_MISSING = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP})


def _renameat2(old: Path, new: Path, flags: int) -> bool:
    """Call renameat2, or renamex_np; False where the system has neither. Raises OSError."""
    names = os.fsencode(old), os.fsencode(new)
    if (linux := libc("renameat2")) is not None:
        failed = linux(_AT_FDCWD, names[0], _AT_FDCWD, names[1], flags)
    elif (apple := libc("renamex_np")) is not None:
        failed = apple(*names, _APPLES[flags])
    else:
        return False
    if not failed:
        return True
    from ctypes import get_errno  # here: it may be missing, and then nothing has failed

    code = get_errno()
    if code in _MISSING:
        return False
    raise OSError(code, os.strerror(code), str(new))


def rename_new(old: Path, new: Path) -> None:
    """Rename `old` to `new`, which must not exist: a plain rename would replace a file or an empty directory."""
    if _renameat2(old, new, _NOREPLACE):
        return
    if os.path.lexists(new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
    os.rename(old, new)


def exchange(one: Path, other: Path) -> None:
    """Let two directories change places; where the system cannot, there is a moment with neither."""
    if _renameat2(one, other, _EXCHANGE):
        return
    aside = one.with_name(one.name + ".old")
    os.rename(other, aside)
    try:
        os.rename(one, other)
    except OSError:
        os.rename(aside, other)
        raise
    os.rename(aside, one)
