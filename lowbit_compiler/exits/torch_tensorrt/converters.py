"""What ops of the QDQ form are in layers of TensorRT, in the float32 order of docs/arithmetic.md.

A converter takes a network and the op's arguments: tensors of the network, constants as NumPy arrays, and plain numbers.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowbit_compiler.exits.torch_tensorrt.network import Array, Network, Value
from lowbit_compiler.runtime.formats import KINDS, Groups, Row
from lowbit_compiler.runtime.formats.lines import Lines
from lowbit_compiler.runtime.formats.operand import op_name
from lowbit_compiler.runtime.formats.scales import EMPTY
from lowbit_compiler.runtime.treatments.rotation import HADAMARD, stage
from lowbit_compiler.runtime.treatments.treatment import packet

ops = torch.ops.lowbit
LEVELS = 127.0
MIDDLE = 8
"""What is taken from codes of 4 bits without a sign: TensorRT has none of them."""


@dataclass(frozen=True)
class Converter:
    """One op in layers of TensorRT."""

    layers: Callable[..., Any]
    constants: tuple[int, ...] = ()
    """The arguments that must be constants: TensorRT holds codes of few bits in no other way."""
    fits: Callable[..., bool] = lambda *arguments: True
    """Called with the op's arguments, tensors without values: whether the layers take their sizes and dtypes."""

    @property
    def count(self) -> int:
        """The op's arguments: those of ``layers`` but the network."""
        return len(inspect.signature(self.layers).parameters) - 1


def quantize_s8(net: Network, x: Value) -> tuple[Value, Value]:
    """Return int8 codes [..., K] and scales [..., 1] of float32 rows [..., K]; of a row with NaN or Inf the scale is NaN."""
    zero = net.number(0.0, x)
    largest = net.of_rows("MAX", net.unary("ABS", x))
    empty = net.both("LESS", largest, net.number(EMPTY, x))
    scaled = net.both("PROD", x, net.where(empty, zero, net.both("DIV", net.number(LEVELS, x), largest)))
    # A maximum may skip NaN, a sum may not; in a regular row no term exceeds 127 and the sum is finite.
    special = net.unary("ISNAN", net.of_rows("SUM", scaled))
    scale = net.where(empty, zero, net.both("DIV", largest, net.number(LEVELS, x)))
    return net.rounded(scaled), net.where(special, net.number(np.nan, x), scale)


def codes_as_float(net: Network, q: Value) -> Value:
    """Return int8 codes as float32."""
    return net.numbers(q, np.ones((), np.float32))


def rotate(net: Network, x: Value) -> Value:
    """Return the block-Hadamard rotation of float32 [..., K]: one sparse product for each stage, so that each sum has two terms, as it must."""
    *leading, width = x.shape
    kept = (0,) * len(leading)
    blocks = net.reshaped(x, *kept, width // HADAMARD, HADAMARD)
    half = 1
    while half < HADAMARD:
        matrix = net.constant(stage(half).reshape((1,) * len(leading) + (HADAMARD, HADAMARD)))
        blocks = net.product(blocks, matrix)
        half *= 2
    return net.reshaped(blocks, *kept, width)


def dequantize_columns(net: Network, q: Array, scale: Array) -> Value:
    """Return float32 [K, N] of int8 codes with a scale for each column."""
    return net.numbers(net.constant(q), scale, axis=1)


def dequantize_groups(net: Network, q: Array, scale: Array, group: int) -> Value:
    """Return float32 [K, N] of codes of 4 bits with a scale for each ``group`` rows of a column."""
    return net.numbers(net.four_bits(q), scale)


def _rows(net: Network, q: Value, scale: Value, dtype: torch.dtype) -> Value:
    """int8 codes that are computed at every call: the row's scale comes after a scale of 1, which is what products of int8 are made of."""
    return net.both("PROD", codes_as_float(net, q), scale)


def _four_bit_rows(net: Network, q: Array, scale: Array, dtype: torch.dtype) -> Value:
    return net.numbers(net.four_bits(q), scale[:, 0], axis=0)


def _four_bit_groups(net: Network, q: Array, scale: Array, group: int, dtype: torch.dtype) -> Value:
    return net.numbers(net.four_bits(q), _divided(scale, group, q.shape[-1]))


def _divided(scale: Array, size: int, width: int) -> Array:
    """Return scales [..., G] of blocks of ``size`` for smaller ones that divide ``width``: the largest of which a block has a whole number."""
    finer = math.gcd(size, width)
    return scale.repeat(size // finer, -1)[..., : width // finer]


def _lines(net: Network, q: Array, scale: Array, minimum: Array, outer: Array, size: int, dtype: torch.dtype) -> Value:
    """Codes without a sign, less 8; the minimum of a group is that much higher, and meets its group."""
    slope, low = (_divided(part.astype(np.float32) * outer, size, q.shape[-1]) for part in (scale, minimum))
    weight = net.numbers(net.four_bits(q.astype(np.int16) - MIDDLE), slope)
    groups = net.reshaped(weight, *slope.shape, -1)
    lifted = net.both("SUM", groups, net.constant((low + slope * np.float32(MIDDLE))[..., None]))
    return net.reshaped(lifted, *q.shape)


def _computed_in_float32(*arguments: Any) -> bool:
    return arguments[-1] is torch.float32


def _even(q: Tensor, *rest: Any) -> bool:
    return q.shape[-1] % 2 == 0 and _computed_in_float32(*rest)


_READ = {
    ("INT4", Row): partial(Converter, _four_bit_rows, (0, 1), _even),
    ("INT4", Groups): partial(Converter, _four_bit_groups, (0, 1), _even),
    ("UINT4", Lines): partial(Converter, _lines, (0, 1, 2, 3), _even),
}
"""Type of a format's codes and kind of its scale -> what reads weights [N, K] of it."""


def _weights() -> dict[Any, Converter]:
    return {
        packet(op_name("dequantize", format, scale)): converter()
        for format, scale in KINDS
        for (name, kind), converter in _READ.items()
        if format.onnx[0] == name and issubclass(scale, kind)
    }


CONVERTERS: Mapping[Any, Converter] = {
    ops.quantize_s8.default: Converter(quantize_s8),
    ops.dequantize_s8.default: Converter(_rows, fits=_computed_in_float32),
    ops.codes_as_float.default: Converter(codes_as_float),
    ops.rotate.default: Converter(rotate, fits=lambda x: x.dtype is torch.float32 and x.shape[-1] % HADAMARD == 0),
    ops.dequantize_columns.default: Converter(dequantize_columns, (0, 1)),
    ops.dequantize_groups.default: Converter(
        dequantize_groups, (0, 1), lambda q, scale, group: q.shape[0] % group == 0 and q.shape[1] % 2 == 0
    ),
    **_weights(),
}
"""Op -> its converter. What has none is left to torch, between engines."""
