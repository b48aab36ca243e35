"""Attention in float64, and the bound on what a kernel may differ from it."""

import torch
from torch import Tensor

from helpers.bounds import EPS, rounding, unit

EXP2 = 2.0**-22  # error of a float32 exponential with its reduction, relative
CUBIC = 1e-4  # of the polynomial behind bfloat16 weights


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float, rounded: bool = False, stored: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return float64 attention [B, H, L, F] and the bound on a kernel's error.

    A score is known up to ``ds``, which moves its weight by a factor within exp(+-ds), in the sum above and in that below. ``rounded``
    kernels hold the weights in bfloat16. ``stored``: relative error of each key and value that a kernel multiplies.
    """
    group = q.shape[1] // k.shape[1]
    q64, k64, v64 = (t.double() for t in (q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)))
    scores = q64 @ k64.mT * scale
    ds = (EPS * (q.shape[-1] + 8) + stored) * (q64.abs() @ k64.abs().mT) * abs(scale)
    if mask is not None and mask.dtype is torch.bool:
        scores = scores.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores = scores + mask.double()
        ds = ds + 8 * EPS * torch.nan_to_num(mask.double().abs(), posinf=0.0)
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    unseen = (scores == -torch.inf).all(-1, keepdim=True)
    weights = torch.softmax(scores, -1).masked_fill(unseen, 0.0)
    moved = torch.expm1(2 * ds.masked_fill(weights == 0, 0.0).amax(-1, keepdim=True)) + EXP2
    assert bool(moved.isfinite().all()), "scores too large for a bound"
    moved = moved + (unit(torch.bfloat16) + 2 * CUBIC if rounded else 0.0)
    moved = moved + stored
    size = weights @ v64.abs()
    y = weights @ v64
    return y, rounding(y, (moved + 2 * EPS * (k.shape[2] + 2)) * size + 2.0**-100, q.dtype)
