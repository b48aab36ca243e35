"""Float32 numbers with fewer significant bits: what of its precision a model needs, not a format of any machine (arXiv 2104.15076)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.format import Format, largest_of
from lowbit_compiler.runtime.formats.grid import Grid
from lowbit_compiler.runtime.formats.scales import Scale
from lowbit_compiler.runtime.rounding import Rounding
from lowbit_compiler.runtime.training.scales import Whole

FULL = 23
"""Significant bits of float32 behind the leading one."""


@dataclass(frozen=True)
class Significands:
    """Float32 numbers of which ``s`` bits behind the leading one may be 1. Codes are their bits, as an integer."""

    s: int

    dtype = torch.int32
    bits = 32

    @property
    def largest(self) -> float:
        """2^127 (2 - 2^-s)."""
        return 2.0**127 * (2 - 2.0**-self.s)

    @property
    def gap(self) -> float:
        """That of the largest binade."""
        return 2.0 ** (127 - self.s)

    @property
    def codes(self) -> tuple[int, int]:
        """Those of the largest number and its negative."""
        most = 0x7F800000 - (1 << (FULL - self.s))
        return most - 2**31, most

    def encode(self, v: Tensor, noise: Tensor | None = None) -> Tensor:
        """Add half of the last bit that stays, or as much of it as ``noise`` says, and cut the rest off; of ties the even code is taken."""
        words, cut = v.contiguous().view(torch.int32), FULL - self.s
        if cut == 0:
            return words
        added = ((words >> cut) & 1) + (1 << (cut - 1)) - 1 if noise is None else (noise * 2.0**cut).to(torch.int32)
        return (words + added) & -(1 << cut)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the numbers."""
        return codes.contiguous().view(torch.float32)


class One(Whole):
    """No scale: 1, or NaN where an element of the matrix is not finite."""

    name = ""

    def fit(self, a: Tensor, grid: Grid) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Whatever the magnitudes are."""
        one, special = torch.ones_like(a), ~torch.isfinite(a)
        unit = torch.where(special, torch.full_like(a, torch.nan), one)
        return torch.where(special, torch.zeros_like(a), one), (unit.reshape(()),)


@dataclass(frozen=True)
class Rounded(Format):
    """Float32 with ``s`` significant bits; raises ValueError for none, and for more than float32 has."""

    s: int

    name = "sbits"
    schema = "int s"
    scales = (One,)
    words = ()

    def __post_init__(self) -> None:
        if not 1 <= self.s <= FULL:
            raise ValueError(f"expected from 1 to {FULL} significant bits, got {self.s}")

    def __str__(self) -> str:
        return f"{self.s} bits"

    @property
    def grid(self) -> Grid:
        """Numbers whose gaps grow with them."""
        return Significands(self.s)

    def step(self, x: Tensor, scale: Scale, rounding: Rounding) -> Tensor:
        """Return the gap at the largest magnitude, or its share: float64 [1, 1]."""
        return rounding.share * 2.0**-self.s * largest_of(scale.blocks(x.float())).squeeze(-1).double()
