"""The files that a rewrite writes, as values that know no tensors, dtypes or architectures.

The exact size of every file is known before the first byte is written: the check for free space, the
progress bar and the dry run follow from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rewriter.checkpoint import FileStamp
from rewriter.planning.option import option

_COPY = "How bytes get there"
BLOCK = 4096  # bytes that filesystems and the page cache move as one


@dataclass(frozen=True, slots=True)
class CopyRange:
    """`nbytes` bytes of the file at `path`, from byte `offset`."""

    path: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class StridedRange:
    """Parts of each of `rows` rows of `stride` bytes, from byte `offset` of the file at `path`.

    `slices` are the parts: (start, nbytes) within a row.
    """

    path: str
    offset: int
    stride: int
    rows: int
    slices: tuple[tuple[int, int], ...]

    @property
    def nbytes(self) -> int:
        """How many bytes come out."""
        return self.rows * sum(length for _, length in self.slices)


@dataclass(frozen=True, slots=True)
class Literal:
    """Bytes that the plan made: headers, padding, patched JSON."""

    data: bytes

    @property
    def nbytes(self) -> int:
        """How many bytes."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class RangeDigest:
    """The SHA-256 of what `pieces` make, as 64 hexadecimal digits. It is known when the sources have been read."""

    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        """How many bytes come out."""
        return 64

    @property
    def hashed(self) -> int:
        """How many bytes go in."""
        return sum(piece.nbytes for piece in self.pieces)


Piece = CopyRange | StridedRange | Literal | RangeDigest


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file to write: its pieces one after the other. `name` is relative to the output.

    `unchanged`: its only piece is the whole of another file.
    """

    name: str
    pieces: tuple[Piece, ...]
    unchanged: bool = False

    @property
    def nbytes(self) -> int:
        """The exact size of the file."""
        return sum(piece.nbytes for piece in self.pieces)

    @property
    def shareable(self) -> int:
        """Bytes that a filesystem can share: all of another file, or whole blocks that keep their place within one."""
        if self.unchanged:
            return self.nbytes
        shared, at = 0, 0
        for piece in self.pieces:
            if isinstance(piece, CopyRange) and (piece.offset - at) % BLOCK == 0:
                start, end = -(-piece.offset // BLOCK), (piece.offset + piece.nbytes) // BLOCK
                shared += max(0, end - start) * BLOCK
            at += piece.nbytes
        return shared


@dataclass(frozen=True, slots=True, repr=False)
class Output:
    """All files of one output, the one that a loader opens first at the front.

    `directory`: they go into one directory of their own. `sources` are the files that pieces are copied from, as
    they were when they were opened. A name that matches the regular expression `owned_names` belongs to the same
    destination: the files of a split set, whatever their number; in a directory, an earlier output's weights.
    """

    files: tuple[OutputFile, ...]
    directory: bool
    sources: tuple[tuple[str, FileStamp], ...]
    owned_names: str = ""

    def __repr__(self) -> str:
        return f"<Output of {len(self.files)} files, {self.nbytes} bytes>"

    @property
    def nbytes(self) -> int:
        """The exact size of all files."""
        return sum(file.nbytes for file in self.files)

    @property
    def hashed(self) -> int:
        """How many bytes are read for the digests in it."""
        return sum(piece.hashed for file in self.files for piece in file.pieces if isinstance(piece, RangeDigest))

    @property
    def shareable(self) -> int:
        """Bytes of all files that a filesystem can share with the sources."""
        return sum(file.shareable for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """How an output is written; the plan decides what it holds.

    overwrite: replace an earlier output. verify_bytes: compare every byte that stayed before the output appears.
    resume: leave finished files for the next run when this one is stopped, and use what an earlier one left.
    checksums: record a hash of every tensor and every file.
    share: let the filesystem share blocks with the source. hardlink: give unchanged files a second name if the
    filesystem can. sync: wait until the disk has everything.
    """

    overwrite: bool = option(False, "Replace an earlier output.")
    verify_bytes: bool = option(False, "Compare all bytes before the output appears.", names=("verify",))
    resume: bool = option(
        False,
        "Keep finished files when stopped, and go on from those of a stopped run; an unfinished one is copied again.",
    )
    checksums: bool = option(False, "Record a hash of every tensor and file, for `verify --checksums`.")
    share: bool = option(
        True, "Copy every byte: share no blocks with SRC on XFS and btrfs.",
        names=("no-share",), negated=True, panel=_COPY,
    )  # fmt: skip
    hardlink: bool = option(
        False,
        "Give files that stay as they are a second name instead of a copy. Both names are then ONE file: who "
        "writes into one changes the other. Mode and owner stay those of SRC.",
        panel=_COPY,
    )
    sync: bool = option(
        True, "Do not wait for the disk: after a power cut the output may be there and hold zeros.",
        names=("no-fsync",), negated=True, panel=_COPY,
    )  # fmt: skip


_WORTH_PADDING = 1 << 20  # bytes of data below which a header is not made longer


def whole_file(name: str, path: str, nbytes: int) -> OutputFile:
    """The file at `path`, `nbytes` long, under the name `name`. An empty one is made afresh."""
    return OutputFile(name, (CopyRange(path, 0, nbytes),) if nbytes else (), unchanged=nbytes > 0)


def max_padding(nbytes: int) -> int:
    """How much longer a header may become for the sake of its data's place, in a file of at most `nbytes` bytes."""
    return BLOCK if nbytes >= _WORTH_PADDING else 0


def best_alignment(pieces: Iterable[Piece]) -> int | None:
    """Where `pieces` should start, modulo BLOCK, so that most of their bytes keep their place within a block.

    Blocks that keep their place are shared on filesystems that can, and copied faster elsewhere. None if there is
    too little to copy to care.
    """
    votes: dict[int, int] = {}
    at = 0
    for piece in pieces:
        if isinstance(piece, CopyRange):
            place = (piece.offset - at) % BLOCK
            votes[place] = votes.get(place, 0) + piece.nbytes
        at += piece.nbytes
    if at < _WORTH_PADDING or not votes:
        return None
    return max(votes, key=lambda place: (votes[place], -place))


def coalesce(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """`pieces` with neighbours joined: ranges that continue each other, literals that follow each other."""
    result: list[Piece] = []
    run: list[Piece] = []
    for piece in pieces:
        if piece.nbytes and run and not _follows(run[-1], piece):
            result.append(_joined(run))
            run = []
        if piece.nbytes:
            run.append(piece)
    return (*result, _joined(run)) if run else tuple(result)


def _follows(last: Piece, piece: Piece) -> bool:
    """Whether the two are one piece."""
    if isinstance(piece, CopyRange) and isinstance(last, CopyRange):
        return last.offset + last.nbytes == piece.offset and last.path == piece.path
    return isinstance(piece, Literal) and isinstance(last, Literal)


def _joined(run: list[Piece]) -> Piece:
    first = run[0]
    if isinstance(first, CopyRange):
        return CopyRange(first.path, first.offset, sum(piece.nbytes for piece in run))
    if isinstance(first, Literal):
        return Literal(b"".join(piece.data for piece in run if isinstance(piece, Literal)))
    return first
