"""Replace each planned product, with all that was inserted around it, by one ``lowbit`` op."""

import torch
from torch import fx

from lowbit_compiler.passes.contract import Fact, Pass, PassContext
from lowbit_compiler.passes.graph import emit, erase_unused, substitute, value
from lowbit_compiler.passes.layout import laid_out
from lowbit_compiler.passes.parts import sum_of
from lowbit_compiler.passes.product import FLOAT, QuantizedProduct, Released, products, uncast
from lowbit_compiler.passes.site import Site

ops = torch.ops.lowbit


class Lower(Pass):
    """From the QDQ form to runtime ops.

    Before::

        %xd = lowbit.dequantize_s8(%xq, %xscale, float32)     # of quantize_s8(rotate(to(%x)))
        %wd = lowbit.dequantize_s8(%wq, %wscale, float32)
        %y32 = aten.linear(%xd, %wd, %b)
        %y = aten.to(%y32, bfloat16)

    After::

        %p = lowbit.pack_s8(%wq, %wscale)
        %y = lowbit.linear_s8s8_rotated(%x, %p, %b, 960, None)

    Where activations stay in float, what a treatment makes of them stays a call of its own: ``linear_fs8(rotate(%x), %p, ...)``.
    A product that no op computes becomes a ``product_f32`` of its dequantized operands, and the compiler of the remainder makes code of these (runtime/products.py).
    """

    name = "lower"
    requires = frozenset({Fact.QUANTIZED})
    establishes = frozenset({Fact.LOWERED})
    destroys = frozenset({Fact.WIDE, Fact.QUANTIZED})

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Lower every planned site; returns the number of products."""
        released, lowered = Released(gm, ctx), 0
        for product, sites in products(ctx):
            _lower(gm, ctx, product, sites, released)
            lowered += 1
        return lowered


def _keep_wide(gm: fx.GraphModule, ctx: PassContext, product: QuantizedProduct, sites: list[Site]) -> None:
    """Write the float32 products of an emulated one, and of its exact elements, so that autocast leaves them alone."""
    exact = sites[0].became.exact
    for node in (product.node, exact):
        if node is not None:
            x, weight, *bias = node.args
            wide = emit(gm, FLOAT, x, weight, bias[0] if bias else None, like=node, before=node)
            substitute(node, wide)
            ctx.replaced(node, wide)
            gm.graph.erase_node(node)
            if node is exact:
                for site in sites:
                    site.split(wide)


def _lower(gm: fx.GraphModule, ctx: PassContext, product: QuantizedProduct, sites: list[Site], released: Released) -> None:
    """Write the op that computes ``product``; where there is none, its quantized operands stay as they are."""
    node, plan = product.node, product.plan
    n = value(product.parts[0]).shape[0]
    if plan.product is None:
        _keep_wide(gm, ctx, product, sites)
        stored = sum(value(part).numel() * value(part).element_size() for part in product.parts)
        for site in sites:
            site.store(stored * site.found.n // n, released(product.parts[0]))
        return
    root, added = product.root, product.bias
    total = sum_of(root, plan.w.scale.processes)  # of parts: what all processes add up, which their op does itself
    if plan.w.scale.processes:
        assert total is not None, f"the sum of {node.format_node()} is no longer behind it"
        root, added = total.last, total.bias
    x, bias = uncast(product.kept if plan.x is None else product.x), uncast(added)  # float ones come treated
    dtype = root.meta["val"].dtype
    out = None if value(x).dtype is dtype else dtype
    with gm.graph.inserting_before(root):
        packed = emit(gm, plan.w.op("pack"), *product.parts, *plan.w.arguments, like=node)
        lowered = emit(gm, getattr(ops, plan.op).default, x, packed, bias, n, *plan.arguments, out, like=node)
        result = laid_out(gm, lowered, root)
    substitute(root, result)
    erase_unused(total.nodes if total is not None else ())
    ctx.replaced(node, lowered)
    for site in sites:
        site.lower(packed.meta["val"].numel() * site.found.n // n, released(product.parts[0]))
