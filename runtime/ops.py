"""The ``lowbit::`` ops: schema, tags, shape function and reference for each; native libraries only override the reference.

The arithmetic of every op is in docs/arithmetic.md. ``x`` is float32, bfloat16 or float16 of shape [..., K] with any strides;
``w`` is a packed weight (runtime/packing.py) and ``n`` its number of output rows; ``dtype`` defaults to that of ``x``. The product is that
of ``prologue(x) * times + plus`` (runtime/reference/prologue.py). What an op accepts is in runtime/checks.py, and raises RuntimeError otherwise.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime import values
from lowbit_compiler.runtime.checks import CHECKS, MAX_K, MOST_DIMS, PROLOGUE
from lowbit_compiler.runtime.packing import PANEL, pack_s4, pack_s8, packed_bytes
from lowbit_compiler.runtime.reference import exported, linear, quantize, softmax, treatments
from lowbit_compiler.runtime.reference.prologue import prologue
from lowbit_compiler.torch_internals import autocast

__all__ = ["LIBRARY", "LINEAR_SCHEMAS", "MAX_K", "MOST_DIMS"]  # passes see the limits of the ops here

LIBRARY = torch.library.Library("lowbit", "DEF")
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout)


def _before(reference: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The product of what the prologue makes of x."""

    def call(x: Tensor, w: Tensor, bias: Tensor | None, n: int, *rest: Any, **fused: Any) -> Tensor:
        if not fused:
            return reference(x, w, bias, n, *rest)
        function, times, plus, eps = (fused.get(name, default) for name, default in PROLOGUE.items())
        return reference(prologue(x, function, times, plus, eps), w, bias, n, *rest[:-1], rest[-1] or x.dtype)

    return call


def _linear_fake(x: Tensor, w: Tensor, bias: Tensor | None, n: int, *rest: Any, **_: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], n), dtype=rest[-1] or x.dtype)


