"""The ``lowbit::`` ops: schema, tags, shape function and reference for each; native libraries only override the reference.

The arithmetic of every op is in docs/arithmetic.md. ``x`` is float32, bfloat16 or float16 of shape [..., K] with any strides;
``w`` is a packed weight (runtime/packing.py) and ``n`` its number of output rows; ``dtype`` defaults to that of ``x``. The product is that
of ``prologue(x) * times + plus`` (runtime/reference/prologue.py). What an op accepts is in runtime/checks.py, and raises RuntimeError otherwise.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime import before, chain, steps, values
from lowbit_compiler.runtime.checks import CHECKS
from lowbit_compiler.runtime.formats import KINDS, SHARED, Format, Operand, Scale, SharedRow
from lowbit_compiler.runtime.formats.operand import argument_names, op_name
from lowbit_compiler.runtime.products import PRODUCTS, Product
from lowbit_compiler.runtime.reference import blocks, dense, exported, panels, prologue, shared, softmax
from lowbit_compiler.runtime.require import MOST_DIMS
from lowbit_compiler.runtime.training import autograd, integers
from lowbit_compiler.runtime.training import linear as training
from lowbit_compiler.runtime.treatments import TREATMENTS
from lowbit_compiler.torch_internals import autocast

__all__ = ["LIBRARY", "LINEAR_SCHEMAS", "MOST_DIMS"]  # passes see the limits of the ops here

LIBRARY = torch.library.Library("lowbit", "DEF")
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout)


def linear_reference(op: str) -> Callable[..., Tensor]:
    """Return the reference of the linear op ``op``."""

    def call(x: Tensor, w: Tensor, bias: Tensor | None, n: int, *rest: Any, **fused: Any) -> Tensor:
        return before.call(op, x, w, bias, n, *rest[:-1], dtype=rest[-1], fused=fused)

    return call


def _linear_fake(x: Tensor, w: Tensor, bias: Tensor | None, n: int, *rest: Any, **_: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], n), dtype=rest[-1] or x.dtype)


def _without_autocast(reference: Callable[..., Any]) -> Callable[..., Any]:
    """Autocast around a compiled model must not lower the products inside an op."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with autocast.disabled():
            return reference(*args, **kwargs)

    return call


