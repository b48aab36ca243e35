"""The ``lowbit::`` ops: schema, tags, shape function and reference for each; native libraries only override the reference.

The arithmetic of every op is in docs/arithmetic.md. ``x`` is float32, bfloat16 or float16 of shape [..., K] with any strides;
``w`` is a packed weight (runtime/packing.py) and ``n`` its number of output rows; ``dtype`` defaults to that of ``x``. The product is that
of ``prologue(x) * times + plus`` (runtime/reference/prologue.py).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.packing import PANEL, pack_s4, pack_s8, packed_bytes
from lowbit_compiler.runtime.reference import exported, linear, quantize, softmax, treatments
from lowbit_compiler.runtime.reference.prologue import FUNCTIONS, prologue
from lowbit_compiler.torch_internals import autocast
from lowbit_compiler.torch_internals.shapes import guard_or_false, guard_or_true

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
GROUPS = (32, 64, 128)
MAX_K = 133_144  # largest K whose int8 products cannot overflow int32: floor((2^31 - 1) / 127^2)

LIBRARY = torch.library.Library("lowbit", "DEF")
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout)


def _require(op: str, condition: Any, expected: str, got: object) -> None:
    if not condition:
        raise RuntimeError(f"lowbit::{op}: expected {expected}, got {got}")


def _check_linear(op: str, x: Tensor, w: Tensor, bias: Tensor | None, n: int, dtype: torch.dtype | None, group: int | None = None) -> None:
    _require(op, x.dtype in FLOATS, "x in float32, bfloat16 or float16", x.dtype)
    _require(op, x.dim() >= 1, "x with at least one dimension", f"{x.dim()} dimensions")
    k = x.shape[-1]
    largest = MAX_K if op.startswith("linear_s8s8") else None
    _require(op, k >= 1 and (largest is None or k <= largest), f"K from 1 to {largest or 'any'}", k)
    _require(op, group is None or group in GROUPS, f"group in {GROUPS}", group)
    _require(op, w.dtype == torch.int8 and w.dim() == 2, "w packed as int8 [panels, bytes]", f"{w.dtype} of {w.dim()} dimensions")
    _require(op, w.shape[0] == -(-n // PANEL), f"{-(-n // PANEL)} panels for n = {n}", f"{w.shape[0]}")
    _require(op, w.shape[1] == packed_bytes(k, group), f"panels of {packed_bytes(k, group)} bytes for K = {k}", f"{w.shape[1]}")
    _require(op, bias is None or tuple(bias.shape) == (n,), f"bias of shape ({n},)", None if bias is None else tuple(bias.shape))
    _require(op, bias is None or bias.dtype in FLOATS, "bias in float32, bfloat16 or float16", None if bias is None else bias.dtype)
    _require(op, dtype is None or dtype in FLOATS, "dtype float32, bfloat16 or float16", dtype)


def _check_before(op: str, x: Tensor, function: str, times: Tensor | None, plus: Tensor | None) -> None:
    k = x.shape[-1]
    _require(op, function in FUNCTIONS, f"prologue one of {', '.join(filter(None, FUNCTIONS))} or empty", repr(function))
    for name, tensor in {"times": times, "plus": plus}.items():
        _require(
            op, tensor is None or tensor.dtype in FLOATS, f"{name} in float32, bfloat16 or float16", tensor is not None and tensor.dtype
        )
    fits = times is None or _same(times, (k,)) or _same(times, x.shape)
    _require(op, fits, f"times of shape ({k},) or that of x, {tuple(x.shape)}", times is not None and tuple(times.shape))
    _require(op, plus is None or _same(plus, (k,)), f"plus of shape ({k},)", plus is not None and tuple(plus.shape))


def _same(tensor: Tensor, shape: tuple[Any, ...]) -> bool:
    return tensor.dim() == len(shape) and tensor.shape == shape  # lengths first: comparing symbolic sizes would guard


def _linear_fake(op: str) -> Callable[..., Tensor]:
    def fake(x: Tensor, w: Tensor, bias: Tensor | None, n: int, *rest: Any, **fused: Any) -> Tensor:
        _check_linear(op, x, w, bias, n, rest[-1], rest[0] if op == "linear_fs4" else None)
        if fused:
            _check_before(op, x, fused.get("prologue", ""), fused.get("times"), fused.get("plus"))
        return x.new_empty((*x.shape[:-1], n), dtype=rest[-1] or x.dtype)

    return fake


def _checked(op: str, reference: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(x: Tensor, w: Tensor, bias: Tensor | None, n: int, *rest: Any, **fused: Any) -> Tensor:
        _check_linear(op, x, w, bias, n, rest[-1], rest[0] if op == "linear_fs4" else None)
        if not fused:
            return reference(x, w, bias, n, *rest)
        function, times, plus, eps = (fused.get(name, default) for name, default in PROLOGUE.items())
        _check_before(op, x, function, times, plus)
        return reference(prologue(x, function, times, plus, eps), w, bias, n, *rest[:-1], rest[-1] or x.dtype)

    return call


def _without_autocast(reference: Callable[..., Any]) -> Callable[..., Any]:
    """Autocast around a compiled model must not lower the products inside an op."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with autocast.disabled():
            return reference(*args, **kwargs)

    return call


