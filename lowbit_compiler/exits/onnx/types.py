"""Quantized weights in the types that ONNX has for them: codes stored in their own bits, read by DequantizeLinear.

A format says which type has its codes, and from which opset on (runtime/formats). What has no type is written out by torch's exporter from
the format's own arithmetic, on codes of 8 bits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnxscript import opset23

from lowbit_compiler.exits.onnx.quantizers import integers, number, op, power, tensor
from lowbit_compiler.exits.onnx.reader import Reader
from lowbit_compiler.runtime.formats import FORMATS, KINDS, Groups, Row
from lowbit_compiler.runtime.formats.grid import Grid
from lowbit_compiler.runtime.formats.lines import Lines
from lowbit_compiler.runtime.formats.operand import op_name
from lowbit_compiler.runtime.formats.scales import E4M3, E8M0_BIAS, Nested, PowersOfTwo
from lowbit_compiler.runtime.treatments.treatment import packet

STORED = "lowbit.type"
"""Marks, in the metadata of a value, codes that are stored in another type: its name."""
MOVED = "lowbit.moved"
"""Marks what is taken from each of them first."""
Codes = np.ndarray[Any, Any]


def _bits(codes: Codes, sign: int) -> Codes:
    """Return codes with a sign of their own as bits with the sign at ``sign``."""
    return np.abs(codes).astype(np.uint8) | ((codes < 0).astype(np.uint8) << sign)


STORE: dict[str, Callable[[Codes], Codes]] = {
    "INT4": lambda codes: codes.astype(ml_dtypes.int4),
    "UINT4": lambda codes: codes.astype(ml_dtypes.uint4),
    "UINT8": lambda codes: codes,
    "INT8": lambda codes: codes.astype(np.int8),
    "FLOAT4E2M1": lambda codes: _bits(codes, 3).view(ml_dtypes.float4_e2m1fn),
    "FLOAT8E4M3FN": lambda codes: _bits(codes, 7).view(ml_dtypes.float8_e4m3fn),
    "FLOAT8E8M0": lambda codes: codes.view(ml_dtypes.float8_e8m0fnu),
}
"""Type -> our codes in NumPy's dtype of it."""


def _values(name: str, grid: Grid) -> Codes:
    """Return what the codes of ``grid`` are as numbers of the type, from the smallest on."""
    least, most = grid.codes
    return STORE[name](np.arange(least, most + 1, dtype=np.int8)).astype(np.float32)


_GRIDS = {format.onnx[0]: format().grid for format in FORMATS if format.activations and format.onnx[0] in STORE}
VALUES = {name: _values(name, grid) for name, grid in {**_GRIDS, "FLOAT8E4M3FN": E4M3}.items()}
"""Type -> its numbers, for codes that are computed."""


def stored_as(value: Any, name: str, moved: int = 0) -> Any:
    """Mark the codes ``value`` to be stored as the type ``name``, less ``moved``; returns them."""
    value.metadata_props.update({STORED: name, MOVED: str(moved)})
    return value


def store(model: ir.Model) -> None:
    """Store the codes that the translations marked in their types."""
    for value in list(model.graph.initializers.values()):
        if (name := value.metadata_props.pop(STORED, None)) is not None:
            assert value.const_value is not None
            dtype, codes = ir.DataType[name], value.const_value.numpy()
            if moved := int(value.metadata_props.pop(MOVED)):
                codes = codes.astype(np.int16) - moved
            value.const_value = ir.tensor(STORE[name](codes), dtype=dtype, name=value.name)
            value.type = ir.TensorType(dtype)


