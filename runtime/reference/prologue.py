"""What a row goes through before it is multiplied: an activation or a normalization, then a product and a sum."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

FUNCTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "": lambda v, _: v,
    "silu": lambda v, _: F.silu(v),
    "gelu": lambda v, _: F.gelu(v),
    "gelu_tanh": lambda v, _: F.gelu(v, approximate="tanh"),
    "relu": lambda v, _: F.relu(v),
    "rms_norm": lambda v, eps: v * torch.rsqrt(v.square().mean(-1, keepdim=True) + eps),
    "layer_norm": lambda v, eps: F.layer_norm(v, v.shape[-1:], eps=eps),
}

NORMS = ("rms_norm", "layer_norm")
"""Those that depend on the whole row."""
SCHEMA = ', *, str prologue="", Tensor? times=None, Tensor? plus=None, float eps=0.0'
"""The arguments of an op that say so, behind all others."""


def prologue(x: Tensor, function: str, times: Tensor | None, plus: Tensor | None, eps: float) -> Tensor:
    """Return ``function(x) * times + plus`` in float32.

    ``x`` [..., K]; ``times`` [K] or of x's shape; ``plus`` [K]; ``eps`` is added to the variance (or mean square) of a normalization.
    """
    v = FUNCTIONS[function](x.float(), eps)
    v = v if times is None else v * times.float()
    return v if plus is None else v + plus.float()
