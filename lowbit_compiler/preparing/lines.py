"""Formats of integers as straight lines: the number of code q in a group is slope * q + minimum."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit_compiler.errors import OptionError
from lowbit_compiler.recipes import Recipe
from lowbit_compiler.runtime.formats import Operand
from lowbit_compiler.runtime.formats.grid import Integers
from lowbit_compiler.runtime.formats.lines import Lines
from lowbit_compiler.runtime.formats.scales import Plain


@dataclass(frozen=True)
class GroupLines:
    """The lines of a quantized weight [N, K]."""

    slope: Tensor
    """float32 [N, G]."""
    minimum: Tensor
    """float32 [N, G]."""
    group: Tensor
    """int64 [K]: the group of each column."""
    codes: tuple[int, int]
    """The least and the greatest code."""

    @property
    def columns(self) -> tuple[Tensor, Tensor]:
        """Slope and minimum of every element, [N, K]."""
        return self.slope[:, self.group], self.minimum[:, self.group]


def require_lines(recipe: Recipe, methods: str) -> None:
    """Raise OptionError where weights of ``recipe`` are of no such format."""
    for operand in (plan.w for plan in (recipe.plan, *map(recipe.plan_with, recipe.words))):
        if not isinstance(operand.format.grid, Integers) or not isinstance(operand.scale, Lines | Plain):
            raise OptionError(
                f"{methods} takes weights of integers with a scale for each row or group, and recipe {recipe.name!r} has {operand.name}"
            )


def lines_of(operand: Operand, parts: tuple[Tensor, ...], k: int) -> GroupLines:
    """Return the lines of ``parts`` of a weight [N, k]."""
    grid, scale, stored = operand.format.grid, operand.scale, parts[1:]
    assert isinstance(grid, Integers)
    slope = scale.unit(*stored)
    group = torch.arange(k, device=slope.device) // max(scale.block(k), 1)
    return GroupLines(slope, scale.start(*stored), group, grid.codes)
