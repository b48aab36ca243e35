"""4-bit codes for 16 numbers that lie closer together near 0, as weights do, with a signed float16 scale for each group along K; for weights."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.fitted import Fitted, FittedScale, spread
from lowbit_compiler.runtime.formats.format import EPS
from lowbit_compiler.runtime.formats.line_panels import LinePanels
from lowbit_compiler.runtime.formats.part import Part
from lowbit_compiler.runtime.formats.scales import Scale
from lowbit_compiler.runtime.rounding import Rounding

SHRUNK = (1.0, 0.9, 0.8, 0.7)
"""Parts of a group's range that the search begins with: a few elements outside cost less than wider gaps for all."""


@dataclass(frozen=True)
class Codebook:
    """Any rising numbers; code i is the i-th. A tie between two gets the smaller number."""

    values: tuple[float, ...]

    dtype: ClassVar[torch.dtype] = torch.uint8

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return (len(self.values) - 1).bit_length()

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(map(abs, self.values))

    @property
    def gap(self) -> float:
        """The widest gap between two neighbours."""
        return max(b - a for a, b in zip(self.values, self.values[1:], strict=False))

    @property
    def codes(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        return 0, len(self.values) - 1

    def encode(self, v: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return how many of the midpoints between neighbours are below ``v``; weights, which these numbers are for, are not drawn."""
        if noise is not None:
            raise NotImplementedError
        middles = _numbers(v, [(a + b) / 2 for a, b in zip(self.values, self.values[1:], strict=False)])
        return torch.bucketize(v, middles, out_int32=True).to(self.dtype)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the numbers of ``codes`` in float32."""
        numbers = _numbers(codes, self.values)
        return numbers[codes.long()]


@dataclass(frozen=True)
class HalfGroups(FittedScale):
    """A signed float16 scale for each block."""

    parts: ClassVar[tuple[Part, ...]] = (Part("scale", torch.float16), Part("outer", torch.float32, "row"))

    def unit(self, *stored: Tensor) -> Tensor:
        """Return the product of both."""
        scale, outer = stored
        return scale.float() * outer


class Coded(Fitted):
    """q = the code nearest to w / s, w ~ s value(q); s by a search for the least squared error of each group."""

    grid: Codebook
    scales = (HalfGroups,)
    panels = LinePanels(4, quantizers=False)
    least: ClassVar[float]
    """Kernels for a few rows take the numbers as unsigned integers; what 0 counts for (csrc/formats/codebook.h)."""
    rounded: ClassVar[float] = 0.0
    """How far these integers are from the numbers at most."""

    def fitted(self, v: Tensor, special: Tensor, scale: FittedScale, importance: Tensor | None) -> tuple[Tensor, ...]:
        """Return codes and scales."""
        s = fitted(v, self.grid, importance)
        return self.grid.encode(v * inverse_of(s)), torch.where(special, torch.full_like(s, torch.nan), s).squeeze(-1).half()

    def start(self, scale: Scale, stored: tuple[Tensor, ...]) -> Tensor:
        """Return what the integer 0 counts for."""
        return scale.unit(*stored) * self.least

    def step(self, x: Tensor, scale: Scale, rounding: Rounding) -> Tensor:
        """Return the largest error of an element in each group of ``x`` [N, K]: float64 [N, G], with what lies beyond either end.

        What kernels round the numbers of the codebook by is in it.
        """
        blocks = spread(x.float(), scale.block(x.shape[1])).double()
        s = scale.unit(*self.quantize(x, scale)[1:]).double()
        ends = [s * value for value in (self.grid.values[0], self.grid.values[-1])]
        beyond = torch.maximum(blocks.amax(-1) - torch.maximum(*ends), torch.minimum(*ends) - blocks.amin(-1)).clamp(min=0.0)
        return torch.maximum(rounding.share * self.grid.gap * s.abs(), beyond) + self.rounded * s.abs() + 8 * EPS * blocks.abs().amax(-1)


def fitted(v: Tensor, grid: Codebook, importance: Tensor | None = None) -> Tensor:
    """Return the scale of each group of ``v`` float32 [..., G, block] with the least squared error that was found, as float16 holds it: [..., G, 1].

    Candidates take parts of the group's element of largest magnitude to either end of the codebook, then the best scale for these codes.
    """
    weight = torch.ones_like(v[..., :1, :]) if importance is None else importance
    low, high = v.amin(-1, keepdim=True), v.amax(-1, keepdim=True)
    most = torch.where(high >= -low, high, low)
    best, least = torch.zeros_like(most), (weight * v.square()).sum(-1, keepdim=True)
    for end in (grid.values[0], grid.values[-1]):
        for share in SHRUNK:
            values = grid.decode(grid.encode(v * inverse_of(most * (share / end))))
            power = (weight * values.square()).sum(-1, keepdim=True)
            s = ((weight * values * v).sum(-1, keepdim=True) / torch.where(power > 0.0, power, torch.ones_like(power))).half().float()
            error = (weight * (grid.decode(grid.encode(v * inverse_of(s))) * s - v).square()).sum(-1, keepdim=True)
            better = error < least
            best, least = torch.where(better, s, best), torch.where(better, error, least)
    return best


def inverse_of(s: Tensor) -> Tensor:
    """Return 1 / s, and 0 for 0."""
    return torch.where(s == 0.0, torch.zeros_like(s), 1.0 / s)


def _numbers(like: Tensor, values: "list[float] | tuple[float, ...]") -> Tensor:
    """Return ``values`` in float32, made by ops: a constant tensor has no place in an exported program."""
    return torch.stack([like.new_full((), value, dtype=torch.float32) for value in values])


@dataclass(frozen=True)
class NF4(Coded):
    """NormalFloat: quantiles of the normal distribution, scaled to [-1, 1], 0 among them (QLoRA, arXiv 2305.14314, section 3 and appendix E)."""

    name = "nf4"
    words = ("nf4",)
    grid = Codebook(
        (
            -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
            -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
            0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
        )
    )  # fmt: skip
    least, rounded = -32768 / 32767, 1 / 65534


@dataclass(frozen=True)
class IQ4(Coded):
    """The integers of ggml's IQ4_NL: int8 codes, so that a product with int8 activations can be summed in integers."""

    name = "iq4"
    words = ("iq4",)
    grid = Codebook((-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0))
    least = -128.0


FORMATS = (NF4, IQ4)
