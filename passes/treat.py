"""Treat the outliers of every planned product: map both operands, or keep some elements of the activation exact."""

from collections.abc import Sequence
from typing import Any

from torch import fx

from lowbit_compiler.passes.contract import Fact, Pass, PassContext
from lowbit_compiler.passes.graph import aten, emit, substitute
from lowbit_compiler.passes.site import Site


class Treat(Pass):
    """What the site's treatment writes (runtime/treatments), and an exact product beside the low-bit one where it keeps elements exact.

    Before::

        %y = aten.linear(%x, %w, %b)

    After, for a treatment that maps both operands::

        %xh = lowbit.rotate(%x)
        %wh = lowbit.rotate(%w)
        %y = aten.linear(%xh, %wh, %b)

    After, for one that keeps elements exact (LLM.int8(), arXiv 2208.07339, section 3.2)::

        %s = lowbit.split_columns(%x, 6.0)
        %kept = getitem(%s, 0)
        %exact = getitem(%s, 1)
        %l = aten.linear(%kept, %w, %b)
        %e = aten.linear(%exact, %w)
        %y = aten.add(%l, %e)
    """

    name = "treat"
    requires = frozenset({Fact.WIDE})
    establishes = frozenset({Fact.TREATED})

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Treat every planned product; returns the number of those that changed."""
        planned = ctx.planned_at()
        return sum(_treat(gm, node, planned[node]) for node in ctx.each(planned))


def _treat(gm: fx.GraphModule, node: fx.Node, sites: Sequence[Site]) -> bool:
    plan = sites[0].plan
    assert plan is not None
    x, weight = node.args[:2]

    def call(op: Any, *args: Any) -> fx.Node:
        return emit(gm, op, *args, like=node)

    with gm.graph.inserting_before(node):
        kept, exact = plan.treatment.activation(call, x)
        treated = plan.treatment.weight(call, weight)
    node.args = (kept, treated, *node.args[2:])
    if exact is not None:
        with gm.graph.inserting_after(node):
            partner = emit(gm, aten.linear.default, exact, treated, like=node)
        with gm.graph.inserting_after(partner):
            total = emit(gm, aten.add.Tensor, node, partner, like=node)
        substitute(node, total, but=total)
        for site in sites:
            site.split(partner)
    return kept is not x or treated is not weight
