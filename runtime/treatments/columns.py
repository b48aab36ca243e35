"""Whole columns of the activation that stay exact (LLM.int8(), arXiv 2208.07339, section 3.2)."""

import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.treatments.treatment import Call, Op, Treatment, packet


def hit_columns(x: Tensor, threshold: float) -> Tensor:
    """Return bool [K]: True where |x| >= ``threshold`` in that column of any row of ``x`` [..., K] without NaN and Inf."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    regular = torch.isfinite(rows).all(1, keepdim=True)
    return ((rows.float().abs() >= threshold) & regular).any(0)  # in x's own dtype torch would round the threshold


def split_columns(x: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Split ``x`` [..., K] into (kept, exact): a column is exact when |x| >= ``threshold`` in any row without NaN and Inf."""
    hit = hit_columns(x, threshold)
    zero = torch.zeros_like(x)
    return torch.where(hit, zero, x), torch.where(hit, x, zero)


@dataclass(frozen=True)
class Columns(Treatment):
    """Columns with an element of magnitude ``threshold`` or more are multiplied in float, beside the low-bit product of the others."""

    threshold: float = 6.0

    name = "columns"
    ops = (
        Op(
            "split_columns(Tensor x, float threshold) -> (Tensor, Tensor)",
            split_columns,
            lambda x, threshold: (torch.empty_like(x), torch.empty_like(x)),
            row_local=False,
        ),
        Op(
            "hit_columns(Tensor x, float threshold) -> Tensor",
            hit_columns,
            lambda x, threshold: x.new_empty((x.shape[-1],), dtype=torch.bool),
            row_local=False,
        ),
    )
    splits = True
    ragged = True

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The threshold."""
        return (self.threshold,)

    def activation(self, call: Call, x: Any) -> tuple[Any, Any]:
        """Split the columns off."""
        parts = call(packet("split_columns"), x, self.threshold)
        return call(operator.getitem, parts, 0), call(operator.getitem, parts, 1)
