"""The numbers that a code can stand for, before a scale: evenly spaced integers, or small floats."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lowbit_compiler.runtime.rounding import whole


class Grid(Protocol):
    """A set of numbers with an integer code for each."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that holds a code."""
        ...

    @property
    def bits(self) -> int:
        """Bits of a code."""
        ...

    @property
    def largest(self) -> float:
        """The largest number."""
        ...

    @property
    def gap(self) -> float:
        """The widest gap between two neighbours."""
        ...

    @property
    def codes(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        ...

    def encode(self, v: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the codes of the numbers nearest to ``v`` float32 (ties to the even code); what is larger than all gets the largest.

        With ``noise``, as :func:`whole` takes it, the code is one of the two around ``v``.
        """
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """Return the numbers of ``codes`` in float32."""
        ...


@dataclass(frozen=True)
class Integers:
    """``least`` ... ``most``."""

    least: int
    most: int

    @property
    def dtype(self) -> torch.dtype:
        """Signed where some codes are negative, of 16 bits where 8 are too few."""
        if self.bits > 8:
            return torch.int16
        return torch.int8 if self.least < 0 else torch.uint8

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return (self.most - self.least).bit_length()

    @property
    def largest(self) -> float:
        """The largest number."""
        return float(self.most)

    @property
    def gap(self) -> float:
        """One."""
        return 1.0

    @property
    def codes(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        return self.least, self.most

    def encode(self, v: Tensor, noise: Tensor | None = None) -> Tensor:
        """Round to whole numbers."""
        return whole(v, noise).clamp(self.least, self.most).to(self.dtype)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the codes themselves in float32."""
        return codes.float()


@dataclass(frozen=True)
class Floats:
    """Sign, ``e`` exponent and ``m`` mantissa bits, IEEE-like with subnormals and without codes for infinity and NaN.

    ``top`` is the exponent of the largest binade: 2^e - 1 - bias in the usual spelling (arXiv 2501.02423, section 3; OCP Microscaling
    1.0). Codes are int8 (int16 above 8 bits): the exponent and mantissa bits as a number, with the sign of the number.

    All arithmetic is exact in every compiler and exporter: products with powers of two, and roundings to whole numbers.
    """

    e: int
    m: int
    top: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """Of 8 or 16 bits."""
        return torch.int8 if self.bits <= 8 else torch.int16

    @property
    def bits(self) -> int:
        """Bits of a code, sign included."""
        return 1 + self.e + self.m

    @property
    def lowest(self) -> int:
        """The exponent of the smallest normal numbers, whose gaps the subnormal ones share."""
        return self.top - ((1 << self.e) - 2)

    @property
    def largest(self) -> float:
        """2^top (2 - 2^-m); without exponent bits all numbers are subnormal."""
        return 2.0**self.top * (2 - 2.0**-self.m) if self.e else 2.0**self.lowest * (1 - 2.0**-self.m)

    @property
    def gap(self) -> float:
        """The gaps of the largest binade; without mantissa bits it holds one number, and the gap below it is half of this."""
        return 2.0 ** (max(self.top, self.lowest) - self.m)

    @property
    def codes(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        most = (1 << (self.e + self.m)) - 1
        return -most, most

    def encode(self, v: Tensor, noise: Tensor | None = None) -> Tensor:
        """Round to nearest, ties to the even code (without mantissa bits: away from 0), or the magnitude up or down as ``noise`` says."""
        floor = max(self.lowest, -126)  # float32 has nothing below
        below = floor - self.lowest
        w = v.abs().clamp(max=self.largest) * 2.0**-floor
        binade = exponent(w).clamp(min=0.0) if self.e else torch.zeros_like(v)
        w = w * power(-binade)
        n = whole(w * 2.0**self.m, noise)
        magnitude = (binade + below) * 2.0**self.m + n
        if below:
            magnitude = torch.where(n < 2.0**self.m, torch.zeros_like(v), magnitude)
        return (magnitude * torch.sign(v)).to(self.dtype)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the numbers of ``codes`` in float32."""
        signed = codes.float()
        magnitude = signed.abs()
        field = torch.floor(magnitude * 2.0**-self.m)
        mantissa = magnitude - field * 2.0**self.m + (field > 0) * 2.0**self.m
        binade = power((field - 1).clamp(min=0.0) + float(self.lowest))
        return mantissa * 2.0**-self.m * binade * torch.sign(signed)


def exponent(a: Tensor) -> Tensor:
    """Return floor(log2 a) of ``a`` >= 0 in float32, as whole numbers in float32; -127 below the normal numbers."""
    return torch.ops.lowbit.exponent(a)  # type: ignore[no-any-return]


def power(k: Tensor) -> Tensor:
    """Return 2^k in float32 for whole numbers ``k`` <= 127 in float32; 0 where that is no normal number."""
    return torch.ops.lowbit.power(k)  # type: ignore[no-any-return]
