"""What autograd does with ``lowbit::train_linear``: saves what the backward ops read, and calls those whose result somebody needs."""

from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.training.linear import keeps_mask
from lowbit_compiler.runtime.training.plans import plan_of
from lowbit_compiler.runtime.training.steps import missing

X, W, BIAS = range(3)
X_STEP, W_STEP = 7, 8


def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    """Save the quantized operands: x for dW, w for dX, and either for its own gradient where its scale clips."""
    x, w, bias, seed, ctx.site, ctx.recipe, _, *steps, shared = inputs
    _, kept_x, kept_w = output
    plan = plan_of(ctx.recipe)
    assert plan is not None
    ctx.mark_non_differentiable(*kept_x, *kept_w)
    ctx.need = [*ctx.needs_input_grad, False, False]  # of steps that nobody gave
    ctx.none = [None] * len(shared or ())
    ctx.stepped = plan.learns and steps[0] is not None
    need_x, need_w = (ctx.need[i] or (ctx.stepped and ctx.need[step]) for i, step in ((X, X_STEP), (W, W_STEP)))
    kept_x, kept_w = kept_x or shared or [x], kept_w or [w]
    ctx.masks = keeps_mask(plan.forward.x), keeps_mask(plan.forward.w)
    kept_x = kept_x if need_w or (need_x and ctx.masks[X]) else []
    kept_w = kept_w if need_x or (need_w and ctx.masks[W]) else []
    ctx.count = len(kept_x)
    ctx.save_for_backward(seed, *(steps if ctx.stepped else ()), *kept_x, *kept_w)
    ctx.k, ctx.dtypes = w.shape[1], (x.dtype, w.dtype, None if bias is None else bias.dtype)


def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, w, bias and step sizes that are needed; nothing else has one."""
    seed, *kept = ctx.saved_tensors
    steps, kept = (kept[:2], kept[2:]) if ctx.stepped else ((), kept)
    x, w = list(kept[: ctx.count]), list(kept[ctx.count :])
    end = (seed, ctx.site, ctx.recipe, ctx.k)
    dx = dw = db = None
    moved = [dy.new_zeros(1, dtype=torch.float32) if ctx.need[step] else None for step in (X_STEP, W_STEP)]  # autograd casts it
    if ctx.stepped:
        both = ((X, X_STEP), (W, W_STEP))
        dx, dw = (_stepped(ctx, moved, steps, (dy, x, w, *end), *each) if any(ctx.need[i] for i in each) else None for each in both)
    else:
        if ctx.need[X]:
            dx = torch.ops.lowbit.train_grad_input(dy, x if ctx.masks[X] else [], w, *end, ctx.dtypes[X])
        if ctx.need[W]:
            dw = torch.ops.lowbit.train_grad_weight(dy, x, w if ctx.masks[W] else [], *end, ctx.dtypes[W])
    if ctx.need[BIAS]:
        db = dy.reshape(-1, dy.shape[-1]).sum(0, dtype=torch.float32).to(ctx.dtypes[BIAS])
    return (dx, dw, db, None, None, None, None, *moved, ctx.none)[: len(ctx.needs_input_grad)]


def _stepped(ctx: Any, moved: list[Tensor | None], steps: Any, arguments: tuple[Any, ...], which: int, step: int) -> Tensor | None:
    """Return the gradient of an operand, and put that of its step size into ``moved``: of the step, of which the magnitude counts."""
    gradient, of_magnitude = torch.ops.lowbit.train_grad_stepped(*arguments, ctx.dtypes[which], which == W)
    own = steps[which]
    of_own = of_magnitude * torch.copysign(torch.ones_like(own), own).float()
    moved[step - X_STEP] = torch.where(missing(own), torch.zeros_like(of_own), of_own).to(own.dtype)
    return gradient if ctx.need[which] else None