@dataclass(frozen=True)
class Stored:
    """The codes of one format in files of ``opset`` for ``reader``: of the type ``name``."""

    name: str
    opset: int
    reader: Reader

    def numbers(self, codes: Any, scale: Any, size: int | None = None, **attributes: Any) -> Any:
        """Return what ``codes`` stand for, with a scale for each ``size`` of them along the last axis (None: as ``attributes`` say).

        Those that are computed at every call pass through the type where the reader takes them there.
        """
        if codes.producer() is not None and not self.reader.anywhere:
            value = op.Gather(tensor(VALUES[self.name]), self._index(codes))
            return op.Mul(value, scale if size is None else _spread(scale, size, int(codes.shape[-1])))
        if size is not None:
            if not self.reader.parts:
                scale, size = _divided(scale, size, int(codes.shape[-1]))
            attributes |= {"axis": -1, "block_size": size}
        dequantize = (opset23 if "output_dtype" in attributes else op).DequantizeLinear
        return dequantize(self._typed(codes), scale, **attributes)

    def _typed(self, codes: Any) -> Any:
        if codes.producer() is None:
            return stored_as(codes, *self.reader.stored[self.name])
        return op.Cast(op.Gather(tensor(VALUES[self.name]), self._index(codes)), to=ir.DataType[self.name])

    def _index(self, codes: Any) -> Any:
        return op.Add(op.Cast(codes, to=ir.DataType.INT64), tensor(len(VALUES[self.name]) // 2))

    def beside(self, name: str) -> "Stored":
        """Return how codes of another type are stored in the same file."""
        return replace(self, name=name)


def _spread(scale: Any, times: int, width: int) -> Any:
    """Return ``scale`` [..., G], each of them ``times`` times, as [..., width]."""
    blocks = op.Expand(op.Unsqueeze(scale, integers(-1)), integers(times))
    rows = op.Reshape(blocks, op.Concat(op.Shape(scale, end=-1), integers(-1), axis=0))
    return op.Slice(rows, integers(0), integers(width), integers(-1)) if width % times else rows


def _divided(scale: Any, size: int, width: int) -> tuple[Any, int]:
    """Return scales for blocks that divide ``width``, and their size: the largest of which a block has a whole number."""
    finer = math.gcd(size, width)
    return (scale, size) if finer == size else (_spread(scale, size // finer, width // finer), finer)


def _row(q: Any, stored: Stored, scale: Any) -> Any:
    if q.producer() is None:
        return stored.numbers(q, op.Squeeze(scale, integers(-1)), axis=0)
    return op.Mul(op.DequantizeLinear(q, number(1.0)), scale)  # int8: the codes are what the operator computes


def _groups(q: Any, stored: Stored, scale: Any, size: int) -> Any:
    return stored.numbers(q, scale, size)


def _powers_of_two(q: Any, stored: Stored, scale: Any, size: int) -> Any:
    if stored.opset >= E8M0_FROM and scale.producer() is None:
        return stored.numbers(q, stored_as(scale, "FLOAT8E8M0"), size, output_dtype=ir.DataType.FLOAT)
    code = op.Cast(scale, to=ir.DataType.FLOAT)
    unit = op.Where(op.Equal(code, number(255.0)), number(np.nan), power(op.Sub(code, number(E8M0_BIAS))))
    return stored.numbers(q, unit, size)


def _nested(q: Any, stored: Stored, scale: Any, outer: Any, size: int) -> Any:
    return stored.numbers(q, stored.beside("FLOAT8E4M3FN").numbers(scale, outer), size)


def _lines(q: Any, stored: Stored, scale: Any, minimum: Any, outer: Any, size: int) -> Any:
    slope, low = (op.Mul(op.Cast(number, to=ir.DataType.FLOAT), outer) for number in (scale, minimum))
    _, moved = stored.reader.stored[stored.name]
    if moved:
        low = op.Add(low, op.Mul(slope, number(float(moved))))  # the codes are stored from below 0 on
    columns, groups = int(q.shape[1]), int(scale.shape[1])
    short = groups * size - columns
    weight = stored.numbers(q, slope, size)
    whole = op.Pad(weight, integers(0, 0, 0, short)) if short else weight
    # Each minimum meets its group: spread over the columns first, they would be stored so, as large as the float weight.
    lifted = op.Add(op.Reshape(whole, integers(-1, groups, size)), op.Unsqueeze(low, integers(-1)))
    rows = op.Reshape(lifted, integers(-1, groups * size))
    return op.Slice(rows, integers(0), integers(columns), integers(1)) if short else rows


E8M0_FROM = 24  # opset in which scales may be powers of two
READ: dict[Any, Callable[..., Any]] = {Row: _row, Groups: _groups, Lines: _lines, PowersOfTwo: _powers_of_two, Nested: _nested}
"""Kind of scale -> the dequantization of codes [N, K] with it."""


def typed(opset: int, reader: Reader) -> dict[Any, Callable[..., Any]]:
    """Return dequantize op -> translation for the formats with a type in ``opset`` that ``reader`` takes."""
    return {
        packet(op_name("dequantize", format, scale)): _translation(Stored(format.onnx[0], opset, reader), read)
        for format, scale in KINDS
        for kind, read in READ.items()
        if issubclass(scale, kind) and 0 < format.onnx[1] <= opset and format.onnx[0] in reader.stored
    }


def _translation(stored: Stored, read: Callable[..., Any]) -> Callable[..., Any]:
    def translated(q: Any, *rest: Any) -> Any:
        return read(q, stored, *rest[:-1])  # the last is the dtype: float32

    return translated
