"""Pack each lowered weight once, before the first run."""

import torch
from torch import fx

from lowbit_compiler.passes.contract import Constant, Fact, PassContext
from lowbit_compiler.passes.graph import calls, placeholder

ops = torch.ops.lowbit


class Pack:
    """Move the packing into the constant that computes the weight.

    Before::

        %p = lowbit.pack_s8(%weight_0_q, %weight_0_scale)      # Constant: w -> (weight_0_q, weight_0_scale)

    After::

        %weight_0 = placeholder                                # Constant: w -> (weight_0,)
    """

    name = "pack"
    requires = frozenset({Fact.LOWERED, Fact.FOLDED})
    establishes = frozenset({Fact.PACKED})
    destroys: frozenset[Fact] = frozenset()
    exact = True

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Pack every weight that a constant computes; returns their number."""
        producer = {constant.outputs: constant for constant in ctx.constants}
        packed = 0
        for node in ctx.each(list(gm.graph.nodes)):
            if not calls(node, ops.pack_s8.default, ops.pack_s4.default):
                continue
            constant = producer.get(tuple(arg.name for arg in node.all_input_nodes))
            if constant is None:
                continue  # the fold pass was disabled: the graph packs at run time
            _pack(gm, ctx, node, constant)
            packed += 1
        return packed


def _pack(gm: fx.GraphModule, ctx: PassContext, node: fx.Node, constant: Constant) -> None:
    inner = constant.graph
    output = inner.output_node()
    with inner.inserting_before(output):
        blob = inner.call_function(node.target, (*output.args[0], *node.args[2:]))  # type: ignore[arg-type, misc]
    output.args = ((blob,),)
    name = constant.outputs[0].removesuffix("_q")
    inputs = list(node.all_input_nodes)
    packed = placeholder(gm, name, after=inputs[-1])
    packed.meta.update(node.meta)
    node.replace_all_uses_with(packed)
    gm.graph.erase_node(node)
    for old in inputs:
        gm.graph.erase_node(old)
    ctx.constants[ctx.constants.index(constant)] = Constant(constant.graph, constant.sources, (packed.name,))
