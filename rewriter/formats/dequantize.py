"""Stored tensors as float32, rows at a time: for scoring only. A rewrite never decodes anything.

Laws:
- A `WeightMatrix` is what the model computes with: values and scales that a quantization stores apart are one.
- Shapes are outermost first, (..., rows, columns), whichever way round the file counts.
- What cannot be decoded is an UnsupportedError that names the tensor, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from rewriter.checkpoint import GGUF, Checkpoint, TensorInfo
from rewriter.errors import UnsupportedError, printable
from rewriter.formats.ggml_types import GGML_TYPES
from rewriter.system.calls import processors
from rewriter.system.files import open_for_reading, printable_name, read_at

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_CHUNK = 1 << 18  # weights decoded at once: they stay in a core's cache


@dataclass(frozen=True, slots=True)
class WeightMatrix:
    """One matrix, or vector, or stack of matrices, of the model. `read(start, stop)` decodes rows of its last axis.

    `outputs_first`: stored as (outputs, inputs) by its quantization, whichever way the model has it.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[int, int], Floats]
    outputs_first: bool = False

    @property
    def columns(self) -> int:
        """Weights in a row."""
        return self.shape[-1] if self.shape else 1

    @property
    def rows(self) -> int:
        """Rows of all matrices together."""
        return prod(self.shape[:-1])

    @property
    def size(self) -> int:
        """How many weights."""
        return prod(self.shape)

    def whole(self) -> Floats:
        """All of it, in its shape."""
        return self.read(0, self.rows).reshape(self.shape)

    def part(self, index: int) -> WeightMatrix:
        """Matrix number `index` of a stack of matrices."""
        rows = self.shape[-2]
        return WeightMatrix(
            f"{self.name}[{index}]", self.shape[1:], lambda a, b: self.read(index * rows + a, index * rows + b)
        )

    def span(self, start: int, stop: int) -> WeightMatrix:
        """Rows `start` to `stop` of a matrix, as one of their own."""
        return WeightMatrix(self.name, (stop - start, *self.shape[1:]), lambda a, b: self.read(start + a, start + b))

    def flat(self) -> WeightMatrix:
        """A stack of matrices as one matrix, one below the other."""
        return WeightMatrix(self.name, (self.rows, self.columns), self.read)

    def chunks(self, weights: int = _CHUNK) -> Iterator[tuple[int, int]]:
        """The rows in runs of about `weights`: their size depends on the shape alone, so sums over them are the same
        for any worker.
        """
        step = max(1, weights // max(1, self.columns))
        return ((start, min(start + step, self.rows)) for start in range(0, self.rows, step))


# dtype -> how bytes become float32. Formats: IEEE 754; bfloat16 is the upper half of a float32; the two of eight bits
# are those of the Open Compute Project's "8-bit Floating Point Specification" (E4M3 without infinities).
def _plain(kind: str) -> Callable[[Bytes], Floats]:
    return lambda raw: raw.view(kind).astype(np.float32)


def _bf16(raw: Bytes) -> Floats:
    wide = raw.view("<u2").astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def _table(exponent_bits: int, finite: bool) -> Callable[[Bytes], Floats]:
    return lambda raw: small_floats(exponent_bits, finite)[raw]


@cache
def small_floats(exponent_bits: int, finite: bool) -> Floats:
    """The 256 values of an 8-bit float. `finite`: no infinities, and only all bits set is not a number."""
    code = np.arange(256)
    mantissa_bits = 7 - exponent_bits
    exponent = code >> mantissa_bits & (1 << exponent_bits) - 1
    fraction = (code & (1 << mantissa_bits) - 1) / (1 << mantissa_bits)
    bias = (1 << exponent_bits - 1) - 1
    value = np.where(exponent > 0, (1 + fraction) * 2.0 ** (exponent - bias), fraction * 2.0 ** (1 - bias))
    special = (code & 127) == 127 if finite else exponent == (1 << exponent_bits) - 1
    value[special] = np.where(fraction[special] == 0, np.inf, np.nan)
    return (value * np.where(code < 128, 1, -1)).astype(np.float32)


_EXPONENTS = np.append(np.ldexp(1.0, np.arange(-127, 128)), np.nan).astype(np.float32)  # E8M0, OCP MX 1.0
_FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)  # E2M1, OCP MX 1.0

PLAIN: dict[str, Callable[[Bytes], Floats]] = {
    "F64": _plain("<f8"), "F32": _plain("<f4"), "F16": _plain("<f2"), "BF16": _bf16,
    "F8_E4M3": _table(4, finite=True), "F8_E5M2": _table(5, finite=False), "F8_E8M0": lambda raw: _EXPONENTS[raw],
    "I64": _plain("<i8"), "I32": _plain("<i4"), "I16": _plain("<i2"), "I8": _plain("<i1"),
    "U64": _plain("<u8"), "U32": _plain("<u4"), "U16": _plain("<u2"), "U8": _plain("<u1"), "BOOL": _plain("<u1"),
}  # fmt: skip


