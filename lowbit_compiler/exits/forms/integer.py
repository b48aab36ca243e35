"""The integer form of the ONNX exit: codes and scales written out, int32 sums that are exact."""

import torch
from torch import fx

from lowbit_compiler.exits.forms.opened import Opened, Writer, rewrite
from lowbit_compiler.passes.contract import Fact, Pass, PassContext
from lowbit_compiler.passes.graph import aten
from lowbit_compiler.runtime.treatments import Columns

ops = torch.ops.lowbit


class IntegerForm(Pass):
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
        %u = lowbit.quantize_unsigned(%kept)                        # %codes, %xscale: getitem of %u
        %acc = lowbit.product_u8s8(%codes, %wq)
        %p = aten.mul(aten.to(%acc, float32), %xscale)
        %o = lowbit.product_columns(%x, %hit, %wq)
        %y = aten.add(aten.mul(aten.add(%p, %o), %wscale), %b)
    """

    name = "integer-form"
    requires = frozenset({Fact.QUANTIZED, Fact.FOLDED})
    establishes = frozenset({Fact.OPENED})
    destroys = frozenset({Fact.WIDE, Fact.QUANTIZED, Fact.FOLDED})

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Write every planned product anew; returns their number."""
        return rewrite(gm, ctx, lambda w, opened: _float(w, opened) if opened.product.quantize is None else _int8(w, opened))


def _float(w: Writer, opened: Opened) -> fx.Node:
    x = opened.product.kept
    if opened.group is not None:
        weight = w.emit(opened, ops.dequantize_groups.default, opened.codes, opened.scale, opened.group)
        return w.emit(opened, aten.matmul.default, x, weight)
    return w.emit(opened, aten.mul.Tensor, w.emit(opened, ops.product_fs8.default, x, opened.codes), opened.scale)


def _int8(w: Writer, opened: Opened) -> fx.Node:
    hit, kept = split(w, opened)
    codes, scale = w.quantized(opened, ops.quantize_unsigned.default, kept)
    acc = w.emit(opened, ops.product_u8s8.default, codes, opened.codes)
    result = w.emit(opened, aten.mul.Tensor, w.emit(opened, aten.to.dtype, acc, torch.float32), scale)
    if (exact := exact_product(w, opened, hit)) is not None:
        result = w.emit(opened, aten.add.Tensor, result, exact)
    return w.emit(opened, aten.mul.Tensor, result, opened.scale)


def split(w: Writer, opened: Opened) -> tuple[fx.Node | None, fx.Node]:
    """Return which columns are exact (None where none are, or elements of rows), and the kept part."""
    product = opened.product
    if not isinstance(product.plan.treatment, Columns):
        return None, product.kept
    hit = w.emit(opened, ops.hit_columns.default, product.x, product.plan.treatment.threshold)
    return hit, w.emit(opened, aten.masked_fill.Scalar, product.x, hit, 0.0)


def exact_product(w: Writer, opened: Opened, hit: fx.Node | None) -> fx.Node | None:
    """Return the product of the exact elements with the weight's codes, or None without a split."""
    if hit is not None:
        return w.emit(opened, ops.product_columns.default, opened.product.x, hit, opened.codes)
    return None if opened.product.exact is None else w.emit(opened, ops.product_fs8.default, opened.product.exact, opened.codes)
