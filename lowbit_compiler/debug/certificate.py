"""Certificates: how far a low-bit product can be from the exact one, for the operands at hand (docs/debugging.md).

The bound of vector-wise quantization (LLM.int8(), arXiv 2208.07339, section 2) element by element: a row whose largest magnitude is a moves
by at most a/254 an element, so |y - x w| <= dx sum |w| + dw sum |x| + K dx dw. The bound of a product does not read the packed weight, whose
elements are compared one by one: an error above either bound says that a kernel or a weight is wrong, not that it is coarse.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit_compiler.passes.site import Plan
from lowbit_compiler.runtime.packing import unpack_s4, unpack_s8
from lowbit_compiler.runtime.reference.quantize import EMPTY
from lowbit_compiler.runtime.reference.treatments import rotate, split_columns, split_rows

EPS = 2.0**-24  # unit roundoff of float32
FLUSHED = 2.0**-126  # bfloat16 dot products of the hardware take smaller numbers as zero
LEVELS = {"int8": 127, "int4": 7}
ROTATED = 56 * EPS
"""Error of a rotated element over the row's largest: six sums of terms that are at most 8 times as large."""


def largest(x: Tensor) -> Tensor:
    """Return the largest magnitude of each row of ``x`` [..., K], in float64 [..., 1]."""
    return x.abs().amax(-1, keepdim=True).double()


def step(size: Tensor, levels: int) -> Tensor:
    """Return the largest error of an element in a row whose largest magnitude is ``size``; rows below 2^-120 become zero.

    Half a level, and the roundings of the scale, its reciprocal and their product: at most 4 eps of ``levels`` levels each.
    """
    return torch.where(size < EMPTY, size, size / (2 * levels) * (1 + 16 * levels * EPS))


@dataclass(frozen=True)
class Weights:
    """Rows of a float weight as the product quantizes them; G groups along K, one of all K for int8."""

    rows: Tensor
    """float32 [N, Kp]: the elements that are quantized."""
    step: Tensor
    """float64 [N, G]: largest error of an element."""
    largest: Tensor
    """float64 [N, 1]."""
    scale: Tensor
    """float64 [N, G]."""
    size: Tensor
    """float64 [N, Kp]: magnitudes as multiplied, rotated where the plan says so."""
    norm: Tensor
    """float64 [N, 1]."""

    @classmethod
    def of(cls, weight: Tensor, plan: Plan) -> "Weights":
        """Describe ``weight`` [N, K]."""
        levels = LEVELS[plan.weights]
        rows = rotate(weight) if plan.treatment == "rotation" else weight.float()
        moved = ROTATED * largest(weight) + FLUSHED if plan.treatment == "rotation" else torch.zeros((), dtype=torch.float64)
        groups = _groups(rows, plan.group_size) if plan.weights == "int4" else rows.unsqueeze(1)
        top = largest(groups).squeeze(-1)
        size = rows.abs().double() + moved
        return cls(rows, step(top, levels) + moved, top.amax(-1, keepdim=True), top / levels, size, size.norm(dim=-1, keepdim=True))


@dataclass(frozen=True)
class Activations:
    """Rows of activations as the product takes them."""

    size: Tensor
    """float64 [M, G]: sum of magnitudes, for each of the weight's groups."""
    step: Tensor
    """float64 [M, 1]: largest error of an element; 0 where activations stay in float."""
    norm: Tensor
    """float64 [M, 1]."""
    scale: Tensor
    """float64 [M, 1]; without rows where activations stay in float."""
    active: Tensor
    """bool [Kp]: where some row's quantized part is not zero; rotated, it may be zero in one order of the sums and not in another."""
    group: int
    """Elements of a group."""
    exact: Tensor
    """float64 [M, 1]: sum of magnitudes that stay in float beside the quantized part."""
    count: Tensor
    """int64 [M, 1]: their number."""

    @classmethod
    def of(cls, x: Tensor, plan: Plan) -> "Activations":
        """Describe the rows of ``x`` [M, K], all of one call: which columns are exact depends on every row."""
        low = plan.activations == "int8"
        kept, exact = x, x[:, :0]
        if plan.treatment == "columns":
            kept, exact = split_columns(x, plan.threshold)
        elif plan.treatment == "rows":
            kept, exact = split_rows(x)
        moved = torch.zeros((), dtype=torch.float64)
        if plan.treatment == "rotation":
            kept, moved = rotate(x), ROTATED * largest(x) + FLUSHED
        whole = (kept + exact if exact.shape[1] else kept).abs().double() + moved
        group = plan.group_size if plan.weights == "int4" else whole.shape[1]
        top = largest(kept)
        return cls(
            size=_groups(whole, group).sum(-1),
            step=step(top, LEVELS["int8"]) + moved if low else torch.zeros_like(top),
            norm=whole.norm(dim=-1, keepdim=True),
            scale=top / LEVELS["int8"] if low else top[:0],
            active=(kept != 0).any(0) | (plan.treatment == "rotation") if low else torch.zeros_like(whole[0], dtype=torch.bool),
            group=group,
            exact=exact.abs().double().sum(-1, keepdim=True),
            count=(exact != 0).sum(-1, keepdim=True),
        )


