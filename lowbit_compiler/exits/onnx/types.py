"""Quantized weights in the types that ONNX has for them: codes stored in their own bits, read by DequantizeLinear.

A format says which type has its codes, and from which opset on (runtime/formats). What has no type is written out by torch's exporter from
the format's own arithmetic, on codes of 8 bits.
"""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnxscript import opset23

from lowbit_compiler.exits.onnx.quantizers import integers, number, op, power, tensor
from lowbit_compiler.runtime.formats import FORMATS, KINDS, Format, Groups
from lowbit_compiler.runtime.formats.grid import Grid
from lowbit_compiler.runtime.formats.lines import Lines
from lowbit_compiler.runtime.formats.operand import op_name
from lowbit_compiler.runtime.formats.scales import E4M3, E8M0_BIAS, Nested, PowersOfTwo
from lowbit_compiler.runtime.treatments.treatment import packet

STORED = "lowbit.type"
"""Marks, in the metadata of a value, codes that are stored in another type: its name."""
Codes = np.ndarray[Any, Any]


def _bits(codes: Codes, sign: int) -> Codes:
    """Return codes with a sign of their own as bits with the sign at ``sign``."""
    return np.abs(codes).astype(np.uint8) | ((codes < 0).astype(np.uint8) << sign)


STORE: dict[str, Callable[[Codes], Codes]] = {
    "INT4": lambda codes: codes.astype(ml_dtypes.int4),
    "UINT4": lambda codes: codes.astype(ml_dtypes.uint4),
    "UINT8": lambda codes: codes,
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


def stored_as(value: Any, name: str) -> Any:
    """Mark the codes ``value`` to be stored as the type ``name``; returns them."""
    value.metadata_props[STORED] = name
    return value


def store(model: ir.Model) -> None:
    """Store the codes that the translations marked in their types."""
    for value in list(model.graph.initializers.values()):
        if (name := value.metadata_props.pop(STORED, None)) is not None:
            assert value.const_value is not None
            dtype = ir.DataType[name]
            value.const_value = ir.tensor(STORE[name](value.const_value.numpy()), dtype=dtype, name=value.name)
            value.type = ir.TensorType(dtype)


def _typed(codes: Any, name: str) -> Any:
    """Return ``codes`` in the type ``name``: stored in it, or cast to it where they are computed at every call."""
    if codes.producer() is None:
        return stored_as(codes, name)
    value = op.Gather(tensor(VALUES[name]), op.Add(op.Cast(codes, to=ir.DataType.INT64), tensor(len(VALUES[name]) // 2)))
    return op.Cast(value, to=ir.DataType[name])


def _groups(q: Any, type_name: str, opset: int, scale: Any, *, size: int) -> Any:
    return op.DequantizeLinear(_typed(q, type_name), scale, axis=-1, block_size=size)


def _powers_of_two(q: Any, type_name: str, opset: int, scale: Any, *, size: int) -> Any:
    if opset >= E8M0_FROM and scale.producer() is None:
        scale = _typed(scale, "FLOAT8E8M0")
        return opset23.DequantizeLinear(_typed(q, type_name), scale, axis=-1, block_size=size, output_dtype=ir.DataType.FLOAT)
    code = op.Cast(scale, to=ir.DataType.FLOAT)
    unit = op.Where(op.Equal(code, number(255.0)), number(np.nan), power(op.Sub(code, number(E8M0_BIAS))))
    return _groups(q, type_name, opset, unit, size=size)


def _nested(q: Any, type_name: str, opset: int, scale: Any, outer: Any, *, size: int) -> Any:
    inner = op.DequantizeLinear(_typed(scale, "FLOAT8E4M3FN"), outer)
    return _groups(q, type_name, opset, inner, size=size)


def _lines(q: Any, type_name: str, opset: int, scale: Any, minimum: Any, outer: Any, *, size: int) -> Any:
    slope, low = (op.Mul(op.Cast(number, to=ir.DataType.FLOAT), outer) for number in (scale, minimum))
    columns, groups = int(q.shape[1]), int(scale.shape[1])
    short = groups * size - columns
    weight = _groups(q, type_name, opset, slope, size=size)
    whole = op.Pad(weight, integers(0, 0, 0, short)) if short else weight
    # Each minimum meets its group: spread over the columns first, they would be stored so, as large as the float weight.
    moved = op.Add(op.Reshape(whole, integers(-1, groups, size)), op.Unsqueeze(low, integers(-1)))
    rows = op.Reshape(moved, integers(-1, groups * size))
    return op.Slice(rows, integers(0), integers(columns), integers(1)) if short else rows


E8M0_FROM = 24  # opset in which scales may be powers of two
READ: dict[Any, Callable[..., Any]] = {Groups: _groups, Lines: _lines, PowersOfTwo: _powers_of_two, Nested: _nested}
"""Kind of scale -> the dequantization of codes [N, K] with it."""


def typed(opset: int) -> dict[Any, Callable[..., Any]]:
    """Return dequantize op -> translation for the formats with a type in ``opset``."""
    return {
        packet(op_name("dequantize", format, scale)): _translation(format, read, opset)
        for format, scale in KINDS
        for kind, read in READ.items()
        if issubclass(scale, kind) and 0 < format.onnx[1] <= opset
    }


def _translation(format: type[Format], read: Callable[..., Any], opset: int) -> Callable[..., Any]:
    assert not format.schema, "a type is that of one format, not of a family"

    def translated(q: Any, *rest: Any) -> Any:
        *scales, size, _ = rest
        return read(q, format.onnx[0], opset, *scales, size=size)

    return translated
