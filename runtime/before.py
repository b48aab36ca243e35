"""Linear ops with what their rows go through in front of the product."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.products import KEYS
from lowbit_compiler.runtime.reference import linear
from lowbit_compiler.runtime.reference.prologue import FUNCTIONS, prologue
from lowbit_compiler.runtime.require import FLOAT, FLOATS, require, same

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


def check(op: str, x: Tensor, fused: Mapping[str, Any]) -> None:
    """Raise RuntimeError unless ``op`` can do what ``fused``, by the names in PROLOGUE, says to the rows of ``x``."""
    k = x.shape[-1]
    function, times, plus, eps = (fused.get(name, default) for name, default in PROLOGUE.items())
    require(op, function in FUNCTIONS, f"prologue one of {', '.join(filter(None, FUNCTIONS))} or empty", repr(function))
    for name, tensor in {"times": times, "plus": plus}.items():
        require(op, tensor is None or tensor.dtype in FLOATS, f"{name} in {FLOAT}", tensor is not None and tensor.dtype)
    fits = times is None or same(times, (k,)) or same(times, x.shape)
    require(op, fits, f"times of shape ({k},) or that of x, {tuple(x.shape)}", times is not None and tuple(times.shape))
    require(op, plus is None or same(plus, (k,)), f"plus of shape ({k},)", plus is not None and tuple(plus.shape))
    require(op, eps >= 0, "eps of at least 0", eps)
