"""The checks behind the facts: each names the first node that breaks it."""

from collections.abc import Callable

import torch
from torch import fx

from lowbit_compiler.passes.contract import Fact, PassContext, origin
from lowbit_compiler.passes.graph import aten, calls, is_constant, is_tensor
from lowbit_compiler.passes.product import TREAT
from lowbit_compiler.runtime.products import Plan

ops = torch.ops.lowbit
Broken = tuple[fx.Node, str]
"""The first node that breaks a fact, and how."""


def _planned(ctx: PassContext) -> dict[fx.Node, Plan]:
    return {site.node: site.plan for site in ctx.planned() if site.plan is not None}


def _canonical(gm: fx.GraphModule, ctx: PassContext) -> Broken | None:
    for node in gm.graph.nodes:
        if calls(node, aten.matmul.default, aten.mm.default):
            x, weight = node.args[:2]
            matrix = is_tensor(weight) and weight.meta["val"].dim() == 2 and is_constant(weight, ctx.parameters)
            if matrix and node.users and not is_constant(x, ctx.parameters) and origin(node) not in ctx.refused:
                return node, f"{node.format_node()} has a constant operand"
    return None


def _found(gm: fx.GraphModule, ctx: PassContext) -> Broken | None:
    alive = set(gm.graph.nodes)
    lost = (site for site in ctx.sites if site.call not in alive and not site.found.constant and not site.found.unused)
    return next(((site.node, f"site {site.module or site.found.op} has left the graph") for site in lost), None)


def _planned_or_declined(gm: fx.GraphModule, ctx: PassContext) -> Broken | None:
    undecided = (site for site in ctx.sites if (site.plan or site.whole) is None and site.reason is None)
    return next(((site.node, f"site {site.module or site.found.op} has neither plan nor reason") for site in undecided), None)


def _wide(gm: fx.GraphModule, ctx: PassContext) -> Broken | None:
    for node in _planned(ctx):
        if any(n.meta["val"].dtype is not torch.float32 for n in (node, *node.all_input_nodes)):
            return node, f"{node.format_node()} has another dtype"
    return None


def _treated(gm: fx.GraphModule, ctx: PassContext) -> Broken | None:
    for site in ctx.planned():
        assert site.plan is not None
        if site.plan.treatment.splits and site.became.exact is None:
            return site.node, f"{site.node.format_node()} has no product of the exact elements"
        if site.plan.treatment.rotates and not all(calls(arg, *TREAT) for arg in site.node.args[:2]):
            return site.node, f"{site.node.format_node()} has an operand that is not treated"
    return None


def _quantized(gm: fx.GraphModule, ctx: PassContext) -> Broken | None:
    for node, plan in _planned(ctx).items():
        for arg, operand in zip(node.args, (plan.x, plan.w), strict=False):
            if operand is not None and not calls(arg, operand.op("dequantize")):
                return node, f"{node.format_node()} has a float operand"
    return None


def _folded(gm: fx.GraphModule, ctx: PassContext) -> Broken | None:
    for node in _planned(ctx):
        weight = node.args[1]
        if isinstance(weight, fx.Node) and any(arg.op != "placeholder" for arg in weight.all_input_nodes):
            return node, f"the weight of {node.format_node()} is computed in the graph"
    return None


def _with_ops(ctx: PassContext) -> dict[fx.Node, Plan]:
    """Return the planned products that some op computes."""
    return {node: plan for node, plan in _planned(ctx).items() if plan.product is not None}


def _lowered(gm: fx.GraphModule, ctx: PassContext) -> Broken | None:
    for node, plan in _with_ops(ctx).items():
        if not calls(node, getattr(ops, plan.op).default):
            return node, f"{node.format_node()} is not a lowbit::{plan.op}"
    return None


def _packed(gm: fx.GraphModule, ctx: PassContext) -> Broken | None:
    for node in _with_ops(ctx):
        weight = node.args[1]
        if not isinstance(weight, fx.Node) or weight.op != "placeholder":
            return node, f"the weight of {node.format_node()} is packed at run time"
    return None


def _opened(gm: fx.GraphModule, ctx: PassContext) -> Broken | None:
    for node, plan in _planned(ctx).items():
        if plan.opened and calls(node, aten.linear.default):
            return node, f"{node.format_node()} is a whole product of quantized operands"
    return None


def _whole(gm: fx.GraphModule, ctx: PassContext) -> Broken | None:
    for site in ctx.wholes():
        if not calls(site.node, getattr(ops, site.lowered_to).default):
            return site.node, f"{site.node.format_node()} is not a lowbit::{site.lowered_to}"
    return None


CHECKS: dict[Fact, Callable[[fx.GraphModule, PassContext], Broken | None]] = {
    Fact.CANONICAL: _canonical,
    Fact.FOUND: _found,
    Fact.PLANNED: _planned_or_declined,
    Fact.WIDE: _wide,
    Fact.TREATED: _treated,
    Fact.QUANTIZED: _quantized,
    Fact.FOLDED: _folded,
    Fact.LOWERED: _lowered,
    Fact.PACKED: _packed,
    Fact.OPENED: _opened,
    Fact.WHOLE: _whole,
}
