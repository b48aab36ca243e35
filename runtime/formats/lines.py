"""Straight lines from codes to numbers, one for each group: ``outer (scale q + minimum)``, fitted by least squares."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.fitted import FittedScale
from lowbit_compiler.runtime.formats.part import Part
from lowbit_compiler.runtime.formats.scales import inverse_and_unit

SHRUNK = (0.8, 0.9, 1.0)
"""Parts of a group's range that the search begins with: a few elements outside cost less than wider steps for all."""
ROUNDS = 2
Line = tuple[Tensor, Tensor]
"""Slope and value at code 0 in each group: float32 [..., G, 1]."""


class Lines(FittedScale):
    """A line for each block; a subclass says how slope and minimum are stored."""

    @abstractmethod
    def representable(self, line: Line, largest: int) -> Line:
        """Return the nearest line that can be stored, for codes up to ``largest``."""

    @abstractmethod
    def store(self, line: Line, special: Tensor) -> tuple[Tensor, ...]:
        """Return the parts between codes and outer of a line [..., G]; ``special``: groups that are NaN throughout."""

    def line(self, *stored: Tensor) -> Line:
        """Return slope and minimum [..., G] of stored parts."""
        scale, minimum, outer = stored
        return scale.float() * outer, minimum.float() * outer

    def unit(self, *stored: Tensor) -> Tensor:
        """Return the slope."""
        return self.line(*stored)[0]

    def start(self, *stored: Tensor) -> Tensor:
        """Return the value at code 0."""
        return self.line(*stored)[1]


@dataclass(frozen=True)
class HalfLines(Lines):
    """Slope and minimum in float16."""

    parts: ClassVar[tuple[Part, ...]] = (Part("scale", torch.float16), Part("minimum", torch.float16), Part("outer", torch.float32, "row"))

    def representable(self, line: Line, largest: int) -> Line:
        """Round to float16."""
        scale, minimum = (number.half().float() for number in line)
        return scale, minimum

    def store(self, line: Line, special: Tensor) -> tuple[Tensor, ...]:
        """Return both as they are, NaN where the group is."""
        return tuple(torch.where(special, torch.full_like(number, torch.nan), number).half() for number in line)


@dataclass(frozen=True)
class IntegerLines(Lines):
    """Slope and minimum are integers, so that ``scale q + minimum`` is an int8 code of its row (QServe, arXiv 2405.04532, section 4.1).

    Products with int8 activations are those of int8 weights, to the bit. A row with NaN or Inf is NaN throughout.
    """

    suffix: ClassVar[str] = "_nested"
    integers: ClassVar[bool] = True
    parts: ClassVar[tuple[Part, ...]] = (Part("scale", torch.uint8), Part("minimum", torch.int8), Part("outer", torch.float32, "row"))

    @property
    def name(self) -> str:
        """The size of a group, under a row's scale."""
        return f"nested g{self.size}"

    def outer(self, a: Tensor) -> Line:
        """Let the largest magnitude be 127."""
        return inverse_and_unit(a.amax(-1, keepdim=True), 127.0)

    def representable(self, line: Line, largest: int) -> Line:
        """Round to integers of which every code stays within int8."""
        scale = torch.round(line[0]).clamp(0.0, float(254 // largest))
        return scale, torch.round(line[1]).clamp(min=-127.0).minimum(127.0 - largest * scale)

    def store(self, line: Line, special: Tensor) -> tuple[Tensor, ...]:
        """Return both as integers."""
        return line[0].to(torch.uint8), line[1].to(torch.int8)

    def numbers(self, q: Tensor, scale: Tensor, minimum: Tensor) -> Tensor:
        """Return the integers that codes [N, K] of whole groups stand for, with scales and minima [N, G]: int16, of an operand's own codes within int8."""
        slope, start = (part.to(torch.int16).repeat_interleave(self.size, 1) for part in (scale, minimum))
        return slope * q + start


def codes(v: Tensor, line: Line, largest: int) -> Tensor:
    """Return the codes of the numbers on each line nearest to ``v`` [..., G, block], in float32."""
    scale, minimum = line
    inverse = torch.where(scale > 0.0, 1.0 / scale, torch.zeros_like(scale))
    return torch.round((v - minimum) * inverse).clamp(0.0, float(largest))


def fitted(v: Tensor, scale: Lines, largest: int, importance: Tensor | None = None) -> Line:
    """Return the best line that was found for each group of ``v`` float32 [..., G, block], by the sum of ``importance`` times squared error.

    Candidates are the line through minimum and maximum, and two rounds of least squares from each of three shrunken ones, all as they are
    stored. ``importance`` broadcasts to ``v``; None: 1.
    """
    weight = torch.ones_like(v[..., :1, :]) if importance is None else importance
    best: Line | None = None
    least = torch.empty(0)
    for candidate in _candidates(v, scale, largest, weight):
        error = _error(v, candidate, largest, weight)
        if best is None:
            best, least = candidate, error
            continue
        better = error < least
        least = torch.where(better, error, least)
        best = torch.where(better, candidate[0], best[0]), torch.where(better, candidate[1], best[1])
    assert best is not None
    return best


def _candidates(v: Tensor, scale: Lines, largest: int, weight: Tensor) -> Iterator[Line]:
    low, high = v.amin(-1, keepdim=True), v.amax(-1, keepdim=True)
    step = (high - low) / largest
    yield scale.representable((step, low), largest)
    for share in SHRUNK:
        line = step * share, (low + high) / 2 - step * share * (largest / 2)
        for _ in range(ROUNDS):
            line = _least_squares(v, codes(v, line, largest), weight, line)
            stored = scale.representable(line, largest)
            yield stored


def _least_squares(v: Tensor, q: Tensor, weight: Tensor, line: Line) -> Line:
    """Return the line through (q, v) of least squares; ``line`` where all codes are one."""
    total = _sum(weight + torch.zeros_like(v))
    mean_q, mean_v = (_sum(weight * each) / total for each in (q, v))
    spread = _sum(weight * (q - mean_q).square())
    slope = _sum(weight * (q - mean_q) * (v - mean_v)) / spread
    fine = (spread > 0.0) & (slope > 0.0)
    slope = torch.where(fine, slope, line[0])
    return slope, torch.where(fine, mean_v - slope * mean_q, line[1])


def _error(v: Tensor, line: Line, largest: int, weight: Tensor) -> Tensor:
    value: Tensor = line[0] * codes(v, line, largest) + line[1]
    return _sum(weight * (value - v).square())


def _sum(terms: Tensor) -> Tensor:
    """Return the sums of blocks [..., 1], a power of two of ``terms`` each: halves are added to halves, in an order that kernels keep."""
    while terms.shape[-1] > 1:
        half = terms.shape[-1] // 2
        terms = terms[..., :half] + terms[..., half:]
    return terms
