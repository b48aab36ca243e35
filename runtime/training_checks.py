"""What the ops of training ask of their arguments."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.require import FLOAT, FLOATS, require, result_dtype, same, tensors
from lowbit_compiler.runtime.training.linear import SCHEMAS
from lowbit_compiler.runtime.training.plans import LEARNING, PLANS, plan_of


def _common(op: str, seed: Tensor, site: int, recipe: str, dtype: torch.dtype | None) -> None:
    require(op, seed.dtype is torch.int64 and same(seed, (1,)), "seed in int64 of shape (1,)", f"{seed.dtype} of {tuple(seed.shape)}")
    require(op, 0 <= site < 2**31, "site from 0 to 2^31 - 1", site)
    require(op, plan_of(recipe) is not None, f"recipe one of {', '.join(PLANS)}", repr(recipe))
    result_dtype(op, dtype)


def _linear(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    seed: Tensor,
    site: int,
    recipe: str,
    dtype: torch.dtype | None,
    x_step: Tensor | None = None,
    w_step: Tensor | None = None,
) -> None:
    op = "train_linear"
    tensors(op, x=x, w=w, bias=bias, seed=seed, x_step=x_step, w_step=w_step)
    _common(op, seed, site, recipe, dtype)
    for name, tensor in {"x": x, "w": w, "bias": bias}.items():
        require(op, tensor is None or tensor.dtype in FLOATS, f"{name} in {FLOAT}", None if tensor is None else tensor.dtype)
    require(op, w.dim() == 2, "w of 2 dimensions", w.dim())
    require(op, x.dim() >= 1 and x.shape[-1] == w.shape[1], f"x of shape (..., {w.shape[1]})", tuple(x.shape))
    require(op, w.shape[1] >= 1, "K of at least 1", w.shape[1])
    require(op, bias is None or same(bias, (w.shape[0],)), f"bias of shape ({w.shape[0]},)", None if bias is None else tuple(bias.shape))
    _steps(op, recipe, x_step, w_step)


def _steps(op: str, recipe: str, x_step: Tensor | None, w_step: Tensor | None) -> None:
    require(op, (x_step is None) == (w_step is None), "both of x_step and w_step or none", "one")
    for name, step in {"x_step": x_step, "w_step": w_step}.items():
        if step is not None:
            require(
                op, step.dtype in FLOATS and same(step, (1,)), f"{name} in {FLOAT} of shape (1,)", f"{step.dtype} of {tuple(step.shape)}"
            )
            require(op, recipe in LEARNING, f"steps with recipe {', '.join(LEARNING)}", repr(recipe))


def _stepped(dy: Tensor, x: Any, w: Any, seed: Tensor, site: int, recipe: str, k: int, dtype: torch.dtype, weight: bool) -> None:
    op = "train_grad_stepped"
    _gradient(op)(dy, x, w, seed, site, recipe, k, dtype)
    require(op, recipe in LEARNING, f"recipe {', '.join(LEARNING)}", repr(recipe))
    require(op, len(x) == len(w) == 3, "3 kept tensors of x and of w", f"{len(x)} and {len(w)}")


def _gradient(op: str) -> Callable[..., None]:
    def check(dy: Tensor, x: Any, w: Any, seed: Tensor, site: int, recipe: str, k: int, dtype: torch.dtype) -> None:
        tensors(op, dy=dy, seed=seed, **{f"x[{i}]": one for i, one in enumerate(x)}, **{f"w[{i}]": one for i, one in enumerate(w)})
        _common(op, seed, site, recipe, dtype)
        require(op, dy.dtype in FLOATS and dy.dim() >= 1, f"dy in {FLOAT} with at least one dimension", f"{dy.dtype} of {dy.dim()}")
        require(op, k >= 1, "k of at least 1", k)

    return check


_OTHERS: dict[str, Callable[..., None]] = {"train_linear": _linear, "train_grad_stepped": _stepped}
TRAINING_CHECKS = {op: _OTHERS.get(op) or _gradient(op) for op in SCHEMAS}
