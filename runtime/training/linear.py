"""The three ops of a linear that trains: plain-torch reference and shapes. ``recipe`` names a plan (runtime/training/plans.py).

``seed`` int64 [1] is one number for each call of the model, ``site`` tells its linears apart: all random numbers are a function of both.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats import Operand
from lowbit_compiler.runtime.training.backward import INPUT, WEIGHT, Draw
from lowbit_compiler.runtime.training.matrix import Matrix, shapes
from lowbit_compiler.runtime.training.plan import TrainingPlan, rows_of
from lowbit_compiler.runtime.training.plans import plan_of
from lowbit_compiler.runtime.training.steps import gradient

SCHEMAS = {
    "train_linear": "(Tensor x, Tensor w, Tensor? bias, Tensor seed, int site, str recipe, ScalarType? dtype, Tensor? x_step=None, "
    "Tensor? w_step=None, Tensor[]? shared=None) -> (Tensor, Tensor[], Tensor[])",
    "train_grad_input": "(Tensor dy, Tensor[] x, Tensor[] w, Tensor seed, int site, str recipe, int k, ScalarType dtype) -> Tensor",
    "train_grad_weight": "(Tensor dy, Tensor[] x, Tensor[] w, Tensor seed, int site, str recipe, int k, ScalarType dtype) -> Tensor",
    "train_grad_stepped": "(Tensor dy, Tensor[] x, Tensor[] w, Tensor seed, int site, str recipe, int k, ScalarType dtype, bool weight) "
    "-> (Tensor, Tensor)",
}


def train_linear(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    seed: Tensor,
    site: int,
    recipe: str,
    dtype: torch.dtype | None,
    x_step: Tensor | None = None,
    w_step: Tensor | None = None,
    shared: Sequence[Tensor] | None = None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return y [..., N] for ``x`` [..., K], ``w`` [N, K] and ``bias`` [N], and what the backward pass reads of x and w; nothing of what it reads as it is.

    ``x_step`` and ``w_step`` float [1] are step sizes that the model learns, in place of a statistic; with a plan that learns none their gradient is 0.
    ``shared`` is what the plan's quantizer made of x for all linears that have it as their input.
    """
    y, kept_x, kept_w = _plan(recipe).at(x_step, w_step).linear(x, w, bias, dtype or x.dtype, list(shared or ()))
    return y.reshape(*x.shape[:-1], w.shape[0]), kept_x, kept_w


def train_linear_shapes(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    seed: Tensor,
    site: int,
    recipe: str,
    dtype: torch.dtype | None,
    x_step: Tensor | None = None,
    w_step: Tensor | None = None,
    shared: Sequence[Tensor] | None = None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return empty tensors like the results."""
    plan = _plan(recipe).at(x_step, w_step)
    forward = plan.forward
    n, k = w.shape
    width = forward.treatment.padded(k)
    y = x.new_empty((*x.shape[:-1], n), dtype=dtype or x.dtype)
    kept_x = [] if forward.x is None or shared else shapes(forward.x, x, math.prod(x.shape[:-1]), width)
    return y, kept_x, [] if plan.keeps_weight else shapes(forward.w, w, n, width)


def train_grad_input(
    dy: Tensor, x: list[Tensor], w: list[Tensor], seed: Tensor, site: int, recipe: str, k: int, dtype: torch.dtype
) -> Tensor:
    """Return dX [..., K] in ``dtype`` for ``dy`` [..., N], the kept ``w`` (w itself where the plan keeps that), and the kept ``x`` where its scale masks."""
    return _plan(recipe).input_gradient(dy, x, w, Draw(seed, site, INPUT), k, dtype).reshape(*dy.shape[:-1], k)


def train_grad_weight(
    dy: Tensor, x: list[Tensor], w: list[Tensor], seed: Tensor, site: int, recipe: str, k: int, dtype: torch.dtype
) -> Tensor:
    """Return dW [N, K] in ``dtype`` for ``dy`` [..., N], the kept ``x`` (x itself where that is float), and the kept ``w`` where its scale masks."""
    return _plan(recipe).weight_gradient(dy, x, w, Draw(seed, site, WEIGHT), k, dtype)


def train_grad_stepped(
    dy: Tensor, x: list[Tensor], w: list[Tensor], seed: Tensor, site: int, recipe: str, k: int, dtype: torch.dtype, weight: bool
) -> tuple[Tensor, Tensor]:
    """Return dX, or with ``weight`` dW, and the gradient of the magnitude of its step size, float32 [1], where both were learned ones."""
    plan = _plan(recipe).at(x[1], w[1])
    forward, width = plan.forward, plan.forward.treatment.padded(k)
    assert forward.x is not None
    own, other = Matrix.saved(forward.x, x, width), Matrix.saved(forward.w, w, width)
    if weight:
        product, own = plan.grad_weight.product(rows_of(dy).t().contiguous(), own, Draw(seed, site, WEIGHT)), other
    else:
        product = plan.grad_input.product(rows_of(dy), other, Draw(seed, site, INPUT))
    assert own.inside is not None
    assert own.changes is not None
    inside = forward.treatment.transposed(torch.where(own.inside, product, torch.zeros_like(product)), k)
    step = gradient(product, own.codes, own.changes, own.operand.format.grid.largest, k)
    return inside.to(dtype).contiguous().reshape(_stepped_shape(dy, k, weight)), step


def train_grad_stepped_shapes(
    dy: Tensor, x: Any, w: Any, seed: Tensor, site: int, recipe: str, k: int, dtype: torch.dtype, weight: bool
) -> tuple[Tensor, Tensor]:
    """Return empty tensors like the results."""
    return dy.new_empty(_stepped_shape(dy, k, weight), dtype=dtype), dy.new_empty(1, dtype=torch.float32)


def _stepped_shape(dy: Tensor, k: int, weight: bool) -> tuple[Any, ...]:
    return (dy.shape[-1], k) if weight else (*dy.shape[:-1], k)


def train_grad_input_shapes(dy: Tensor, x: Any, w: Any, seed: Tensor, site: int, recipe: str, k: int, dtype: torch.dtype) -> Tensor:
    """Return an empty tensor like the result."""
    return dy.new_empty((*dy.shape[:-1], k), dtype=dtype)


def train_grad_weight_shapes(dy: Tensor, x: Any, w: Any, seed: Tensor, site: int, recipe: str, k: int, dtype: torch.dtype) -> Tensor:
    """Return an empty tensor like the result."""
    return dy.new_empty((dy.shape[-1], k), dtype=dtype)


def keeps_mask(operand: Operand | None) -> bool:
    """Return whether the operand gives no gradient to some elements, so that its own product needs what was kept of it."""
    return operand is not None and operand.scale.masks


def _plan(recipe: str) -> TrainingPlan:
    plan = plan_of(recipe)
    assert plan is not None, recipe  # checked before
    return plan
