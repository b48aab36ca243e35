"""Insert quantize and dequantize nodes: after this pass the graph is the QDQ form, from which ONNX and the runtime both go on."""

import operator
from typing import Any

import torch
from torch import fx

from lowbit_compiler.passes.contract import Fact, PassContext
from lowbit_compiler.passes.graph import emit
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.passes.site import Plan

ops = torch.ops.lowbit


class InsertQuantize:
    """Quantize and dequantize the operands of every planned product.

    Before::

        %y = aten.linear(%x, %w)

    After::

        %xs = lowbit.quantize_s8(%x)
        %xd = lowbit.dequantize_s8(%xq, %xscale, float32)        # %xq, %xscale: getitem of %xs
        %ws = lowbit.quantize_s8(%w)                             # int4: quantize_s4(%w, group)
        %wd = lowbit.dequantize_s8(%wq, %wscale, float32)
        %y = aten.linear(%xd, %wd)

    Weight-only plans keep %x. The product of exact elements, where there is one, reads %wd too.
    """

    name = "quantize"
    requires = frozenset({Fact.WIDE, Fact.ROTATED, Fact.SPLIT})
    establishes = frozenset({Fact.QUANTIZED})
    destroys = frozenset({Fact.ROTATED, Fact.SPLIT})
    exact = False

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Insert the nodes; returns the number of products."""
        sites = {site.node: site for site in ctx.planned()}
        quantized_inputs: dict[Any, fx.Node] = {}
        for node in ctx.each(sites):
            site = sites[node]
            assert site.plan is not None
            x, weight, *bias = node.args
            with gm.graph.inserting_before(node):
                wide = _weight(gm, node, weight, site.plan)
            if site.plan.activations == "int8":
                if x not in quantized_inputs or (isinstance(x, fx.Node) and notes(x).written):
                    with gm.graph.inserting_before(node):
                        quantized_inputs[x] = _s8(gm, node, x)
                x = quantized_inputs[x]
            node.args = (x, wide, *bias)
            if (exact := site.became.exact) is not None:
                exact.args = (exact.args[0], wide)
        return len(sites)


def _s8(gm: fx.GraphModule, node: fx.Node, tensor: Any) -> fx.Node:
    pair = emit(gm, ops.quantize_s8.default, tensor, like=node)
    q = emit(gm, operator.getitem, pair, 0, like=node)
    scale = emit(gm, operator.getitem, pair, 1, like=node)
    return emit(gm, ops.dequantize_s8.default, q, scale, torch.float32, like=node)


def _weight(gm: fx.GraphModule, node: fx.Node, weight: Any, plan: Plan) -> fx.Node:
    if plan.weights == "int8":
        return _s8(gm, node, weight)
    pair = emit(gm, ops.quantize_s4.default, weight, plan.group_size, like=node)
    q = emit(gm, operator.getitem, pair, 0, like=node)
    scale = emit(gm, operator.getitem, pair, 1, like=node)
    return emit(gm, ops.dequantize_s4.default, q, scale, plan.group_size, torch.float32, like=node)
