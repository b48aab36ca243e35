"""Error bounds of docs/arithmetic.md as functions of eps, K and magnitudes, and the float64 values they are measured from."""

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats import Operand

EPS = 2.0**-24  # unit roundoff of float32
FLUSHED = 2.0**-126  # bfloat16 dot products of the hardware take smaller numbers as zero
FIXED = (1 / 2 + 2.0**-8) / 32639  # of the largest magnitude of a group: error of its elements as 16-bit integers
EMPTY = 2.0**-120  # rows below this are quantized to zero


def unit(dtype: torch.dtype) -> float:
    """Return the unit roundoff of ``dtype``."""
    return torch.finfo(dtype).eps / 2


def rounding(y: Tensor, before: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the error of ``y`` known up to ``before`` and rounded once to ``dtype``."""
    smallest = torch.finfo(dtype).tiny * (unit(dtype) if dtype is torch.float16 else 1.0)  # float16 keeps subnormal numbers
    return before + unit(dtype) * (y.abs() + before) + smallest


def quantization(scale: Tensor) -> Tensor:
    """Return the largest error of an element quantized with ``scale`` and dequantized again."""
    return scale.double() / 2 * (1 + 4 * EPS) + EMPTY


def rotation(x: Tensor) -> Tensor:
    """Return the error of :func:`rotate` of float64 rows ``x`` [M, Kp]: six sums, each of terms no larger than the block's sum."""
    size = x.abs().reshape(*x.shape[:-1], -1, 64).sum(-1, keepdim=True) / 8
    return (7 * EPS * size).expand(*size.shape[:-1], 64).reshape(x.shape) + FLUSHED


def linear_s8s8(
    qx: Tensor, sx: Tensor, qw: Tensor, sw: Tensor, bias: Tensor | None, dtype: torch.dtype, exact: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return float64 y [M, N] of the given integers and scales, and the bound on its error.

    ``exact`` [M, K] is the part of x that stays in float, zero elsewhere.
    """
    sw = sw.double().reshape(1, -1)
    scaled = (qx.double() @ qw.double().t()) * sx.double().reshape(-1, 1)
    before_scale = scaled.abs()  # this intermediate may overflow where y does not
    product = scaled * sw
    offset = torch.zeros(1, dtype=torch.float64) if bias is None else bias.double()
    y, error = product + offset, 4 * EPS * (product.abs() + offset.abs())
    if exact is not None:
        count = (exact != 0).sum(1, keepdim=True)
        size = exact.double().abs() @ qw.double().abs().t()
        before_scale, size = before_scale + size, size * sw
        y = y + (exact.double() @ qw.double().t()) * sw
        error = error + 2 * EPS * (count + 3) * size + FLUSHED * 127 * count * sw
    error = error.masked_fill(before_scale >= torch.finfo(torch.float32).max, torch.inf)
    return y, rounding(y, error, dtype)


def linear_float(x: Tensor, w: Tensor, bias: Tensor | None, dtype: torch.dtype, narrow: bool = False) -> tuple[Tensor, Tensor]:
    """Return float64 y [M, N] of float rows ``x`` and dequantized weight ``w`` (float64), and the bound on its error.

    ``narrow``: kernels may round the weight to bfloat16.
    """
    k = x.shape[1]
    x = x.double()
    y, size = x @ w.t(), x.abs() @ w.abs().t()
    offset = torch.zeros(1, dtype=torch.float64) if bias is None else bias.double()
    y = y + offset
    flushed = FLUSHED * (w.abs().sum(1) + k * w.abs().amax(1))
    return y, rounding(y, (2 * EPS * (k + 2) + narrow * unit(torch.bfloat16)) * size + 2 * EPS * offset.abs() + flushed, dtype)


def weight_of(one: Operand, parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Return a stored weight in float64 [N, K], what kernels count it from, and what they round it by at most."""
    q, scale, *others = (part.double() for part in parts)
    outer = others.pop() if others else torch.ones(1, dtype=torch.float64)
    size = one.scale.block(q.shape[1])
    unit, *minimum = ((part * outer).repeat_interleave(size, 1)[:, : q.shape[1]] for part in (scale, *others))
    if minimum:
        return unit * q + minimum[0], minimum[0], torch.zeros_like(q)
    least, rounded = (getattr(one.format, name, default) for name, default in {"least": -1.0, "rounded": 0.0}.items())
    return unit * one.format.grid.decode(parts[0]).double(), unit * least, unit.abs() * rounded


def on_lines(x: Tensor, one: Operand, parts: tuple[Tensor, ...], bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return float64 y [M, N] of float rows ``x`` and a weight in planes of bits, and the bound on its error, whatever the kernel.

    Few rows are 16-bit integers in each group, and the weight what is counted from ``start``, an integer that stands for a number within
    ``rounded``; the weight is rounded to bfloat16 where it meets bfloat16 rows in tiles, and has more than one scale in a row.
    """
    w, start, rounded = weight_of(one, parts)
    k, size = x.shape[1], one.scale.block(x.shape[1]) if one.scale.sizes else 64
    wide = x.double().abs()
    most = torch.nn.functional.pad(wide, (0, -k % size)).reshape(len(x), -1, size).amax(-1).repeat_interleave(size, 1)[:, :k]
    error = FIXED * (most @ ((w - start).abs() + rounded).t()) + wide @ rounded.t()
    if x.dtype is torch.bfloat16 and one.scale.sizes and not one.scale.integers:
        error = error + unit(torch.bfloat16) * (wide @ w.abs().t())
    return exact_lines(x, one, parts, bias, dtype, error)


def exact_lines(
    x: Tensor, one: Operand, parts: tuple[Tensor, ...], bias: Tensor | None, dtype: torch.dtype, more: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """The same where rows and codes are multiplied as they are; ``more`` is added to the bound."""
    w, start, rounded = weight_of(one, parts)
    above = (w - start).abs() + rounded
    k, wide = x.shape[1], x.double()
    offset = torch.zeros(1, dtype=torch.float64) if bias is None else bias.double()
    error = 2 * EPS * (k + 4) * (wide.abs() @ (above + start.abs()).t()) + 2 * EPS * offset.abs() + more
    y, flushed = wide @ w.t() + offset, FLUSHED * (w.abs().sum(1) + k * w.abs().amax(1))
    return y, rounding(y, error + flushed, dtype)


def with_mask(scores: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Return the sum, rounded to float32 in rows done in double: elsewhere the rounding is part of the bound."""
    scores = scores + mask
    rounded = scores.float().double()
    large = scores.amax(dim, keepdim=True).abs() > 2.0**17 if scores.numel() else torch.zeros(1, dtype=torch.bool)
    return torch.where(large & ~rounded.isinf(), rounded, scores)


def softmax(x: Tensor, dim: int, scale: float, mask: Tensor | None, log: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the float64 (log-)softmax along ``dim``, and the bound on its error."""
    scaled = x.double() * scale
    scores, offset = scaled, torch.zeros(1, dtype=torch.float64)
    if mask is not None and mask.dtype is torch.bool:
        scores = scores.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        offset = mask.double()
        scores = with_mask(scores, offset, dim)
    weights = torch.softmax(scores, dim)
    rounded = 0.0 if scale == 1.0 and (mask is None or mask.dtype is torch.bool) else EPS * (scaled.abs() + scores.abs())
    top = scores.amax(dim, keepdim=True) if x.numel() else scores
    rounded = torch.where(top.abs() > 2.0**17, EPS * (scores - top).abs(), rounded)  # such rows are shifted in float64
    share = (weights * rounded).nan_to_num(0.0).sum(dim, keepdim=True) if x.dim() else weights * 0
    if log:
        y = torch.log_softmax(scores, dim)
        return y, rounding(y, 24 * EPS + 2 * EPS * y.abs() + rounded + share, dtype).nan_to_num(0.0)
    return weights, rounding(weights, ((24 * EPS + rounded + share) * weights).nan_to_num(0.0) + FLUSHED, dtype)


def assert_within(got: Tensor, expected: Tensor, bound: Tensor) -> None:
    """Assert that ``got`` is within ``bound`` of ``expected``; numbers too large for its dtype count as infinite."""
    largest = torch.finfo(got.dtype).max
    error = (got.double() - expected).abs()
    fine = (
        (error <= bound) | torch.isinf(bound) | (torch.isinf(got) & (expected.abs() + bound >= largest) & (got.sign() == expected.sign()))
    )
    if not bool(fine.all()):
        where = tuple(int(i) for i in (~fine).nonzero()[0])
        raise AssertionError(
            f"{int((~fine).sum())} of {fine.numel()} elements; first at {where}: got {float(got[where])!r}, "
            f"expected {float(expected[where])!r} within {float(bound[where])!r}"
        )
