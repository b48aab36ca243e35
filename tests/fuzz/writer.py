"""The source of a random model as it grows, and the module that holds its parameters."""

from dataclasses import dataclass, field
from random import Random

import torch
from torch import nn


@dataclass
class Writer:
    """The source of one model as it grows, and the module that holds its parameters."""

    random: Random
    width: int
    tokens: int
    heads: int
    module: nn.Module = field(default_factory=nn.Module)
    lines: list[str] = field(default_factory=list)
    pool: list[str] = field(default_factory=lambda: ["x", "y"])

    def any(self, *choices: str) -> str:
        """Return one of ``choices``."""
        return self.random.choice(choices)

    def often(self, share: float) -> bool:
        """Return True for that share of calls."""
        return self.random.random() < share

    def recent(self) -> str:
        """Return a tensor of the pool, most likely a new one."""
        return self.random.choice(self.pool[-3:])

    def let(self, expression: str) -> str:
        """Write an assignment to a new variable; returns its name."""
        name = f"t{len(self.lines)}"
        self.lines.append(f"{name} = {expression}")
        return name

    def new(self, expression: str) -> None:
        """Write an assignment, whose result later steps may read and the model may return."""
        self.pool.append(self.let(expression))

    def do(self, statement: str) -> None:
        """Write a statement."""
        self.lines.append(statement)

    def linear(self, n: int | None = None, k: int | None = None) -> str:
        """Add a linear; returns what calls it."""
        name = f"linear{len(self.module._modules)}"
        self.module.add_module(name, nn.Linear(k or self.width, n or self.width, bias=self.often(0.6)))
        return f"self.{name}"

    def weight(self, *shape: int) -> str:
        """Add a parameter; returns its name."""
        name = f"weight{len(self.module._parameters)}"
        self.module.register_parameter(name, nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5))
        return f"self.{name}"
