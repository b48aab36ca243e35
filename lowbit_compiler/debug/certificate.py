"""Certificates: how far a low-bit product can be from the exact one, for the operands at hand (docs/debugging.md).

The bound of vector-wise quantization (LLM.int8(), arXiv 2208.07339, section 2) element by element: a row whose largest magnitude is a moves
by at most a/254 an element, so |y - x w| <= dx sum |w| + dw sum |x| + K dx dw. The bound of a product does not read the packed weight, whose
elements are compared one by one: an error above either bound says that a kernel or a weight is wrong, not that it is coarse.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.format import EPS, FLUSHED, largest_of
from lowbit_compiler.runtime.products import Plan
from lowbit_compiler.runtime.treatments.treatment import at_once


def largest(x: Tensor) -> Tensor:
    """Return the largest magnitude of each row of ``x`` [..., K], in float64 [..., 1]."""
    return largest_of(x).double()


@dataclass(frozen=True)
class Weights:
    """Rows of a float weight as the product quantizes them, in G blocks along K."""

    rows: Tensor
    """float32 [N, Kp]: the elements that are quantized."""
    step: Tensor
    """float64 [N, G]: largest error of an element."""
    allowed: Tensor
    """The same for each element: float64, broadcasts to [N, Kp]."""
    largest: Tensor
    """float64 [N, 1]."""
    scale: Tensor
    """float64 [N, G]."""
    size: Tensor
    """float64 [N, Kp]: magnitudes as multiplied, rotated where the plan says so."""
    norm: Tensor
    """float64 [N, 1]."""
    start: Tensor
    """float64 [N, G]: magnitude of what code 0 stands for, which kernels may add up by itself."""

    @classmethod
    def of(cls, weight: Tensor, plan: Plan) -> "Weights":
        """Describe ``weight`` [N, K]."""
        rows, moved = plan.treatment.weight(at_once, weight.float()), plan.treatment.moved(weight)
        size = rows.abs().double() + moved
        step = plan.w.step(rows) + moved
        allowed = plan.w.scale.spread(step, rows.shape[1])
        return cls(rows, step, allowed, largest(rows), plan.w.unit(rows), size, size.norm(dim=-1, keepdim=True), plan.w.start(rows).abs())


@dataclass(frozen=True)
class Activations:
    """Rows of activations as the product takes them."""

    size: Tensor
    """float64 [M, G]: sum of magnitudes, for each of the weight's blocks."""
    step: Tensor
    """float64 [M, 1]: largest error of an element; 0 where activations stay in float."""
    norm: Tensor
    """float64 [M, 1]."""
    scale: Tensor
    """float64 [M, blocks]; without rows where activations stay in float."""
    active: Tensor
    """bool [Kp]: where some row's quantized part is not zero; rotated, it may be zero in one order of the sums and not in another."""
    block: int
    """Elements of a block of the weight."""
    exact: Tensor
    """float64 [M, 1]: sum of magnitudes that stay in float beside the quantized part."""
    count: Tensor
    """int64 [M, 1]: their number."""
    coarse: Tensor
    """float64 [M, G]: largest error of an element that stays in float, for each of the weight's blocks."""
    weight_error: float
    """Of an element of the weight, if it is rounded once more to meet these rows."""
    integers: bool
    """Whether the product adds integers, which is exact."""

    @classmethod
    def of(cls, x: Tensor, plan: Plan) -> "Activations":
        """Describe the rows of ``x`` [M, K], all of one call: which columns are exact depends on every row."""
        kept, exact = plan.treatment.activation(at_once, x.float())
        moved = plan.treatment.moved(x)
        whole = (kept if exact is None else kept + exact).abs().double() + moved
        exact = x[:, :0] if exact is None else exact
        block, product = plan.w.scale.block(whole.shape[1]), plan.product
        low, top = plan.x, largest(kept)
        step = torch.zeros_like(top) if low is None else low.step(kept).amax(-1, keepdim=True) + moved
        return cls(
            size=_blocks(whole, block).sum(-1),
            step=step,
            norm=(whole + step).norm(dim=-1, keepdim=True),
            scale=top[:0] if low is None else low.unit(kept),
            active=torch.zeros_like(whole[0], dtype=torch.bool) if low is None else (kept != 0).any(0) | plan.treatment.rotates,
            block=block,
            exact=exact.abs().double().sum(-1, keepdim=True),
            count=(exact != 0).sum(-1, keepdim=True),
            coarse=_blocks(whole, block).amax(-1) * (0.0 if product is None else product.fixed_error),
            weight_error=product.weight_error if product is not None and x.dtype is torch.bfloat16 else 0.0,
            integers=product is not None and product.exact_sums,
        )


