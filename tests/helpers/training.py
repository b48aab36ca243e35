"""A model to train with a recipe, and its gradients."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lowbit_compiler as lowbit
from lowbit_compiler.runtime.training.plans import LEARNING

WORDS = 48
LINEARS = 4


class Block(nn.Module):
    """A feed-forward block."""

    def __init__(self, width: int, drop: float) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width, bias=False)
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        return x + F.dropout(self.down(F.gelu(self.up(self.norm(x)))), self.drop, self.training)


class Model(nn.Module):
    """Two blocks between an embedding and a head that is tied to it; ``checkpointed`` ones are computed again in the backward pass."""

    def __init__(self, checkpointed: bool = False, drop: float = 0.0, width: int = 32) -> None:
        super().__init__()
        self.embedding, self.blocks = nn.Embedding(WORDS, width), nn.ModuleList(Block(width, drop) for _ in range(2))
        self.head = nn.Linear(width, WORDS, bias=False)
        self.head.weight = self.embedding.weight
        nn.init.normal_(self.embedding.weight, std=0.2)
        self.checkpointed = checkpointed

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x)
        return self.head(x)


def text(batch: int = 2, length: int = 9) -> Tensor:
    """Words to learn from: each tells the next."""
    return (torch.arange(batch).unsqueeze(1) * 11 + torch.arange(length)) % WORDS


def loss_of(run: Callable[..., Tensor], words: Tensor) -> Tensor:
    """Return the loss of the next word."""
    return F.cross_entropy(run(words).float().flatten(0, 1), ((words * 7 + 3) % WORDS).flatten())


def gradients(model: nn.Module, run: Callable[..., Tensor], words: Tensor | None = None, seed: int = 5) -> dict[str, Tensor]:
    """Return the gradient of each parameter of ``model``, where ``run`` is what computes it."""
    torch.manual_seed(seed)
    model.zero_grad()
    loss_of(run, text() if words is None else words).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def learner(recipe: str) -> Model:
    """Return the same model at every call; with step sizes to learn, where ``recipe`` does."""
    torch.manual_seed(0)
    model = Model()
    if recipe in LEARNING:
        lowbit.prepare_training(model, recipe, [text()])
    return model


def train(
    model: nn.Module, run: Callable[..., Tensor], words: Tensor, steps: int = 4, optimizer: torch.optim.Optimizer | None = None
) -> list[float]:
    """Return the losses of ``steps`` steps, each before its own."""
    optimizer, losses = optimizer or torch.optim.SGD(model.parameters(), 0.5), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(run, words)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def far(got: dict[str, Tensor], want: dict[str, Tensor]) -> float:
    """Return the largest relative difference of a gradient."""
    assert got.keys() == want.keys()
    return max(float((got[name] - want[name]).norm() / want[name].norm()) for name in want)


def equal(got: dict[str, Tensor], want: dict[str, Tensor]) -> bool:
    """Return whether all gradients are equal, bit by bit."""
    return got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in want)


def ops_called(run: Callable[[], Any]) -> dict[str, int]:
    """Return how often each op of training is called."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return dict(Counter(event.name.removeprefix("lowbit::") for event in profile.events() if event.name.startswith("lowbit::train_")))