def _define(schema: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> None:
    name = schema.partition("(")[0]
    LIBRARY.define(schema, tags=_TAGS)
    LIBRARY.impl(name, _without_autocast(reference), "CompositeExplicitAutograd")
    torch.library.register_fake(f"lowbit::{name}", fake, lib=LIBRARY)


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

PROLOGUE: dict[str, Any] = {"prologue": "", "times": None, "plus": None, "eps": 0.0}
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
    _define(_name + _arguments, _checked(_name, getattr(linear, _name)), _linear_fake(_name))


def _check_softmax(x: Tensor, dim: int, mask: Tensor | None, dtype: torch.dtype | None) -> None:
    _require("softmax", x.dtype in FLOATS, "x in float32, bfloat16 or float16", x.dtype)
    dims = max(x.dim(), 1)  # a number has a dimension to name, as in torch
    _require("softmax", -dims <= dim < dims, f"dim from {-dims} to {dims - 1}", dim)
    _require("softmax", dtype is None or dtype in FLOATS, "dtype float32, bfloat16 or float16", dtype)
    _check_mask("softmax", mask, tuple(x.shape))


def _check_mask(op: str, mask: Tensor | None, shape: tuple[Any, ...]) -> None:
    if mask is None:
        return
    _require(op, mask.dtype in (*FLOATS, torch.bool), "mask in bool, float32, bfloat16 or float16", mask.dtype)
    fits = mask.dim() <= len(shape) and all(_broadcasts(m, s) for m, s in zip(reversed(mask.shape), reversed(shape), strict=False))
    _require(op, fits, f"mask that broadcasts to {shape}", tuple(mask.shape))


def _broadcasts(size: Any, to: Any) -> bool:
    if isinstance(size, int) and isinstance(to, int):
        return size in (1, to)
    return guard_or_false(size == 1) or guard_or_true(size == to)  # what is known at run time only is checked then


def _softmax_fake(x: Tensor, dim: int, scale: float, mask: Tensor | None, log: bool, dtype: torch.dtype | None) -> Tensor:
    _check_softmax(x, dim, mask, dtype)
    return x.new_empty(x.shape, dtype=dtype or x.dtype)


def _softmax(x: Tensor, dim: int, scale: float, mask: Tensor | None, log: bool, dtype: torch.dtype | None) -> Tensor:
    _check_softmax(x, dim, mask, dtype)
    return softmax.softmax(x, dim, scale, mask, log, dtype)


def _check_sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> None:
    for name, tensor in {"q": q, "k": k, "v": v}.items():
        _require("sdpa", tensor.dtype in FLOATS and tensor.dtype == q.dtype, "q, k, v in one of float32, bfloat16, float16", tensor.dtype)
        _require("sdpa", tensor.dim() == 4, f"{name} of 4 dimensions", tensor.dim())
    b, h, _, e = q.shape
    _require("sdpa", k.shape[0] == b and k.shape[3] == e, f"k of shape ({b}, G, S, {e})", tuple(k.shape))
    _require("sdpa", v.shape[:3] == k.shape[:3], f"v of shape ({b}, {k.shape[1]}, {k.shape[2]}, F)", tuple(v.shape))
    _require("sdpa", k.shape[1] > 0 and h % k.shape[1] == 0, "query heads that are a multiple of key heads", f"{h} and {k.shape[1]}")
    _check_mask("sdpa", mask, (b, h, q.shape[2], k.shape[2]))


def _sdpa_fake(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    _check_sdpa(q, k, v, mask)
    b, h, rows, _ = q.shape
    return q.new_empty((b, rows, h, v.shape[3])).transpose(1, 2)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    _check_sdpa(q, k, v, mask)
    return softmax.sdpa(q, k, v, mask, causal, scale)


_define("softmax(Tensor x, int dim, float scale, Tensor? mask, bool log, ScalarType? dtype) -> Tensor", _softmax, _softmax_fake)
_define("sdpa(Tensor q, Tensor k, Tensor v, Tensor? mask, bool causal, float scale) -> Tensor", _sdpa, _sdpa_fake)

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
