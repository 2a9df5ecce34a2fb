"""How much a checkpoint may hold. Real ones have far less; more than this would need over 2 GiB or 10 s to plan."""

from __future__ import annotations

from rewriter.errors import CheckpointError

TENSORS = 1 << 20  # the largest models have some 200 thousand
HEADERS = 256 << 20  # bytes before the tensor data, over all files; most of it is tokens
ITEMS = 1 << 21  # of lists that are read, in one file
FILES = 20_000  # that go along
ENTRIES = 100_000  # of metadata; real ones have some dozens


def check_total(tensors: int, headers: int = 0, where: str = "") -> None:
    """Raise CheckpointError for more tensors, or more bytes of headers, than a checkpoint may hold."""
    if tensors > TENSORS:
        raise CheckpointError(f"{where}{tensors} tensors are more than {TENSORS}, the most that are read")
    if headers > HEADERS:
        raise CheckpointError(f"{where}headers of {headers} bytes are more than {HEADERS}, the most that are read")


def check_entries(count: int, where: str = "", most: int = ENTRIES) -> None:
    """Raise CheckpointError for more metadata than a checkpoint may hold."""
    if count > most:
        raise CheckpointError(f"{where}{count} entries of metadata are more than {most}, the most that are read")
