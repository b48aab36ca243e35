"""Dumps of small models, for the tests of what is written and of the page."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from lowbit_compiler.report import Report


class Block(nn.Module):
    """Two linears that share an input, an activation, a third; and a product of two activations, which no recipe takes."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(nn.functional.silu(self.gate(x)) * self.up(x))
        return x + torch.matmul(y, y.transpose(-1, -2)) @ x


class Model(nn.Module):
    """Blocks in a row and a head."""

    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.head = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        result: Tensor = self.head(x)
        return result


def dumped(folder: Path, model: nn.Module | None = None, **options: Any) -> tuple[Path, Report]:
    """Trace a model with a dump; returns the folder of its (first) graph and the report."""
    with torch.no_grad():
        report = lowbit.explain((model or Model()).eval(), torch.randn(2, 8, 64), dump=str(folder), **{"plan": "always", **options})
    return folder / "graph_0", report


def record_of(folder: Path) -> dict[str, Any]:
    """Return the JSON of a graph's folder."""
    data: dict[str, Any] = json.loads((folder / "graph.json").read_text())
    return data
