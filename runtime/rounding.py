"""How a number between two codes becomes one of them. The ops of formats round to nearest; training draws as well (docs/training.md)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rounding:
    """``share`` is the largest error in gaps of the grid; ``random`` ones draw anew for each reader of an operand."""

    name: str
    share: float
    random: bool = False


NEAREST = Rounding("nearest", 0.5)
STOCHASTIC = Rounding("stochastic", 1.0, random=True)
"""Up with a probability of the part above the lower neighbour: the mean over draws is the number itself."""


def whole(v: Tensor, noise: Tensor | None) -> Tensor:
    """Round float32 ``v`` to whole numbers: to nearest even, or up where ``noise``, uniform in (0, 1), is below the fraction."""
    if noise is None:
        return torch.round(v)
    below = torch.floor(v)
    return below + (noise < v - below).float()  # the difference is exact, where v + noise would be rounded
