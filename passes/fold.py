"""Compute quantized weights before the first run: they are constants."""

from typing import Any

from torch import fx

from lowbit_compiler.passes.contract import Constant, Fact, Pass, PassContext
from lowbit_compiler.passes.graph import calls, constant_sources, copied, is_constant, placeholder
from lowbit_compiler.passes.product import DEQUANTIZE
from lowbit_compiler.passes.site import Role
from lowbit_compiler.runtime.formats import Operand

BIAS = "bias"


class FoldWeights(Pass):
    """Cut the constant region of each quantized weight (and of a computed bias) out of the graph.

    Before::

        %ws = lowbit.quantize_s8(%w)                 # %w: cat, rotate, t ... of parameters
        %wq = getitem(%ws, 0)
        %wscale = getitem(%ws, 1)

    After::

        %weight_0_q = placeholder                    # Constant: w -> (weight_0_q, weight_0_scale)
        %weight_0_scale = placeholder
    """

    name = "fold"
    requires = frozenset({Fact.QUANTIZED})
    establishes = frozenset({Fact.FOLDED})

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Fold every weight and computed bias of the planned sites; returns the number of constants."""
        before = len(ctx.constants)
        planned = ctx.planned_at()
        for node in ctx.each(planned):
            index, site = len(ctx.constants), planned[node][0]
            assert site.plan is not None
            arguments: Any = node.args
            weight, *bias = arguments[1:]
            if calls(weight, *DEQUANTIZE) and site.found.roles[1] is Role.CONSTANT:
                names = [part.name for part in site.plan.w.parts]
                fold(gm, ctx, f"weight_{index}", dict(zip(names, weight.args, strict=False)), site.plan.w)
            if bias and isinstance(bias[0], fx.Node) and bias[0].op != "placeholder" and is_constant(bias[0], ctx.parameters):
                fold(gm, ctx, f"bias_{index}", {BIAS: bias[0]})
        return len(ctx.constants) - before


def fold(gm: fx.GraphModule, ctx: PassContext, name: str, parts: dict[str, fx.Node], operand: Operand | None = None) -> None:
    """Replace the constant nodes ``parts``, of a weight in ``operand``, by placeholders named after them, and record how to compute them."""
    nodes = list(parts.values())
    sources = sorted({source for node in nodes for source in constant_sources(node)})
    graph = fx.Graph()
    copies = copied(sorted({*_ancestors(nodes), *sources}), graph)  # a walk over the whole graph for each weight is quadratic
    graph.output(tuple(copies[node] for node in nodes))
    last = gm.graph.find_nodes(op="placeholder")[-1]
    names: list[str] = []
    for part, node in reversed(parts.items()):
        folded = placeholder(gm, name if part == BIAS else f"{name}_{part}", after=last)
        names.insert(0, folded.name)
        folded.meta.update(node.meta)
        node.replace_all_uses_with(folded)
    ctx.constants.append(Constant(name, graph, tuple(source.name for source in sources), tuple(names), tuple(parts), operand))


def _ancestors(nodes: list[fx.Node]) -> set[fx.Node]:
    todo, seen = list(nodes), set(nodes)
    while todo:
        for item in todo.pop().all_input_nodes:
            if item not in seen and item.op != "placeholder":
                seen.add(item)
                todo.append(item)
    return seen
