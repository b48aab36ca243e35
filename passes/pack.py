"""Pack each lowered weight once, before the first run."""

from torch import fx

from lowbit_compiler.passes.contract import Constant, Fact, Pass, PassContext
from lowbit_compiler.passes.graph import calls, placeholder
from lowbit_compiler.passes.product import PACK


class Pack(Pass):
    """Move the packing into the constant that computes the weight.

    Before::

        %p = lowbit.pack_s8(%weight_0_q, %weight_0_scale)      # Constant: w -> (weight_0_q, weight_0_scale)

    After::

        %weight_0 = placeholder                                # Constant: w -> (weight_0,)
    """

    name = "pack"
    requires = frozenset({Fact.LOWERED, Fact.FOLDED})
    establishes = frozenset({Fact.PACKED})

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Pack every weight that a constant computes; returns their number."""
        producer = {constant.outputs: constant for constant in ctx.constants}
        packed = 0
        for node in ctx.each(list(gm.graph.nodes)):
            if not calls(node, *PACK):
                continue
            constant = producer.get(tuple(arg.name for arg in node.all_input_nodes))
            if constant is None:
                continue  # the fold pass was disabled: the graph packs at run time
            _pack(gm, ctx, node, constant)
            packed += 1
        return packed


def _pack(gm: fx.GraphModule, ctx: PassContext, node: fx.Node, constant: Constant) -> None:
    inputs = list(node.all_input_nodes)
    settings = node.args[len(inputs) :]
    constant.then(lambda graph, parts: (graph.call_function(node.target, (*parts, *settings)),))  # type: ignore[arg-type]
    packed = placeholder(gm, constant.name, after=inputs[-1])
    constant.outputs, constant.parts = (packed.name,), ("packed",)
    packed.meta.update(node.meta)
    node.replace_all_uses_with(packed)
    gm.graph.erase_node(node)
    for old in inputs:
        gm.graph.erase_node(old)
