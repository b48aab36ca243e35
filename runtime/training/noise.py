"""Random numbers that are a function of where they are used: the same on every device, in every order, and in every recomputation.

All arithmetic is that of 32-bit integers that wrap around (docs/arithmetic.md, "Noise").
"""

from dataclasses import dataclass

import torch
from torch import Tensor

ODD = -0x61C88647  # 0x9E3779B9, the golden ratio in 32 bits
BITS = 16
"""Bits of a number: the mean of what is rounded with it is right to 2^-17 of a gap."""
LANES = 16
"""A hash serves the elements c and c + 16 of each 32, so that vectors of 16 need no shuffles."""


@dataclass(frozen=True)
class Stream:
    """The numbers that one reader of a call takes: ``key`` int32 [1], a hash of seed, site and reader."""

    key: Tensor

    @classmethod
    def of(cls, seed: Tensor, *numbers: int) -> "Stream":
        """Return the stream of ``seed`` int64 [1] and ``numbers``: the site, the product, the operand."""
        low, high = (part.to(torch.int32) for part in (seed & 0x7FFFFFFF, seed >> 31))
        key = _mixed(_mixed(low) + high)
        for number in numbers:
            key = _mixed(key + number)
        return cls(key)

    def uniform(self, rows: int, columns: int) -> Tensor:
        """Return numbers in (0, 1), float32 [rows, columns]."""
        vectors = -(-columns // (2 * LANES))
        words = self._words(rows, vectors * LANES).view(rows, vectors, LANES)
        halves = torch.stack([words & 0xFFFF, (words >> BITS) & 0xFFFF], 2).flatten(1)
        return (halves[:, :columns].float() + 0.5) * 2.0**-BITS

    def signs(self, count: int) -> Tensor:
        """Return -1 and 1, float32 [count]."""
        return 1.0 - 2.0 * (self._words(1, count)[0] & 1).float()

    def _words(self, rows: int, columns: int) -> Tensor:
        row = _mixed(self.key + _counted(rows, self.key) * ODD)
        return _mixed(row.unsqueeze(1) + _counted(columns, self.key) * ODD)


def _counted(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, dtype=torch.int32, device=like.device)


def _mixed(h: Tensor) -> Tensor:
    """Return a bijection of 32 bits in which every bit depends on every other ("lowbias32" of Chris Wellons)."""
    h = (h ^ _shifted(h, 16)) * 0x7FEB352D
    h = (h ^ _shifted(h, 15)) * -0x7B935975  # 0x846CA68B
    return h ^ _shifted(h, 16)


def _shifted(h: Tensor, by: int) -> Tensor:
    """Return ``h`` shifted right, as if it were unsigned."""
    return (h >> by) & ((1 << (32 - by)) - 1)
