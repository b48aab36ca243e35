"""Find every product, softmax, attention and convolution, and give each a row of the report."""

import re
from typing import Any

from torch import fx

from lowbit_compiler.passes.contract import FLOATS, Fact, PassContext, origin
from lowbit_compiler.passes.graph import aten, calls, constant_sources, dead, is_constant, is_tensor, numel, value
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.passes.site import Reason, Site
from lowbit_compiler.torch_internals.fakes import FakeTensor

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


class Find:
    """A site for every node of interest; the graph is unchanged.

    Before and after::

        %y = aten.linear(%x, %w)        # a site: linear, module, rows x K x N
        %p = aten.softmax(%s, -1)       # a site that later passes may decline
    """

    name = "find"
    requires = frozenset({Fact.CANONICAL})
    establishes = frozenset({Fact.FOUND})
    destroys: frozenset[Fact] = frozenset()
    exact = True

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Fill ``ctx.sites``; rewrites nothing."""
        unread = dead(gm)
        for node in gm.graph.nodes:
            first = len(ctx.sites)
            ctx.at = node
            kind = KINDS.get(node.target) if node.op == "call_function" else None
            if kind is not None and is_tensor(node):
                ctx.sites.append(_site(len(ctx.sites), kind, node, ctx))
            for hidden, op, why in notes(node).opaque:  # products that capture could not write as ATen calls
                site = Site(len(ctx.sites), hidden, op, module_path(node), _operands(node), node)
                site.decline(Reason.UNSUPPORTED_OP, why)
                _decline_constant(site, node, ctx)
                ctx.sites.append(site)
            for site in ctx.sites[first:]:
                site.origin = origin(node)
                if site.origin in ctx.refused:
                    site.decline(Reason.INTERNAL_ERROR, ctx.refused[site.origin])
                elif node in unread or not node.users:
                    site.unused = node in unread
                    site.decline(Reason.UNUSED, "computed and dropped")
        return 0


def _site(index: int, kind: str, node: fx.Node, ctx: PassContext) -> Site:
    op = notes(node).op or str(node.target._schema.name).removeprefix("aten::")  # type: ignore[union-attr]
    site = Site(index, kind, op, module_path(node), "", node)
    if kind in ("softmax", "attention"):  # the next pass asks for their plan
        site.shape = _operands(node)
        _decline_constant(site, node, ctx)
        return site
    if kind != "linear":
        site.shape = _operands(node)
        site.decline(Reason.UNSUPPORTED_OP, _DETAILS[kind])
        if kind == "matmul":
            _explain_matmul(site, node, ctx)
        _decline_constant(site, node, ctx)
        return site
    x, weight = node.args[0], node.args[1]
    xv, wv = value(x), value(weight)
    site.shape = f"{numel(xv.shape[:-1])} x {xv.shape[-1]} -> {wv.shape[0] if wv.dim() == 2 else 1}"
    site.element_size = wv.element_size()
    if is_constant(weight, ctx.parameters):
        sources = constant_sources(weight)  # type: ignore[arg-type]
        site.parameters = tuple(ctx.parameters[source.name] for source in sources)
        site.table = all(source.name in ctx.tables for source in sources)
        site.module = _closest(site.module, site.parameters)
    _check_linear(site, xv, wv, weight, ctx)
    _decline_constant(site, node, ctx)
    return site


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


def _decline_constant(site: Site, node: fx.Node, ctx: PassContext) -> None:
    if is_constant(node, ctx.parameters):
        site.constant = True
        site.decline(Reason.UNSUPPORTED_OP, "computed from parameters alone")


def _check_linear(site: Site, x: Any, weight: Any, node: Any, ctx: PassContext) -> None:
    """Decline what no recipe can take; what is left gets its plan from the next pass."""
    if not isinstance(x, FakeTensor) or type(weight).__name__ not in ("FakeTensor", "Parameter"):
        site.decline(Reason.UNSUPPORTED_OP, f"tensor subclass {type(x).__name__}, {type(weight).__name__}")
    elif x.device.type != ctx.target.kind:
        site.decline(Reason.NO_KERNEL, f"no kernels for {x.device.type} tensors; accepted: {ctx.target.accepted}")
    elif x.layout is not weight.layout or str(x.layout) != "torch.strided":
        site.decline(Reason.UNSUPPORTED_DTYPE, f"layout {x.layout}")
    elif x.dtype not in FLOATS or weight.dtype not in FLOATS:
        site.decline(Reason.UNSUPPORTED_DTYPE, f"{x.dtype}; accepted: float32, bfloat16, float16")
    elif not is_constant(node, ctx.parameters):
        site.decline(Reason.NON_CONST_WEIGHT, "the weight is not a parameter")
    elif weight.dim() != 2 or not all(isinstance(size, int) for size in weight.shape):
        site.decline(Reason.UNSUPPORTED_OP, f"weight of shape {tuple(weight.shape)}")
    else:
        site.n, site.k = weight.shape


_DETAILS = {
    "matmul": "product of two activations",
    "convolution": "convolutions stay in float",
}


def _explain_matmul(site: Site, node: fx.Node, ctx: PassContext) -> None:
    added = node.target in (aten.addmm.default, aten.baddbmm.default)
    factors = [arg for arg in node.all_input_nodes if is_tensor(arg) and not (added and arg is node.args[0])]
    constant = [value(arg) for arg in factors if is_constant(arg, ctx.parameters)]
    if not constant:
        site.decline(Reason.NON_CONST_WEIGHT, _DETAILS["matmul"])
    elif node.target is aten.einsum.default:
        why = f"einsum of {len(factors)} operands" if len(factors) != 2 else "einsum that is not one contraction with a weight"
        site.decline(Reason.UNSUPPORTED_OP, why)
    else:
        kind = "a vector" if constant[0].dim() == 1 else "batched or broadcast"
        site.decline(Reason.UNSUPPORTED_OP, f"constant operand of shape {tuple(constant[0].shape)} ({kind})")


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
