"""Write attention that is spelled as product, softmax, product as one scaled_dot_product_attention."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from lowbit_compiler.passes.calls import AttentionCall, operand
from lowbit_compiler.passes.contract import FLOATS, Pass, PassContext, origin
from lowbit_compiler.passes.find import module_path
from lowbit_compiler.passes.graph import aten, calls, emit, erase_unused, is_constant, is_tensor, same, substitute, undisturbed, value
from lowbit_compiler.passes.layout import laid_out
from lowbit_compiler.passes.notes import note, notes
from lowbit_compiler.passes.plan import ignored
from lowbit_compiler.passes.scores import Mask, Scores, emit_mask, read_scores
from lowbit_compiler.passes.spell import cast, idle_dropout, scaled, untransposed, widened
from lowbit_compiler.passes.whole import AttentionSite, decide, four, unsupported, with_few_heads

PRODUCTS = (aten.matmul.default, aten.bmm.default)


class FuseAttention(Pass):
    """Whole attentions, where the planner finds that our kernel pays.

    Before::

        %t = transpose(%k, -1, -2)
        %s = aten.matmul(%q, %t)                            # or bmm, baddbmm
        %c = mul(%s, 0.125)                                 # or a division, or before the product
        %a = add(%c, %mask)                                 # or masked_fill, or where
        %p = aten.softmax(%a, -1, float32)
        %w = dropout(to(%p, bfloat16), training=False)
        %o = aten.matmul(%w, %v)

    After::

        %o = aten.scaled_dot_product_attention(%q, %k, %v, %mask, 0.0, False, scale=0.125)

    No intermediate may have another reader: attention weights that are returned keep the graph as it is. A fill with -Inf becomes a
    boolean mask, and a row that sees nothing is then 0, as in torch's own attention, where the softmax gave NaN. A large finite fill
    becomes an added mask, so that such a row stays uniform. Where the target has no attention kernel the graph stays, and its softmax too:
    Inductor knows the spelling, and makes torch's own attention of it.
    """

    name = "attention"

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Fuse every attention that pays; returns their number."""
        fused = 0
        for node in ctx.each(list(gm.graph.nodes)):
            match = _match(node) if calls(node, *PRODUCTS) else None
            if match is not None and _taken(ctx, node, match, fused):
                _fuse(gm, node, match)
                fused += 1
        return fused


def _taken(ctx: PassContext, node: fx.Node, match: "_Match", fused: int) -> bool:
    if (ctx.max_rewrites is not None and fused >= ctx.max_rewrites) or any(origin(link) in ctx.refused for link in match.chain):
        return False
    if unsupported(ctx, match.q) is not None or is_constant(node, ctx.parameters) or ignored(ctx, module_path(match.softmax)) is not None:
        return False
    if not undisturbed(min(match.chain), node, match.chain):
        return False
    plan = decide(ctx, _call(node, match))
    if isinstance(plan, tuple):  # its products and softmax get rows of their own: one of them says why
        note(match.softmax, unfused=f"as one attention: {plan[0].value}, {plan[1]}")
    return not isinstance(plan, tuple)


@dataclass
class _Match:
    """``keys`` is [..., S, E], or transposed where ``turned``; ``chain`` is what the fused call replaces."""

    q: fx.Node
    keys: fx.Node
    turned: bool
    v: fx.Node
    softmax: fx.Node
    scores: Scores
    chain: list[fx.Node]


def _match(out: fx.Node) -> _Match | None:
    weights, v = out.args[:2]
    above: list[fx.Node] = [out]
    while isinstance(weights, fx.Node) and len(weights.users) == 1 and (below := cast(weights) or idle_dropout(weights)) is not None:
        above.append(weights)
        weights = below
    if not calls(weights, aten.softmax.int) or len(weights.users) != 1 or not is_tensor(v):  # type: ignore[union-attr]
        return None
    softmax: Any = weights
    scores = read_scores(softmax.args[0], fills=True)
    if softmax.args[1] % value(softmax).dim() != value(softmax).dim() - 1:
        return None
    product = scores.source
    operands = _product(product, scores)
    if operands is None or len(product.users) != 1 or value(product).dtype is not value(operands[0]).dtype:
        return None  # an autocast around the product: its operands have another dtype
    (q, q_chain), (turned, k_chain) = (_operand(x, value(v).dtype, scores) for x in operands)
    keys = untransposed(turned)
    if keys is not None:
        k_chain.append(turned)
        if len(turned.users) == 1:
            keys, below_k = _operand(keys, value(v).dtype, scores)
            k_chain += below_k
    match = _Match(q, keys if keys is not None else turned, keys is None, v, softmax, scores, [])  # type: ignore[arg-type]
    match.chain = [*above, softmax, *scores.chain, product, *q_chain, *k_chain]
    return match if _fits(out, match) else None