def _without_autocast(reference: Callable[..., Any]) -> Callable[..., Any]:
    """Autocast around a compiled model must not lower the products inside an op."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with autocast.disabled():
            return reference(*args, **kwargs)

    return call


def _define(schema: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> None:
    name, _, arguments = schema.partition(" -> ")[0].removesuffix(")").partition("(")
    names = [argument.partition("=")[0].split()[-1] for argument in arguments.split(",") if argument.strip() != "*"]

    def shape(*args: Any, **kwargs: Any) -> Any:
        CHECKS[name](**dict(zip(names, args, strict=False)), **kwargs)
        return fake(*args, **kwargs)

    def call(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        CHECKS[name](**given)
        values.check(name, given)
        return reference(*args, **kwargs)

    LIBRARY.define(schema, tags=_TAGS)
    LIBRARY.impl(name, _without_autocast(call), "CompositeExplicitAutograd")
    torch.library.register_fake(f"lowbit::{name}", shape, lib=LIBRARY)


def _quantize_s8_fake(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


def _quantize_s4_fake(w: Tensor, group: int) -> tuple[Tensor, Tensor]:
    n, k = w.shape
    return w.new_empty((n, k), dtype=torch.int8), w.new_empty((n, -(-k // group)), dtype=torch.float32)


def _split_fake(x: Tensor, *_: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)


_define("quantize_s8(Tensor x) -> (Tensor, Tensor)", quantize.quantize_s8, _quantize_s8_fake)
_define(
    "dequantize_s8(Tensor q, Tensor scale, ScalarType dtype) -> Tensor",
    quantize.dequantize_s8,
    lambda q, scale, dtype: q.new_empty(q.shape, dtype=dtype),
)
_define("quantize_s4(Tensor w, int group) -> (Tensor, Tensor)", quantize.quantize_s4, _quantize_s4_fake)
_define(
    "dequantize_s4(Tensor q, Tensor scale, int group, ScalarType dtype) -> Tensor",
    quantize.dequantize_s4,
    lambda q, scale, group, dtype: q.new_empty(q.shape, dtype=dtype),
)
_define(
    "rotate(Tensor x) -> Tensor",
    treatments.rotate,
    lambda x: x.new_empty((*x.shape[:-1], -(-x.shape[-1] // 64) * 64), dtype=torch.float32),
)
_define("split_columns(Tensor x, float threshold) -> (Tensor, Tensor)", treatments.split_columns, _split_fake)
_define("split_rows(Tensor x) -> (Tensor, Tensor)", treatments.split_rows, _split_fake)

_define(
    "pack_s8(Tensor q, Tensor scale) -> Tensor",
    pack_s8,
    lambda q, scale: q.new_empty((-(-q.shape[0] // PANEL), packed_bytes(q.shape[1])), dtype=torch.int8),
)
_define(
    "pack_s4(Tensor q, Tensor scale, int group) -> Tensor",
    pack_s4,
    lambda q, scale, group: q.new_empty((-(-q.shape[0] // PANEL), packed_bytes(q.shape[1], group)), dtype=torch.int8),
)

_PROLOGUE = ', *, str prologue="", Tensor? times=None, Tensor? plus=None, float eps=0.0'
LINEAR_SCHEMAS = {
    "linear_s8s8": f"(Tensor x, Tensor w, Tensor? bias, int n, ScalarType? dtype{_PROLOGUE}) -> Tensor",
    "linear_s8s8_rotated": f"(Tensor x, Tensor w, Tensor? bias, int n, ScalarType? dtype{_PROLOGUE}) -> Tensor",
    "linear_s8s8_columns": f"(Tensor x, Tensor w, Tensor? bias, int n, float threshold, ScalarType? dtype{_PROLOGUE}) -> Tensor",
    "linear_s8s8_rows": f"(Tensor x, Tensor w, Tensor? bias, int n, ScalarType? dtype{_PROLOGUE}) -> Tensor",
    "linear_fs8": "(Tensor x, Tensor w, Tensor? bias, int n, ScalarType? dtype) -> Tensor",
    "linear_fs4": "(Tensor x, Tensor w, Tensor? bias, int n, int group, ScalarType? dtype) -> Tensor",
}
for _name, _arguments in LINEAR_SCHEMAS.items():
    _define(_name + _arguments, _before(getattr(linear, _name)), _linear_fake)


def _softmax_fake(x: Tensor, dim: int, scale: float, mask: Tensor | None, log: bool, dtype: torch.dtype | None) -> Tensor:
    return x.new_empty(x.shape, dtype=dtype or x.dtype)


def _sdpa_fake(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    b, h, rows, _ = q.shape
    return q.new_empty((b, rows, h, v.shape[3])).transpose(1, 2)


_define("softmax(Tensor x, int dim, float scale, Tensor? mask, bool log, ScalarType? dtype) -> Tensor", softmax.softmax, _softmax_fake)
_define("sdpa(Tensor q, Tensor k, Tensor v, Tensor? mask, bool causal, float scale) -> Tensor", softmax.sdpa, _sdpa_fake)

_define(
    "quantize_u8(Tensor x) -> (Tensor, Tensor)",
    exported.quantize_u8,
    lambda x: (x.new_empty(x.shape, dtype=torch.uint8), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)),
)
_define(
    "product_u8s8(Tensor codes, Tensor w) -> Tensor",
    exported.product_u8s8,
    lambda codes, w: codes.new_empty((*codes.shape[:-1], w.shape[1]), dtype=torch.int32),
)
_define(
    "product_fs8(Tensor x, Tensor w) -> Tensor",
    exported.product_fs8,
    lambda x, w: x.new_empty((*x.shape[:-1], w.shape[1])),
)
_define("codes_as_float(Tensor q) -> Tensor", exported.codes_as_float, lambda q: q.new_empty(q.shape, dtype=torch.float32))
_define(
    "hit_columns(Tensor x, float threshold) -> Tensor",
    treatments.hit_columns,
    lambda x, threshold: x.new_empty((x.shape[-1],), dtype=torch.bool),
)
_define(
    "product_columns(Tensor x, Tensor hit, Tensor w) -> Tensor",
    exported.product_columns,
    lambda x, hit, w: x.new_empty((*x.shape[:-1], w.shape[1])),
)
_define(
    "dequantize_columns(Tensor q, Tensor scale) -> Tensor",
    exported.dequantize_columns,
    lambda q, scale: q.new_empty(q.shape, dtype=torch.float32),
)
_define(
    "dequantize_groups(Tensor q, Tensor scale, int group) -> Tensor",
    exported.dequantize_groups,
    lambda q, scale, group: q.new_empty(q.shape, dtype=torch.float32),
)
