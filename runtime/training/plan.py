"""What a linear that trains computes: its three products, as data, under the name that its ops take."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats import Operand
from lowbit_compiler.runtime.products import Plan
from lowbit_compiler.runtime.training.backward import Backward, Draw
from lowbit_compiler.runtime.training.matrix import Matrix, multiply
from lowbit_compiler.runtime.training.steps import at
from lowbit_compiler.runtime.treatments.treatment import at_once

FORWARD, GRAD_INPUT, GRAD_WEIGHT = "forward", "dX", "dW"
PRODUCTS = (FORWARD, GRAD_INPUT, GRAD_WEIGHT)
Kept = list[Tensor]
"""What the backward pass reads of an operand."""


@dataclass(frozen=True)
class TrainingPlan:
    """``forward`` is y = x w^T, ``grad_input`` dX = dY w, ``grad_weight`` dW = dY^T x, each with its own operands.

    The methods compute them in plain torch; a plan for which there are kernels calls those (runtime/training/integers.py).
    """

    forward: Plan
    grad_input: Backward
    grad_weight: Backward

    @property
    def learns(self) -> bool:
        """Whether step sizes of both operands of the forward product may be parameters of the model."""
        return self.forward.x is not None and self.forward.x.scale.learns and self.forward.w.scale.learns

    def at(self, x_step: Tensor | None, w_step: Tensor | None) -> "TrainingPlan":
        """Return the plan with these step sizes float [1] of its forward product; as it is for None, and where it learns none."""
        if x_step is None or w_step is None or not self.learns:
            return self
        assert self.forward.x is not None
        return replace(self, forward=replace(self.forward, x=at(self.forward.x, x_step), w=at(self.forward.w, w_step)))

    @property
    def names(self) -> dict[str, str]:
        """What each product multiplies, for people."""
        x = "float" if self.forward.x is None else self.forward.x.name
        treated = "" if self.forward.treatment.name == "none" else f" {self.forward.treatment.name}"
        return dict(zip(PRODUCTS, (f"{x} x {self.forward.w.name}{treated}", self.grad_input.name, self.grad_weight.name), strict=True))

    @property
    def kernels(self) -> dict[str, str]:
        """The op whose kernels compute each product; none in plain torch."""
        return {}

    @property
    def quantizer(self) -> tuple[str, tuple[Any, ...]] | None:
        """The op that makes what is kept of an activation, and its arguments behind it, where linears of one input may share that."""
        return None

    @property
    def keeps_weight(self) -> bool:
        """Whether the backward pass reads the weight itself, a parameter that costs no memory, and quantizes it again."""
        return False

    def linear(self, x: Tensor, w: Tensor, bias: Tensor | None, dtype: torch.dtype, shared: Kept) -> tuple[Tensor, Kept, Kept]:
        """Return y [M, N] and what is kept of ``x`` [..., K] and ``w`` [N, K]; nothing of what the backward pass reads as it is.

        ``shared`` is what ``quantizer`` made of ``x``, or empty.
        """
        forward = self.forward
        rows, _ = forward.treatment.activation(at_once, rows_of(x))
        weight = Matrix.of(forward.w, forward.treatment.weight(at_once, w.float()))
        if forward.x is None:
            y, kept = rows @ weight.value.t(), []
        else:
            activation = Matrix.of(forward.x, rows)
            y, kept = multiply(activation, weight), activation.save()
        if bias is not None:
            y = y + bias.float()
        return y.to(dtype), kept, weight.save()

    def input_gradient(self, dy: Tensor, x: Kept, w: Kept, draw: Draw, k: int, dtype: torch.dtype) -> Tensor:
        """Return dX [M, K] for ``dy`` [..., N], the kept ``w``, and the kept ``x`` where its scale masks."""
        forward, width = self.forward, self.forward.treatment.padded(k)
        product = self.grad_input.product(rows_of(dy), Matrix.saved(forward.w, w, width), draw)
        return forward.treatment.transposed(_masked(product, forward.x, x, width), k).to(dtype).contiguous()

    def weight_gradient(self, dy: Tensor, x: Kept, w: Kept, draw: Draw, k: int, dtype: torch.dtype) -> Tensor:
        """Return dW [N, K] for ``dy`` [..., N], the kept ``x`` (x itself where that is float), and the kept ``w`` where its scale masks."""
        forward, width = self.forward, self.forward.treatment.padded(k)
        saved = forward.treatment.activation(at_once, rows_of(x[0]))[0] if forward.x is None else Matrix.saved(forward.x, x, width)
        product = self.grad_weight.product(rows_of(dy).t().contiguous(), saved, draw)
        return forward.treatment.transposed(_masked(product, forward.w, w, width), k).to(dtype).contiguous()


def rows_of(x: Tensor) -> Tensor:
    """Return ``x`` [..., K] as float32 [M, K]."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).float()


def _masked(product: Tensor, operand: Operand | None, kept: Kept, width: int) -> Tensor:
    """Return ``product`` [R, width] with zeros where the forward product clipped ``operand``."""
    if operand is None or not operand.scale.masks:
        return product
    inside = Matrix.saved(operand, kept, width).inside
    assert inside is not None
    return torch.where(inside, product, torch.zeros_like(product))
