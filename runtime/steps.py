"""Linears with step sizes that a model learns: their graphs show these beside the weight, and compute what a linear does."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowbit_compiler.runtime.require import FLOAT, FLOATS, require, same, tensors

SCHEMA = "linear_with_steps(Tensor x, Tensor w, Tensor? bias, Tensor x_step, Tensor w_step) -> Tensor"


def linear_with_steps(x: Tensor, w: Tensor, bias: Tensor | None, x_step: Tensor, w_step: Tensor) -> Tensor:
    """Return the linear of ``x`` [..., K], ``w`` [N, K] and ``bias`` [N]; the step sizes are for who rewrites the call, and get no gradient here."""
    return F.linear(x, w, bias)


def check(x: Tensor, w: Tensor, bias: Tensor | None, x_step: Tensor, w_step: Tensor) -> None:
    """Raise RuntimeError for arguments of other kinds."""
    op = "linear_with_steps"
    tensors(op, x=x, w=w, bias=bias, x_step=x_step, w_step=w_step)
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
        call: Any = torch.ops.lowbit.linear_with_steps.default
        result: Tensor = call(input, self.weight, self.bias, self.lowbit_x_step, self.lowbit_w_step)
        return result
