"""Digests of ranges of files."""

from __future__ import annotations

import shutil
import subprocess
import sys

from tests.support.builders import write_gguf


def test_a_large_file_is_hashed_in_little_memory(tmp_path):
    target = tmp_path / "large.gguf"
    shutil.copy(write_gguf(tmp_path / "small.gguf"), target)
    with target.open("r+b") as file:
        file.truncate(512 << 20)
    code = (
        "import re, sys\nfrom rewriter.writing.hashing import digests\nfrom rewriter.layout.output import CopyRange\n"
        "digests([(CopyRange(sys.argv[1], n << 20, 256 << 20),) for n in range(8)])\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60 << 10, "KiB"
