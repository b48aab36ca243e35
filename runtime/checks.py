"""What every op asks of its arguments, before work starts: one error that says what is accepted and what was got.

The shape functions and references of runtime/ops.py ask this, and csrc/bind asks the same in the same words. What only values show is in
runtime/values.py.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime import before, chain, steps
from lowbit_compiler.runtime.exported_checks import EXPORTED_CHECKS
from lowbit_compiler.runtime.format_checks import block_size, format_checks
from lowbit_compiler.runtime.packing import PANEL
from lowbit_compiler.runtime.products import KEYS, PRODUCTS, weight_of
from lowbit_compiler.runtime.reference.prologue import NORMS
from lowbit_compiler.runtime.require import FLOAT, FLOATS, MOST_ELEMENTS, require, result_dtype, same, tensors
from lowbit_compiler.runtime.shared_checks import SHARED_CHECKS
from lowbit_compiler.runtime.training_checks import TRAINING_CHECKS
from lowbit_compiler.runtime.treatments import TREATMENTS
from lowbit_compiler.torch_internals.shapes import guard_or_false, guard_or_true


def _rows(op: str, x: Tensor) -> None:
    require(op, x.dtype in FLOATS, f"x in {FLOAT}", x.dtype)
    require(op, x.dim() >= 1, "x with at least one dimension", f"{x.dim()} dimensions")
    require(op, x.shape[-1] >= 1, "K of at least 1", x.shape[-1])


def _threshold(op: str, threshold: float) -> None:
    require(op, threshold >= 0, "threshold of at least 0", threshold)  # NaN is not


def _rows_of(op: str) -> Callable[..., None]:
    def check(x: Tensor, threshold: float = 0.0) -> None:
        tensors(op, x=x)
        _rows(op, x)
        _threshold(op, threshold)

    return check


def _linear(op: str) -> Callable[..., None]:
    def check(x: Tensor, w: Tensor, bias: Tensor | None, n: int, dtype: torch.dtype | None, threshold: float = 0.0, **others: Any) -> None:
        tensors(op, x=x, w=w, bias=bias, times=others.get("times"), plus=others.get("plus"))
        _packed(op, x, w, n, others)
        require(op, bias is None or same(bias, (n,)), f"bias of shape ({n},)", None if bias is None else tuple(bias.shape))
        require(op, bias is None or bias.dtype in FLOATS, f"bias in {FLOAT}", None if bias is None else bias.dtype)
        result_dtype(op, dtype)
        _threshold(op, threshold)
        before.check(op, x, others)
        normed = PRODUCTS[KEYS[op]].norms or others.get("prologue", "") not in NORMS
        require(op, normed, "no norm in front of a part of K", others.get("prologue"))
        _result(op, x.shape[:-1], n)

    return check


def _result(op: str, rows: tuple[Any, ...], columns: Any) -> None:
    if all(isinstance(size, int) for size in (*rows, columns)):
        count = math.prod(rows)
        require(op, columns == 0 or count <= MOST_ELEMENTS // columns, "a result of at most 2^47 elements", f"{count} rows of {columns}")


def _packed(op: str, x: Tensor, w: Tensor, n: int, others: dict[str, Any]) -> None:
    require(op, x.dtype in FLOATS, f"x in {FLOAT}", x.dtype)
    require(op, x.dim() >= 1, "x with at least one dimension", f"{x.dim()} dimensions")
    k, largest = x.shape[-1], PRODUCTS[KEYS[op]].largest_k
    require(op, k >= 1 and (largest is None or k <= largest), f"K from 1 to {largest or 'any'}", k)
    block_size(op, KEYS[op][1][1], others)
    require(op, n >= 0, "n of at least 0", n)
    require(op, w.dtype == torch.int8 and w.dim() == 2, "w packed as int8 [panels, bytes]", f"{w.dtype} of {w.dim()} dimensions")
    weight, panels = weight_of(op, others), -(-n // PANEL)
    got = w.shape[0] - weight.packed_rows(0)
    require(op, got == panels, f"{panels} panels for n = {n}", f"{got}")
    size = weight.panel_bytes(k)
    require(op, w.shape[1] == size, f"panels of {size} bytes for K = {k}", f"{w.shape[1]}")


def _softmax(
    x: Tensor, dim: int, scale: float = 1.0, mask: Tensor | None = None, log: bool = False, dtype: torch.dtype | None = None
) -> None:
    tensors("softmax", x=x, mask=mask)
    require("softmax", x.dtype in FLOATS, f"x in {FLOAT}", x.dtype)
    dims = max(x.dim(), 1)  # a number has a dimension to name, as in torch
    require("softmax", -dims <= dim < dims, f"dim from {-dims} to {dims - 1}", dim)
    result_dtype("softmax", dtype)
    _mask("softmax", mask, tuple(x.shape))


def _mask(op: str, mask: Tensor | None, shape: tuple[Any, ...]) -> None:
    if mask is None:
        return
    require(op, mask.dtype in (*FLOATS, torch.bool), f"mask in bool, {FLOAT}", mask.dtype)
    fits = mask.dim() <= len(shape) and all(_broadcasts(m, s) for m, s in zip(reversed(mask.shape), reversed(shape), strict=False))
    require(op, fits, f"mask that broadcasts to {shape}", tuple(mask.shape))


def _broadcasts(size: Any, to: Any) -> bool:
    if isinstance(size, int) and isinstance(to, int):
        return size in (1, to)
    return guard_or_false(size == 1) or guard_or_true(size == to)  # what is known at run time only is checked then


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float) -> None:
    tensors("sdpa", q=q, k=k, v=v, mask=mask)
    for tensor in (q, k, v):
        require("sdpa", tensor.dtype in FLOATS and tensor.dtype == q.dtype, "q, k, v in one of float32, bfloat16, float16", tensor.dtype)
    _heads("sdpa", q, k, v, mask)


def _heads(op: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> None:
    for name, tensor in {"q": q, "k": k, "v": v}.items():
        require(op, tensor.dim() == 4, f"{name} of 4 dimensions", tensor.dim())
    b, h, _, e = q.shape
    require(op, k.shape[0] == b and k.shape[3] == e, f"k of shape ({b}, G, S, {e})", tuple(k.shape))
    require(op, v.shape[:3] == k.shape[:3], f"v of shape ({b}, {k.shape[1]}, {k.shape[2]}, F)", tuple(v.shape))
    require(op, k.shape[1] > 0 and h % k.shape[1] == 0, "query heads that are a multiple of key heads", f"{h} and {k.shape[1]}")
    _mask(op, mask, (b, h, q.shape[2], k.shape[2]))
    _result(op, q.shape[:3], v.shape[3])


def _sdpa_codes(q: Tensor, k: Tensor, k_scale: Tensor, v: Tensor, v_scale: Tensor, mask: Tensor | None, causal: bool, scale: float) -> None:
    tensors("sdpa_codes", q=q, k=k, k_scale=k_scale, v=v, v_scale=v_scale, mask=mask)
    require("sdpa_codes", q.dtype in FLOATS, f"q in {FLOAT}", q.dtype)
    for name, codes in {"k": k, "v": v}.items():
        require("sdpa_codes", codes.dtype is torch.int8, f"{name} in int8", codes.dtype)
    _heads("sdpa_codes", q, k, v, mask)
    shape = (*k.shape[:3], 1)
    for name, scales in {"k_scale": k_scale, "v_scale": v_scale}.items():
        require("sdpa_codes", scales.dtype is torch.float32, f"{name} in float32", scales.dtype)
        require("sdpa_codes", same(scales, shape), f"{name} of shape {shape}", tuple(scales.shape))


def _float32(op: str) -> Callable[..., None]:
    def check(**numbers: Tensor) -> None:
        tensors(op, **numbers)
        for name, tensor in numbers.items():
            require(op, tensor.dtype is torch.float32, f"{name} in float32", tensor.dtype)

    return check


_ROWS = ("quantize_unsigned", *(op.name for treatment in TREATMENTS.values() for op in treatment.ops))
CHECKS: dict[str, Callable[..., None]] = {
    **{op: _rows_of(op) for op in _ROWS},
    **{op: _linear(op) for op in KEYS},
    **{op: _float32(op) for op in ("exponent", "power")},
    "softmax": _softmax,
    "sdpa": _sdpa,
    "sdpa_codes": _sdpa_codes,
    chain.OP: chain.check,
    **format_checks(),
    **EXPORTED_CHECKS,
    "stepped_linear": steps.check,
    **TRAINING_CHECKS,
    **SHARED_CHECKS,
}
"""The check of each op, which takes the op's own arguments by name."""
