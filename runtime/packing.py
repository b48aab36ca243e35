"""Packed weight layouts: 16 output rows a panel, shared by every ISA (docs/arithmetic.md, "Packed weights")."""

import math

import torch
from torch import Tensor

PANEL = 16
K_BLOCK = 64


def round_up(value: int, multiple: int) -> int:
    """Return the smallest multiple of ``multiple`` that is >= ``value``."""
    return -(-value // multiple) * multiple


def padded_k(k: int, group: int = K_BLOCK) -> int:
    """Return K as stored: a multiple of 64 and of the group size."""
    return round_up(k, math.lcm(K_BLOCK, group))


def packed_bytes(k: int, group: int | None = None) -> int:
    """Return the bytes of one panel: int8 weights, or int4 ones when ``group`` is given."""
    if group is None:
        return PANEL * padded_k(k) + 2 * PANEL * 4
    kp = padded_k(k, group)
    return PANEL * kp // 2 + kp // group * PANEL * 4


def aligned(part: Tensor) -> Tensor:
    """Return ``part`` of a packed weight where every dtype may lie; it may start anywhere, and contiguous() would leave it there."""
    return part.clone(memory_format=torch.contiguous_format)


def pack_s8(q: Tensor, scale: Tensor) -> Tensor:
    """Pack ``q`` int8 [N, K] in [-127, 127] with ``scale`` float32 [N, 1] into int8 [ceil(N/16), 16*Kp + 128]."""
    n, k = q.shape
    q = torch.nn.functional.pad(q, (0, padded_k(k) - k, 0, -n % PANEL))
    scale = torch.nn.functional.pad(scale.reshape(-1), (0, -n % PANEL))
    number = q.shape[0] // PANEL
    panels = q.reshape(number, PANEL, q.shape[1] // 4, 4).transpose(1, 2).reshape(number, PANEL * q.shape[1])
    sums = q.sum(1, dtype=torch.int32).reshape(number, PANEL)
    return torch.cat([panels, sums.view(torch.int8), scale.reshape(number, PANEL).view(torch.int8)], 1)


def unpack_s8(packed: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Invert :func:`pack_s8`: int8 [N, Kp] and float32 [N, 1]."""
    kp = (packed.shape[1] - 2 * PANEL * 4) // PANEL
    number = packed.shape[0]
    q = packed[:, : PANEL * kp].reshape(number, kp // 4, PANEL, 4).transpose(1, 2).reshape(number * PANEL, kp)
    scale = aligned(packed[:, -PANEL * 4 :]).view(torch.float32).reshape(-1, 1)
    return q[:n], scale[:n]


def pack_s4(q: Tensor, scale: Tensor, group: int) -> Tensor:
    """Pack ``q`` int8 [N, K] in [-8, 7] with ``scale`` float32 [N, ceil(K/group)] into int8 [ceil(N/16), bytes]."""
    n, k = q.shape
    kp = padded_k(k, group)
    q = torch.nn.functional.pad(q, (0, kp - k, 0, -n % PANEL))
    scale = torch.nn.functional.pad(scale, (0, kp // group - scale.shape[1], 0, -n % PANEL))
    number = q.shape[0] // PANEL
    codes = (q + 8).to(torch.uint8).reshape(number, PANEL, kp // 8, 2, 4).permute(0, 2, 3, 1, 4)
    nibbles = (codes[:, :, 0] | (codes[:, :, 1] << 4)).reshape(number, PANEL * kp // 2)
    scales = scale.reshape(number, PANEL, kp // group).transpose(1, 2).reshape(number, kp // group * PANEL)
    return torch.cat([nibbles.view(torch.int8), scales.contiguous().view(torch.int8)], 1)


def unpack_s4(packed: Tensor, n: int, k: int, group: int) -> tuple[Tensor, Tensor]:
    """Invert :func:`pack_s4`: int8 [N, Kp] and float32 [N, Kp/group]."""
    kp = padded_k(k, group)
    number = packed.shape[0]
    nibbles = packed[:, : PANEL * kp // 2].contiguous().view(torch.uint8).reshape(number, kp // 8, 1, PANEL, 4)
    codes = torch.cat([nibbles & 15, nibbles >> 4], 2).permute(0, 3, 1, 2, 4).reshape(number * PANEL, kp)
    scale = aligned(packed[:, PANEL * kp // 2 :]).view(torch.float32)
    scale = scale.reshape(number, kp // group, PANEL).transpose(1, 2).reshape(number * PANEL, kp // group)
    return codes[:n].to(torch.int8) - 8, scale[:n]
