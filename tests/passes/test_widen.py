"""Widening: one operand of a product may be another one too."""

import torch
from torch import Tensor, nn

from helpers.graphs import before_and_after

EPS = torch.finfo(torch.bfloat16).eps


class OwnBias(nn.Module):
    """A product whose bias is its row."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 64, dtype=torch.bfloat16) / 8)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, x)


def test_a_bias_that_is_the_row() -> None:
    x = torch.randn(64, generator=torch.Generator().manual_seed(0)).bfloat16()
    _, _, want, got = before_and_after(OwnBias().eval(), (x,), "widen")
    assert ((got[0] - want[0]).abs() <= 2 * EPS * (want[0].abs() + x.abs().max())).all()
