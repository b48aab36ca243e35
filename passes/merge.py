"""One product for siblings that read the same activation: q, k and v; gate and up."""

import operator
from collections import defaultdict
from typing import Any

from torch import fx

from lowbit_compiler.passes.contract import Fact, Pass, PassContext
from lowbit_compiler.passes.graph import aten, emit, emit_linear, is_constant, substitute, value
from lowbit_compiler.passes.layout import laid_out
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.passes.site import Site


class MergeSiblings(Pass):
    """Concatenate the weights of linears with one input and one plan, so that the input is quantized once.

    Before::

        %q = aten.linear(%x, %wq)
        %k = aten.linear(%x, %wk)

    After::

        %w = aten.cat([%wq, %wk])
        %y = aten.linear(%x, %w)
        %s = aten.split_with_sizes(%y, [576, 192], -1)
        %q = getitem(%s, 0)
        %k = getitem(%s, 1)

    The results are views of one product, as is seen by readers of strides, by ops of somebody's own and by the graph's caller: for those
    they are copied.
    """

    name = "merge"
    requires = frozenset({Fact.CANONICAL, Fact.PLANNED})

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Merge every group of at least two siblings; returns the number of groups."""
        merged = [sites for sites in siblings(ctx) if len({site.node for site in sites}) > 1]
        for sites in merged:
            ctx.at = sites[0].node
            _merge(gm, sites)
        return len(merged)


def siblings(ctx: PassContext) -> list[list[Site]]:
    """Return the planned products in groups that can become one, as they are planned now; most are a group of one."""
    groups: dict[tuple[Any, ...], list[Site]] = defaultdict(list)
    for site in ctx.planned():
        x, weight, bias = operands(site.node)
        assert site.plan is not None
        own_draw = site.plan.x is not None and site.plan.x.rounding.random
        joinable = site.plan.w.scale.row_local and not own_draw and (bias is None or is_constant(bias, ctx.parameters))
        alone = _written(x) or not joinable
        dtypes = (value(weight).dtype, site.node.meta["val"].dtype, None if bias is None else value(bias).dtype)
        groups[(x, site.plan, dtypes, site.decided.timed_as, site.found.index if alone else None)].append(site)
    return list(groups.values())


def operands(node: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node | None]:
    """Return input, weight and bias of a linear."""
    x, weight, *bias = node.args
    return x, weight, bias[0] if bias else None  # type: ignore[return-value]


def _written(x: fx.Node) -> bool:
    """Return whether some call writes to ``x`` in place: siblings before and after it then read different values."""
    return notes(x).written


def _merge(gm: fx.GraphModule, sites: list[Site]) -> None:
    nodes = [site.node for site in sites]
    first = min(nodes)
    x, _, bias = operands(first)
    _hoist(first, [arg for node in nodes for arg in node.args[1:] if isinstance(arg, fx.Node)])
    with gm.graph.inserting_before(first):
        weight = emit(gm, aten.cat.default, [node.args[1] for node in nodes], like=first)
        biases = [] if bias is None else [emit(gm, aten.cat.default, [node.args[2] for node in nodes], like=first)]
        product = emit_linear(gm, x, weight, *biases, like=first, dtype=value(first).dtype)
        parts = emit(gm, aten.split_with_sizes.default, product, [site.found.n for site in sites], -1, like=first)
        outputs = [emit(gm, operator.getitem, parts, i, like=node) for i, node in enumerate(nodes)]
        for node, output in zip(nodes, outputs, strict=True):
            substitute(node, laid_out(gm, output, node))
    for site, node in zip(sites, nodes, strict=True):
        gm.graph.erase_node(node)
        site.merge(product, tuple(other.module for other in sites if other is not site))


def _hoist(first: fx.Node, constants: list[fx.Node]) -> None:
    """Move the computation of constants before ``first``: they depend on placeholders only."""
    todo, region = list(constants), set(constants)
    while todo:
        for item in todo.pop().all_input_nodes:
            if item not in region:
                region.add(item)
                todo.append(item)
    for node in sorted(node for node in region if node.op != "placeholder" and node > first):
        first.prepend(node)
