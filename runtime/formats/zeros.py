"""Unsigned integers on lines in float32, in groups from 16 on: what files of other libraries hold (AWQ, GPTQ with zero points, ggml's K blocks).

Their zero points, and their scales of scales, have more bits than the float16 of ``affine`` holds.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.affine import Affine
from lowbit_compiler.runtime.formats.grid import Integers
from lowbit_compiler.runtime.formats.line_panels import LinePanels
from lowbit_compiler.runtime.formats.lines import Line, Lines
from lowbit_compiler.runtime.formats.part import Part


@dataclass(frozen=True)
class FloatLines(Lines):
    """Slope and minimum in float32."""

    sizes: ClassVar[tuple[int, ...]] = (32, 16, 64, 128)
    parts: ClassVar[tuple[Part, ...]] = (Part("scale", torch.float32), Part("minimum", torch.float32), Part("outer", torch.float32, "row"))

    def representable(self, line: Line, largest: int) -> Line:
        """Return the line as it is."""
        return line

    def store(self, line: Line, special: Tensor) -> tuple[Tensor, ...]:
        """Return both as they are, NaN where the group is."""
        return tuple(torch.where(special, torch.full_like(number, torch.nan), number) for number in line)


@dataclass(frozen=True)
class Z4(Affine):
    """Of 4 bits."""

    name = "z4"
    scales = (FloatLines,)
    words = ("int4-zeros",)
    grid = Integers(0, 15)
    panels = LinePanels(4, quantizers=False)
    onnx = ("UINT4", 21)


@dataclass(frozen=True)
class Z6(Affine):
    """Of 6 bits."""

    name = "z6"
    scales = (FloatLines,)
    words = ("int6-zeros",)
    grid = Integers(0, 63)
    panels = LinePanels(6, quantizers=False)
    onnx = ("UINT8", 21)


FORMATS = (Z4, Z6)
