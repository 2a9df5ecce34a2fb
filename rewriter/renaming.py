"""The two renames that the standard library lacks: one that never replaces, one that swaps.

Linux: renameat2(2). Elsewhere, and on filesystems without it, the nearest that the system has.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2
_MISSING = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})


def _renameat2(old: Path, new: Path, flags: int) -> bool:
    """Call renameat2; False where the system does not have it. Raises OSError."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags) == 0:
        return True
    code = ctypes.get_errno()
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
