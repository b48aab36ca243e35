"""Rotate both operands of a planned product by a block Hadamard matrix, so that no element stands out."""

import torch
from torch import fx

from lowbit_compiler.passes.contract import Fact, PassContext
from lowbit_compiler.passes.graph import emit

rotate = torch.ops.lowbit.rotate.default


class Rotate:
    """Block-Hadamard rotation (arXiv 2306.11987, section 3; here for inference); the product is unchanged: ``H H^T = 1``.

    Before::

        %y = aten.linear(%x, %w)

    After::

        %xh = lowbit.rotate(%x)
        %wh = lowbit.rotate(%w)
        %y = aten.linear(%xh, %wh)
    """

    name = "rotate"
    requires = frozenset({Fact.WIDE})
    establishes = frozenset({Fact.ROTATED})
    destroys: frozenset[Fact] = frozenset()
    exact = True

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Rotate the operands of every site planned with the treatment ``rotation``."""
        nodes = dict.fromkeys(site.node for site in ctx.planned() if site.plan and site.plan.treatment == "rotation")
        for node in ctx.each(nodes):
            with gm.graph.inserting_before(node):
                x, weight = (emit(gm, rotate, operand, like=node) for operand in node.args[:2])
            node.args = (x, weight, *node.args[2:])
        return len(nodes)
