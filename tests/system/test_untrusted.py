"""What anybody may have written is read within bounds."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from rewriter.system.untrusted import TooLongError, read_whole, time_limit


def test_time_is_limited_in_the_main_thread():
    with pytest.raises(TooLongError), time_limit(0.05):
        re.match("(a*)*b", "a" * 60)
    with time_limit(60):
        assert sum(range(1000)) == 499500


def test_only_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(11))
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "large"):
        with pytest.raises(OSError, match=r"it (is not a regular file|has 11 bytes, more than 10)"):
            read_whole(path, 10)
    assert read_whole(tmp_path / "large", 11) == bytes(11)
