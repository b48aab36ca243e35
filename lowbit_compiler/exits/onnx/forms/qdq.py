"""The QDQ form of the ONNX exit: products of dequantized operands, which readers of Q/DQ graphs make integer by themselves."""

import torch
from torch import fx

from lowbit_compiler.exits.onnx.forms.integer import exact_product, split
from lowbit_compiler.exits.onnx.forms.opened import Product, Writer, rewrite
from lowbit_compiler.passes.contract import Fact, PassContext
from lowbit_compiler.passes.graph import aten

ops = torch.ops.lowbit


class QdqForm:
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
    exact = True

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Write every planned product anew; returns their number."""
        return rewrite(gm, ctx, _written)


def _written(w: Writer, product: Product) -> fx.Node:
    if product.plan.weights == "int4":
        weight = w.emit(product, ops.dequantize_groups.default, product.codes, product.scale, product.plan.group_size)
    else:
        weight = w.emit(product, ops.dequantize_columns.default, product.codes, product.scale)
    if product.quantize is None:
        return w.emit(product, aten.matmul.default, product.x, weight)
    hit, kept = split(w, product)
    codes, scale = w.quantized(product, ops.quantize_s8.default, kept)
    sums = w.emit(product, aten.matmul.default, w.emit(product, ops.codes_as_float.default, codes), weight)
    result = w.emit(product, aten.mul.Tensor, sums, scale)
    exact = exact_product(w, product, hit)
    if exact is None:
        return result
    return w.emit(product, aten.add.Tensor, result, w.emit(product, aten.mul.Tensor, exact, product.scale))
