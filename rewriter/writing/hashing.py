"""SHA-256 over pieces of files: in blocks, so that memory stays small, and by several threads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rewriter.layout.output import CopyRange, Literal, OutputFile, Piece, RangeDigest
from rewriter.system.files import open_for_reading, printable_name, read_at
from rewriter.writing.copy import ProgressCallback, iter_rows

_BLOCK = 1 << 20  # bytes in one read
_THREADS = 4

Pieces = tuple[Piece, ...]


def digests(jobs: Sequence[Pieces], progress: ProgressCallback = lambda nbytes: None) -> list[str]:
    """The SHA-256 of what each of `jobs` makes, in hexadecimal.

    Raises CheckpointError if a file cannot be read, StoppedError.
    """
    if not jobs:
        return []
    from rewriter.system.threads import ThreadPool  # here: it is slow to import, and most runs hash nothing

    with ThreadPool(_THREADS) as pool:

        def advance(nbytes: int) -> None:
            pool.check()
            progress(nbytes)

        return pool.map(lambda pieces: _sha256(pieces, advance), jobs)


def filled(files: Sequence[OutputFile], progress: ProgressCallback) -> list[OutputFile]:
    """`files` with the digests in them computed. Raises CheckpointError."""
    inner = [piece for file in files for piece in file.pieces if isinstance(piece, RangeDigest) and not _nested(piece)]
    found = dict(zip(map(id, inner), digests([piece.pieces for piece in inner], progress), strict=True))

    def known(piece: Piece) -> Piece:
        if not isinstance(piece, RangeDigest):
            return piece
        value = found.get(id(piece)) or digests([tuple(map(known, piece.pieces))])[0]
        return Literal(value.encode())

    return [replace(file, pieces=tuple(map(known, file.pieces))) for file in files]


def _nested(digest: RangeDigest) -> bool:
    return any(isinstance(piece, RangeDigest) for piece in digest.pieces)


def _sha256(pieces: Pieces, progress: ProgressCallback) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        for block in _blocks(piece):
            digest.update(block)
            progress(len(block))
    return digest.hexdigest()


def _blocks(piece: Piece) -> Iterator[bytes]:
    if isinstance(piece, Literal):
        yield piece.data
    elif isinstance(piece, CopyRange):
        with open_for_reading(piece.path) as (source, _):
            for at in range(0, piece.nbytes, _BLOCK):
                yield read_at(source, piece.offset + at, min(_BLOCK, piece.nbytes - at), printable_name(piece.path))
    elif not isinstance(piece, RangeDigest):
        with open_for_reading(piece.path) as (source, _):
            yield from iter_rows(source, piece)
