"""Write each planned product in float32 with one rounding at its end, as the low-bit arithmetic does."""

from typing import Any

import torch
from torch import fx

from lowbit_compiler.passes.contract import Fact, Pass, PassContext
from lowbit_compiler.passes.graph import aten, emit, substitute, value


class Widen(Pass):
    """Planned products in float32.

    Before::

        %y = aten.linear(%x, %w, %b)                     # bfloat16

    After::

        %x32 = aten.to(%x, float32)                      # the same for %w and %b
        %y32 = aten.linear(%x32, %w32, %b32)
        %y = aten.to(%y32, bfloat16)

    A float32 product is left as it is.
    """

    name = "widen"
    requires = frozenset({Fact.PLANNED})
    establishes = frozenset({Fact.WIDE})

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Rewrite the planned products that are not float32 throughout."""
        return sum(_widen(gm, ctx, node) for node in ctx.each(ctx.planned_at()))


def _widen(gm: fx.GraphModule, ctx: PassContext, node: fx.Node) -> bool:
    dtype = node.meta["val"].dtype
    if all(value(arg).dtype is torch.float32 for arg in (node, *node.all_input_nodes)):
        return False
    casts: dict[Any, Any] = {None: None}  # one operand may be another too
    with gm.graph.inserting_before(node):
        for arg in node.all_input_nodes:
            casts[arg] = arg if value(arg).dtype is torch.float32 else emit(gm, aten.to.dtype, arg, torch.float32)
        operands = [casts[arg] for arg in node.args]
        wide = emit(gm, aten.linear.default, *operands, like=node)
        result = wide if dtype is torch.float32 else emit(gm, aten.to.dtype, wide, dtype, like=node)
    substitute(node, result)
    ctx.replaced(node, wide)
    gm.graph.erase_node(node)
    return True
