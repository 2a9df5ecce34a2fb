"""TOML that anyone may have written: read within bounds."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from rewriter.errors import CheckpointError, reason, shown
from rewriter.system import TooLongError, read_whole, within

_LIMIT = 4 << 20  # bytes; a batch of ten thousand jobs has one
_SECONDS = 4  # tomllib needs time in proportion to the square of a dotted key's length


def read_toml(path: Path) -> dict[str, Any]:
    """The table in the TOML file at `path`. Raises CheckpointError."""
    try:
        with within(_SECONDS):
            return tomllib.loads(read_whole(path, _LIMIT).decode())
    except TooLongError:
        why = "it takes too long"
    except OSError as error:
        why = reason(error)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        why = f"it is not valid TOML: {shown(error, 100)}"
    raise CheckpointError(f"cannot read {shown(path.name or path)}: {why}")
