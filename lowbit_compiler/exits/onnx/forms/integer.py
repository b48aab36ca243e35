"""The integer form of the ONNX exit: codes and scales written out, int32 sums that are exact."""

import torch
from torch import fx

from lowbit_compiler.exits.onnx.forms.opened import Product, Writer, rewrite
from lowbit_compiler.passes.contract import Fact, PassContext
from lowbit_compiler.passes.graph import aten

ops = torch.ops.lowbit


class IntegerForm:
    """Each planned product as an integer product and its float32 steps, in the order of docs/arithmetic.md.

    Before::

        %xd = lowbit.dequantize_s8(%xq, %xscale, float32)     # of quantize_s8(%kept), of split_columns(%x, 6.0)
        %wd = lowbit.dequantize_s8(%wq, %wscale, float32)
        %l = aten.linear(%xd, %wd, %b)
        %e = aten.linear(%exact, %wd)
        %y = aten.add(%l, %e)

    After::

        %hit = lowbit.hit_columns(%x, 6.0)
        %kept = aten.masked_fill(%x, %hit, 0.0)
        %u = lowbit.quantize_u8(%kept)                        # %codes, %xscale: getitem of %u
        %acc = lowbit.product_u8s8(%codes, %wq)
        %p = aten.mul(aten.to(%acc, float32), %xscale)
        %o = lowbit.product_columns(%x, %hit, %wq)
        %y = aten.add(aten.mul(aten.add(%p, %o), %wscale), %b)
    """

    name = "integer-form"
    requires = frozenset({Fact.QUANTIZED, Fact.FOLDED})
    establishes = frozenset({Fact.OPENED})
    destroys = frozenset({Fact.WIDE, Fact.QUANTIZED, Fact.FOLDED})
    exact = True

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Write every planned product anew; returns their number."""
        return rewrite(gm, ctx, lambda w, product: _float(w, product) if product.quantize is None else _int8(w, product))


def _float(w: Writer, product: Product) -> fx.Node:
    if product.plan.weights == "int4":
        weight = w.emit(product, ops.dequantize_groups.default, product.codes, product.scale, product.plan.group_size)
        return w.emit(product, aten.matmul.default, product.x, weight)
    return w.emit(product, aten.mul.Tensor, w.emit(product, ops.product_fs8.default, product.x, product.codes), product.scale)


def _int8(w: Writer, product: Product) -> fx.Node:
    hit, kept = split(w, product)
    codes, scale = w.quantized(product, ops.quantize_u8.default, kept)
    acc = w.emit(product, ops.product_u8s8.default, codes, product.codes)
    result = w.emit(product, aten.mul.Tensor, w.emit(product, aten.to.dtype, acc, torch.float32), scale)
    if (exact := exact_product(w, product, hit)) is not None:
        result = w.emit(product, aten.add.Tensor, result, exact)
    return w.emit(product, aten.mul.Tensor, result, product.scale)


def split(w: Writer, product: Product) -> tuple[fx.Node | None, fx.Node]:
    """Return which columns are exact (None where none are, or elements of rows), and the kept part."""
    if product.plan.treatment != "columns":
        return None, product.quantize.args[0]
    hit = w.emit(product, ops.hit_columns.default, product.x, product.plan.threshold)
    return hit, w.emit(product, aten.masked_fill.Scalar, product.x, hit, 0.0)


def exact_product(w: Writer, product: Product, hit: fx.Node | None) -> fx.Node | None:
    """Return the product of the exact elements with the weight's codes, or None without a split."""
    if hit is not None:
        return w.emit(product, ops.product_columns.default, product.x, hit, product.codes)
    return None if product.exact is None else w.emit(product, ops.product_fs8.default, product.exact, product.codes)
