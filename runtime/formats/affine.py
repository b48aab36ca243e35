"""Unsigned integers of 2 to 8 bits on a line for each group along K; for weights.

The minimum is a real number, not a zero point: zero need not be one of the numbers, and groups of one sign use every code.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.fitted import Fitted, FittedScale, spread
from lowbit_compiler.runtime.formats.format import EPS
from lowbit_compiler.runtime.formats.grid import Integers
from lowbit_compiler.runtime.formats.line_panels import LinePanels
from lowbit_compiler.runtime.formats.lines import HalfLines, IntegerLines, Lines, codes, fitted
from lowbit_compiler.runtime.formats.scales import Scale
from lowbit_compiler.runtime.rounding import Rounding


class Affine(Fitted):
    """q = clamp(rne((w / outer - minimum) / scale), 0, 2^bits - 1) and w ~ outer (scale q + minimum), fitted by least squares (lines.py)."""

    grid: Integers
    scales: ClassVar[tuple[type[Scale], ...]] = (HalfLines,)

    def fitted(self, v: Tensor, special: Tensor, scale: FittedScale, importance: Tensor | None) -> tuple[Tensor, ...]:
        """Return codes, slopes and minima."""
        assert isinstance(scale, Lines)
        line = fitted(v, scale, self.grid.most, importance)
        slope, minimum = (number.squeeze(-1) for number in line)
        return codes(v, line, self.grid.most).to(self.grid.dtype), *scale.store((slope, minimum), special.squeeze(-1))

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
