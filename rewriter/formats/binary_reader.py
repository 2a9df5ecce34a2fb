"""Reads a binary header forward through a window, each length checked against the file before it is used."""

from __future__ import annotations

import struct

from rewriter.errors import CheckpointError
from rewriter.formats.limits import HEADERS, ITEMS
from rewriter.system.files import read_at

_WINDOW = 1 << 20  # bytes read at a time
_STRING_LIMIT = 64 << 20  # bytes; longer strings that must be built are no names and no settings


class BinaryReader:
    """A cursor over the file `descriptor` of `size` bytes; `at` is the offset of the next byte.

    Every method raises CheckpointError for anything that does not fit into the file.
    """

    __slots__ = ("_base", "_descriptor", "_items", "_name", "_room", "_size", "_window", "at")

    def __init__(self, descriptor: int, size: int, name: str, most: int = HEADERS) -> None:
        self._descriptor, self._name = descriptor, name
        self._size, self._items = min(size, most), 0
        self._room = f"the file's {size} bytes" if size <= most else f"the {most} bytes that a header may have"
        self._window, self._base, self.at = b"", 0, 0

    def check_room(self, count: int, nbytes: int, what: str) -> None:
        """Raise CheckpointError unless `count` things of at least `nbytes` bytes fit into the rest of the file."""
        if count * nbytes > self._size - self.at:
            raise CheckpointError(f"{count} {what} at byte {self.at} do not fit into {self._room}")

    def build(self, count: int) -> None:
        """Raise CheckpointError if `count` items more than were built before would take too much memory."""
        self._items += count
        if self._items > ITEMS:
            raise CheckpointError(f"lists of {self._items} items, more than {ITEMS} in one file")

    def take(self, nbytes: int) -> bytes:
        """The next `nbytes` bytes."""
        start = self.at - self._base
        if start + nbytes > len(self._window):
            self._fill(nbytes)
            start = 0
        self.at += nbytes
        return self._window[start : start + nbytes]

    def _fill(self, nbytes: int) -> None:
        """Move the window to the cursor."""
        self.check_room(1, nbytes, f"piece of {nbytes} bytes")
        wanted = min(max(nbytes, _WINDOW), self._size - self.at)
        self._window = read_at(self._descriptor, self.at, wanted, self._name)
        self._base = self.at

    def skip(self, nbytes: int) -> None:
        """Go past `nbytes` bytes without reading them."""
        self.check_room(1, nbytes, f"piece of {nbytes} bytes")
        self.at += nbytes

    def number(self, code: str) -> int:
        """The next little-endian number of the struct type `code`."""
        value: int = struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]
        return value

    def string(self) -> str:
        """The next string: a u64 length, then its bytes. Bytes that are no UTF-8 survive a round trip."""
        length = self.number("Q")
        if length > _STRING_LIMIT:
            raise CheckpointError(f"a string of {length} bytes at byte {self.at} is too long")
        return self.take(length).decode("utf-8", "surrogateescape")

    def skip_strings(self, count: int) -> None:
        """Go past `count` strings: the loop that token lists of 256k entries run through."""
        while count:
            self._fill(8)
            nbytes, count = _skipped(self._window, count)
            self.at = self._base + nbytes
            if self.at > self._size:
                raise CheckpointError(f"strings run past the end of {self._room}")


def _skipped(window: bytes, count: int) -> tuple[int, int]:
    """How many bytes those of `count` strings take whose length stands in `window`, and how many strings are left."""
    unpack, at, done = struct.Struct("<Q").unpack_from, 0, 0
    try:
        for done in range(count):  # noqa: B007  # no test of the end in here: it would cost a third of the time
            at += unpack(window, at)[0] + 8
    except (struct.error, OverflowError):  # the next length lies outside
        return at, count - done
    return at, 0
