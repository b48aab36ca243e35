"""What autograd does with ``lowbit::train_linear``: saves what the backward ops read, and calls those whose result somebody needs."""

from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.training.linear import keeps_mask
from lowbit_compiler.runtime.training.plans import plan_of

X, W, BIAS = range(3)


def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    """Save the quantized operands: x for dW, w for dX, and either for its own gradient where its scale clips."""
    x, w, bias, seed, ctx.site, ctx.recipe, _ = inputs
    _, kept_x, kept_w = output
    plan = plan_of(ctx.recipe)
    assert plan is not None
    ctx.mark_non_differentiable(*kept_x, *kept_w)
    need = ctx.needs_input_grad
    kept_x = [x] if plan.forward.x is None else kept_x
    ctx.masks = keeps_mask(plan.forward.x), keeps_mask(plan.forward.w)
    kept_x = kept_x if need[W] or (need[X] and ctx.masks[X]) else []
    kept_w = kept_w if need[X] or (need[W] and ctx.masks[W]) else []
    ctx.count = len(kept_x)
    ctx.save_for_backward(seed, *kept_x, *kept_w)
    ctx.k, ctx.dtypes = w.shape[1], (x.dtype, w.dtype, None if bias is None else bias.dtype)


def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, w and bias that are needed; nothing else has one."""
    seed, *kept = ctx.saved_tensors
    x, w = list(kept[: ctx.count]), list(kept[ctx.count :])
    dx = dw = db = None
    end = (seed, ctx.site, ctx.recipe, ctx.k)
    if ctx.needs_input_grad[X]:
        dx = torch.ops.lowbit.train_grad_input(dy, x if ctx.masks[X] else [], w, *end, ctx.dtypes[X])
    if ctx.needs_input_grad[W]:
        dw = torch.ops.lowbit.train_grad_weight(dy, x, w if ctx.masks[W] else [], *end, ctx.dtypes[W])
    if ctx.needs_input_grad[BIAS]:
        db = dy.reshape(-1, dy.shape[-1]).sum(0, dtype=torch.float32).to(ctx.dtypes[BIAS])
    return dx, dw, db, None, None, None, None
