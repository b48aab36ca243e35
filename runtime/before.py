"""Linear ops with what their rows go through in front of the product."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.products import KEYS
from lowbit_compiler.runtime.reference import linear
from lowbit_compiler.runtime.reference.prologue import prologue

PROLOGUE: dict[str, Any] = {"prologue": "", "times": None, "plus": None, "eps": 0.0}
"""The arguments that say so, and what stands for none."""


def call(
    op: str, x: Tensor, w: Tensor, bias: Tensor | None, n: int, *rest: Any, dtype: torch.dtype | None, fused: Mapping[str, Any]
) -> Tensor:
    """Return the linear op ``op`` of what ``fused``, by the names in PROLOGUE, makes of ``x`` [..., K]; ``rest`` is between ``n`` and ``dtype``.

    Rows that are quantized are never rounded on the way; those that stay float are rounded to the dtype of ``x``, as a tensor of them would be.
    """
    reference = linear.reference_of(op)
    function, times, plus, eps = (fused.get(name, default) for name, default in PROLOGUE.items())
    if not function and times is None and plus is None:
        return reference(x, w, bias, n, *rest, dtype)
    read, quantized = prologue(x, function, times, plus, eps), KEYS[op][0] is not None
    return reference(read if quantized else read.to(x.dtype), w, bias, n, *rest, dtype or x.dtype)
