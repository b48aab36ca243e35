"""The blocks of ggml's types, as lines: ``slope code + minimum`` for codes without sign (ggml's dequantize_row functions, in exact float32)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Lines = tuple[Tensor, Tensor, Tensor]
"""Codes uint8 [blocks, values], and slope and minimum float32 [blocks, groups]."""
FLOATS = {0: ("F32", torch.float32), 1: ("F16", torch.float16), 30: ("BF16", torch.bfloat16)}


@dataclass(frozen=True)
class Kind:
    """A type: its name, the values and bytes of a block, the values of a group, and what takes blocks uint8 [blocks, bytes] apart."""

    name: str
    count: int
    nbytes: int
    group: int
    lines: Callable[[Tensor], Lines]


def _halves(raw: Tensor) -> Tensor:
    return raw.contiguous().view(torch.float16).float()


def _nibbles(raw: Tensor) -> Tensor:
    """Low halves of bytes first."""
    return torch.cat([raw & 15, raw >> 4], -1)


def _q4_0(raw: Tensor) -> Lines:
    """Scale, 16 bytes; 8 is zero."""
    slope = _halves(raw[:, :2])
    return _nibbles(raw[:, 2:]), slope, -8.0 * slope


def _q4_1(raw: Tensor) -> Lines:
    """Scale, minimum, 16 bytes."""
    return _nibbles(raw[:, 4:]), _halves(raw[:, :2]), _halves(raw[:, 2:4])


def _q5_0(raw: Tensor) -> Lines:
    """Scale, a fifth bit of each code, 16 bytes of the lower four; 16 is zero."""
    slope = _halves(raw[:, :2])
    fifth = (raw[:, 2:6].unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8) & 1).reshape(len(raw), 32)
    return _nibbles(raw[:, 6:]) | fifth << 4, slope, -16.0 * slope


def _q8_0(raw: Tensor) -> Lines:
    """Scale, 32 signed bytes."""
    slope = _halves(raw[:, :2])
    return raw[:, 2:] ^ 128, slope, -128.0 * slope


def _q4_k(raw: Tensor) -> Lines:
    """Scale of 8 scales and of 8 minima, both in 6 bits, packed; two groups share 32 bytes."""
    packed = raw[:, 4:16]
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat([first & 63, third & 15 | (first >> 6) << 4], 1)
    minima = torch.cat([second & 63, third >> 4 | (second >> 6) << 4], 1)
    codes = _nibbles(raw[:, 16:].reshape(-1, 4, 32)).reshape(len(raw), 256)
    return codes, scales.float() * _halves(raw[:, :2]), -(minima.float() * _halves(raw[:, 2:4]))


def _q6_k(raw: Tensor) -> Lines:
    """Four lower bits, two upper ones, a signed scale of 8 bits for each of 16 groups, and one of all; 32 is zero."""
    low = _nibbles(raw[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    high = torch.stack([raw[:, 128:192].reshape(-1, 2, 32) >> shift & 3 for shift in (0, 2, 4, 6)], 2)
    slope = raw[:, 192:208].contiguous().view(torch.int8).float() * _halves(raw[:, 208:])
    return (low | high << 4).reshape(len(raw), 256), slope, -32.0 * slope


KINDS = {
    2: Kind("Q4_0", 32, 18, 32, _q4_0),
    3: Kind("Q4_1", 32, 20, 32, _q4_1),
    6: Kind("Q5_0", 32, 22, 32, _q5_0),
    8: Kind("Q8_0", 32, 34, 32, _q8_0),
    12: Kind("Q4_K", 256, 144, 32, _q4_k),
    14: Kind("Q6_K", 256, 210, 16, _q6_k),
}
"""By the number of the type in files."""
