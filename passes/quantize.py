"""Insert quantize and dequantize nodes: after this pass the graph is the QDQ form, from which ONNX and the runtime both go on."""

import operator
from typing import Any

import torch
from torch import fx

from lowbit_compiler.passes.contract import Fact, Pass, PassContext
from lowbit_compiler.passes.graph import emit
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.passes.stored import adopted
from lowbit_compiler.runtime.formats import Operand
from lowbit_compiler.runtime.products import Plan


class InsertQuantize(Pass):
    """Quantize and dequantize the operands of every planned product.

    Before::

        %y = aten.linear(%x, %w)

    After::

        %xs = lowbit.quantize_s8(%x)
        %xd = lowbit.dequantize_s8(%xq, %xscale, float32)        # %xq, %xscale: getitem of %xs
        %ws = lowbit.quantize_s8(%w)                             # in groups: quantize_s4(%w, group)
        %wd = lowbit.dequantize_s8(%wq, %wscale, float32)
        %y = aten.linear(%xd, %wd)

    Other formats have more parts. Weight-only plans keep %x. The product of exact elements, where there is one, reads %wd too. A weight that
    is dequantized from parts of the plan's format is not quantized again: %wd is what its parts stand for (passes/stored.py).
    """

    name = "quantize"
    requires = frozenset({Fact.WIDE, Fact.TREATED})
    establishes = frozenset({Fact.QUANTIZED})
    destroys = frozenset({Fact.TREATED})
    exact = False

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Insert the nodes; returns the number of products."""
        planned = ctx.planned_at()
        quantized_inputs: dict[tuple[Any, Operand], fx.Node] = {}
        for node in ctx.each(planned):
            site = planned[node][0]
            assert site.plan is not None
            x, weight, *bias = node.args
            with gm.graph.inserting_before(node):
                wide = _weight(gm, ctx, node, weight, site.plan)
            if (operand := site.plan.x) is not None:
                key = (x, operand)
                own = operand.rounding.random or (isinstance(x, fx.Node) and notes(x).written)
                if own or key not in quantized_inputs:
                    with gm.graph.inserting_before(node):
                        quantized_inputs[key] = _quantized(gm, node, x, operand)
                x = quantized_inputs[key]
            node.args = (x, wide, *bias)
            if (exact := site.became.exact) is not None:
                exact.args = (exact.args[0], wide)
        return len(planned)


def _weight(gm: fx.GraphModule, ctx: PassContext, node: fx.Node, weight: Any, plan: Plan) -> fx.Node:
    parts = adopted(gm, weight, plan.w, plan.treatment, ctx.parameters)
    if parts is None:
        return _quantized(gm, node, weight, plan.w)
    return emit(gm, plan.w.op("dequantize"), *parts, *plan.w.arguments, torch.float32, like=node)


def _quantized(gm: fx.GraphModule, node: fx.Node, tensor: Any, operand: Operand) -> fx.Node:
    stored = emit(gm, operand.op("quantize"), tensor, *operand.arguments, like=node)
    parts = [emit(gm, operator.getitem, stored, index, like=node) for index in range(len(operand.parts))]
    return emit(gm, operand.op("dequantize"), *parts, *operand.arguments, torch.float32, like=node)
