"""FlexRound (arXiv 2306.00317): rounding learned by dividing every element of a weight, so that the block's output is what it was."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowbit_compiler.preparing.block import Block
from lowbit_compiler.preparing.chain import carried
from lowbit_compiler.preparing.hessian import treated
from lowbit_compiler.preparing.layer import Layer, replaced
from lowbit_compiler.preparing.lines import lines_of, require_lines
from lowbit_compiler.preparing.method import Method
from lowbit_compiler.recipes import Recipe
from lowbit_compiler.runtime.treatments.treatment import at_once


class _Round(torch.autograd.Function):
    """Nearest integers, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


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
        wanted = [carried(output).float() for output in block.run()]
        with torch.enable_grad(), contextlib.ExitStack() as stack:
            for each in learned:
                stack.enter_context(replaced(each.layer.module, each.forward))
            self._learn(block, wanted, [number for each in learned for number in (each.each, each.row)])
        for each in learned:
            each.layer.give(each.parts(), self.name)

    def _learn(self, block: Block, wanted: list[Tensor], numbers: list[Tensor]) -> None:
        adam = torch.optim.Adam(numbers, lr=self.rate)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.steps)
        for (args, kwargs), target in _turns(block, wanted, self.steps):
            error = (carried(block.module(*args, **kwargs)).float() - target).square().mean() / target.square().mean()
            for number, gradient in zip(numbers, torch.autograd.grad(error, numbers, allow_unused=True), strict=True):
                number.grad = gradient
            adam.step()
            falling.step()


def _turns(block: Block, wanted: list[Tensor], steps: int) -> Iterator[tuple[Any, Tensor]]:
    """Yield so many calls of the block, one after the other and again from the first, with what each is to return."""
    while True:
        for call, target in zip(block.calls(), wanted, strict=True):
            if steps == 0:
                return
            steps -= 1
            yield call, target


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
        rounded: Tensor = _Round.apply((divided - self.minimum) / self.slope)  # type: ignore[no-untyped-call]
        return rounded.clamp(*self.limits)

    def forward(self, x: Tensor) -> Tensor:
        plan, bias = self.layer.plan, self.layer.module.bias
        kept, exact = plan.treatment.activation(at_once, x.float())
        low = kept if plan.x is None else kept + (plan.x.dequantize(plan.x.quantize(kept.detach())) - kept).detach()
        weight = self.codes() * self.slope + self.minimum
        y = nn.functional.linear(low, weight, None if bias is None else bias.float())
        return (y if exact is None else y + nn.functional.linear(exact, weight)).to(x.dtype)

    def parts(self) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return self.codes().to(self.stored[0].dtype), *self.stored[1:]
