"""A small model of repeated blocks to prepare, with inputs whose channels hang together, as those of real models do."""

import torch
from torch import Tensor, nn

from lowbit_compiler.recipes import Recipe
from lowbit_compiler.runtime.prepared import Prepared, attached

WIDTH, HIDDEN, FEATURES = 64, 96, 48
INT4 = Recipe("int4 g32", weights="int4", activations="float", group_size=32)


class Gated(nn.Module):
    """A block with a norm, two linears that read it, a product and a linear that reads that."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.gate, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        h = self.norm(x)
        y = x + self.down(self.up(h) * torch.sigmoid(self.gate(h)))
        return y if shift is None else y + shift


class Stack(nn.Module):
    """Blocks between two linears."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, WIDTH)
        self.blocks = nn.ModuleList(Gated() for _ in range(blocks))
        self.last = nn.Linear(WIDTH, 40)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        shift = x.mean(-1, keepdim=True)
        for block in self.blocks:
            x = block(x, shift=shift)
        return self.last(x)


def stack(blocks: int = 3) -> Stack:
    """Return the model, in eval mode."""
    return Stack(blocks).eval().requires_grad_(False)


def correlated(rows: int, k: int, seed: int = 0) -> Tensor:
    """Return rows [rows, k] of 12 directions and a little noise, some channels larger than others."""
    generator = torch.Generator().manual_seed(seed)
    few = torch.randn(rows, 12, generator=generator) @ torch.randn(12, k, generator=torch.Generator().manual_seed(99))
    return (few + 0.1 * torch.randn(rows, k, generator=generator)) * torch.linspace(0.2, 2.0, k)


def inputs(count: int = 4) -> list[Tensor]:
    """Return inputs of the model for calibration."""
    return [correlated(2 * 40, FEATURES, seed).view(2, 40, FEATURES) for seed in range(count)]


def parts_of(model: nn.Module) -> dict[str, Prepared]:
    """Return what a model carries, by the names of its linears."""
    return dict(attached(model))


def equal(a: nn.Module, b: nn.Module) -> bool:
    """Return whether two models carry the same tensors."""
    mine, other = parts_of(a), parts_of(b)
    return set(mine) == set(other) and all(
        torch.equal(x, y) for name in mine for x, y in zip(mine[name].parts, other[name].parts, strict=True)
    )
