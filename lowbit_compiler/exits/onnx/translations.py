"""What each op of the waist and of the exit passes is in ONNX: the table for torch's exporter.

A translation takes ONNX values and plain numbers, and returns the value (or values) that the op's results are.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from lowbit_compiler.exits.onnx import quantizers
from lowbit_compiler.exits.onnx.quantizers import integers, number, op, tensor
from lowbit_compiler.exits.onnx.reader import Reader
from lowbit_compiler.exits.onnx.types import stored_as, typed
from lowbit_compiler.runtime.reference.exported import ZERO

lowbit = torch.ops.lowbit


def product_u8s8(codes: Any, w: Any) -> Any:
    """The exact int32 product of codes - 128 [..., K] and ``w`` [K, N]."""
    return op.MatMulInteger(codes, w, tensor(np.uint8(ZERO)))


def product_fs8(x: Any, w: Any) -> Any:
    """The float product with integer codes. A Cast: readers take Q/DQ as leave to quantize ``x``."""
    return op.MatMul(x, op.Cast(w, to=ir.DataType.FLOAT))


def product_columns(x: Any, hit: Any, w: Any) -> Any:
    """The product of the exact columns alone, however many there are."""
    index = op.Squeeze(op.NonZero(hit), integers(0))
    return op.MatMul(op.Gather(x, index, axis=-1), op.Cast(op.Gather(w, index, axis=0), to=ir.DataType.FLOAT))


def codes_as_float(q: Any) -> Any:
    """Dequantized with scale 1."""
    return op.DequantizeLinear(q, number(1.0))


def dequantize_columns(q: Any, scale: Any) -> Any:
    """Codes [K, N] with a scale for each column."""
    return op.DequantizeLinear(q, scale, axis=1)


def dequantize_groups(q: Any, scale: Any, group: int) -> Any:
    """int4 codes [K, N] with a scale for each ``group`` rows of a column, as blocked dequantization."""
    return op.DequantizeLinear(stored_as(q, "INT4"), scale, axis=0, block_size=group)


def written_groups(q: Any, scale: Any, group: int) -> Any:
    """The same in a Cast and a product: readers take Q/DQ as leave to quantize the other operand."""
    k, n = q.shape
    groups = -(-k // group)
    codes = op.Cast(stored_as(q, "INT4"), to=ir.DataType.FLOAT)
    if k % group:
        codes = op.Pad(codes, integers(0, 0, -k % group, 0), number(0.0))
    codes = op.Reshape(codes, integers(groups, group, n))
    weight = op.Mul(codes, op.Unsqueeze(scale, integers(1)))
    weight = op.Reshape(weight, integers(groups * group, n))
    if k % group:
        weight = op.Slice(weight, integers(0), integers(k), integers(0))
    return weight


def table(form: str, opset: int, reader: Reader) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return op -> translation for the ``form`` "integer" or "qdq" in ``opset``, for ``reader``."""
    return {
        **(typed(opset, reader) if form == "qdq" else {}),
        lowbit.exponent.default: quantizers.exponent,
        lowbit.power.default: quantizers.power,
        lowbit.padded_blocks.default: quantizers.padded_blocks,
        lowbit.joined_blocks.default: quantizers.joined_blocks,
        lowbit.quantize_unsigned.default: quantizers.quantize_unsigned,
        lowbit.quantize_s8.default: quantizers.quantize_s8,
        lowbit.rotate.default: quantizers.rotate,
        lowbit.hit_columns.default: quantizers.hit_columns,
        lowbit.split_columns.default: quantizers.split_columns,
        lowbit.split_rows.default: quantizers.split_rows,
        lowbit.product_u8s8.default: product_u8s8,
        lowbit.product_fs8.default: product_fs8,
        lowbit.product_columns.default: product_columns,
        lowbit.codes_as_float.default: codes_as_float,
        lowbit.dequantize_columns.default: dequantize_columns,
        lowbit.dequantize_groups.default: dequantize_groups if form == "qdq" else written_groups,
    }
