"""Unsigned integers of 2 to 8 bits on a line for each group along K; for weights.

The minimum is a real number, not a zero point: zero need not be one of the numbers, and groups of one sign use every code.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.format import EPS, Format, largest_of
from lowbit_compiler.runtime.formats.grid import Integers
from lowbit_compiler.runtime.formats.line_panels import LinePanels
from lowbit_compiler.runtime.formats.lines import HalfLines, IntegerLines, Lines, codes, fitted, spread
from lowbit_compiler.runtime.formats.scales import Scale
from lowbit_compiler.runtime.rounding import Rounding

CHUNK = 1 << 18
"""Elements that are fitted at a time: what there is beside them stays in a cache."""


class Affine(Format):
    """q = clamp(rne((w / outer - minimum) / scale), 0, 2^bits - 1) and w ~ outer (scale q + minimum), fitted by least squares (lines.py)."""

    grid: Integers
    scales: ClassVar[tuple[type[Scale], ...]] = (HalfLines,)
    activations = False

    def quantize(self, x: Tensor, scale: Scale, importance: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return codes, slopes, minima and outer scales of ``x`` [N, K]; ``importance`` [K] weighs the errors of columns."""
        assert isinstance(scale, Lines)
        rows = max(CHUNK // max(x.shape[1], 1), 1)
        chunks = [self._rows(chunk.float(), scale, importance) for chunk in x.split(rows)]
        return tuple(torch.cat(parts) for parts in zip(*chunks, strict=True)) if len(chunks) > 1 else chunks[0]

    def _rows(self, x: Tensor, scale: Lines, importance: Tensor | None) -> tuple[Tensor, ...]:
        block, largest = scale.block(x.shape[1]), self.grid.most
        blocks = spread(x, block)
        most = largest_of(blocks)
        special = ~torch.isfinite(most)
        inverse, outer = scale.outer(most.squeeze(-1))
        v = torch.where(special, torch.zeros_like(blocks), blocks) * inverse.unsqueeze(-1)
        line = fitted(v, scale, largest, None if importance is None else spread(importance, block))
        q = codes(v, line, largest).flatten(-2)[:, : x.shape[1]].to(self.grid.dtype)
        return q.contiguous(), *scale.store((line[0].squeeze(-1), line[1].squeeze(-1)), special.squeeze(-1)), outer

    def dequantize(self, parts: tuple[Tensor, ...], scale: Scale, dtype: torch.dtype) -> Tensor:
        """Return [N, K] in ``dtype``."""
        q, slope, minimum, outer = parts
        blocks = scale.blocks(q.float()) * slope.float().unsqueeze(-1) + minimum.float().unsqueeze(-1)
        return (scale.rows(blocks, q.shape[-1]) * outer).to(dtype)

    def step(self, x: Tensor, scale: Scale, rounding: Rounding) -> Tensor:
        """Return the largest error of an element in each group of ``x`` [N, K]: float64 [N, G], with what lies beyond either end of the line."""
        assert isinstance(scale, Lines)
        blocks = spread(x.float(), scale.block(x.shape[1])).double()
        slope, minimum = (number.double() for number in scale.line(*self.quantize(x, scale)[1:]))
        top = minimum + slope * self.grid.most
        beyond = torch.maximum(blocks.amax(-1) - top, minimum - blocks.amin(-1)).clamp(min=0.0)
        return torch.maximum(rounding.share * slope, beyond) + 8 * EPS * (minimum.abs() + top.abs())


@dataclass(frozen=True)
class U2(Affine):
    """Of 2 bits."""

    name = "u2"
    words = ("int2",)
    grid = Integers(0, 3)
    onnx = ("UINT4", 21)


@dataclass(frozen=True)
class U3(Affine):
    """Of 3 bits."""

    name = "u3"
    words = ("int3",)
    grid = Integers(0, 7)
    panels = LinePanels(3)
    onnx = ("UINT4", 21)


@dataclass(frozen=True)
class U4(Affine):
    """Of 4 bits; on lines of integers too, for products with int8 activations."""

    name = "u4"
    scales = (HalfLines, IntegerLines)
    words = ("int4", "int4-nested")
    grid = Integers(0, 15)
    panels = LinePanels(4)
    onnx = ("UINT4", 21)


@dataclass(frozen=True)
class U5(Affine):
    """Of 5 bits."""

    name = "u5"
    words = ("int5",)
    grid = Integers(0, 31)
    panels = LinePanels(5)
    onnx = ("UINT8", 21)


@dataclass(frozen=True)
class U6(Affine):
    """Of 6 bits."""

    name = "u6"
    words = ("int6",)
    grid = Integers(0, 63)
    panels = LinePanels(6)
    onnx = ("UINT8", 21)


@dataclass(frozen=True)
class U8(Affine):
    """Of 8 bits."""

    name = "u8"
    words = ("int8-groups",)
    grid = Integers(0, 255)
    panels = LinePanels(8)
    onnx = ("UINT8", 21)


FORMATS = (U2, U3, U4, U5, U6, U8)
