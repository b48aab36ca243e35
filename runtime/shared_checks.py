"""What the steps of a product by several processes ask of their arguments (runtime/reference/shared.py)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime import before
from lowbit_compiler.runtime.packing import PANEL
from lowbit_compiler.runtime.products import MAX_K
from lowbit_compiler.runtime.reference.linear import INT8
from lowbit_compiler.runtime.require import FLOAT, FLOATS, require, result_dtype, same, tensors


def _rows(op: str, x: Tensor) -> None:
    require(op, x.dtype in FLOATS, f"x in {FLOAT}", x.dtype)
    require(op, x.dim() >= 1, "x with at least one dimension", f"{x.dim()} dimensions")
    require(op, x.shape[-1] >= 1, "K of at least 1", x.shape[-1])


def _integers(op: str, name: str, tensor: Tensor, x: Tensor, last: Any) -> None:
    fits = tensor.dtype is torch.int32 and same(tensor, (*x.shape[:-1], last))
    accepted = f"{name} in int32 of the leading sizes of {tuple(x.shape)} and {last} columns"
    require(op, fits, accepted, f"{tensor.dtype} of {tuple(tensor.shape)}")


def _weight(op: str, w: Tensor, n: Any, k: Any) -> None:
    require(op, 1 <= k <= MAX_K, f"K from 1 to {MAX_K}", k)
    require(op, n >= 0, "n of at least 0", n)
    shape = (-(-n // PANEL), INT8.panel_bytes(k))
    accepted = f"w packed as int8 of shape {shape} for n = {n}, K = {k}"
    require(op, w.dtype is torch.int8 and same(w, shape), accepted, f"{w.dtype} of {tuple(w.shape)}")


def _bias(op: str, bias: Tensor | None, n: Any) -> None:
    require(op, bias is None or same(bias, (n,)), f"bias of shape ({n},)", None if bias is None else tuple(bias.shape))
    require(op, bias is None or bias.dtype in FLOATS, f"bias in {FLOAT}", None if bias is None else bias.dtype)


def _reach(x: Tensor, rotated: bool, **fused: Any) -> None:
    tensors("reach_s8", x=x, times=fused.get("times"), plus=fused.get("plus"))
    _rows("reach_s8", x)
    before.check("reach_s8", x, fused)


def _sums(x: Tensor, reach: Tensor, w: Tensor, n: int, rotated: bool, **fused: Any) -> None:
    op = "sums_s8s8"
    tensors(op, x=x, reach=reach, w=w, times=fused.get("times"), plus=fused.get("plus"))
    _rows(op, x)
    before.check(op, x, fused)
    _weight(op, w, n, x.shape[-1])
    _integers(op, "reach", reach, x, 1)


def _scale(sums: Tensor, reach: Tensor, w: Tensor, bias: Tensor | None, k: int, dtype: torch.dtype) -> None:
    op = "scale_sums"
    tensors(op, sums=sums, reach=reach, w=w, bias=bias)
    require(op, sums.dim() >= 1, "sums with at least one dimension", "0 dimensions")
    n = sums.shape[-1]
    _integers(op, "sums", sums, sums, n)
    _integers(op, "reach", reach, sums, 1)
    _weight(op, w, n, k)
    _bias(op, bias, n)
    result_dtype(op, dtype)


def _finish(
    x: Tensor,
    sums: Tensor,
    reach: Tensor,
    w: Tensor,
    bias: Tensor | None,
    rotated: bool,
    groups: Sequence[str],
    dtype: torch.dtype,
    **fused: Any,
) -> None:
    op = "finish_sums"
    tensors(op, x=x, sums=sums, reach=reach, w=w, bias=bias, times=fused.get("times"), plus=fused.get("plus"))
    _rows(op, x)
    before.check(op, x, fused)
    require(op, sums.dim() >= 1, "sums with at least one dimension", "0 dimensions")
    n = sums.shape[-1]
    _integers(op, "sums", sums, x, n)
    _integers(op, "reach", reach, x, 1)
    _weight(op, w, n, x.shape[-1])
    _bias(op, bias, n)
    result_dtype(op, dtype)


SHARED_CHECKS: dict[str, Callable[..., None]] = {"reach_s8": _reach, "sums_s8s8": _sums, "scale_sums": _scale, "finish_sums": _finish}
"""By the names of the ops."""
