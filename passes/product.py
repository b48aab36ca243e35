"""The one reader of a quantized product: what a planned linear of the QDQ form multiplies, and what its readers read."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from lowbit_compiler.passes.contract import PassContext
from lowbit_compiler.passes.graph import aten, calls, value
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.passes.site import Site
from lowbit_compiler.passes.widen import Widen
from lowbit_compiler.runtime.formats import KINDS, PACKED, SHARED
from lowbit_compiler.runtime.formats.operand import op_name
from lowbit_compiler.runtime.products import Plan
from lowbit_compiler.runtime.treatments import TREATMENTS
from lowbit_compiler.runtime.treatments.treatment import packet

QUANTIZE = tuple(packet(op_name("quantize", *kind)) for kind in (*KINDS, *SHARED))
DEQUANTIZE = tuple(packet(op_name("dequantize", *kind)) for kind in (*KINDS, *SHARED))
FLOAT = torch.ops.lowbit.product_f32.default
"""A linear that autocast does not lower."""
PACK = tuple(packet(op_name("pack", *kind)) for kind in (*PACKED, *SHARED))
TREAT = tuple(packet(op.name) for treatment in TREATMENTS.values() for op in treatment.ops)


@dataclass(frozen=True)
class QuantizedProduct:
    """A linear between quantized operands, as the passes up to the waist write it."""

    node: fx.Node
    """The linear."""
    plan: Plan
    x: Any
    """The activation before its treatment, in float32."""
    kept: Any
    """What of it is quantized, or multiplied as it is where the plan leaves activations in float."""
    quantize: fx.Node | None
    """The quantization of the kept part; None where activations stay float."""
    exact: Any
    """The exact elements in their places, zero elsewhere; None without a split."""
    parts: tuple[fx.Node, ...]
    """Codes and scales of the weight: [N, K], after a treatment perhaps wider."""
    bias: Any
    total: fx.Node
    """What the readers of the product read: the linear, or its sum with the exact product."""

    @property
    def root(self) -> fx.Node:
        """The outermost node that is the product's alone: past the final rounding to the dtype of the float product, where there is one."""
        users = list(self.total.users)
        rounded = len(users) == 1 and _cast_by_us(users[0]) and value(self.total).dtype is torch.float32
        return users[0] if rounded else self.total


def read(node: fx.Node, plan: Plan, exact: fx.Node | None) -> QuantizedProduct:
    """Take a planned linear apart; ``exact`` is the product of the exact elements beside it."""
    arguments: Any = node.args
    kept, weight, *bias = arguments
    quantize = None
    if plan.x is not None:
        quantize = below(kept.args[0])
        kept = quantize.args[0]
    return QuantizedProduct(
        node=node,
        plan=plan,
        x=untreated(kept),
        kept=kept,
        quantize=quantize,
        exact=None if exact is None else exact.args[0],
        parts=tuple(weight.args[: len(plan.w.parts)]),
        bias=bias[0] if bias else None,
        total=node if exact is None else next(iter(node.users)),
    )


def products(ctx: PassContext) -> Iterator[tuple[QuantizedProduct, list[Site]]]:
    """Yield every planned product that no packed op computes yet with its sites: several where siblings were merged."""
    found = {node: sites for node, sites in ctx.planned_at().items() if calls(node, aten.linear.default, FLOAT)}
    for node in ctx.each(found):
        sites = found[node]
        assert sites[0].plan is not None
        yield read(node, sites[0].plan, sites[0].became.exact), sites


def below(node: Any) -> Any:
    """Return what ``node`` is a part of, or itself."""
    return node.args[0] if calls(node, operator.getitem) else node


def uncast(node: Any) -> Any:
    """Return the operand below a widening cast of ours; what the model casts, it may write to before the product reads the cast."""
    return node.args[0] if _cast_by_us(node) and value(node).dtype is torch.float32 else node


def _cast_by_us(node: Any) -> bool:
    return calls(node, aten.to.dtype) and notes(node).made_by == Widen.name


def untreated(node: Any) -> Any:
    """Return the operand that a treatment made ``node`` of."""
    while calls(below(node), *TREAT):
        node = below(node).args[0]
    return node


def quantization(graph: fx.Graph) -> fx.Node:
    """Return the node of a weight's computation that quantizes it."""
    (quantize,) = (node for node in graph.nodes if calls(node, *QUANTIZE))
    return quantize  # type: ignore[no-any-return]


def treated_weight(graph: fx.Graph) -> fx.Node:
    """Return the node of a weight's computation that is quantized."""
    return quantization(graph).args[0]  # type: ignore[return-value]


def float_weight(graph: fx.Graph) -> fx.Node:
    """Return the node of a weight's computation at which it is float, before it is widened, treated and quantized."""
    weight: Any = untreated(treated_weight(graph))
    widened = calls(weight, aten.to.dtype) and weight.args[1] is torch.float32
    return weight.args[0] if widened else weight  # type: ignore[no-any-return]


class Released:
    """Tells whether the float weights behind a folded one have no other readers, as the table tied to an output head has."""

    def __init__(self, gm: fx.GraphModule, ctx: PassContext) -> None:
        self._sources = {name: constant.sources for constant in ctx.constants for name in constant.outputs}
        self._placeholders = {node.name: node for node in gm.graph.find_nodes(op="placeholder")}

    def __call__(self, part: fx.Node) -> bool:
        """Return it for the part ``part`` of a folded weight."""
        return part.name in self._sources and not any(self._placeholders[name].users for name in self._sources[part.name])
