"""Scales that only training has: they are anew for every call, none is stored in a model."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.grid import Grid, exponent, power
from lowbit_compiler.runtime.formats.part import Part
from lowbit_compiler.runtime.formats.scales import E4M3, E8M0_BIAS, EMPTY, Nested, Plain, PowersOfTwo, largest
from lowbit_compiler.runtime.training.steps import missing

GAUSSIAN = 2.92247856
"""Where e2m1 clips a normal distribution, in standard deviations, for the least squared error (Quartet, arXiv 2505.14669)."""


@dataclass(frozen=True)
class Covering(PowersOfTwo):
    """The least power of two by which nothing saturates: what lies above the largest number could not be rounded without bias."""

    def fit(self, a: Tensor, grid: Grid) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Let the largest magnitude be no larger than the largest number of the grid."""
        return _stored_power(a, _ceiling(a * (1 / grid.largest)))


@dataclass(frozen=True)
class Gaussian(PowersOfTwo):
    """The power of two nearest to the scale that is best for normally distributed numbers; what lies outside is clipped (QuEST in Quartet)."""

    masks = True

    def reach(self, blocks: Tensor) -> Tensor:
        """Return so many standard deviations, of what a block has around its mean; in float64, where the order of the sums does not show."""
        return (GAUSSIAN * blocks.double().var(-1, unbiased=False).sqrt()).float()

    def fit(self, a: Tensor, grid: Grid) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Round the exponent to nearest, which loses less than rounding it down (0.0134 against 0.0224 of a block's variance)."""
        return _stored_power(a, exponent(a * (math.sqrt(2) / grid.largest)))


def _stored_power(a: Tensor, k: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    special = ~torch.isfinite(a)
    k = torch.where(a < EMPTY, torch.full_like(a, -E8M0_BIAS), k.clamp(-E8M0_BIAS + 1, E8M0_BIAS))
    inverse = torch.where(special | (a < EMPTY), torch.zeros_like(a), power(-k))
    return inverse, (torch.where(special, torch.full_like(a, 255.0), k + E8M0_BIAS).to(torch.uint8),)


def _ceiling(v: Tensor) -> Tensor:
    """Return the exponent of the least power of two that is not below ``v`` >= 0."""
    below = exponent(v)
    return below + (power(below) < v).float()


@dataclass(frozen=True)
class NestedCovering(Nested):
    """The scales of NVFP4, rounded up, so that nothing saturates."""

    def fit(self, a: Tensor, grid: Grid) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take the next e4m3 number where the nearest is too small."""
        _, (inner, outer) = super().fit(a, grid)
        small = (E4M3.decode(inner) * outer * grid.largest < a) & (inner < 126) & (a >= EMPTY)
        inner = torch.where(small, inner + 1, inner)
        unit = E4M3.decode(inner) * outer
        inverse = torch.where((unit == 0.0) | ~torch.isfinite(a), torch.zeros_like(a), 1.0 / unit)
        return inverse, (inner, outer)


class Whole(Plain):
    """One float32 scale for a matrix [M, K], whose largest magnitude becomes the largest number."""

    parts = (Part("scale", torch.float32, "tensor"),)
    row_local = False

    @property
    def name(self) -> str:
        """What has it."""
        return "tensor"

    def blocks(self, x: Tensor) -> Tensor:
        """Return ``x`` [M, K] as [1, 1, M K]."""
        return x.reshape(1, 1, -1)

    def rows(self, blocks: Tensor, k: int) -> Tensor:
        """Invert :meth:`blocks`."""
        return blocks.reshape(-1, k)

    def fit(self, a: Tensor, grid: Grid) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the scale as a number."""
        inverse, (unit,) = super().fit(a, grid)
        return inverse, (unit.reshape(()),)

    def unit(self, *stored: Tensor) -> Tensor:
        """Return [1, 1]."""
        return stored[0].reshape(1, 1)

    def spread(self, unit: Tensor, k: int) -> Tensor:
        """Return the scale as it is: it broadcasts."""
        return unit


@dataclass(frozen=True)
class Mean(Whole):
    """``factor`` times the mean magnitude becomes the largest number; what lies outside is clipped, and learns nothing from this product.

    With 2 sqrt(7) it is the step size that LSQ starts from, for int4 (arXiv 2306.11987).
    """

    factor: float

    masks = True
    learns = True

    def reach(self, blocks: Tensor) -> Tensor:
        """Sum in float64, where the order of the sum does not show."""
        return (self.factor * blocks.double().abs().mean(-1)).float()

    def at(self, step: Tensor, top: float) -> "Learned":
        """Return the scale whose step is the magnitude of ``step`` float [1], a parameter of the model; ``top`` is the grid's largest number."""
        return Learned(step, top, self)


@dataclass(frozen=True, eq=False)
class Learned(Whole):
    """A step size that the model learns: the grid's number 1 stands for its magnitude, whatever the matrix is (LSQ, arXiv 1902.08153)."""

    step: Tensor
    top: float
    statistic: Mean

    masks = True

    def reach(self, blocks: Tensor) -> Tensor:
        """Return ``top`` steps, or NaN where an element is not finite; the statistic where there is no step."""
        steps = self.step.detach().float().abs() * self.top + 0 * largest(blocks)
        return torch.where(missing(self.step), self.statistic.reach(blocks), steps)


class Latent(Mean):
    """The same, with a gradient for all elements: the straight-through estimator of TriLM (Spectra, arXiv 2407.12327, appendix A)."""

    masks = False
    learns = False


class WholePower(Whole):
    """A power of two for the matrix, the least by which nothing saturates: dynamic fixed point (arXiv 1802.00930)."""

    def fit(self, a: Tensor, grid: Grid) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Let the largest magnitude be no larger than the largest number of the grid."""
        k = _ceiling(a * (1 / grid.largest)).clamp(-126.0, 126.0)
        none, special = a < EMPTY, ~torch.isfinite(a)
        unit = torch.where(special, torch.full_like(a, torch.nan), torch.where(none, torch.zeros_like(a), power(k)))
        return torch.where(none | special, torch.zeros_like(a), power(-k)), (unit.reshape(()),)
