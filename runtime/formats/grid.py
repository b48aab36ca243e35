"""The numbers that a code can stand for, before a scale: evenly spaced integers, or small floats."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Grid(Protocol):
    """A set of numbers, symmetric around 0, with an integer code for each."""

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

    def encode(self, v: Tensor) -> Tensor:
        """Return the codes of the numbers nearest to ``v`` float32 (ties to the even code); what is larger than all gets the largest."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """Return the numbers of ``codes`` in float32."""
        ...


@dataclass(frozen=True)
class Integers:
    """-most ... most."""

    most: int

    @property
    def bits(self) -> int:
        """Bits of a code in two's complement."""
        return self.most.bit_length() + 1

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
        return -self.most, self.most

    def encode(self, v: Tensor) -> Tensor:
        """Round to nearest, ties to even."""
        return torch.round(v).clamp(-self.most, self.most).to(torch.int8)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the codes themselves in float32."""
        return codes.float()


@dataclass(frozen=True)
class Floats:
    """Sign, ``e`` exponent and ``m`` mantissa bits, IEEE-like with subnormals and without codes for infinity and NaN.

    ``top`` is the exponent of the largest binade: 2^e - 1 - bias in the usual spelling (arXiv 2501.02423, section 3; OCP Microscaling
    1.0). Codes are int8 (int16 above 8 bits): the exponent and mantissa bits as a number, with the sign of the number.

    All arithmetic is comparisons and products with powers of two, which are exact in every compiler and exporter.
    """

    e: int
    m: int
    top: int = 0

    @property
    def bits(self) -> int:
        """Bits of a code, sign included."""
        return 1 + self.e + self.m

    @property
    def lowest(self) -> int:
        """The exponent of the smallest normal numbers, whose gaps the subnormal ones share."""
        return self.top - (2**self.e - 2)

    @property
    def largest(self) -> float:
        """2^top (2 - 2^-m); without exponent bits all numbers are subnormal."""
        return 2.0**self.top * (2 - 2.0**-self.m) if self.e else 2.0**self.lowest * (1 - 2.0**-self.m)

    @property
    def gap(self) -> float:
        """The gaps of the largest binade."""
        return 2.0 ** (max(self.top, self.lowest) - self.m)

    @property
    def codes(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        most: int = 2 ** (self.e + self.m) - 1
        return -most, most

    def encode(self, v: Tensor) -> Tensor:
        """Round to nearest, ties to the even code."""
        floor = max(self.lowest, -126)  # float32 has nothing below
        below = floor - self.lowest
        w, binade = v.abs() * 2.0**-floor, torch.zeros_like(v)
        for bit in reversed(range(self.e)):
            step = 2**bit
            high = w >= 2.0**step if step < 128 else torch.zeros_like(v, dtype=torch.bool)
            w, binade = torch.where(high, w * 2.0**-step, w), binade + high * float(step)
        n = torch.round(w * 2.0**self.m)
        magnitude = ((binade + below) * 2.0**self.m + n).clamp(max=float(self.codes[1]))
        if below:
            magnitude = torch.where(n < 2.0**self.m, torch.zeros_like(v), magnitude)
        return (magnitude * torch.sign(v)).to(torch.int8 if self.bits <= 8 else torch.int16)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the numbers of ``codes`` in float32."""
        signed = codes.float()
        magnitude = signed.abs()
        field = torch.floor(magnitude * 2.0**-self.m)
        mantissa = magnitude - field * 2.0**self.m + (field > 0) * 2.0**self.m
        below = float(2**self.e - 2) - (field - 1).clamp(min=0.0)  # binades below the largest
        return mantissa * 2.0**-self.m * scaled_down(torch.full_like(signed, 2.0**self.top), below, self.e) * torch.sign(signed)


def scaled_down(x: Tensor, binades: Tensor, bits: int) -> Tensor:
    """Return ``x * 2^-binades`` for whole numbers ``binades`` in float32, from 0 to 2^bits - 1."""
    for bit in reversed(range(bits)):
        step = 2**bit
        high = binades >= float(step)
        factor = x * 2.0**-step if step < 128 else x * 2.0**-64 * 2.0**-64
        x, binades = torch.where(high, factor, x), binades - high * float(step)
    return x


def exponent(a: Tensor) -> Tensor:
    """Return floor(log2 a) of ``a`` >= 0 in float32, as whole numbers in float32; -126 below the normal numbers."""
    small = a < 1.0
    w, found = torch.where(small, a * 2.0**126, a), torch.zeros_like(a)
    for bit in reversed(range(7)):
        step = 2**bit
        high = w >= 2.0**step
        w, found = torch.where(high, w * 2.0**-step, w), found + high * float(step)
    return found - small * 126.0
