"""Row-wise quantization and rotation in ONNX operators, in the float32 order of docs/arithmetic.md.

Shapes: ``x`` float32 [..., K]. A row with NaN or Inf gets the scale NaN, so its products are NaN throughout.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import opset21

from lowbit_compiler.runtime.formats.scales import EMPTY
from lowbit_compiler.runtime.reference.exported import ZERO
from lowbit_compiler.runtime.treatments.rotation import HADAMARD, stage
from lowbit_compiler.runtime.treatments.rows import ROW_CAPACITY, ROW_CUTS

LEVELS = 127.0
op: Any = opset21  # values of the graph under construction, which its annotations for eager use do not know


def tensor(value: Any, name: str | None = None) -> Any:
    """Return a constant of the values of a NumPy array."""
    return op.Constant(value=ir.tensor(np.asarray(value), name=name))


def number(value: float) -> Any:
    """Return a float32 scalar."""
    return tensor(np.float32(value))


def integers(*values: int) -> Any:
    """Return an int64 list: axes, sizes or positions."""
    return tensor(np.asarray(values, np.int64))


def _codes(x: Any, zero: Any) -> tuple[Any, Any]:
    largest = op.ReduceMax(op.Abs(x), integers(-1), keepdims=1)
    empty = op.Less(largest, number(EMPTY))
    inverse = op.Where(empty, number(0.0), op.Div(number(LEVELS), largest))
    scaled = op.Mul(x, inverse)
    codes = op.QuantizeLinear(scaled, number(1.0), zero)  # rounds half to even and saturates; with scale 1 nothing else
    # Reductions to a maximum may skip NaN, sums may not; in a regular row no term exceeds 127 and the sum is finite.
    special = op.IsNaN(op.ReduceSum(scaled, integers(-1), keepdims=1))
    scale = op.Where(empty, number(0.0), op.Div(largest, number(LEVELS)))
    return codes, op.Where(special, number(np.nan), scale)


def quantize_unsigned(x: Any) -> tuple[Any, Any]:
    """Return uint8 codes [..., K] around 128 and scales [..., 1]."""
    return _codes(x, tensor(np.uint8(ZERO)))


def quantize_s8(x: Any) -> tuple[Any, Any]:
    """Return int8 codes [..., K] and scales [..., 1]."""
    return _codes(x, tensor(np.int8(0)))


def rotate(x: Any) -> Any:
    """Return the block-Hadamard rotation [..., Kp]: one sparse product for each stage, so that each sum has two terms, as it must."""
    *leading, width = x.shape
    if width % HADAMARD:
        x = op.Pad(x, integers(*[0] * (2 * len(leading) + 1), -width % HADAMARD), number(0.0))
    # Two dimensions: ONNX Runtime takes twice as long for a batch of products with one matrix.
    blocks = op.Reshape(x, integers(-1, HADAMARD))
    half = 1
    while half < HADAMARD:
        blocks = op.MatMul(blocks, tensor(stage(half), f"hadamard.stage_{half}"))
        half *= 2
    return op.Reshape(
        blocks,
        op.Concat(op.Shape(x, end=-1), integers(width + -width % HADAMARD), axis=0) if leading else integers(-1),
        allowzero=len(leading) > 0,
    )


def hit_columns(x: Any, threshold: float) -> Any:
    """Return bool [K]: the columns where some row without NaN and Inf reaches ``threshold``."""
    rows = op.Reshape(x, integers(-1, x.shape[-1]))
    regular = op.Equal(op.ReduceSum(op.Mul(rows, number(0.0)), integers(-1), keepdims=1), number(0.0))
    size = op.Where(regular, op.Abs(rows), number(0.0))
    largest = op.ReduceMax(size, integers(0), keepdims=0)
    return op.GreaterOrEqual(largest, number(threshold))


def split_columns(x: Any, threshold: float) -> tuple[Any, Any]:
    """Return (kept, exact): the columns of :func:`hit_columns` are exact."""
    hit, zero = hit_columns(x, threshold), number(0.0)
    return op.Where(hit, zero, x), op.Where(hit, x, zero)


def split_rows(x: Any) -> tuple[Any, Any]:
    """Return (kept, exact): in each row at most 16 elements above a power of two below its maximum are exact."""
    size = op.Abs(x)
    largest = op.ReduceMax(size, integers(-1), keepdims=1)
    cut = largest  # nothing is above it
    for j in range(1, ROW_CUTS + 1):
        lower = op.Mul(largest, number(2.0**-j))
        count = op.ReduceSum(op.Cast(op.Greater(size, lower), to=ir.DataType.FLOAT), integers(-1), keepdims=1)
        cut = op.Where(op.LessOrEqual(count, number(ROW_CAPACITY)), lower, cut)
    hit = op.Greater(size, cut)
    zero = number(0.0)
    return op.Where(hit, zero, x), op.Where(hit, x, zero)


POWERS = np.ldexp(np.float32(1.0), np.arange(-127, 128)).astype(np.float32)
POWERS[0] = 0.0  # below the normal numbers


def power(k: Any) -> Any:
    """Return 2^k for whole numbers ``k`` of at most 127; 0 where that is no normal number."""
    index = op.Cast(op.Add(op.Clip(k, number(-127.0), number(127.0)), number(127.0)), to=ir.DataType.INT64)
    return op.Gather(tensor(POWERS, "powers_of_two"), index)


def exponent(a: Any) -> Any:
    """Return floor(log2 a) of ``a`` >= 0; -127 below the normal numbers. A logarithm is not exact, so the powers beside it are compared."""
    near = op.Clip(op.Floor(op.Div(op.Log(a), number(np.log(2.0)))), number(-126.0), number(127.0))
    least = power(near)
    above = op.Cast(op.Greater(least, a), to=ir.DataType.FLOAT)
    below = op.Cast(op.LessOrEqual(op.Mul(least, number(2.0)), a), to=ir.DataType.FLOAT)
    return op.Add(op.Sub(near, above), below)


def padded_blocks(x: Any, block: int) -> Any:
    """Return ``x`` [..., K] as [..., ceil(K / block), block], padded with zeros."""
    *leading, width = x.shape
    short = -width % block
    x = op.Pad(x, integers(*[0] * (2 * len(leading) + 1), short), number(0.0))
    shape = integers((width + short) // block, block)
    return op.Reshape(x, op.Concat(op.Shape(x, end=-1), shape, axis=0) if leading else shape, allowzero=1)


def joined_blocks(blocks: Any, k: int) -> Any:
    """Return the first ``k`` elements of ``blocks`` [..., G, block] as [..., k]."""
    *leading, number_of, block = blocks.shape
    shape = integers(number_of * block)
    rows = op.Reshape(blocks, op.Concat(op.Shape(blocks, end=-2), shape, axis=0) if leading else shape, allowzero=1)
    return op.Slice(rows, integers(0), integers(k), integers(-1))
