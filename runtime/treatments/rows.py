"""The largest elements of each row, against the row's own scale, that stay exact."""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.format import largest_of
from lowbit_compiler.runtime.treatments.treatment import Call, Op, Treatment, packet

ROW_CAPACITY = 16
ROW_CUTS = 6


def split_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split ``x`` [..., K] into (kept, exact): per row at most 16 elements above a power-of-two cut below the row's maximum."""
    size = x.float().abs()
    a = largest_of(size)
    hit = torch.zeros_like(size, dtype=torch.bool)
    for j in range(1, ROW_CUTS + 1):
        above = size > a * 2.0**-j
        hit = torch.where(above.sum(-1, keepdim=True) <= ROW_CAPACITY, above, hit)
    hit &= torch.isfinite(a)
    zero = torch.zeros_like(x)
    return torch.where(hit, zero, x), torch.where(hit, x, zero)


@dataclass(frozen=True)
class Rows(Treatment):
    """At most 16 elements of each row are multiplied in float, beside the low-bit product of the others."""

    name = "rows"
    ops = (Op("split_rows(Tensor x) -> (Tensor, Tensor)", split_rows, lambda x: (torch.empty_like(x), torch.empty_like(x))),)
    splits = True

    def activation(self, call: Call, x: Any) -> tuple[Any, Any]:
        """Split the elements off."""
        parts = call(packet("split_rows"), x)
        return call(operator.getitem, parts, 0), call(operator.getitem, parts, 1)
