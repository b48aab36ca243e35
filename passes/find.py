"""Find every product, softmax, attention and convolution, and give each a row of the report."""

import re
from collections.abc import Container
from dataclasses import replace
from typing import Any

from torch import fx

from lowbit_compiler.passes.contract import FLOATS, Fact, Pass, PassContext, origin
from lowbit_compiler.passes.graph import aten, calls, constant_sources, dead, is_constant, is_tensor, numel, value
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.passes.patches import obstacle
from lowbit_compiler.passes.site import Declined, Found, Reason, Role, Site
from lowbit_compiler.torch_internals.dtensor import is_dtensor, product_text
from lowbit_compiler.torch_internals.fakes import FakeTensor
from lowbit_compiler.torch_internals.trees import tree_leaves

KINDS: dict[Any, str] = {
    aten.linear.default: "linear",
    aten.matmul.default: "matmul",
    aten.mm.default: "matmul",
    aten.bmm.default: "matmul",
    aten.addmm.default: "matmul",
    aten.baddbmm.default: "matmul",
    aten.einsum.default: "matmul",
    aten.softmax.int: "softmax",
    aten._softmax.default: "softmax",
    aten.log_softmax.int: "softmax",
    aten._log_softmax.default: "softmax",
    aten.scaled_dot_product_attention.default: "attention",
    aten.conv1d.default: "convolution",
    aten.conv2d.default: "convolution",
    aten.conv3d.default: "convolution",
    aten.conv1d.padding: "convolution",
    aten.conv2d.padding: "convolution",
    aten.conv3d.padding: "convolution",
    aten.conv_transpose1d.default: "convolution",
    aten.conv_transpose2d.input: "convolution",
    aten.conv_transpose3d.input: "convolution",
    aten.convolution.default: "convolution",
}


