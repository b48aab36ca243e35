"""Split outliers off the activation: whole columns (LLM.int8()) or the largest elements of each row."""

import operator

import torch
from torch import fx

from lowbit_compiler.passes.contract import Fact, PassContext
from lowbit_compiler.passes.graph import aten, emit, substitute


class SplitOutliers:
    """An exact product beside the low-bit one (LLM.int8(), arXiv 2208.07339, section 3.2).

    Before::

        %y = aten.linear(%x, %w, %b)

    After::

        %s = lowbit.split_columns(%x, 6.0)          # or lowbit.split_rows(%x)
        %kept = getitem(%s, 0)
        %exact = getitem(%s, 1)
        %l = aten.linear(%kept, %w, %b)
        %e = aten.linear(%exact, %w)
        %y = aten.add(%l, %e)
    """

    name = "split"
    requires = frozenset({Fact.WIDE})
    establishes = frozenset({Fact.SPLIT})
    destroys: frozenset[Fact] = frozenset()
    exact = True

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Split the input of every site planned with the treatment ``columns`` or ``rows``."""
        nodes = dict.fromkeys(site.node for site in ctx.planned() if site.plan and site.plan.treatment in ("columns", "rows"))
        for node in ctx.each(nodes):
            _split(gm, ctx, node)
        return len(nodes)


def _split(gm: fx.GraphModule, ctx: PassContext, node: fx.Node) -> None:
    sites = [site for site in ctx.planned() if site.node is node]
    plan = sites[0].plan
    assert plan is not None
    x, weight = node.args[:2]
    with gm.graph.inserting_before(node):
        if plan.treatment == "columns":
            parts = emit(gm, torch.ops.lowbit.split_columns.default, x, plan.threshold, like=node)
        else:
            parts = emit(gm, torch.ops.lowbit.split_rows.default, x, like=node)
        kept = emit(gm, operator.getitem, parts, 0, like=node)
        exact = emit(gm, operator.getitem, parts, 1, like=node)
    with gm.graph.inserting_after(node):
        partner = emit(gm, aten.linear.default, exact, weight, like=node)
    with gm.graph.inserting_after(partner):
        total = emit(gm, aten.add.Tensor, node, partner, like=node)
    substitute(node, total, but=total)
    node.args = (kept, weight, *node.args[2:])
    for site in sites:
        site.split(partner)
