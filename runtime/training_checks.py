"""What the ops of training ask of their arguments."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.products import MAX_K
from lowbit_compiler.runtime.require import FLOAT, FLOATS, require, result_dtype, same, tensors
from lowbit_compiler.runtime.training.integers import OPERANDS, Integers
from lowbit_compiler.runtime.training.linear import SCHEMAS
from lowbit_compiler.runtime.training.plans import LEARNING, PLANS, plan_of


def _seed(op: str, seed: Tensor, site: int) -> None:
    require(op, seed.dtype is torch.int64 and same(seed, (1,)), "seed in int64 of shape (1,)", f"{seed.dtype} of {tuple(seed.shape)}")
    require(op, 0 <= site < 2**31, "site from 0 to 2^31 - 1", site)


def _common(op: str, seed: Tensor, site: int, recipe: str, dtype: torch.dtype | None) -> None:
    _seed(op, seed, site)
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
    shared: Sequence[Tensor] | None = None,
) -> None:
    op = "train_linear"
    tensors(op, x=x, w=w, bias=bias, seed=seed, x_step=x_step, w_step=w_step, **{f"shared[{i}]": one for i, one in enumerate(shared or ())})
    _common(op, seed, site, recipe, dtype)
    for name, tensor in {"x": x, "w": w, "bias": bias}.items():
        require(op, tensor is None or tensor.dtype in FLOATS, f"{name} in {FLOAT}", None if tensor is None else tensor.dtype)
    require(op, w.dim() == 2, "w of 2 dimensions", w.dim())
    require(op, x.dim() >= 1 and x.shape[-1] == w.shape[1], f"x of shape (..., {w.shape[1]})", tuple(x.shape))
    require(op, w.shape[1] >= 1, "K of at least 1", w.shape[1])
    require(op, bias is None or same(bias, (w.shape[0],)), f"bias of shape ({w.shape[0]},)", None if bias is None else tuple(bias.shape))
    _steps(op, x_step, w_step)
    if shared:
        _shared(op, x, recipe, shared)


def _shared(op: str, x: Tensor, recipe: str, shared: Sequence[Tensor]) -> None:
    """Check that these are what the quantizer of ``recipe`` makes of ``x``."""
    plan = plan_of(recipe)
    taken = isinstance(plan, Integers) and len(shared) == 2
    require(op, taken, "codes and scales that the recipe's quantizer made, or nothing, as shared", len(shared))
    assert isinstance(plan, Integers)
    q, scale = shared
    _kept(op, "shared[0]", q, "shared[1]", scale, plan.bits, plan.forward.treatment.padded(x.shape[-1]))
    rows = math.prod(x.shape[:-1])
    require(op, q.shape[0] == rows, f"shared of {rows} rows, as x has", q.shape[0])


def _steps(op: str, x_step: Tensor | None, w_step: Tensor | None) -> None:
    require(op, (x_step is None) == (w_step is None), "both of x_step and w_step or none", "one")
    for name, step in {"x_step": x_step, "w_step": w_step}.items():
        if step is not None:
            require(
                op, step.dtype in FLOATS and same(step, (1,)), f"{name} in {FLOAT} of shape (1,)", f"{step.dtype} of {tuple(step.shape)}"
            )


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


def _quantize(x: Tensor, bits: int, rotated: bool) -> None:
    op = "train_quantize"
    tensors(op, x=x)
    require(op, x.dtype in FLOATS, f"x in {FLOAT}", x.dtype)
    require(op, x.dim() >= 1, "x with at least one dimension", f"{x.dim()} dimensions")
    require(op, x.shape[-1] >= 1, "K of at least 1", x.shape[-1])
    _bits(op, bits)


def _bits(op: str, bits: int) -> None:
    require(op, bits in OPERANDS, "bits in (4, 8)", bits)


def _kept(op: str, name: str, q: Tensor, scale_name: str, scale: Tensor, bits: int, k: int) -> None:
    dtype, columns = (torch.uint8, -(-k // 2)) if bits == 4 else (torch.int8, k)
    rows = q.shape[0] if q.dim() else 1
    fits = q.dtype is dtype and same(q, (rows, columns))
    require(op, fits, f"{name} in {str(dtype).removeprefix('torch.')} of shape {(rows, columns)}", f"{q.dtype} of {tuple(q.shape)}")
    fits = scale.dtype is torch.float32 and same(scale, (rows, 1))
    require(op, fits, f"{scale_name} in float32 of shape {(rows, 1)}", f"{scale.dtype} of {tuple(scale.shape)}")


def _sum(op: str, count: Any) -> None:
    require(op, count <= MAX_K, f"sums of at most {MAX_K} products", count)


def _multiply(x: Tensor, x_scale: Tensor, w: Tensor, w_scale: Tensor, bias: Tensor | None, bits: int, k: int, dtype: torch.dtype) -> None:
    op = "train_multiply"
    tensors(op, x=x, x_scale=x_scale, w=w, w_scale=w_scale, bias=bias)
    _bits(op, bits)
    require(op, k >= 1, "k of at least 1", k)
    _kept(op, "x", x, "x_scale", x_scale, bits, k)
    _kept(op, "w", w, "w_scale", w_scale, bits, k)
    _sum(op, k)
    require(op, bias is None or same(bias, (w.shape[0],)), f"bias of shape ({w.shape[0]},)", None if bias is None else tuple(bias.shape))
    require(op, bias is None or bias.dtype in FLOATS, f"bias in {FLOAT}", None if bias is None else bias.dtype)
    result_dtype(op, dtype)


def _fold(
    dy: Tensor, q: Tensor, scale: Tensor, seed: Tensor, site: int, columns: bool, bits: int, rotated: bool, k: int, dtype: torch.dtype
) -> None:
    op = "train_fold"
    tensors(op, dy=dy, q=q, scale=scale, seed=seed)
    require(op, dy.dtype in FLOATS, f"dy in {FLOAT}", dy.dtype)
    require(op, dy.dim() >= 1, "dy with at least one dimension", f"{dy.dim()} dimensions")
    _seed(op, seed, site)
    _bits(op, bits)
    require(op, k >= 1, "k of at least 1", k)
    _kept(op, "q", q, "scale", scale, bits, -(-k // 64) * 64 if rotated else k)
    result_dtype(op, dtype)
    count = math.prod(dy.shape[:-1]) if columns else dy.shape[-1]
    require(op, q.shape[0] == count, f"q of {count} rows", q.shape[0])
    _sum(op, count)


TRAINING_CHECKS: dict[str, Callable[..., None]] = {
    "train_quantize": _quantize,
    "train_multiply": _multiply,
    "train_fold": _fold,
    **{op: _gradient(op) for op in SCHEMAS},
    "train_linear": _linear,
    "train_grad_stepped": _stepped,
}
"""By the names of the ops."""