class Find(Pass):
    """A site for every node of interest; the graph is unchanged.

    Before and after::

        %y = aten.linear(%x, %w)        # a site: linear, module, rows x K x N
        %p = aten.softmax(%s, -1)       # a site that later passes may decline
    """

    name = "find"
    requires = frozenset({Fact.CANONICAL})
    establishes = frozenset({Fact.FOUND})

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Fill ``ctx.sites``; rewrites nothing."""
        unread = dead(gm)
        for node in gm.graph.nodes:
            ctx.at = node
            kind = KINDS.get(node.target) if node.op == "call_function" else None
            if kind is not None and is_tensor(node):
                found = _linear(ctx, node) if kind == "linear" else _found(ctx, node, kind, _name(node))
                ctx.sites.append(_site(ctx, node, found, unread, _obstacle(ctx, node, found)))
            for hidden in notes(node).opaque:  # products that capture could not write as ATen calls
                ctx.sites.append(_site(ctx, node, _found(ctx, node, hidden.kind, hidden.op), unread, (Reason.UNSUPPORTED_OP, hidden.why)))
        return 0


def _name(node: fx.Node) -> str:
    return notes(node).op or str(node.target._schema.name).removeprefix("aten::")  # type: ignore[union-attr]


def _found(ctx: PassContext, node: fx.Node, kind: str, op: str) -> Found:
    constant = [is_constant(factor, ctx.parameters) for factor in _factors(node)]
    return Found(
        index=len(ctx.sites),
        kind=kind,
        op=op,
        module=module_path(node),
        shape=_operands(node),
        origin=origin(node),
        roles=tuple(Role.CONSTANT if each else Role.ACTIVATION for each in constant),
        constant=all(constant) and is_constant(node, ctx.parameters),
    )


def _linear(ctx: PassContext, node: fx.Node) -> Found:
    found = _found(ctx, node, "linear", _name(node))
    x, weight = _factors(node)
    sources = constant_sources(weight) if found.roles[1] is Role.CONSTANT else []
    parameters = tuple(ctx.parameters[source.name] for source in sources)
    n, k = value(weight).shape if value(weight).dim() == 2 else (1, 0)
    return replace(
        found,
        module=_closest(found.module, parameters),
        shape=f"{numel(value(x).shape[:-1])} x {value(x).shape[-1]} -> {n}",
        k=k if isinstance(k, int) else 0,
        n=n if isinstance(n, int) else 0,
        element_size=value(weight).element_size(),
        parameters=parameters,
        table=bool(sources) and all(source.name in ctx.tables for source in sources),
    )


def _site(ctx: PassContext, node: fx.Node, found: Found, unread: Container[fx.Node], obstacle: Declined | None) -> Site:
    """Return a site, declined where no recipe can take it; what is left gets its plan from the next pass."""
    if found.origin in ctx.refused:
        obstacle = Reason.INTERNAL_ERROR, ctx.refused[found.origin]
    elif node in unread or not node.users:
        obstacle = Reason.UNUSED, "computed and dropped"
        found = replace(found, unused=node in unread)
    elif found.constant:
        obstacle = Reason.UNSUPPORTED_OP, "computed from parameters alone"
    site = Site(found, node)
    if obstacle is not None:
        site.decline(*obstacle)
    return site


def _factors(node: fx.Node) -> list[fx.Node]:
    """Return the operands of a product in order, without what is added to it; none for any other call."""
    arguments: Any = node.args
    if KINDS.get(node.target) not in ("linear", "matmul"):
        return []
    if node.target is aten.einsum.default:
        return [arg for arg in tree_leaves(node.args) if isinstance(arg, fx.Node)]
    return list(arguments[1:3] if node.target in (aten.addmm.default, aten.baddbmm.default) else arguments[:2])


def _closest(module: str, parameters: tuple[str, ...]) -> str:
    """Return the module that owns the weight where it lies inside ``module`` (a fused forward calls no submodule), else ``module``."""
    if not parameters:
        return module
    owners = {_owner(name) for name in parameters}
    owner = owners.pop() if len(owners) == 1 else ""
    if owner.startswith(f"{module}." if module else ""):
        return owner or parameters[0]
    return module


def _owner(parameter: str) -> str:
    """Return the module that a parameter is of; of a parametrized weight (weight_norm) the module that reads it, not the parts."""
    module = parameter.rpartition(".")[0]
    return re.sub(r"(^|\.)parametrizations(\..*)?$", "", module)


def _obstacle(ctx: PassContext, node: fx.Node, found: Found) -> Declined | None:
    """Return why no recipe can take a call, as far as it shows in the call itself."""
    match found.kind:
        case "linear":
            return _obstacle_of_linear(ctx, node, found)
        case "matmul":
            return _obstacle_of_matmul(node, found)
        case "convolution":
            return Reason.UNSUPPORTED_OP, f"a convolution that {obstacle(node, ctx.parameters)}"
    return None  # the next pass asks for the plan of a softmax or attention


def _obstacle_of_linear(ctx: PassContext, node: fx.Node, found: Found) -> Declined | None:
    x, weight = map(value, _factors(node))
    if is_dtensor(weight) and notes(_factors(node)[1]).written:
        return Reason.NON_CONST_WEIGHT, "the model writes to the weight"
    if not isinstance(x, FakeTensor) or type(weight).__name__ not in ("FakeTensor", "Parameter"):
        return Reason.UNSUPPORTED_OP, product_text(x, weight, value(node))
    if x.device.type != ctx.target.kind:
        return Reason.NO_KERNEL, f"no kernels for {x.device.type} tensors; accepted: {ctx.target.accepted}"
    if x.layout is not weight.layout or str(x.layout) != "torch.strided":
        return Reason.UNSUPPORTED_DTYPE, f"layout {x.layout}"
    if x.dtype not in FLOATS or weight.dtype not in FLOATS:
        return Reason.UNSUPPORTED_DTYPE, f"{x.dtype}; accepted: float32, bfloat16, float16"
    if any(notes(source).gathered for source in constant_sources(_factors(node)[1])):
        return (
            Reason.NON_CONST_WEIGHT,
            "a sharded weight (FSDP2) is gathered at each call, and would be packed each time; see gather_packed",
        )
    if found.roles[1] is not Role.CONSTANT:
        return Reason.NON_CONST_WEIGHT, "the weight is not a parameter"
    if weight.dim() != 2 or not all(isinstance(size, int) for size in weight.shape):
        return Reason.UNSUPPORTED_OP, f"weight of shape {tuple(weight.shape)}"
    return None


def _obstacle_of_matmul(node: fx.Node, found: Found) -> Declined:
    if Role.CONSTANT not in found.roles:
        return Reason.NON_CONST_WEIGHT, "product of two activations"
    operands = _factors(node)
    if node.target is aten.einsum.default:
        several = len(operands) != 2
        return (
            Reason.UNSUPPORTED_OP,
            f"einsum of {len(operands)} operands" if several else "einsum that is not one contraction with a weight",
        )
    constant = value(operands[found.roles.index(Role.CONSTANT)])
    kind = "a vector" if constant.dim() == 1 else "batched or broadcast"
    return Reason.UNSUPPORTED_OP, f"constant operand of shape {tuple(constant.shape)} ({kind})"


def _operands(node: fx.Node) -> str:
    attention = calls(node, aten.scaled_dot_product_attention.default)  # of which one tensor may be query, key and value
    operands = node.args[:4] if attention else node.all_input_nodes
    return " , ".join(_shape(value(arg)) for arg in operands if is_tensor(arg))


def _shape(tensor: Any) -> str:
    return "x".join(str(size) for size in tensor.shape)


def module_path(node: fx.Node) -> str:
    """Return the dotted path of the innermost module that made ``node`` ("" for a plain function)."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    return str(next(reversed(stack.values()))[0])
