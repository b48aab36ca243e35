"""Planned products of the waist written anew in ops that ONNX has, on weights as its products read them."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from lowbit_compiler.passes.contract import Constant, PassContext
from lowbit_compiler.passes.graph import aten, emit, fake_mode, substitute, value
from lowbit_compiler.passes.notes import note, notes
from lowbit_compiler.passes.product import QuantizedProduct, Released, products
from lowbit_compiler.passes.site import Site

ops = torch.ops.lowbit


@dataclass(frozen=True)
class Opened:
    """A product that is written anew, for its sites."""

    product: QuantizedProduct
    sites: list[Site]

    @property
    def label(self) -> str:
        """The modules that the product computes."""
        return ", ".join(dict.fromkeys(site.module or site.found.op for site in self.sites))

    @property
    def codes(self) -> fx.Node:
        """The codes of the weight, turned: [K, N]."""
        return self.product.parts[0]

    @property
    def scale(self) -> fx.Node:
        """Its scales: [N], or [G, N] in groups."""
        return self.product.parts[1]

    @property
    def group(self) -> int | None:
        """The elements of a group along K; None where a row has one scale."""
        scale = self.product.plan.w.scale
        return scale.block(value(self.codes).shape[0]) if scale.sizes else None


@dataclass
class Writer:
    """Emits nodes before what a product's readers read, with its provenance; the codes of an input that several products read are written once."""

    gm: fx.GraphModule
    ctx: PassContext
    released: Released
    shared: dict[fx.Node, tuple[fx.Node, fx.Node]] = field(default_factory=dict)
    turned: set[fx.Node] = field(default_factory=set)

    def emit(self, opened: Opened, target: Callable[..., Any], *args: Any) -> fx.Node:
        """Emit a call for the product."""
        total = opened.product.total
        node = emit(self.gm, target, *args, like=total, before=total)
        note(node, modules=opened.label)
        return node

    def quantized(self, opened: Opened, op: Callable[..., Any], kept: fx.Node) -> tuple[fx.Node, fx.Node]:
        """Return codes and scales of ``kept``, the part of the input that is quantized, by ``op``."""
        quantize = opened.product.quantize
        assert quantize is not None
        if quantize not in self.shared:
            pair = self.emit(opened, op, kept)
            self.shared[quantize] = (self.emit(opened, operator.getitem, pair, 0), self.emit(opened, operator.getitem, pair, 1))
        return self.shared[quantize]

    def finish(self, opened: Opened, result: fx.Node) -> None:
        """Add the bias, and let the readers of the product read the result."""
        product = opened.product
        if product.bias is not None:
            result = self.emit(opened, aten.add.Tensor, result, product.bias)
        substitute(product.total, result)
        released = self.released(opened.codes)
        for site in opened.sites:
            site.move(result)
            site.lower(site.found.n * product.plan.w.row_bytes(site.found.k), released)


def rewrite(gm: fx.GraphModule, ctx: PassContext, write: Callable[[Writer, Opened], fx.Node]) -> int:
    """Write every planned product that has steps of its own anew, as ``write`` says; returns their number.

    The others stay as they are: what they quantize and dequantize is written out by the exporter.
    """
    writer = Writer(gm, ctx, Released(gm, ctx))
    written = 0
    for product, sites in products(ctx):  # each is read once those before it are written
        opened = Opened(product, sites)
        _label(opened)
        if product.plan.opened:
            _turn(writer, opened)
            writer.finish(opened, write(writer, opened))
            written += 1
    return written


def _label(opened: Opened) -> None:
    """Name the modules of the product on the nodes around it that passes made."""
    product = opened.product
    around = [product.x if product.exact is not None else product.kept, product.quantize, product.exact]
    if not product.plan.opened:
        around += [product.node, *product.node.all_input_nodes]
    for node in around:
        if isinstance(node, fx.Node) and notes(node).made_by:
            note(node, modules=notes(node).modules or opened.label)


def _turn(writer: Writer, opened: Opened) -> None:
    """Store the weight as [K, N] codes with scales [N] or, in groups, [G, N], as ONNX's products read it.

    Before::

        %weight_0_q = placeholder          # Constant: w -> quantize_s8(w), of [N, K] and [N, 1]
        %weight_0_scale = placeholder

    After::

        %weight_0_q = placeholder          # Constant: the same, transposed
        %weight_0_scale = placeholder
    """
    codes, scale = opened.codes, opened.scale
    if codes in writer.turned:
        return
    writer.turned.add(codes)
    constant = next((constant for constant in writer.ctx.constants if constant.outputs == (codes.name, scale.name)), None)
    if constant is None:
        raise RuntimeError(f"%{codes.name} and %{scale.name} are not the codes and scales of one folded weight")
    grouped = opened.group is not None
    _turn_constant(constant, grouped)
    with fake_mode(writer.gm):
        codes.meta["val"] = value(codes).t().contiguous()
        scale.meta["val"] = value(scale).t().contiguous() if grouped else value(scale).reshape(-1)


def _turn_constant(constant: Constant, grouped: bool) -> None:
    def turned(graph: fx.Graph, parts: tuple[fx.Node, ...]) -> tuple[fx.Node, ...]:
        def transposed(part: fx.Node) -> fx.Node:
            return graph.call_function(aten.contiguous.default, (graph.call_function(aten.t.default, (part,)),))

        codes, scale = parts
        return transposed(codes), transposed(scale) if grouped else graph.call_function(aten.reshape.default, (scale, [-1]))

    constant.then(turned)