def _product(node: fx.Node, scores: Scores) -> tuple[fx.Node, fx.Node] | None:
    """Return the factors of the first product; what baddbmm adds is one more mask."""
    if calls(node, *PRODUCTS):
        x, y = node.args[:2]
    elif calls(node, aten.baddbmm.default) and scores.scale == 1:
        added, x, y = node.args[:3]
        beta, alpha = node.kwargs.get("beta", 1), node.kwargs.get("alpha", 1)
        if beta not in (0, 1) or not isinstance(alpha, int | float) or not is_tensor(added) or (beta == 1 and scores.filled):
            return None
        scores.scale = float(alpha)
        if beta == 1:
            scores.masks.append(Mask(added))  # type: ignore[arg-type]
    else:
        return None
    return (x, y) if is_tensor(x) and is_tensor(y) else None  # type: ignore[return-value]


def _operand(node: fx.Node, dtype: torch.dtype, scores: Scores) -> tuple[fx.Node, list[fx.Node]]:
    """Return the factor below a scale, which is taken over, and below a widening from ``dtype``; with the nodes between."""
    chain = []
    while len(node.users) == 1:
        wide = widened(node)
        if wide is not None and value(node).dtype is not dtype:
            below: fx.Node = wide
        elif (pair := scaled(node)) is not None and not notes(node).writes:
            below, factor = pair
            scores.scale *= factor
        else:
            break
        chain.append(node)
        node = below
    return node, chain


def _fits(out: fx.Node, match: _Match) -> bool:
    """Return whether shapes and dtypes are those of an attention without broadcasting, but for a single key head."""
    q, k, v = value(match.q), value(match.keys).mT if match.turned else value(match.keys), value(match.v)
    if not q.dim() == k.dim() == v.dim() == value(out).dim() or q.dim() not in (3, 4):
        return False
    if not (q.dtype is k.dtype is v.dtype is value(out).dtype and q.dtype in FLOATS):
        return False
    for mask in match.scores.masks:
        if not 2 <= value(mask.tensor).dim() <= q.dim() or (mask.fill is None and value(mask.tensor).dtype not in (q.dtype, torch.float32)):
            return False
    heads = same(q.shape[-3], k.shape[-3]) or (q.dim() == 4 and k.shape[1] == 1)
    return heads and same(k.shape[-3], v.shape[-3]) and all(same(q.shape[0], x.shape[0]) for x in (k, v))


def _call(out: fx.Node, match: _Match) -> AttentionCall:
    """Return what is to be timed: the attention as it will be lowered."""
    site = AttentionSite(match.q, match.keys, match.v, None, False, match.scores.scale)
    if match.turned:
        return replace(site.call(), k=operand(four(value(match.keys).mT)), mask=match.scores.mask_operand)
    return replace(with_few_heads(out, site).call(), mask=match.scores.mask_operand)


def _fuse(gm: fx.GraphModule, out: fx.Node, match: _Match) -> None:
    like = match.softmax
    with gm.graph.inserting_before(out):
        keys = emit(gm, aten.mT.default, match.keys, like=like) if match.turned else match.keys
        mask = emit_mask(gm, match.scores, like)
        options: dict[str, Any] = {"scale": match.scores.scale}
        if not same(value(match.q).shape[-3], value(keys).shape[-3]):
            options["enable_gqa"] = True
        whole = emit(gm, aten.scaled_dot_product_attention.default, match.q, keys, match.v, mask, 0.0, False, like=like, **options)
        note(whole, op="matmul-softmax-matmul")
        result = laid_out(gm, whole, out)
    substitute(out, result)
    erase_unused(match.chain)
