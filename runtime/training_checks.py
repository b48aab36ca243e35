"""What the ops of training ask of their arguments."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.require import FLOAT, FLOATS, require, result_dtype, same, tensors
from lowbit_compiler.runtime.training.linear import SCHEMAS
from lowbit_compiler.runtime.training.plans import PLANS, plan_of


def _common(op: str, seed: Tensor, site: int, recipe: str, dtype: torch.dtype | None) -> None:
    require(op, seed.dtype is torch.int64 and same(seed, (1,)), "seed in int64 of shape (1,)", f"{seed.dtype} of {tuple(seed.shape)}")
    require(op, 0 <= site < 2**31, "site from 0 to 2^31 - 1", site)
    require(op, plan_of(recipe) is not None, f"recipe one of {', '.join(PLANS)}", repr(recipe))
    result_dtype(op, dtype)


def _linear(x: Tensor, w: Tensor, bias: Tensor | None, seed: Tensor, site: int, recipe: str, dtype: torch.dtype | None) -> None:
    op = "train_linear"
    tensors(op, x=x, w=w, bias=bias, seed=seed)
    _common(op, seed, site, recipe, dtype)
    for name, tensor in {"x": x, "w": w, "bias": bias}.items():
        require(op, tensor is None or tensor.dtype in FLOATS, f"{name} in {FLOAT}", None if tensor is None else tensor.dtype)
    require(op, w.dim() == 2, "w of 2 dimensions", w.dim())
    require(op, x.dim() >= 1 and x.shape[-1] == w.shape[1], f"x of shape (..., {w.shape[1]})", tuple(x.shape))
    require(op, w.shape[1] >= 1, "K of at least 1", w.shape[1])
    require(op, bias is None or same(bias, (w.shape[0],)), f"bias of shape ({w.shape[0]},)", None if bias is None else tuple(bias.shape))


def _gradient(op: str) -> Callable[..., None]:
    def check(dy: Tensor, x: Any, w: Any, seed: Tensor, site: int, recipe: str, k: int, dtype: torch.dtype) -> None:
        tensors(op, dy=dy, seed=seed, **{f"x[{i}]": one for i, one in enumerate(x)}, **{f"w[{i}]": one for i, one in enumerate(w)})
        _common(op, seed, site, recipe, dtype)
        require(op, dy.dtype in FLOATS and dy.dim() >= 1, f"dy in {FLOAT} with at least one dimension", f"{dy.dtype} of {dy.dim()}")
        require(op, k >= 1, "k of at least 1", k)

    return check


TRAINING_CHECKS: dict[str, Callable[..., None]] = {op: _linear if op == "train_linear" else _gradient(op) for op in SCHEMAS}
