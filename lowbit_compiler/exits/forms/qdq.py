"""The QDQ form of the ONNX exit: products of dequantized operands, which readers of Q/DQ graphs make integer by themselves."""

import torch
from torch import fx

from lowbit_compiler.exits.forms.integer import exact_product, split
from lowbit_compiler.exits.forms.opened import Opened, Writer, rewrite
from lowbit_compiler.passes.contract import Fact, Pass, PassContext
from lowbit_compiler.passes.graph import aten

ops = torch.ops.lowbit


class QdqForm(Pass):
    """Each planned product between dequantized operands; the scale of a row comes after it, so that every scale is a constant.

    Before::

        %xd = lowbit.dequantize_s8(%xq, %xscale, float32)     # of quantize_s8(%x)
        %wd = lowbit.dequantize_s8(%wq, %wscale, float32)
        %y = aten.linear(%xd, %wd, %b)

    After::

        %xd = lowbit.codes_as_float(%xq)                      # dequantized with scale 1
        %wd = lowbit.dequantize_columns(%wq, %wscale)         # int4: dequantize_groups
        %p = aten.matmul(%xd, %wd)
        %y = aten.add(aten.mul(%p, %xscale), %b)
    """

    name = "qdq-form"
    requires = frozenset({Fact.QUANTIZED, Fact.FOLDED})
    establishes = frozenset({Fact.OPENED})
    destroys = frozenset({Fact.WIDE, Fact.QUANTIZED, Fact.FOLDED})

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Write every planned product anew; returns their number."""
        return rewrite(gm, ctx, _written)


def _written(w: Writer, opened: Opened) -> fx.Node:
    product = opened.product
    if opened.group is not None:
        weight = w.emit(opened, ops.dequantize_groups.default, opened.codes, opened.scale, opened.group)
    else:
        weight = w.emit(opened, ops.dequantize_columns.default, opened.codes, opened.scale)
    if product.quantize is None:
        return w.emit(opened, aten.matmul.default, product.kept, weight)
    hit, kept = split(w, opened)
    codes, scale = w.quantized(opened, ops.quantize_s8.default, kept)
    sums = w.emit(opened, aten.matmul.default, w.emit(opened, ops.codes_as_float.default, codes), weight)
    result = w.emit(opened, aten.mul.Tensor, sums, scale)
    exact = exact_product(w, opened, hit)
    if exact is None:
        return result
    return w.emit(opened, aten.add.Tensor, result, w.emit(opened, aten.mul.Tensor, exact, opened.scale))