def bound(x: Activations, w: Weights, bias: Tensor | None, y: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what the error of each element of the low-bit product cannot exceed: float64 [M, N].

    ``y`` float64 [M, N] is the exact product with ``bias`` [N] added; ``dtype`` that of the low-bit result. Infinite where an intermediate
    result may leave float32, or the result ``dtype``.
    """
    offset = torch.zeros((), dtype=torch.float64) if bias is None else bias.double().abs()
    active = _groups(x.active.double().unsqueeze(0), x.group).sum(-1)
    quantized = (x.size + x.step * active) @ w.step.t() + x.step * (w.size[:, x.active].sum(-1))
    over = x.size.sum(-1, keepdim=True) * 127 >= torch.finfo(torch.float32).max  # of activations times codes
    if x.scale.numel():  # int8 x int8: exact sums, then two scales and the bias; exact elements are a float sum
        split = x.exact * (w.largest + w.step.amax(-1, keepdim=True)).t()
        rounded = 5 * EPS * (y.abs() + quantized + 2 * split + 2 * offset) + 2 * EPS * (x.count + 3) * split
        rounded = rounded + FLUSHED * x.count * w.largest.t()
    else:
        k = w.size.shape[1]
        size = x.norm * (w.norm + k**0.5 * w.step.amax(-1, keepdim=True)).t()  # no sum of some terms is larger
        rounded = 2 * EPS * (k + 2) * size + 2 * EPS * offset
        rounded = rounded + FLUSHED * (w.size.sum(-1) + k * w.largest.squeeze(-1))
        over = over | (size + offset >= torch.finfo(torch.float32).max)
    total = quantized + rounded
    info = torch.finfo(dtype)
    # Conversions to float16 keep subnormal numbers; float32 and bfloat16 ones are flushed by some kernels.
    total = total + info.eps / 2 * (y.abs() + total) + (info.smallest_normal * info.eps / 2 if dtype is torch.float16 else info.tiny)
    return total.masked_fill(over | (y.abs() + total >= info.max), torch.inf)


def unpacked(packed: Tensor, plan: Plan, n: int, k: int) -> tuple[Tensor, Tensor]:
    """Return codes int8 [n, Kp] and scales float32 [n, G] of a packed weight [n, k]."""
    return unpack_s4(packed, n, k, plan.group_size) if plan.weights == "int4" else unpack_s8(packed, n)


def distance(w: Weights, codes: Tensor, scales: Tensor) -> float:
    """Return the largest error of a stored element over ``w.step``: at most 1, infinite where one of a finite row is not finite."""
    k = w.rows.shape[1]
    group = -(-codes.shape[1] // scales.shape[1])
    stored = codes[:, :k].double() * scales.double().repeat_interleave(group, 1)[:, :k]
    allowed = w.step.repeat_interleave(min(group, k), 1)[:, :k]
    ratio = (stored - w.rows).abs() / allowed
    ratio = ratio.masked_fill(stored == w.rows, 0.0).nan_to_num(nan=torch.inf, posinf=torch.inf)  # rows of zeros have no step
    return float(ratio.masked_fill(~torch.isfinite(allowed), 0.0).max()) if ratio.numel() else 0.0


def _groups(x: Tensor, group: int) -> Tensor:
    """Return ``x`` [R, K] as [R, G, group], the last group padded with zeros."""
    return torch.nn.functional.pad(x, (0, -x.shape[1] % group)).reshape(x.shape[0], -1, group)
