"""A model of two layers whose weights tests exchange and write to."""

import torch
from torch import Tensor, nn

SIZE = 96


class Model(nn.Module):
    """Two layers, one of them with a bias; its products are square, so that a transposed weight fits too."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


def new() -> Tensor:
    """Return another weight for one of its layers."""
    return torch.randn(SIZE, SIZE)
