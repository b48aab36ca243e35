"""What every op asks of its arguments, before work starts: one error that says what is accepted and what was got.

The shape functions and references of runtime/ops.py ask this, and csrc/bind asks the same in the same words. What only values show is in
runtime/values.py.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats import FORMATS, Format, Groups, Operand, Scale
from lowbit_compiler.runtime.formats.operand import argument_names, op_name
from lowbit_compiler.runtime.packing import PANEL
from lowbit_compiler.runtime.products import KINDS, PRODUCTS, weight_of
from lowbit_compiler.runtime.reference.prologue import FUNCTIONS
from lowbit_compiler.runtime.treatments import TREATMENTS
from lowbit_compiler.torch_internals.shapes import guard_or_false, guard_or_true

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
MOST_DIMS = 64
MOST_ELEMENTS = 2**47  # more than an address space holds: counts and sizes in bytes stay far from 2^63
PROLOGUE: dict[str, Any] = {"prologue": "", "times": None, "plus": None, "eps": 0.0}
_FLOAT = "float32, bfloat16 or float16"


def require(op: str, condition: Any, expected: str, got: object) -> None:
    """Raise RuntimeError in the words of all ops, unless ``condition``."""
    if not condition:
        raise RuntimeError(f"lowbit::{op}: expected {expected}, got {got}")


def _tensors(op: str, **arguments: Tensor | None) -> None:
    given = {name: tensor for name, tensor in arguments.items() if tensor is not None}
    first = next(iter(given))
    device = given[first].device
    for name, tensor in given.items():
        require(op, tensor.layout is torch.strided, f"{name} to be a dense tensor", tensor.layout)
        require(op, tensor.dim() <= MOST_DIMS, f"{name} of at most {MOST_DIMS} dimensions", tensor.dim())
        if all(isinstance(size, int) for size in tensor.shape):  # comparing symbolic sizes would guard
            count = math.prod(size or 1 for size in tensor.shape)
            require(op, count <= MOST_ELEMENTS, f"{name} of at most 2^47 elements", tuple(tensor.shape))
        require(op, tensor.device == device, f"{name} on {device}, where {first} is", tensor.device)


def _rows(op: str, x: Tensor) -> None:
    require(op, x.dtype in FLOATS, f"x in {_FLOAT}", x.dtype)
    require(op, x.dim() >= 1, "x with at least one dimension", f"{x.dim()} dimensions")
    require(op, x.shape[-1] >= 1, "K of at least 1", x.shape[-1])


def _threshold(op: str, threshold: float) -> None:
    require(op, threshold >= 0, "threshold of at least 0", threshold)  # NaN is not


def _rows_of(op: str) -> Callable[..., None]:
    def check(x: Tensor, threshold: float = 0.0) -> None:
        _tensors(op, x=x)
        _rows(op, x)
        _threshold(op, threshold)

    return check


def _size(op: str, scale: type[Scale], arguments: dict[str, Any]) -> None:
    if scale.sizes:
        name = argument_names(scale.schema)[-1]
        require(op, arguments[name] in scale.sizes, f"{name} in {scale.sizes}", arguments[name])


def _dtype(op: str, dtype: torch.dtype | None) -> None:
    require(op, dtype is None or dtype in FLOATS, f"dtype {_FLOAT}", dtype)


def _operand(op: str, format: type[Format], scale: type[Scale], arguments: dict[str, Any]) -> Operand:
    """Return the operand that an op with these arguments (by name) is of."""
    _size(op, scale, arguments)
    mine, its = ([arguments[name] for name in argument_names(each.schema)] for each in (format, scale))
    try:
        return Operand(format(*mine), scale(*its))
    except ValueError as error:
        raise RuntimeError(f"lowbit::{op}: {error}") from None


def _quantize(op: str, format: type[Format], scale: type[Scale]) -> Callable[..., None]:
    name = format.tensor

    def check(**arguments: Any) -> None:
        x = arguments[name]
        _tensors(op, **{name: x})
        require(op, x.dtype in FLOATS, f"{name} in {_FLOAT}", x.dtype)
        if format.activations:
            require(op, x.dim() >= 1, f"{name} with at least one dimension", f"{x.dim()} dimensions")
        else:
            require(op, x.dim() == 2, f"{name} of shape [N, K]", f"{x.dim()} dimensions")
        require(op, x.shape[-1] >= 1, "K of at least 1", x.shape[-1])
        _operand(op, format, scale, arguments)

    return check


def _parts(op: str, operand: Operand, arguments: dict[str, Any], flat: bool = False) -> None:
    """Check codes and scales; ``flat``: a scale for each row may be [N] as well as [N, 1]."""
    first, *others = operand.parts
    q = arguments[first.name]
    for part in others:
        shape: tuple[Any, ...] = () if part.single else (*q.shape[:-1], operand.scale.count(q.shape[-1]))
        tensor, dtype = arguments[part.name], str(part.dtype).removeprefix("torch.")
        shapes = (shape, shape[:-1])[::-1] if flat and not operand.scale.sizes else (shape,)
        fits = tensor.dtype is part.dtype and any(same(tensor, each) for each in shapes)
        require(op, fits, f"{part.name} in {dtype} of shape {' or '.join(map(str, shapes))}", f"{tensor.dtype} of {tuple(tensor.shape)}")


def _codes(op: str, q: Tensor, dtype: torch.dtype, matrix: bool) -> None:
    name = str(dtype).removeprefix("torch.")
    fits, dims = (q.dim() == 2, "of 2 dimensions") if matrix else (q.dim() >= 1, "with at least one dimension")
    require(op, q.dtype is dtype and fits, f"q in {name} {dims}", f"{q.dtype} of {q.dim()} dimensions")


def _stored(op: str, format: type[Format], scale: type[Scale], packing: bool) -> Callable[..., None]:
    def check(**arguments: Any) -> None:
        _tensors(op, **{name: tensor for name, tensor in arguments.items() if isinstance(tensor, Tensor)})
        operand = _operand(op, format, scale, arguments)
        _codes(op, arguments["q"], operand.parts[0].dtype, packing or not format.activations)
        _parts(op, operand, arguments, flat=packing)
        if not packing:
            _dtype(op, arguments["dtype"])

    return check


def _linear(op: str) -> Callable[..., None]:
    def check(x: Tensor, w: Tensor, bias: Tensor | None, n: int, dtype: torch.dtype | None, threshold: float = 0.0, **others: Any) -> None:
        _tensors(op, x=x, w=w, bias=bias, times=others.get("times"), plus=others.get("plus"))
        _packed(op, x, w, n, others)
        require(op, bias is None or same(bias, (n,)), f"bias of shape ({n},)", None if bias is None else tuple(bias.shape))
        require(op, bias is None or bias.dtype in FLOATS, f"bias in {_FLOAT}", None if bias is None else bias.dtype)
        _dtype(op, dtype)
        _threshold(op, threshold)
        _before(op, x, others)
        _result(op, x.shape[:-1], n)

    return check


def _result(op: str, rows: tuple[Any, ...], columns: Any) -> None:
    if all(isinstance(size, int) for size in (*rows, columns)):
        count = math.prod(rows)
        require(op, columns == 0 or count <= MOST_ELEMENTS // columns, "a result of at most 2^47 elements", f"{count} rows of {columns}")


def _packed(op: str, x: Tensor, w: Tensor, n: int, others: dict[str, Any]) -> None:
    require(op, x.dtype in FLOATS, f"x in {_FLOAT}", x.dtype)
    require(op, x.dim() >= 1, "x with at least one dimension", f"{x.dim()} dimensions")
    k, largest = x.shape[-1], PRODUCTS[KINDS[op]].largest_k
    require(op, k >= 1 and (largest is None or k <= largest), f"K from 1 to {largest or 'any'}", k)
    _size(op, KINDS[op][1][1], others)
    require(op, n >= 0, "n of at least 0", n)
    require(op, w.dtype == torch.int8 and w.dim() == 2, "w packed as int8 [panels, bytes]", f"{w.dtype} of {w.dim()} dimensions")
    require(op, w.shape[0] == -(-n // PANEL), f"{-(-n // PANEL)} panels for n = {n}", f"{w.shape[0]}")
    size = weight_of(op, others).panel_bytes(k)
    require(op, w.shape[1] == size, f"panels of {size} bytes for K = {k}", f"{w.shape[1]}")


def _before(op: str, x: Tensor, fused: dict[str, Any]) -> None:
    k = x.shape[-1]
    function, times, plus, eps = (fused.get(name, default) for name, default in PROLOGUE.items())
    require(op, function in FUNCTIONS, f"prologue one of {', '.join(filter(None, FUNCTIONS))} or empty", repr(function))
    for name, tensor in {"times": times, "plus": plus}.items():
        require(op, tensor is None or tensor.dtype in FLOATS, f"{name} in {_FLOAT}", tensor is not None and tensor.dtype)
    fits = times is None or same(times, (k,)) or same(times, x.shape)
    require(op, fits, f"times of shape ({k},) or that of x, {tuple(x.shape)}", times is not None and tuple(times.shape))
    require(op, plus is None or same(plus, (k,)), f"plus of shape ({k},)", plus is not None and tuple(plus.shape))
    require(op, eps >= 0, "eps of at least 0", eps)


def same(tensor: Tensor, shape: tuple[Any, ...]) -> bool:
    """Return whether ``tensor`` has this shape."""
    return tensor.dim() == len(shape) and tensor.shape == shape  # lengths first: comparing symbolic sizes would guard


def _softmax(x: Tensor, dim: int, scale: float, mask: Tensor | None, log: bool, dtype: torch.dtype | None) -> None:
    _tensors("softmax", x=x, mask=mask)
    require("softmax", x.dtype in FLOATS, f"x in {_FLOAT}", x.dtype)
    dims = max(x.dim(), 1)  # a number has a dimension to name, as in torch
    require("softmax", -dims <= dim < dims, f"dim from {-dims} to {dims - 1}", dim)
    _dtype("softmax", dtype)
    _mask("softmax", mask, tuple(x.shape))


def _mask(op: str, mask: Tensor | None, shape: tuple[Any, ...]) -> None:
    if mask is None:
        return
    require(op, mask.dtype in (*FLOATS, torch.bool), f"mask in bool, {_FLOAT}", mask.dtype)
    fits = mask.dim() <= len(shape) and all(_broadcasts(m, s) for m, s in zip(reversed(mask.shape), reversed(shape), strict=False))
    require(op, fits, f"mask that broadcasts to {shape}", tuple(mask.shape))


def _broadcasts(size: Any, to: Any) -> bool:
    if isinstance(size, int) and isinstance(to, int):
        return size in (1, to)
    return guard_or_false(size == 1) or guard_or_true(size == to)  # what is known at run time only is checked then


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float) -> None:
    _tensors("sdpa", q=q, k=k, v=v, mask=mask)
    for name, tensor in {"q": q, "k": k, "v": v}.items():
        require("sdpa", tensor.dtype in FLOATS and tensor.dtype == q.dtype, "q, k, v in one of float32, bfloat16, float16", tensor.dtype)
        require("sdpa", tensor.dim() == 4, f"{name} of 4 dimensions", tensor.dim())
    b, h, _, e = q.shape
    require("sdpa", k.shape[0] == b and k.shape[3] == e, f"k of shape ({b}, G, S, {e})", tuple(k.shape))
    require("sdpa", v.shape[:3] == k.shape[:3], f"v of shape ({b}, {k.shape[1]}, {k.shape[2]}, F)", tuple(v.shape))
    require("sdpa", k.shape[1] > 0 and h % k.shape[1] == 0, "query heads that are a multiple of key heads", f"{h} and {k.shape[1]}")
    _mask("sdpa", mask, (b, h, q.shape[2], k.shape[2]))
    _result("sdpa", q.shape[:3], v.shape[3])


def _product(op: str, **named: tuple[Tensor, torch.dtype]) -> None:
    """Check the operands of a product as ONNX writes it: rows [..., K], perhaps bool [K], and codes [K, N]."""
    _tensors(op, **{name: tensor for name, (tensor, _) in named.items()})
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


def _float32(op: str) -> Callable[..., None]:
    def check(**numbers: Tensor) -> None:
        _tensors(op, **numbers)
        for name, tensor in numbers.items():
            require(op, tensor.dtype is torch.float32, f"{name} in float32", tensor.dtype)

    return check


def _codes_as_float(q: Tensor) -> None:
    _tensors("codes_as_float", q=q)
    require("codes_as_float", q.dtype is torch.int8, "q in int8", q.dtype)


def _scale(op: str, scale: Tensor, shape: tuple[Any, ...]) -> None:
    fits = scale.dtype is torch.float32 and same(scale, shape)
    require(op, fits, f"scale in float32 of shape {shape}", f"{scale.dtype} of {tuple(scale.shape)}")


def _dequantize_columns(q: Tensor, scale: Tensor) -> None:
    _tensors("dequantize_columns", q=q, scale=scale)
    _codes("dequantize_columns", q, torch.int8, matrix=True)
    _scale("dequantize_columns", scale, (q.shape[1],))


def _dequantize_groups(q: Tensor, scale: Tensor, group: int) -> None:
    _tensors("dequantize_groups", q=q, scale=scale)
    _codes("dequantize_groups", q, torch.int8, matrix=True)
    _size("dequantize_groups", Groups, {"group": group})
    _scale("dequantize_groups", scale, (-(-q.shape[0] // group), q.shape[1]))


_ROWS = ("quantize_u8", *(op.name for treatment in TREATMENTS.values() for op in treatment.ops))
CHECKS: dict[str, Callable[..., None]] = {
    **{op: _rows_of(op) for op in _ROWS},
    **{op: _linear(op) for op in KINDS},
    **{op: _float32(op) for op in ("exponent", "power")},
    "softmax": _softmax,
    "sdpa": _sdpa,
    "product_u8s8": _product_u8s8,
    "product_fs8": _product_fs8,
    "product_columns": _product_columns,
    "codes_as_float": _codes_as_float,
    "dequantize_columns": _dequantize_columns,
    "dequantize_groups": _dequantize_groups,
}
"""The check of each op, which takes the op's own arguments by name."""


def _add(format: type[Format], scale: type[Scale]) -> None:
    quantize, dequantize, pack = (op_name(verb, format, scale) for verb in ("quantize", "dequantize", "pack"))
    CHECKS[quantize] = _quantize(quantize, format, scale)
    CHECKS[dequantize] = _stored(dequantize, format, scale, packing=False)
    if format.panels is not None:
        CHECKS[pack] = _stored(pack, format, scale, packing=True)


for _format in FORMATS:
    for _scale_kind in _format.scales:
        _add(_format, _scale_kind)
