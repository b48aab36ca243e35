"""Row-wise and group-wise absmax quantization, and its inverse (LLM.int8(), arXiv 2208.07339, section 2)."""

import torch
from torch import Tensor

EMPTY = 2.0**-120  # below this 127/a overflows float32; the row counts as zero


def largest_of(x: Tensor) -> Tensor:
    """Return the largest magnitude of each row of ``x`` [..., K] as [..., 1]; 0 of a row without elements."""
    return x.abs().amax(-1, keepdim=True) if x.shape[-1] else x.new_zeros((*x.shape[:-1], 1))


def _codes(x: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    a = largest_of(x)
    empty = a < EMPTY
    special = ~torch.isfinite(a)
    limit = torch.full_like(a, largest)  # a tensor: with a Python number torch multiplies by a rounded reciprocal
    inv = torch.where(empty | special, torch.zeros_like(a), limit / a)
    q = torch.round(torch.where(special, torch.zeros_like(x), x) * inv).clamp(-largest, largest)
    scale = torch.where(special, torch.full_like(a, torch.nan), torch.where(empty, torch.zeros_like(a), a / limit))
    return q.to(torch.int8), scale


def quantize_s8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize each row of ``x`` [..., K] to int8 in [-127, 127] with a float32 scale [..., 1]."""
    return _codes(x.float(), 127)


def dequantize_s8(q: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``q * scale`` [..., K] in ``dtype``."""
    return (q.float() * scale).to(dtype)


def quantize_s4(w: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Quantize groups of ``group`` along K of ``w`` [N, K] to [-7, 7] (one int8 each), scales float32 [N, ceil(K/group)]."""
    n, k = w.shape
    groups = -(-k // group)
    padded = torch.nn.functional.pad(w.float(), (0, -k % group)).reshape(n, groups, group)
    q, scale = _codes(padded, 7)
    return q.reshape(n, groups * group)[:, :k].contiguous(), scale.reshape(n, groups)


def dequantize_s4(q: Tensor, scale: Tensor, group: int, dtype: torch.dtype) -> Tensor:
    """Return the float weight [N, K] of int4 codes ``q`` [N, K] and group scales ``scale`` [N, ceil(K/group)]."""
    return (q.float() * scale.repeat_interleave(group, 1)[:, : q.shape[1]]).to(dtype)
