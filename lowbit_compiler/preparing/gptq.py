"""GPTQ (arXiv 2210.17323): codes column by column, where each column's error is made good in those that are still to come."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from lowbit_compiler.preparing.block import Block
from lowbit_compiler.preparing.hessian import treated
from lowbit_compiler.preparing.lines import lines_of, require_lines
from lowbit_compiler.preparing.method import Method
from lowbit_compiler.preparing.refine import refined
from lowbit_compiler.recipes import Recipe
from lowbit_compiler.runtime.formats import Operand

COLUMNS = 128
"""Columns after which the error is carried to all the rest (section 3.3, "lazy batch updates")."""
DAMPING = 0.01
"""Of the mean of H's diagonal, added to it; ten times as much where H is not positive definite, up to MOST_DAMPING (the paper's)."""
OWN = 0.1
"""Of each element of the diagonal, added to it too: calibration of some thousand rows says less of how channels hang together than it seems."""
MOST_DAMPING = 100.0


class GPTQ(Method):
    """Rounding by second-order information, and coordinate descent on codes and lines after it (refine.py)."""

    name = "gptq"
    rounds = True

    def check(self, recipe: Recipe) -> None:
        """Raise OptionError for weights of no integers."""
        require_lines(recipe, self.name)

    def apply(self, block: Block) -> None:
        """Quantize the linears of each input together, those of one format at a time."""
        for inputs in block.inputs():
            for plan in dict.fromkeys(layer.plan for layer in inputs.layers):
                layers = [layer for layer in inputs.layers if layer.plan == plan]
                weights = [layer.treated for layer in layers]
                parts = gptq(torch.cat(weights), treated(inputs.hessian, plan.treatment), plan.w)
                if parts is None:
                    block.say(f"{layers[0].name}: its inputs or its weight are not finite; rounded to nearest")
                    continue
                each = zip(*(part.split([len(weight) for weight in weights]) for part in parts), strict=True)
                for layer, own in zip(layers, each, strict=True):
                    layer.give(tuple(part.clone() for part in own), self.name)


def gptq(weight: Tensor, hessian: Tensor, operand: Operand) -> tuple[Tensor, ...] | None:
    """Return the parts of ``weight`` float32 [N, K] in ``operand``, for the mean ``hessian`` float32 [K, K] of x x^T; None where either is not finite."""
    found = factor(hessian)
    if found is None or not torch.isfinite(weight).all():
        return None
    damped = hessian.clone()
    damped.diagonal().copy_(found[0])
    return refined(weight, column_by_column(weight, found, operand), damped, operand)


def column_by_column(weight: Tensor, found: tuple[Tensor, Tensor, Tensor], operand: Operand) -> tuple[Tensor, ...]:
    """Return the parts of ``weight`` that GPTQ as it is published makes, for the factors of H.

    Columns are taken by falling diagonal of H (section 3.3 and the authors' code), which moves no group: scales are fixed before ("static
    groups"), those of the weight as it is, fitted with that diagonal as weights. ``operand`` is of integers, with a line or a scale for each
    row or group (lines.py).
    """
    damped, order, upper = found
    parts = operand.quantize(weight, damped)
    lines = lines_of(operand, parts, weight.shape[1])
    w = weight.t().contiguous()[order]
    group = lines.group[order]
    slope, minimum = (number.t().contiguous() for number in (lines.slope, lines.minimum))
    inverse = torch.where(slope > 0.0, 1.0 / slope, torch.zeros_like(slope))
    codes = torch.empty(w.shape, dtype=parts[0].dtype, device=w.device)
    for start in range(0, len(w), COLUMNS):
        inside, after = slice(start, start + COLUMNS), slice(start + COLUMNS, None)
        own = group[inside]
        codes[inside], error = _columns(w[inside], upper[inside, inside], slope[own], minimum[own], inverse[own], lines.codes)
        w[after].addmm_(upper[inside, after].t(), error, alpha=-1.0)
    return codes[torch.argsort(order)].t().contiguous(), *parts[1:]


def _columns(w: Tensor, upper: Tensor, slope: Tensor, minimum: Tensor, inverse: Tensor, limits: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the codes of the columns ``w`` [C, N] in float32, and their errors over the diagonal of ``upper`` [C, C]; ``w`` is changed."""
    codes, errors = torch.empty_like(w), torch.empty_like(w)
    diagonal = upper.diagonal().tolist()
    with _one_thread():
        for i, own in enumerate(diagonal):
            if i:
                w[i].addmv_(errors[:i].t(), upper[:i, i], alpha=-1.0)  # what the columns before leave to be made good here
            q = torch.sub(w[i], minimum[i], out=codes[i]).mul_(inverse[i]).round_().clamp_(*limits)
            torch.addcmul(minimum[i], q, slope[i], out=errors[i]).neg_().add_(w[i]).div_(own)
    return codes, errors


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keep operations of some microseconds from waiting for other threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def factor(hessian: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the damped diagonal [K] of H, its falling order, and the upper U [K, K] with U^T U = H^-1 in that order; None: not finite.

    With H = R R^T for an upper R, U is R^-1: one Cholesky of H turned around, and no inverse of H is formed.
    """
    if not torch.isfinite(hessian).all():
        return None
    diagonal = hessian.diagonal()
    mean = float(diagonal.mean())
    if mean <= 0.0:  # nothing was ever read: all errors are alike
        hessian, mean = torch.eye(len(hessian), device=hessian.device), 1.0
        diagonal = hessian.diagonal()
    order = torch.argsort(diagonal, descending=True, stable=True)
    turned = order.flip(0)
    damping = DAMPING * mean
    while True:
        damped = hessian[turned][:, turned]
        damped.diagonal().mul_(1.0 + OWN).add_(damping)
        lower, info = torch.linalg.cholesky_ex(damped)
        if not int(info):
            break
        if damping > MOST_DAMPING * mean:
            return None
        damping *= 10.0
    eye = torch.eye(len(hessian), device=hessian.device)
    upper = torch.linalg.solve_triangular(lower.flip(0, 1), eye, upper=True)
    return diagonal * (1.0 + OWN) + damping, order, upper
