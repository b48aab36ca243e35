"""Linears with step sizes that a model learns: their graphs show these beside the weight, and compute what a linear does."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowbit_compiler.runtime.require import FLOAT, FLOATS, require, same, tensors

SCHEMA = "stepped_linear(Tensor x, Tensor w, Tensor? bias, Tensor x_step, Tensor w_step) -> Tensor"


def stepped_linear(x: Tensor, w: Tensor, bias: Tensor | None, x_step: Tensor, w_step: Tensor) -> Tensor:
    """Return the linear of ``x`` [..., K], ``w`` [N, K] and ``bias`` [N]; the step sizes are for who rewrites the call, their gradient is 0 here."""
    y = F.linear(x, w, bias)
    learns = torch.is_grad_enabled() and (x_step.requires_grad or w_step.requires_grad)
    return _Unused.apply(y, x_step, w_step) if learns else y  # type: ignore[no-untyped-call]


class _Unused(torch.autograd.Function):
    """A result as it is, with gradients of 0 for step sizes that it does not depend on: DistributedDataParallel waits for one of each parameter.

    ``y + 0 * step`` would give them NaN where the gradient is.
    """

    @staticmethod
    def forward(y: Tensor, *steps: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.dtypes = [step.dtype for step in inputs[1:]]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        return dy, *(dy.new_zeros(1, dtype=dtype) for dtype in ctx.dtypes)


def check(x: Tensor, w: Tensor, bias: Tensor | None, x_step: Tensor, w_step: Tensor) -> None:
    """Raise RuntimeError for arguments of other kinds."""
    op = "stepped_linear"
    tensors(op, x=x, w=w, bias=bias, x_step=x_step, w_step=w_step)
    for name, tensor in {"x": x, "w": w, "bias": bias}.items():
        require(op, tensor is None or tensor.dtype in FLOATS, f"{name} in {FLOAT}", None if tensor is None else tensor.dtype)
    for name, step in {"x_step": x_step, "w_step": w_step}.items():
        require(op, step.dtype in FLOATS and same(step, (1,)), f"{name} in {FLOAT} of shape (1,)", f"{step.dtype} of {tuple(step.shape)}")


class SteppedLinear(nn.Linear):
    """A linear with the parameters ``lowbit_x_step`` and ``lowbit_w_step`` float32 [1]."""

    NAMES = ("lowbit_x_step", "lowbit_w_step")
    lowbit_x_step: nn.Parameter
    lowbit_w_step: nn.Parameter

    @classmethod
    def give(cls, linear: nn.Linear, *steps: Tensor) -> None:
        """Let ``linear`` have these ``steps`` float32 [1], of its activation and its weight; where it has some already, they are set."""
        for name, step in zip(cls.NAMES, steps, strict=True):
            if isinstance(linear, cls):
                with torch.no_grad():
                    linear.get_parameter(name).copy_(step)
            else:
                linear.register_parameter(name, nn.Parameter(step.to(linear.weight.device)))
        linear.__class__ = cls

    def forward(self, input: Tensor) -> Tensor:
        """As every linear."""
        call: Any = torch.ops.lowbit.stepped_linear.default
        result: Tensor = call(input, self.weight, self.bias, self.lowbit_x_step, self.lowbit_w_step)
        return result
