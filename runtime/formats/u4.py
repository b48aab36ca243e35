"""Unsigned 4-bit integers, 0 to 15, with a scale and a zero point for each group along K; for weights."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.format import EPS, Format, largest_of
from lowbit_compiler.runtime.formats.grid import Integers
from lowbit_compiler.runtime.formats.part import Part
from lowbit_compiler.runtime.formats.scales import Groups, Scale, inverse_and_unit
from lowbit_compiler.runtime.rounding import Rounding


@dataclass(frozen=True)
class ZeroGroups(Groups):
    """One float32 scale, and the code that stands for 0, for each ``size`` elements along K."""

    parts: ClassVar[tuple[Part, ...]] = (*Groups.parts, Part("zero", torch.uint8))


@dataclass(frozen=True)
class U4(Format):
    """s = (high - low) / 15 and z = rne(-low / s) for the extremes of a group and 0; q = clamp(rne(w / s) + z, 0, 15), w ~ (q - z) s."""

    name = "u4"
    scales = (ZeroGroups,)
    words = ("u4",)
    activations = False
    onnx = ("UINT4", 21)
    grid = Integers(0, 15)

    def quantize(self, x: Tensor, scale: Scale) -> tuple[Tensor, ...]:
        """Return codes, scales and zero points of ``x`` [N, K]."""
        blocks = scale.blocks(x.float())
        finite = torch.isfinite(largest_of(blocks))
        kept = torch.where(finite, blocks, torch.zeros_like(blocks))
        low, width = _extent(kept)
        inverse, unit = inverse_and_unit(torch.where(finite.squeeze(-1), width, torch.full_like(width, torch.nan)), self.grid.largest)
        zero = torch.round(-low * inverse)
        codes = self.grid.encode(torch.round(kept * inverse.unsqueeze(-1)) + zero.unsqueeze(-1))
        return scale.rows(codes, x.shape[-1]).contiguous(), unit, zero.to(torch.uint8)

    def dequantize(self, parts: tuple[Tensor, ...], scale: Scale, dtype: torch.dtype) -> Tensor:
        """Return [N, K] in ``dtype``."""
        codes, unit, zero = parts
        blocks = (scale.blocks(codes.float()) - zero.float().unsqueeze(-1)) * unit.unsqueeze(-1)
        return scale.rows(blocks, codes.shape[-1]).to(dtype)

    def step(self, x: Tensor, scale: Scale, rounding: Rounding) -> Tensor:
        """Return the largest error of an element in each group of ``x`` [N, K]: float64 [N, G]; z moves both ends by as much."""
        blocks = scale.blocks(x.float())
        _, width = _extent(blocks)
        unit = inverse_and_unit(width, self.grid.largest)[1].double()
        return torch.where(unit == 0.0, largest_of(blocks).squeeze(-1).double(), rounding.share * unit + 8 * EPS * width.double())


def _extent(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least number of each block and how far the largest is from it, both with 0 between them."""
    low = blocks.amin(-1).clamp(max=0.0)
    return low, (blocks.amax(-1).clamp(min=0.0) - low).clamp(max=torch.finfo(torch.float32).max)


FORMAT = U4