def _define(schema: str, reference: Callable[..., Any], fake: Callable[..., Any] | None) -> None:
    """Define an op. Without a shape function it is its reference to every compiler, which makes code of that."""
    name, _, arguments = schema.partition(" -> ")[0].removesuffix(")").partition("(")
    names = [argument.partition("=")[0].split()[-1] for argument in arguments.split(",") if argument.strip() != "*"]

    def call(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        CHECKS[name](**given)
        if fake is not None or not any(_traced(value) for value in given.values()):
            values.check(name, given)
        return reference(*args, **kwargs)

    LIBRARY.define(schema, tags=_TAGS)
    if fake is None:
        LIBRARY.impl(name, call, "CompositeImplicitAutograd")
        return

    def shape(*args: Any, **kwargs: Any) -> Any:
        CHECKS[name](**dict(zip(names, args, strict=False)), **kwargs)
        return fake(*args, **kwargs)

    LIBRARY.impl(name, _without_autocast(call), "CompositeExplicitAutograd")
    torch.library.register_fake(f"lowbit::{name}", shape, lib=LIBRARY)


def _traced(value: Any) -> bool:
    """Return whether ``value`` stands for a tensor, in a compiler, and has no values."""
    return isinstance(value, Tensor) and type(value) not in (Tensor, torch.nn.Parameter)


def _define_format(format: type[Format], scale: type[Scale]) -> None:
    """Define the ops that quantize, dequantize and pack a format with this kind of scale."""
    settings = [*argument_names(format.schema), *argument_names(scale.schema)]
    behind = "".join(f", {each.schema}" for each in (format, scale) if each.schema)

    def operand(arguments: Sequence[Any]) -> Operand:
        return Operand.of(format, scale, dict(zip(settings, arguments, strict=True)))

    def quantize(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        return operand(arguments).quantize(x)

    def quantized(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        first, *others = (one := operand(arguments)).parts
        scales = (x.new_empty(part.shape(x.shape, one.scale.count(x.shape[-1])), dtype=part.dtype) for part in others)
        return x.new_empty(x.shape, dtype=first.dtype), *scales

    def dequantize(*arguments: Any) -> Tensor:
        parts, (*rest, dtype) = arguments[:count], arguments[count:]
        return operand(rest).dequantize(parts, dtype)

    def pack(*arguments: Any) -> Tensor:
        return operand(arguments[count:]).pack(arguments[:count])

    def packed(q: Tensor, *arguments: Any) -> Tensor:
        one = operand(arguments[count - 1 :])
        return q.new_empty((one.packed_rows(q.shape[0]), one.panel_bytes(q.shape[1])), dtype=torch.int8)

    names = ["q", *(part.name for part in scale.parts)]
    count = len(names)
    tensors = ", ".join(f"Tensor {name}" for name in names)
    results = ", ".join(["Tensor"] * count)
    floats = f"Tensor {format.tensor()}"
    native = format.panels is not None
    _define(f"{op_name('quantize', format, scale)}({floats}{behind}) -> ({results})", quantize, quantized if native else None)
    _define(f"{op_name('dequantize', format, scale)}({tensors}{behind}, ScalarType dtype) -> Tensor", dequantize, None)
    if native:
        _define(f"{op_name('pack', format, scale)}({tensors}{behind}) -> Tensor", pack, packed)


# Parts of the arithmetic of formats, on the bits of float32; exporters to what has no bits write them in another way.
_define("exponent(Tensor a) -> Tensor", lambda a: ((a.view(torch.int32) >> 23) - 127).float(), None)
_define("power(Tensor k) -> Tensor", lambda k: ((k.to(torch.int32) + 127).clamp(0, 254) << 23).view(torch.float32), None)
# Not visible to compilers: Inductor's loops over a row whose last block is short leave its elements out (torch 2.13, cpp try_loop_split).
_define(
    "padded_blocks(Tensor x, int block) -> Tensor",
    blocks.padded_blocks,
    lambda x, block: x.new_empty((*x.shape[:-1], -(-x.shape[-1] // block), block)),
)
_define("joined_blocks(Tensor blocks, int k) -> Tensor", blocks.joined_blocks, lambda blocks, k: blocks.new_empty((*blocks.shape[:-2], k)))
_define(
    "unpack_codes(Tensor packed, int bits, bool signed, int k) -> Tensor",
    dense.unpack_codes,
    lambda packed, bits, signed, k: packed.new_empty((packed.shape[0], k), dtype=torch.int8 if signed else torch.uint8),
)
_define("unpack(Tensor packed, str format, int[] arguments, int n, int k, int rows) -> Tensor[]", panels.unpack, panels.unpack_shapes)
_define(
    "product_f32(Tensor x, Tensor w, Tensor? bias) -> Tensor",
    torch.nn.functional.linear,
    lambda x, w, bias: x.new_empty((*x.shape[:-1], w.shape[0])),
)
for _kind in (*KINDS, *SHARED):
    _define_format(*_kind)
for _treatment in TREATMENTS.values():
    for _op in _treatment.ops:
        _define(_op.schema, _op.reference, _op.fake)


def _schema(product: Product) -> str:
    own = f", {product.schema}" if product.schema else ""
    return f"(Tensor x, Tensor w, Tensor? bias, int n{own}, ScalarType? dtype{prologue.SCHEMA}) -> Tensor"


SHARED_LINEARS = {product.op: treatment.rotates for (_, w, treatment), product in PRODUCTS.items() if w[1] is SharedRow}
"""The products of several processes, and whether they are rotated."""
LINEAR_SCHEMAS = {product.op: _schema(product) for product in PRODUCTS.values() if product.op not in SHARED_LINEARS}
"""Those of one process."""
for _name, _arguments in LINEAR_SCHEMAS.items():
    _define(_name + _arguments, linear_reference(_name), _linear_fake)
for _product in PRODUCTS.values():
    if _product.op in SHARED_LINEARS:
        _define(_product.op + _schema(_product), shared.linear(SHARED_LINEARS[_product.op]), None)


def _softmax_fake(
    x: Tensor, dim: int, scale: float = 1.0, mask: Tensor | None = None, log: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    return x.new_empty(x.shape, dtype=dtype or x.dtype)


def _sdpa_fake(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    b, h, rows, _ = q.shape
    return q.new_empty((b, rows, h, v.shape[3])).transpose(1, 2)


_define(
    # With defaults, because every argument that is passed from Python takes a tenth of a microsecond.
    "softmax(Tensor x, int dim, float scale=1.0, Tensor? mask=None, bool log=False, ScalarType? dtype=None) -> Tensor",
    softmax.softmax,
    _softmax_fake,
)
_define("sdpa(Tensor q, Tensor k, Tensor v, Tensor? mask, bool causal, float scale) -> Tensor", softmax.sdpa, _sdpa_fake)
_define(
    "sdpa_codes(Tensor q, Tensor k, Tensor k_scale, Tensor v, Tensor v_scale, Tensor? mask, bool causal, float scale) -> Tensor",
    softmax.sdpa_codes,
    lambda q, k, k_scale, v, v_scale, mask, causal, scale: _sdpa_fake(q, k, v, mask, causal, scale),
)
_define(chain.SCHEMA, chain.reference, chain.shapes)

_define(
    "quantize_unsigned(Tensor x) -> (Tensor, Tensor)",
    exported.quantize_unsigned,
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

_define(steps.SCHEMA, steps.stepped_linear, None)
for _ops in (integers, training, shared):
    for _name, _arguments in _ops.SCHEMAS.items():
        _define(_name + _arguments, getattr(_ops, _name), getattr(_ops, f"{_name}_shapes"))
torch.library.register_autograd("lowbit::train_linear", autograd.backward, setup_context=autograd.keep, lib=LIBRARY)
