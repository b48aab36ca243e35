"""A planned product of the waist taken apart, for the passes that write it anew in ops that ONNX has."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from lowbit_compiler.passes.contract import PassContext
from lowbit_compiler.passes.graph import aten, emit, fake_mode, substitute, value
from lowbit_compiler.passes.lower import still_read
from lowbit_compiler.passes.notes import note, notes
from lowbit_compiler.passes.site import Plan

ops = torch.ops.lowbit


@dataclass
class Product:
    """What a planned linear reads. ``root`` is the node that its readers read: the linear, or its sum with the exact product."""

    root: fx.Node
    plan: Plan
    x: Any
    """The operand in float32: of the weight-only products, and of the rotation or split where there is one."""
    quantize: Any
    """The waist's quantize_s8 of the kept part; None for a weight-only plan."""
    exact: Any
    """The exact elements in their places, zero elsewhere; None without a split."""
    codes: fx.Node
    scale: fx.Node
    bias: Any
    label: str
    """The modules that the product computes."""


@dataclass
class Writer:
    """Emits nodes before a product's root, with its provenance; the codes of an input that several products read are written once."""

    gm: fx.GraphModule
    ctx: PassContext
    shared: dict[fx.Node, tuple[fx.Node, fx.Node]] = field(default_factory=dict)
    turned: set[fx.Node] = field(default_factory=set)

    def emit(self, product: Product, target: Callable[..., Any], *args: Any) -> fx.Node:
        """Emit a call for ``product``."""
        node = emit(self.gm, target, *args, like=product.root, before=product.root)
        note(node, modules=product.label)
        return node

    def quantized(self, product: Product, op: Callable[..., Any], kept: fx.Node) -> tuple[fx.Node, fx.Node]:
        """Return codes and scales of ``kept``, the part of the input that is quantized, by ``op``."""
        if product.quantize not in self.shared:
            pair = self.emit(product, op, kept)
            self.shared[product.quantize] = (self.emit(product, operator.getitem, pair, 0), self.emit(product, operator.getitem, pair, 1))
        return self.shared[product.quantize]

    def finish(self, product: Product, result: fx.Node) -> None:
        """Add the bias, and let the readers of the product read the result."""
        if product.bias is not None:
            result = self.emit(product, aten.add.Tensor, result, product.bias)
        substitute(product.root, result)
        self.ctx.replaced(product.root, result)
        released = not still_read(self.gm, self.ctx, product.codes)
        for member in self.ctx.sites:
            if member.node is result:
                member.lower(stored_bytes(product.plan, member.found.n, member.found.k), released)


def products(ctx: PassContext) -> list[Product]:
    """Take every planned product apart."""
    sites = {site.node: site for site in ctx.planned()}
    return [_product(ctx, node, site.plan, site.became.exact) for node, site in sites.items() if site.plan is not None]


def rewrite(gm: fx.GraphModule, ctx: PassContext, write: Callable[[Writer, Product], fx.Node]) -> int:
    """Write every planned product anew, as ``write`` says; returns their number."""
    writer = Writer(gm, ctx)
    found = products(ctx)
    for product in found:
        turn(writer, product)
        writer.finish(product, write(writer, product))
    return len(found)


def _product(ctx: PassContext, node: fx.Node, plan: Plan, partner: fx.Node | None) -> Product:
    arguments: Any = node.args
    x, weight, *bias = arguments
    quantize: Any = None
    exact: Any = None
    if plan.activations == "int8":
        quantize = x.args[0].args[0]  # dequantize <- getitem <- quantize
        x = quantize.args[0]
    root = node
    if partner is not None:
        exact = partner.args[0]
        x = exact.args[0].args[0]  # getitem <- split
        (root,) = node.users
        ctx.replaced(node, root)
    label = ", ".join(dict.fromkeys(site.module or site.found.op for site in ctx.sites if site.node is root))
    for above in (x, quantize, exact):
        if isinstance(above, fx.Node) and notes(above).made_by:
            note(above, modules=notes(above).modules or label)
    codes, scale = weight.args[:2]
    return Product(root, plan, x, quantize, exact, codes, scale, bias[0] if bias else None, label)


def stored_bytes(plan: Plan, n: int, k: int) -> int:
    """Return the bytes of the codes and scales of a weight."""
    return n * -(-k // 2) + 4 * n * -(-k // plan.group_size) if plan.weights == "int4" else n * k + 4 * n


def turn(writer: Writer, product: Product) -> None:
    """Store the weight as [K, N] codes with scales [N] (int8) or [groups, N] (int4), as ONNX's products read it.

    Before::

        %weight_0_q = placeholder          # Constant: w -> quantize_s8(w), of [N, K] and [N, 1]
        %weight_0_scale = placeholder

    After::

        %weight_0_q = placeholder          # Constant: the same, transposed
        %weight_0_scale = placeholder
    """
    if product.codes in writer.turned:
        return
    writer.turned.add(product.codes)
    names = (product.codes.name, product.scale.name)
    constant = next((constant for constant in writer.ctx.constants if constant.outputs == names), None)
    if constant is None:
        raise RuntimeError(f"%{names[0]} and %{names[1]} are not the codes and scales of one folded weight")
    inner = constant.graph
    output = inner.output_node()
    stored: Any = output.args[0]
    codes, scale = stored
    grouped = product.plan.weights == "int4"
    with inner.inserting_before(output):
        codes = inner.call_function(aten.contiguous.default, (inner.call_function(aten.t.default, (codes,)),))
        if grouped:
            scale = inner.call_function(aten.contiguous.default, (inner.call_function(aten.t.default, (scale,)),))
        else:
            scale = inner.call_function(aten.reshape.default, (scale, [-1]))
    output.args = ((codes, scale),)
    with fake_mode(writer.gm):
        product.codes.meta["val"] = value(product.codes).t().contiguous()
        product.scale.meta["val"] = value(product.scale).t().contiguous() if grouped else value(product.scale).reshape(-1)
