"""Replace each planned product, with all that was inserted around it, by one ``lowbit`` op."""

from typing import Any

import torch
from torch import fx

from lowbit_compiler.passes.contract import Fact, PassContext
from lowbit_compiler.passes.graph import aten, calls, emit, substitute, value
from lowbit_compiler.passes.layout import laid_out
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.passes.site import Plan, Site
from lowbit_compiler.passes.widen import Widen

ops = torch.ops.lowbit


class Lower:
    """From the QDQ form to runtime ops.

    Before::

        %xd = lowbit.dequantize_s8(%xq, %xscale, float32)     # of quantize_s8(rotate(to(%x)))
        %wd = lowbit.dequantize_s8(%wq, %wscale, float32)
        %y32 = aten.linear(%xd, %wd, %b)
        %y = aten.to(%y32, bfloat16)

    After::

        %p = lowbit.pack_s8(%wq, %wscale)
        %y = lowbit.linear_s8s8_rotated(%x, %p, %b, 960, None)
    """

    name = "lower"
    requires = frozenset({Fact.QUANTIZED})
    establishes = frozenset({Fact.LOWERED})
    destroys = frozenset({Fact.WIDE, Fact.QUANTIZED})
    exact = True

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Lower every planned site; returns the number of products."""
        sites = {site.node: site for site in ctx.planned()}
        for node in ctx.each(sites):
            _lower(gm, ctx, node, sites[node])
        return len(sites)


def _uncast(node: Any) -> Any:
    """Return the operand below a widening cast of ours; what the model casts, it may write to before the product reads the cast."""
    ours = calls(node, aten.to.dtype) and notes(node).made_by == Widen.name
    return node.args[0] if ours and value(node).dtype is torch.float32 else node


def _activation(node: Any, plan: Plan) -> Any:
    if plan.activations == "int8":
        node = node.args[0].args[0].args[0]  # dequantize <- getitem <- quantize <- operand
        if plan.treatment == "rotation":
            node = node.args[0]
        elif plan.treatment in ("columns", "rows"):
            node = node.args[0].args[0]  # getitem <- split <- operand
    return _uncast(node)


def _root(node: fx.Node, site: Site) -> fx.Node:
    """Return the outermost node of the site: past the sum with the exact product, and the final rounding."""
    if site.became.exact is not None:
        (node,) = node.users
    users = list(node.users)
    if len(users) == 1 and calls(users[0], aten.to.dtype) and value(node).dtype is torch.float32 and notes(users[0]).op:
        return users[0]
    return node


def _lower(gm: fx.GraphModule, ctx: PassContext, node: fx.Node, site: Site) -> None:
    plan = site.plan
    assert plan is not None
    root = _root(node, site)
    x = _activation(node.args[0], plan)
    weight = node.args[1]
    bias = _uncast(node.args[2]) if len(node.args) > 2 else None
    dtype = root.meta["val"].dtype
    out = None if value(x).dtype is dtype else dtype
    n = value(weight).shape[0]
    q, scale = weight.args[:2]  # type: ignore[union-attr]
    with gm.graph.inserting_before(root):
        if plan.weights == "int4":
            packed = emit(gm, ops.pack_s4.default, q, scale, plan.group_size, like=node)
        else:
            packed = emit(gm, ops.pack_s8.default, q, scale, like=node)
        lowered = emit(gm, getattr(ops, plan.op).default, x, packed, bias, n, *plan.arguments, out, like=node)
        result = laid_out(gm, lowered, root)
    substitute(root, result)
    ctx.replaced(node, lowered)
    released = not still_read(gm, ctx, q)
    for member in ctx.sites:
        if member.node is lowered:
            member.lower(packed.meta["val"].numel() * member.found.n // n, released)


def still_read(gm: fx.GraphModule, ctx: PassContext, q: Any) -> bool:
    """Return whether a parameter behind the folded weight ``q`` has other readers, as the table tied to an output head has."""
    sources = {source for constant in ctx.constants if q.name in constant.outputs for source in constant.sources}
    return any(node.users for node in gm.graph.find_nodes(op="placeholder") if node.name in sources)
