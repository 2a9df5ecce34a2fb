"""What the files of a checkpoint say. Values only: nothing here opens, reads or checks anything.

Laws:
- Offsets count bytes from the start of their file, not from the start of the tensor data.
- `shape` is in the order of the file: outermost dimension first in safetensors, fastest first in GGUF.
- `Checkpoint.metadata` is flat: the keys of nested JSON objects are joined with dots, as GGUF keys are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

SAFETENSORS = "safetensors"
HUGGINGFACE = "huggingface"
GGUF = "gguf"
CARD = "README.md"  # what a model card is called
IMATRIX = "imatrix"  # the form that llama-imatrix wrote before it took GGUF

# What belongs to a model and has no layers of its own.
ADAPTER, LORA = "PEFT adapter", "LoRA adapter"
CONTROL_VECTOR, IMPORTANCES = "control vector", "importance matrix"


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """Parts of a tensor that holds something for every layer: of each of `rows` rows of `stride` bytes the ranges
    `slices`, as (start, nbytes) within the row.
    """

    stride: int
    rows: int
    slices: tuple[tuple[int, int], ...]


class TensorInfo(NamedTuple):
    """One tensor: where its `nbytes` bytes lie in file number `shard`, and how they are to be read.

    `block` weights are stored together and cannot be parted. With a `cut` only parts of what lies there are meant.
    A checkpoint may have a million of them: a named tuple is made in a third of the time that a dataclass takes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: int
    offset: int
    nbytes: int
    block: int = 1
    cut: TensorSlice | None = None
    extra: Mapping[str, object] | None = None  # members of its header entry that no reader asks for

    @property
    def parameters(self) -> int:
        """Number of stored elements (packed formats store several weights in one)."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class LongArray:
    """A metadata array that was measured but not built: token lists and the like."""

    item_type: str
    length: int


@dataclass(frozen=True, slots=True)
class Field:
    """One metadata record of one file. For GGUF `offset` and `nbytes` span key, type and value."""

    key: str
    type: str
    value: object
    offset: int = 0
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What changes when somebody else writes to a file: inode, size in bytes, mtime in nanoseconds."""

    inode: int
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One file that holds tensors. `alignment` is what its tensors are padded to, in bytes.

    `fields` is None where a safetensors header has no `__metadata__` at all.
    """

    name: str
    path: str
    data_start: int
    stamp: FileStamp
    fields: tuple[Field, ...] | None = None
    version: int = 0
    alignment: int = 1


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON text beside the tensors that field rules may patch, `name` relative to the checkpoint."""

    name: str
    path: str
    text: str
    stamp: FileStamp


@dataclass(frozen=True, slots=True)
class SideFile:
    """A file that is copied unchanged, `name` relative to the checkpoint."""

    name: str
    path: str
    stamp: FileStamp


@dataclass(frozen=True, slots=True, repr=False)
class Checkpoint:
    """A whole checkpoint, opened. `name` is its file or directory name without the way there."""

    format: str
    path: str
    name: str
    architecture: str
    shards: tuple[Shard, ...]
    tensors: tuple[TensorInfo, ...]
    metadata: Mapping[str, object]
    header_sha256: str
    documents: tuple[Document, ...] = ()
    side_files: tuple[SideFile, ...] = ()
    left_behind: tuple[str, ...] = ()
    provenance: object = None  # the JSON value that an earlier run left, unchecked
    nbytes: int = 0
    companion: str = ""  # what it is where it is no model itself, such as LORA
    card: str | None = None  # the text of the model card, where it can be read
    hub_name: str = ""  # what the Hub calls it, where the cache or the config says so

    def __repr__(self) -> str:
        return f"<Checkpoint {self.name!r}: {self.format} {self.architecture}, {len(self.tensors)} tensors>"

    def value(self, key: str) -> object:
        """The metadata under `key`, None if there is nothing; `depths[2]` is an entry of a list."""
        name, _, index = key.partition("[")
        found = self.metadata.get(name)
        if not index:
            return found
        place = int(index.removesuffix("]"))
        return found[place] if isinstance(found, list | tuple) and place < len(found) else None

    @property
    def files(self) -> tuple[Shard | Document | SideFile, ...]:
        """All files that it is made of."""
        return *self.shards, *self.documents, *self.side_files

    @property
    def has_card(self) -> bool:
        """Whether there is a model card, readable or not."""
        return any(file.name == CARD for file in self.side_files)

    def document(self, name: str) -> Document | None:
        """Return the JSON document called `name`, if the checkpoint has it."""
        return next((document for document in self.documents if document.name == name), None)


@dataclass(frozen=True, slots=True)
class LayerMap:
    """Which layers of a stack of `count` stay: `kept` holds their old numbers, ascending.

    `mtp_layers` more layers, for multi-token prediction, carry the numbers after the main ones. `prefixes` are the
    ways to write what stands before a layer's number in a name.
    """

    stack: str
    kept: tuple[int, ...]
    count: int
    prefixes: tuple[str, ...] = ()
    mtp_layers: int = 0

    @property
    def main(self) -> tuple[int, ...]:
        """Old numbers of the kept layers without the MTP layers."""
        return tuple(number for number in self.kept if number < self.count)

    @property
    def numbers(self) -> dict[int, int]:
        """Old number -> new number of every kept layer."""
        return {old: new for new, old in enumerate(self.kept)}

    @property
    def dropped(self) -> tuple[int, ...]:
        """Old numbers of the layers that go, ascending."""
        kept = set(self.kept)
        return tuple(number for number in range(self.count + self.mtp_layers) if number not in kept)


@dataclass(frozen=True, slots=True)
class FieldEdit:
    """One change of metadata. `file` is the document that holds the key; "" means the header itself."""

    key: str
    before: object
    after: object
    rule: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it must be: the place, what belongs there, and what is there."""

    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}"
