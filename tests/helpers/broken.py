"""A model whose graph breaks twice, and the options under which every layer of it is low-bit."""

from typing import Any

import torch
from torch import Tensor, nn

EAGER: dict[str, Any] = {"remainder": "eager", "plan": "always"}


class Broken(nn.Module):
    """A graph break between two products, a parameter read without a module, and tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 48)
        self.up = nn.Linear(48, 80)
        self.down = nn.Parameter(torch.randn(48, 80) / 9)
        self.out = nn.Linear(48, 64, bias=False)
        self.out.weight = self.table.weight

    def forward(self, ids: Tensor) -> tuple[int, dict[str, Tensor]]:
        x = torch.relu(self.up(self.table(ids)))
        torch._dynamo.graph_break()
        x = x @ self.down.t()
        torch._dynamo.graph_break()
        return 3, {"scores": self.out(x), "hidden": x}
