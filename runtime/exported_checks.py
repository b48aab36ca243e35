"""What the ops of products as ONNX writes them ask of their arguments (runtime/reference/exported.py)."""

from collections.abc import Callable

import torch
from torch import Tensor

from lowbit_compiler.runtime.format_checks import block_size
from lowbit_compiler.runtime.formats import Groups
from lowbit_compiler.runtime.require import codes_of, float_scale, require, same, tensors


def _product(op: str, **named: tuple[Tensor, torch.dtype]) -> None:
    """Check the operands of a product as ONNX writes it: rows [..., K], perhaps bool [K], and codes [K, N]."""
    tensors(op, **{name: tensor for name, (tensor, _) in named.items()})
    for name, (tensor, dtype) in named.items():
        require(op, tensor.dtype is dtype, f"{name} in {dtype}", tensor.dtype)
    (rows, _), *hit, (w, _) = named.values()
    require(op, rows.dim() >= 1, f"{next(iter(named))} with at least one dimension", f"{rows.dim()} dimensions")
    k = rows.shape[-1]
    require(op, w.dim() == 2 and w.shape[0] == k, f"w of shape ({k}, N)", tuple(w.shape))
    require(op, all(same(mask, (k,)) for mask, _ in hit), f"hit of shape ({k},)", [tuple(mask.shape) for mask, _ in hit])


def _product_u8s8(codes: Tensor, w: Tensor) -> None:
    _product("product_u8s8", codes=(codes, torch.uint8), w=(w, torch.int8))


def _product_fs8(x: Tensor, w: Tensor) -> None:
    _product("product_fs8", x=(x, torch.float32), w=(w, torch.int8))


def _product_columns(x: Tensor, hit: Tensor, w: Tensor) -> None:
    _product("product_columns", x=(x, torch.float32), hit=(hit, torch.bool), w=(w, torch.int8))


def _codes_as_float(q: Tensor) -> None:
    tensors("codes_as_float", q=q)
    require("codes_as_float", q.dtype is torch.int8, "q in int8", q.dtype)


def _dequantize_columns(q: Tensor, scale: Tensor) -> None:
    tensors("dequantize_columns", q=q, scale=scale)
    codes_of("dequantize_columns", q, torch.int8, matrix=True)
    float_scale("dequantize_columns", scale, (q.shape[1],))


def _dequantize_groups(q: Tensor, scale: Tensor, group: int) -> None:
    tensors("dequantize_groups", q=q, scale=scale)
    codes_of("dequantize_groups", q, torch.int8, matrix=True)
    block_size("dequantize_groups", Groups, {"group": group})
    float_scale("dequantize_groups", scale, (-(-q.shape[0] // group), q.shape[1]))


EXPORTED_CHECKS: dict[str, Callable[..., None]] = {
    "product_u8s8": _product_u8s8,
    "product_fs8": _product_fs8,
    "product_columns": _product_columns,
    "codes_as_float": _codes_as_float,
    "dequantize_columns": _dequantize_columns,
    "dequantize_groups": _dequantize_groups,
}
