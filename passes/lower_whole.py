"""Replace each planned softmax and attention, with what folds into it, by one ``lowbit`` op."""

import torch
from torch import fx

from lowbit_compiler.passes.contract import Fact, Pass, PassContext
from lowbit_compiler.passes.graph import aten, emit, erase_unused, substitute, value
from lowbit_compiler.passes.layout import laid_out
from lowbit_compiler.passes.scores import emit_mask
from lowbit_compiler.passes.site import Reason, Site
from lowbit_compiler.passes.whole import AttentionSite, SoftmaxSite, read_attention, read_softmax

ops = torch.ops.lowbit


class LowerWhole(Pass):
    """Softmax with the scale, masks and casts around it; attention with its key heads as few as the model computes, and its keys as stored.

    Before::

        %m = mul(%x, 0.125)
        %a = add(%m, %mask)
        %p = aten.softmax(%a, -1, float32)
        %y = to(%p, bfloat16)
        %r = reshape(expand(%k[:, :, None], ...), ...)        # the same for %v
        %o = aten.scaled_dot_product_attention(%q, %r, %s, %mask)
        %w = to(mul(to(%codes, float32), %scales), bfloat16)  # the same for %v
        %u = aten.scaled_dot_product_attention(%q, %w, %x, %mask)

    After::

        %y = lowbit.softmax(%x, -1, 0.125, %mask)
        %o = lowbit.sdpa(%q, %k, %v, %mask, False, 0.125)
        %u = lowbit.sdpa_codes(%q, %codes, %scales, %codes_1, %scales_1, %mask, False, 0.125)
    """

    name = "lower-whole"
    requires = frozenset({Fact.PLANNED})
    establishes = frozenset({Fact.WHOLE})

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Lower every planned softmax and attention; returns their number."""
        sites = {site.node: site for site in ctx.wholes()}
        return sum(_lower(gm, ctx, sites[node]) for node in ctx.each(sites))


def _lower(gm: fx.GraphModule, ctx: PassContext, site: Site) -> bool:
    found = read_softmax(site.node, ctx) if site.kind == "softmax" else read_attention(site.node, ctx)
    if isinstance(found, tuple):
        site.decline(Reason.DISABLED, f"no longer as planned: {found[1]}")
        return False
    if isinstance(found, SoftmaxSite):
        _lower_softmax(gm, ctx, site.node, found)
    else:
        _lower_attention(gm, ctx, site.node, found)
    return True


def _lower_softmax(gm: fx.GraphModule, ctx: PassContext, node: fx.Node, found: SoftmaxSite) -> None:
    scores, root = found.scores, found.root
    with gm.graph.inserting_before(node):
        mask = emit_mask(gm, scores, node)
        whole = emit(gm, ops.softmax.default, scores.source, *found.call().arguments(mask), like=node)
        result = laid_out(gm, whole, root)
    substitute(root, result)
    ctx.replaced(node, whole)
    erase_unused([root, node, *scores.chain])


def _lower_attention(gm: fx.GraphModule, ctx: PassContext, node: fx.Node, found: AttentionSite) -> None:
    flat = value(node).dim() == 3
    with gm.graph.inserting_before(node):
        q, k, v = (emit(gm, aten.unsqueeze.default, x, 0, like=node) if flat else x for x in (found.q, found.k, found.v))
        if found.scales is None:
            whole = emit(gm, ops.sdpa.default, q, k, v, found.mask, found.causal, found.scale, like=node)
        else:
            (k_scale, v_scale), rest = found.scales, (found.mask, found.causal, found.scale)
            whole = emit(gm, ops.sdpa_codes.default, q, k, k_scale, v, v_scale, *rest, like=node)
        result = emit(gm, aten.squeeze.dim, whole, 0, like=node) if flat else whole
        result = laid_out(gm, result, node)
    substitute(node, result)
    ctx.replaced(node, whole)
    erase_unused([node, *found.chain])