def _decoder(tensor: TensorInfo) -> Callable[[Bytes], Floats]:
    if tensor.dtype in PLAIN:
        return PLAIN[tensor.dtype]
    if tensor.dtype not in {name for name, _, _ in GGML_TYPES.values()}:
        raise UnsupportedError(f"{printable(tensor.name)} is {printable(tensor.dtype)}, which cannot be scored")
    return partial(_ggml, tensor)


def _ggml(tensor: TensorInfo, raw: Bytes) -> Floats:
    """As ggml-quants.c does it, in gguf's own code."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        found: Floats = dequantize(raw.reshape(1, -1), GGMLQuantizationType[tensor.dtype])
    except (NotImplementedError, KeyError):
        raise UnsupportedError(
            f"{printable(tensor.name)} is {tensor.dtype}, which the installed gguf package cannot decode; score the "
            "F16 file and carry its plan over: rewriter plan F16.gguf --ratio 0.25 -o plan.json"
        ) from None
    return found.ravel()


def logical_shape(checkpoint: Checkpoint, tensor: TensorInfo) -> tuple[int, ...]:
    """The shape, outermost dimension first: a GGUF counts the other way."""
    return tensor.shape[::-1] if checkpoint.format == GGUF else tensor.shape


@contextmanager
def open_weights(checkpoint: Checkpoint, wanted: Iterable[str] | None = None) -> Iterator[dict[str, WeightMatrix]]:
    """Give the weights of the checkpoint, those called `wanted` or all, by the name that the model has for them.

    Files stay open meanwhile. Reading from several threads is fine. Raises UnsupportedError, CheckpointError.
    """
    with ExitStack() as stack:
        descriptors = [stack.enter_context(open_for_reading(shard.path))[0] for shard in checkpoint.shards]
        tensors = {tensor.name: _weight(checkpoint, tensor, descriptors[tensor.shard]) for tensor in checkpoint.tensors}
        joined = _joined(checkpoint, tensors)
        yield joined if wanted is None else {name: joined[name] for name in wanted}


def _weight(checkpoint: Checkpoint, tensor: TensorInfo, descriptor: int) -> WeightMatrix:
    shape = logical_shape(checkpoint, tensor)
    row = tensor.nbytes // max(1, prod(shape[:-1]))  # bytes: quantized blocks lie along the last axis
    where = printable_name(checkpoint.shards[tensor.shard].path)
    decode: list[Callable[[Bytes], Floats]] = []

    def read(start: int, stop: int) -> Floats:
        if not decode:
            decode.append(_decoder(tensor))
        raw = read_at(descriptor, tensor.offset + start * row, (stop - start) * row, where)
        return decode[0](np.frombuffer(raw, np.uint8)).reshape(stop - start, -1)

    return WeightMatrix(tensor.name, shape, read)


def _joined(checkpoint: Checkpoint, tensors: dict[str, WeightMatrix]) -> dict[str, WeightMatrix]:
    """Values and scales together, under the name of the values."""
    joined = {name: weight for name, weight in tensors.items() if not name.endswith(_OF_ACTIVATIONS)}
    dtypes = {tensor.name: tensor.dtype for tensor in checkpoint.tensors}
    for name, weight in tensors.items():
        for values, scales, join in _PAIRS:
            if name.endswith(scales) and (whole := name.removesuffix(scales)) + values in tensors:
                _check(checkpoint, dtypes, whole + values, name)
                del joined[name], joined[whole + values]
                target = whole + (values if values != "_blocks" else "")
                joined[target] = join(checkpoint, tensors[whole + values], weight, target)
                break
    alone = [name for name in joined if joined[name] is tensors.get(name)]
    packed = next((name for name in alone if name.endswith(_PACKED) or _is_packed(checkpoint, dtypes, name)), None)
    if packed is not None:
        raise _refusal(checkpoint, packed)
    return joined


def _check(checkpoint: Checkpoint, dtypes: dict[str, str], values: str, scales: str) -> None:
    """Whether values and scales are of types that are known to go together."""
    mxfp4 = values.endswith("_blocks")
    if dtypes[values] not in (("U8",) if mxfp4 else _VALUES) or dtypes[scales] not in (("U8",) if mxfp4 else _SCALES):
        raise _refusal(checkpoint, values)


def _refusal(checkpoint: Checkpoint, name: str) -> UnsupportedError:
    kind = checkpoint.metadata.get(_METHOD) or "a quantisation"
    return UnsupportedError(
        f"{printable(name, 120)} is packed by {printable(kind)}, which cannot be decoded yet: score the unquantised "
        "model and carry its plan over (rewriter plan ... -o plan.json)"
    )


def _is_packed(checkpoint: Checkpoint, dtypes: dict[str, str], name: str) -> bool:
    """Integers without scales in a model whose config says that it is quantized."""
    return _METHOD in checkpoint.metadata and name.endswith("weight") and dtypes[name] in _INTEGERS


_METHOD = "quantization_config.quant_method"
_VALUES = ("F8_E4M3", "F8_E5M2", "I8")
_SCALES = ("F32", "F16", "BF16", "F64", "F8_E8M0")
_INTEGERS = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8")
_OF_ACTIVATIONS = (".input_scale", ".output_scale", ".k_scale", ".v_scale", ".weight_format", ".input_zero_point")
# GPTQ and AWQ, bitsandbytes' four bits, compressed-tensors' packed integers
_PACKED = (".qweight", ".qzeros", ".weight.absmax", ".weight.quant_map", ".weight_packed", ".weight_zero_point")


def _scaled(checkpoint: Checkpoint, values: WeightMatrix, scales: WeightMatrix, name: str) -> WeightMatrix:
    """FP8 and INT8: one scale for all, for each matrix, row, part of a row, or block of `weight_block_size`."""
    factor = _factors(checkpoint, values, scales)
    (_, lines, groups), rows, columns = factor.shape, _lines(values), values.columns
    size = checkpoint.metadata.get("quantization_config.weight_block_size")
    height, width = size if isinstance(size, list) and len(size) == 2 else (128, 128)
    height = height if (lines, groups) == (-(-rows // height), -(-columns // width)) else -(-rows // lines)
    width = width if groups == -(-columns // width) else -(-columns // groups)

    def read(start: int, stop: int) -> Floats:
        line = np.arange(start, stop)
        scale = factor[line // rows % len(factor), line % rows // height]
        return values.read(start, stop) * np.repeat(scale, width, axis=1)[:, :columns]

    return WeightMatrix(name, values.shape, read)


def _lines(values: WeightMatrix) -> int:
    """Rows of one matrix."""
    return values.shape[-2] if len(values.shape) > 1 else 1


def _factors(checkpoint: Checkpoint, values: WeightMatrix, scales: WeightMatrix) -> Floats:
    """The scales as (matrices, rows of scales, scales in a row)."""
    rows, matrices = _lines(values), max(1, values.rows // max(1, _lines(values)))
    factor = scales.whole().astype(np.float32)
    if factor.size == 1:
        return factor.reshape(1, 1, 1)
    found = factor.reshape(-1, *factor.shape[-2:]) if factor.ndim > 1 else factor.reshape(1, 1, -1)
    lines, groups = found.shape[1:]
    if factor.ndim > 1 and len(found) == matrices and lines <= rows and groups <= values.columns:
        return found
    if factor.size in (matrices, values.rows):
        return factor.reshape(matrices, -1, 1)
    raise _refusal(checkpoint, values.name)


def _scaled_rows(checkpoint: Checkpoint, values: WeightMatrix, scales: WeightMatrix, name: str) -> WeightMatrix:
    """bitsandbytes' INT8: the largest magnitude of each row stands for 127."""
    whole = WeightMatrix(scales.name, scales.shape, lambda start, stop: scales.read(start, stop) / np.float32(127))
    return _scaled(checkpoint, values, whole, name)


