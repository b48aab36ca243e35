"""An attention block to compile, and a small language model."""

from typing import Any

import torch
from torch import Tensor, nn

from helpers import zoo


class Block(nn.Module):
    """An attention block: three products of one input, an attention, a tied pair, and a head too small to rewrite."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        return self.head(x + self.down(torch.relu(self.up(x))))


def block(dtype: torch.dtype = torch.float32) -> tuple[Block, Tensor]:
    """Return the block, in eval mode, and an input for it."""
    return Block().eval().to(dtype), torch.randn(2, 7, 64, dtype=dtype)


def llama(**changes: Any) -> nn.Module:
    """Return a small Llama with random weights."""
    return zoo.causal("Llama", **changes)()[0]
