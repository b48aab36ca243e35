"""FlexRound (arXiv 2306.00317): rounding learned by dividing every element of a weight, so that the block's output is what it was."""

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowbit_compiler.preparing.block import Block
from lowbit_compiler.preparing.hessian import treated
from lowbit_compiler.preparing.layer import Layer, replaced
from lowbit_compiler.preparing.learning import error, gradients, product, rounded, turns, wanted
from lowbit_compiler.preparing.lines import lines_of, require_lines
from lowbit_compiler.preparing.method import Method
from lowbit_compiler.recipes import Recipe


@dataclass(frozen=True)
class FlexRound(Method):
    """q = clamp(rne(W / S / slope - minimum / slope)) with S = exp(each + row), learned by Adam with a cosine to 0 (section 3.1, linears).

    The error is that of the block's output for the inputs that it has here. Of what is learned only the codes are kept, and the lines are
    those that were fitted to the weight: in the paper their slope is learned too.
    """

    steps: int = 200
    rate: float = 3e-3

    name = "flexround"
    rounds = True

    def check(self, recipe: Recipe) -> None:
        """Raise OptionError for weights of no integers."""
        require_lines(recipe, self.name)

    def apply(self, block: Block) -> None:
        """Learn the codes of all linears of the block that read something."""
        learned = []
        for inputs in block.inputs():
            importance = treated(inputs.hessian, inputs.layers[0].plan.treatment).diagonal()
            learned += [_Learned.of(layer, importance) for layer in inputs.layers]
        if not learned:
            return
        targets = wanted(block)
        with torch.enable_grad(), contextlib.ExitStack() as stack:
            for each in learned:
                stack.enter_context(replaced(each.layer.module, each.forward))
            self._learn(block, targets, [number for each in learned for number in (each.each, each.row)])
        for each in learned:
            each.layer.give(each.parts(), self.name)

    def _learn(self, block: Block, targets: list[Tensor], numbers: list[nn.Parameter]) -> None:
        adam = torch.optim.Adam(numbers, lr=self.rate)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.steps)
        for call, target in turns(block, targets, self.steps):
            gradients(error(block, call, target), numbers)
            adam.step()
            falling.step()


@dataclass(frozen=True)
class _Learned:
    """A linear, and the logarithms of what its weight is divided by."""

    layer: Layer
    weight: Tensor
    stored: tuple[Tensor, ...]
    slope: Tensor
    minimum: Tensor
    limits: tuple[int, int]
    each: nn.Parameter
    """[N, K padded]."""
    row: nn.Parameter
    """[N, 1]."""

    @classmethod
    def of(cls, layer: Layer, importance: Tensor) -> "_Learned":
        weight = layer.treated
        stored = layer.plan.w.quantize(weight, importance + importance.mean() / 100)
        lines = lines_of(layer.plan.w, stored, weight.shape[1])
        slope, minimum = lines.columns
        slope = torch.where(slope > 0.0, slope, torch.ones_like(slope))
        return cls(
            layer,
            weight,
            stored,
            slope,
            minimum,
            lines.codes,
            nn.Parameter(torch.zeros_like(weight)),
            nn.Parameter(torch.zeros_like(weight[:, :1])),
        )

    def codes(self) -> Tensor:
        divided = self.weight * torch.exp(-(self.each + self.row))
        return rounded((divided - self.minimum) / self.slope).clamp(*self.limits)

    def forward(self, x: Tensor) -> Tensor:
        return product(self.layer, x, self.codes() * self.slope + self.minimum)

    def parts(self) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return self.codes().to(self.stored[0].dtype), *self.stored[1:]