def _mxfp4(checkpoint: Checkpoint, values: WeightMatrix, scales: WeightMatrix, name: str) -> WeightMatrix:  # noqa: ARG001  # as _scaled
    """Two 4-bit values a byte, low half first: (..., rows, groups, 16) bytes, (..., rows, groups) scales."""
    *outer, groups = scales.shape
    runs = values.rows // prod(outer)  # of bytes in a row: one, or one for each group
    columns = 2 * runs * values.columns

    def read(start: int, stop: int) -> Floats:
        packed = values.read(start * runs, stop * runs).astype(np.uint8).reshape(stop - start, groups, -1)
        pairs = np.stack((_FP4[packed & 15], _FP4[packed >> 4]), axis=-1).reshape(stop - start, groups, -1)
        exponent = scales.read(start, stop).astype(np.uint8)
        return (pairs * _EXPONENTS[exponent][:, :, None]).reshape(stop - start, columns)

    return WeightMatrix(name, (*outer, columns), read, outputs_first=True)


Join = Callable[[Checkpoint, WeightMatrix, WeightMatrix, str], WeightMatrix]
# what the values' name ends in, what the scales' name ends in instead, how they make one weight
_PAIRS: tuple[tuple[str, str, Join], ...] = (
    (".weight", ".weight_scale_inv", _scaled),
    (".weight", ".weight_scale", _scaled),
    (".weight", ".SCB", _scaled_rows),
    ("_blocks", "_scales", _mxfp4),
    ("gate_up_proj", "gate_up_proj_scale_inv", _scaled),
    ("down_proj", "down_proj_scale_inv", _scaled),
)


def workers() -> int:
    """How many threads are of use: as many as cores, at most 8."""
    return min(8, processors())
