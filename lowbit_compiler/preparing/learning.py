"""What methods have in common that learn numbers of a block by gradients."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lowbit_compiler.preparing.block import Block, Call
from lowbit_compiler.preparing.chain import carried
from lowbit_compiler.preparing.layer import Layer
from lowbit_compiler.runtime.treatments.treatment import at_once


class _Round(torch.autograd.Function):
    """Nearest integers, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


def rounded(x: Tensor) -> Tensor:
    """Return the nearest integers, which have the gradient of ``x``."""
    return _Round.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def product(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """Return what ``layer`` computes of ``x`` with ``weight`` float32 [N, K padded]; rows are rounded as its plan says, with the gradient of ``x``."""
    plan, bias = layer.plan, layer.module.bias
    kept, exact = plan.treatment.activation(at_once, x.float())
    low = kept if plan.x is None else kept + (plan.x.dequantize(plan.x.quantize(kept.detach())) - kept).detach()
    y = nn.functional.linear(low, weight, None if bias is None else bias.float())
    return (y if exact is None else y + nn.functional.linear(exact, weight)).to(x.dtype)


def wanted(block: Block) -> list[Tensor]:
    """Return what the block returns for each of its calls."""
    return [carried(output).float() for output in block.run()]


def turns(block: Block, targets: list[Tensor], steps: int) -> Iterator[tuple[Call, Tensor]]:
    """Yield so many calls of the block, one after the other and again from the first, with what each is to return."""
    while True:
        for call, target in zip(block.calls(), targets, strict=True):
            if steps == 0:
                return
            steps -= 1
            yield call, target


def error(block: Block, call: Call, target: Tensor) -> Tensor:
    """Return the squared error of a call, over the square of what it is to return."""
    args, kwargs = call
    loss: Tensor = (carried(block.module(*args, **kwargs)).float() - target).square().mean() / target.square().mean()
    return loss


def gradients(loss: Tensor, numbers: list[nn.Parameter]) -> None:
    """Let ``numbers`` have the gradients of ``loss``."""
    for number, gradient in zip(numbers, torch.autograd.grad(loss, numbers, allow_unused=True), strict=True):
        number.grad = gradient
