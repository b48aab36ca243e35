"""Products as ONNX writes them: weights [K, N], activations as uint8 codes around 128, nothing packed (docs/onnx.md).

uint8 x int8 is what MatMulInteger is fast for; the integers are those of docs/arithmetic.md, because codes - 128 is q.
"""

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.s8 import S8
from lowbit_compiler.runtime.formats.scales import Row

ZERO = 128


def quantize_unsigned(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize each row of ``x`` [..., K] as lowbit::quantize_s8 does; returns q + 128 as uint8 [..., K] and the float32 scale [..., 1]."""
    q, scale = S8().quantize(x, Row())
    return (q.to(torch.int16) + ZERO).to(torch.uint8), scale


def product_u8s8(codes: Tensor, w: Tensor) -> Tensor:
    """Return the exact int32 product [..., N] of codes - 128 [..., K] and int8 ``w`` [K, N]."""
    return ((codes.double() - ZERO) @ w.double()).to(torch.int32)


def product_fs8(x: Tensor, w: Tensor) -> Tensor:
    """Return the float32 product [..., N] of ``x`` float32 [..., K] and int8 ``w`` [K, N], which is not scaled."""
    return x @ w.float()


def codes_as_float(q: Tensor) -> Tensor:
    """Return int8 codes as float32: dequantized with scale 1."""
    return q.float()


def product_columns(x: Tensor, hit: Tensor, w: Tensor) -> Tensor:
    """Return the float32 product [..., N] of the columns of ``x`` [..., K] where ``hit`` bool [K], and those rows of int8 ``w`` [K, N]."""
    return x[..., hit] @ w[hit].float()


def dequantize_columns(q: Tensor, scale: Tensor) -> Tensor:
    """Return float32 [K, N]: int8 ``q`` [K, N] times ``scale`` float32 [N]."""
    return q.float() * scale


def dequantize_groups(q: Tensor, scale: Tensor, group: int) -> Tensor:
    """Return float32 [K, N]: codes ``q`` int8 [K, N] times ``scale`` float32 [ceil(K / group), N]."""
    return q.float() * scale.repeat_interleave(group, 0)[: q.shape[0]]