def bound(x: Activations, w: Weights, bias: Tensor | None, y: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what the error of each element of the low-bit product cannot exceed: float64 [M, N].

    ``y`` float64 [M, N] is the exact product with ``bias`` [N] added; ``dtype`` that of the low-bit result. Infinite where an intermediate
    result may leave float32, or the result ``dtype``.
    """
    offset = torch.zeros((), dtype=torch.float64) if bias is None else bias.double().abs()
    active = _blocks(x.active.double().unsqueeze(0), x.block).sum(-1)
    quantized = (x.size + x.step * active) @ w.step.t() + x.step * (w.size[:, x.active].sum(-1))
    over = x.size.sum(-1, keepdim=True) * 127 >= torch.finfo(torch.float32).max  # of activations times codes
    if x.integers:  # exact sums, then two scales and the bias; exact elements are a float sum
        split = x.exact * (w.largest + w.step.amax(-1, keepdim=True)).t()
        rounded = 5 * EPS * (y.abs() + quantized + 2 * split + 2 * offset) + 2 * EPS * (x.count + 3) * split
        rounded = rounded + FLUSHED * x.count * w.largest.t()
    else:
        k = w.size.shape[1]
        size = x.norm * (w.norm + k**0.5 * w.step.amax(-1, keepdim=True)).t()  # no sum of some terms is larger
        apart = size + 2 * x.size @ w.start.t()  # codes and what they begin with, as they are added up
        rounded = 2 * EPS * (k + 4) * apart + 2 * EPS * offset + x.weight_error * size
        rounded = rounded + x.coarse @ (_blocks(w.size, x.block).sum(-1) + x.block * (w.step + w.start)).t()
        rounded = rounded + FLUSHED * (w.size.sum(-1) + k * w.largest.squeeze(-1))
        over = over | (size + offset >= torch.finfo(torch.float32).max)
    total = quantized + rounded
    info = torch.finfo(dtype)
    # Conversions to float16 keep subnormal numbers; float32 and bfloat16 ones are flushed by some kernels.
    total = total + info.eps / 2 * (y.abs() + total) + (info.smallest_normal * info.eps / 2 if dtype is torch.float16 else info.tiny)
    return total.masked_fill(over | (y.abs() + total >= info.max), torch.inf)


def distance(w: Weights, stored: Tensor) -> float:
    """Return the largest error of an element of the ``stored`` weight [N, Kp], dequantized, over what it may be.

    At most 1; infinite where an element of a finite row is not finite.
    """
    stored = stored[:, : w.rows.shape[1]].double()
    ratio = (stored - w.rows).abs() / w.allowed
    ratio = ratio.masked_fill(stored == w.rows, 0.0).nan_to_num(nan=torch.inf, posinf=torch.inf)  # rows of zeros have no step
    return float(ratio.masked_fill(~torch.isfinite(w.allowed), 0.0).max()) if ratio.numel() else 0.0


def _blocks(x: Tensor, block: int) -> Tensor:
    """Return ``x`` [R, K] as [R, G, block], the last block padded with zeros."""
    return torch.nn.functional.pad(x, (0, -x.shape[1] % block)).reshape(x.shape[0], -1, block)
