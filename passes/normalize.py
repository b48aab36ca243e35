"""Write every product with one constant operand as ``aten.linear``."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from lowbit_compiler.passes.contract import Fact, Pass, PassContext
from lowbit_compiler.passes.einsum import einsum_as_linear
from lowbit_compiler.passes.graph import aten, calls, emit, emit_linear, is_constant, is_tensor, substitute, value
from lowbit_compiler.passes.layout import laid_out
from lowbit_compiler.passes.notes import note, notes
from lowbit_compiler.passes.patches import SPATIAL, convolution_as_linear


class Normalize(Pass):
    """Canonical products.

    Before::

        %a = aten.addmm(%bias, %x, %w)            # also mm, matmul, bmm, baddbmm, einsum; beta and alpha
        %b = aten.matmul(%w, %y)                  # the constant on the left

    After::

        %t = aten.t(%w)
        %a = aten.linear(%x, %t, %bias)
        %yt = aten.mT(%y)
        %l = aten.linear(%yt, %w)
        %b = aten.mT(%l)

    A convolution of patches is one too (passes/patches.py). Products of two activations, and batched constants, stay as they are.
    """

    name = "normalize"
    establishes = frozenset({Fact.CANONICAL})

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Rewrite every product that has a two-dimensional constant operand."""
        rewritten = 0
        for node in ctx.each(list(gm.graph.nodes)):
            rule = RULES.get(node.target) if node.op == "call_function" else None
            if rule is None or not is_tensor(node) or not node.users:
                continue
            with gm.graph.inserting_before(node):
                new = rule(gm, node, ctx)
            if new is None:
                continue
            with gm.graph.inserting_before(node):
                if value(new).dtype != value(node).dtype:  # autocast: what is added to the product, in float32, would make it float32
                    new = emit(gm, aten.to.dtype, new, value(node).dtype, like=node)
                new = laid_out(gm, new, node)
            note(new, op=notes(node).op or str(node.target))
            substitute(node, new)
            gm.graph.erase_node(node)
            rewritten += 1
        return rewritten


def _constant(node: object, ctx: PassContext, dims: int = 2) -> bool:
    return isinstance(node, fx.Node) and is_tensor(node) and value(node).dim() == dims and is_constant(node, ctx.parameters)


def transposed(gm: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Return the transpose of a constant matrix, cancelling a transpose that is already there."""
    arguments: Any = node.args
    source: fx.Node = arguments[0] if arguments else node
    dims = arguments[1:]
    if calls(node, aten.t.default, aten.mT.default, aten.numpy_T.default):
        return source
    if calls(node, aten.transpose.int, aten.permute.default) and value(source).dim() == 2:
        order = [d % 2 for d in (dims if node.target is aten.transpose.int else dims[0])]
        if order == [1, 0] or (order == [0, 1] and node.target is aten.transpose.int):
            return source
    return emit(gm, aten.t.default, node, like=node)


def _linear(gm: fx.GraphModule, node: fx.Node, x: fx.Node, weight: fx.Node, *bias: fx.Node) -> fx.Node:
    return emit_linear(gm, x, weight, *bias, like=node, dtype=value(node).dtype)


def _matmul(gm: fx.GraphModule, node: fx.Node, ctx: PassContext) -> fx.Node | None:
    x, y = node.args[:2]
    if not (is_tensor(x) and is_tensor(y)):
        return None
    if _constant(y, ctx) and not is_constant(x, ctx.parameters):
        return _linear(gm, node, x, transposed(gm, y))  # type: ignore[arg-type]
    if _constant(x, ctx) and not is_constant(y, ctx.parameters) and value(y).dim() == 1:
        return _linear(gm, node, y, x)  # type: ignore[arg-type]
    if _constant(x, ctx) and not is_constant(y, ctx.parameters) and value(y).dim() >= 2:
        turned = emit(gm, aten.mT.default, y, like=node)
        return emit(gm, aten.mT.default, _linear(gm, node, turned, x), like=node)  # type: ignore[arg-type]
    return None


def _scaled(gm: fx.GraphModule, node: fx.Node, tensor: fx.Node, factor: object) -> fx.Node:
    return tensor if factor == 1 else emit(gm, aten.mul.Tensor, tensor, factor, like=node)


def _addmm(gm: fx.GraphModule, node: fx.Node, ctx: PassContext) -> fx.Node | None:
    added, x, y = node.args[:3]
    beta, alpha = node.kwargs.get("beta", 1), node.kwargs.get("alpha", 1)
    if not (is_tensor(added) and is_tensor(x)) or not _constant(y, ctx) or is_constant(x, ctx.parameters):
        return None
    if not all(isinstance(factor, int | float) for factor in (alpha, beta)):
        return None  # a traced scalar: it may change from call to call
    weight = _scaled(gm, node, transposed(gm, y), alpha)  # type: ignore[arg-type]
    n = value(weight).shape[0]
    if _constant(added, ctx, 1) and value(added).shape[0] == n and beta != 0:
        return _linear(gm, node, x, weight, _scaled(gm, node, added, beta))  # type: ignore[arg-type]
    product = _linear(gm, node, x, weight)  # type: ignore[arg-type]
    if beta == 0:
        return product
    return emit(gm, aten.add.Tensor, product, _scaled(gm, node, added, beta), like=node)  # type: ignore[arg-type]


def _einsum(gm: fx.GraphModule, node: fx.Node, ctx: PassContext) -> fx.Node | None:
    arguments: Any = node.args
    equation, operands = arguments[:2]
    if not isinstance(equation, str) or len(operands) != 2 or not all(is_tensor(operand) for operand in operands):
        return None
    constant = [is_constant(operand, ctx.parameters) for operand in operands]
    if constant == [True, False]:
        left, arrow, out = equation.replace(" ", "").partition("->")
        first, _, second = left.partition(",")
        equation, operands = f"{second},{first}{arrow}{out}", [operands[1], operands[0]]
    elif constant != [False, True]:
        return None
    return einsum_as_linear(gm, node, equation, operands[0], operands[1])


def _convolution(gm: fx.GraphModule, node: fx.Node, ctx: PassContext) -> fx.Node | None:
    return convolution_as_linear(gm, node, ctx.parameters)


RULES: dict[object, Callable[[fx.GraphModule, fx.Node, PassContext], fx.Node | None]] = {
    torch.ops.aten.matmul.default: _matmul,
    torch.ops.aten.mm.default: _matmul,
    torch.ops.aten.addmm.default: _addmm,
    torch.ops.aten.baddbmm.default: _addmm,
    torch.ops.aten.einsum.default: _einsum,
    **dict.fromkeys(SPATIAL, _convolution),
}
