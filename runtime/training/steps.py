"""Step sizes that a model learns: the gradient that a step gets, and what is kept for it (LSQ, arXiv 1902.08153; arXiv 2306.11987, section 3.3).

With codes ``q = round(x / s)``, clipped at ``top``, the numbers ``s q`` change with ``s`` by ``q - x / s`` where nothing was clipped and by ``q`` elsewhere.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats import Operand
from lowbit_compiler.runtime.formats.scales import EMPTY

CLIPPED = -128
FINE = 254
"""Parts of a step that what rounding adds is kept in: it is at most half a step, and takes a byte."""


def at(operand: Operand, step: Tensor) -> Operand:
    """Return ``operand``, of a scale that learns, with the step size ``step`` float [1]."""
    return replace(operand, scale=operand.scale.at(step, operand.format.grid.largest))  # type: ignore[attr-defined]


def missing(step: Tensor) -> Tensor:
    """Return whether ``step`` float [1] is none: codes of so small a step would be zeros for ever, as neither it nor what it cuts had a gradient.

    The statistic of the call is taken in its place, and it gets no gradient.
    """
    return step.detach().float().abs() < EMPTY


def changes(codes: Tensor, x: Tensor, unit: Tensor, inside: Tensor) -> Tensor:
    """Return ``q - x / s`` in parts of a step, int8 [R, K]; CLIPPED where an element is not ``inside``."""
    added = (codes.float() - x / unit).nan_to_num(0.0).clamp(-0.5, 0.5)
    return torch.where(inside, (added * FINE).round(), torch.full_like(added, CLIPPED)).to(torch.int8)


def gradient(product: Tensor, codes: Tensor, kept: Tensor, top: float, k: int) -> Tensor:
    """Return the gradient of the step's magnitude, float32 [1], of that of the quantized matrix, ``product`` float32 [R, K padded].

    ``kept`` is what :func:`changes` returned. It is scaled by 1 / sqrt(top R k), so that steps learn at the rate of weights.
    """
    change = torch.where(kept == CLIPPED, codes.double(), kept.double() / FINE)
    scale = 1 / math.sqrt(max(top * product.shape[0] * k, 1.0))
    return (scale * (product.double() * change).sum()).float().reshape(1)
