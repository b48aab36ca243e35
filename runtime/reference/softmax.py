"""Softmax and attention in plain torch: what the kernels of csrc/softmax and csrc/attention are specified by."""

import torch
from torch import Tensor


def softmax(
    x: Tensor, dim: int, scale: float = 1.0, mask: Tensor | None = None, log: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    """Return the (log-)softmax of ``x * scale + mask`` along ``dim``, computed in float64 and rounded once.

    ``mask`` broadcasts to ``x``: floats are added, rounding to float32, booleans are True where an element takes part. A row that has NaN, +Inf, or nothing
    but -Inf, is NaN throughout, as in torch.softmax.
    """
    scores = _masked(x.double() * scale, mask)
    y = torch.log_softmax(scores, dim) if log else torch.softmax(scores, dim)
    return y.to(dtype or x.dtype)


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    """Return scaled-dot-product attention; ``q`` [B, H, L, E], ``k`` [B, G, S, E], ``v`` [B, G, S, F], H a multiple of G.

    Query head h reads key head ``h // (H / G)``. ``mask`` broadcasts to [B, H, L, S] as in :func:`softmax`; ``causal`` lets query l see
    keys 0..l. A query that sees no key at all gets zeros, as in torch. float32 throughout, one rounding to q's dtype.
    """
    group = q.shape[1] // k.shape[1]
    keys, values = (t.float().repeat_interleave(group, 1) for t in (k, v))
    scores = _masked(q.float() @ keys.mT * scale, mask)
    if causal:
        ahead = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(ahead, -torch.inf)
    unseen = (scores == -torch.inf).all(-1, keepdim=True)
    weights = torch.softmax(scores, -1).masked_fill(unseen, 0.0)
    return (weights @ values).to(q.dtype).transpose(1, 2).contiguous().transpose(1, 2)


def sdpa_codes(
    q: Tensor, k: Tensor, k_scale: Tensor, v: Tensor, v_scale: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """Return :func:`sdpa` of int8 keys and values, ``k * k_scale`` and ``v * v_scale`` in float32; scales are float32 [B, G, S, 1]."""
    return sdpa(q.float(), k * k_scale, v * v_scale, mask, causal, scale).to(q.dtype)


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return scores
    if mask.dtype is torch.bool:
        return scores.masked_fill(~mask, -torch.inf)
    exact = scores + mask.to(scores.dtype)
    rounded = exact.float().to(scores.dtype)  # scores vanish next to -1e9, as in torch.softmax(x + mask)
    return torch.where(rounded.isinf(), exact, rounded)
