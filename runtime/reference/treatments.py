"""What is done with outliers before a row is quantized: block-Hadamard rotation, column split, row split."""

import math

import torch
from torch import Tensor

from lowbit_compiler.runtime.reference.quantize import largest_of

HADAMARD = 64
ROW_CAPACITY = 16
ROW_CUTS = 6


def rotate(x: Tensor) -> Tensor:
    """Multiply ``x`` [..., K] by the orthogonal block-Hadamard matrix of block 64; float32 [..., Kp], K padded with zeros."""
    x = torch.nn.functional.pad(x.float(), (0, -x.shape[-1] % HADAMARD))
    v = x * 2.0**-3
    half = 1
    while half < HADAMARD:
        u = v.reshape(*x.shape[:-1], x.shape[-1] // (2 * half), 2, half)
        v = torch.stack([u[..., 0, :] + u[..., 1, :], u[..., 0, :] - u[..., 1, :]], -2)
        half *= 2
    return v.reshape(x.shape)


def hit_columns(x: Tensor, threshold: float) -> Tensor:
    """Return bool [K]: True where |x| >= ``threshold`` in that column of any row of ``x`` [..., K] without NaN and Inf."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    regular = torch.isfinite(rows).all(1, keepdim=True)
    return ((rows.float().abs() >= threshold) & regular).any(0)  # in x's own dtype torch would round the threshold


def split_columns(x: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Split ``x`` [..., K] into (kept, exact): a column is exact when |x| >= ``threshold`` in any row without NaN and Inf."""
    hit = hit_columns(x, threshold)
    zero = torch.zeros_like(x)
    return torch.where(hit, zero, x), torch.where(hit, x, zero)


def split_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split ``x`` [..., K] into (kept, exact): per row at most 16 elements above a power-of-two cut below the row's maximum."""
    size = x.float().abs()
    a = largest_of(size)
    hit = torch.zeros_like(size, dtype=torch.bool)
    for j in range(1, ROW_CUTS + 1):
        above = size > a * 2.0**-j
        hit = torch.where(above.sum(-1, keepdim=True) <= ROW_CAPACITY, above, hit)
    hit &= torch.isfinite(a)
    zero = torch.zeros_like(x)
    return torch.where(hit, zero, x), torch.where(hit, x, zero)
