"""The linears of Dynamo's graph as it is: those of checkpointed regions stay in bodies of their own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from lowbit_compiler.capture.expand import WRAPPERS
from lowbit_compiler.passes.contract import FLOATS
from lowbit_compiler.passes.find import module_path
from lowbit_compiler.passes.graph import aten, copied, numel
from lowbit_compiler.passes.site import Declined, Found, Reason, Role, Site
from lowbit_compiler.runtime.training.plan import GRAD_INPUT, GRAD_WEIGHT
from lowbit_compiler.torch_internals.dtensor import is_dtensor, product_text

STEPPED = torch.ops.lowbit.stepped_linear.default
LINEAR = (F.linear, aten.linear.default, STEPPED)
ARGUMENTS = ("input", "weight", "bias", "x_step", "w_step")


@dataclass(eq=False)
class Region:
    """A graph, what its inputs are, and the regions that it calls."""

    gm: fx.GraphModule
    inputs: dict[fx.Node, Any]
    """Placeholder -> the example that Dynamo has for it."""
    bodies: dict[fx.Node, "Region"] = field(default_factory=dict)
    """By the calls: two may be of one body."""

    def each(self) -> Iterator["Region"]:
        """Yield this region and all inside, each once."""
        yield from dict.fromkeys(region for region, _ in self.nodes())

    def nodes(self) -> Iterator[tuple["Region", fx.Node]]:
        """Yield all nodes in the order of their calls, those of a region that is called twice once."""
        entered: set[fx.GraphModule] = set()
        for node in self.gm.graph.nodes:
            yield self, node
            if node in self.bodies and self.bodies[node].gm not in entered:
                entered.add(self.bodies[node].gm)
                yield from self.bodies[node].nodes()


def copied_region(gm: fx.GraphModule, examples: Sequence[Any]) -> Region:
    """Return a copy of Dynamo's graph ``gm``, with copies of the bodies of its checkpointed regions; all may be changed."""
    copy = _copy(gm)
    return _descend(copy, dict(zip(copy.graph.find_nodes(op="placeholder"), examples, strict=True)))


def _descend(gm: fx.GraphModule, inputs: dict[fx.Node, Any]) -> Region:
    region = Region(gm, inputs)
    made: dict[str, fx.GraphModule] = {}
    for node in gm.graph.nodes:
        if node.target not in WRAPPERS or getattr(node.args[0], "op", "") != "get_attr":
            continue
        name = node.args[0].target
        if name not in made:
            made[name] = _copy(getattr(gm, name))
            setattr(gm, name, made[name])
        body = made[name]
        operands = node.args[WRAPPERS[node.target] :]
        passed = zip(body.graph.find_nodes(op="placeholder"), operands, strict=False)
        region.bodies[node] = _descend(body, {inner: inputs[outer] for inner, outer in passed if outer in inputs})
    return region


def _copy(gm: fx.GraphModule) -> fx.GraphModule:
    graph = fx.Graph()
    copied(gm.graph.nodes, graph)
    return fx.GraphModule(gm, graph)  # a fresh module: Dynamo's own has a table of sources, which AOTAutograd wants complete


def operands(node: fx.Node) -> list[Any]:
    """Return input, weight, bias and step sizes (or None) of a linear, however it is spelled."""
    given = dict(zip(ARGUMENTS, node.args, strict=False)) | node.kwargs
    return [given.get(name) for name in ARGUMENTS]


def unneeded(region: Region, node: fx.Node, learns: bool) -> dict[str, str]:
    """Return which backward products of a linear nobody asks for, and why; a step size that the plan ``learns`` asks for that of its operand."""
    x, weight, _, x_step, w_step = operands(node)
    asking = {(GRAD_INPUT, "activation"): (x, x_step), (GRAD_WEIGHT, "weight"): (weight, w_step)}
    return {
        product: f"the {operand} needs no gradient"
        for (product, operand), (own, step) in asking.items()
        if not (_needs_gradient(region, own) or (learns and step is not None and _needs_gradient(region, step)))
    }


def _needs_gradient(region: Region, node: fx.Node) -> bool:
    return bool(region.inputs.get(node, node.meta["example_value"]).requires_grad)


def find_linears(region: Region, parameters: dict[int, str]) -> list[tuple[Region, Site]]:
    """Return a site for every linear, with those that no recipe takes declined; ``parameters`` are the names of tensors by their ids."""
    called = [(inner, node) for inner, node in region.nodes() if node.op == "call_function" and node.target in LINEAR]
    return [(inner, _site(inner, node, index, parameters)) for index, (inner, node) in enumerate(called)]


def _site(region: Region, node: fx.Node, index: int, parameters: dict[int, str]) -> Site:
    x, weight, *_ = operands(node)
    name = parameters.get(id(region.inputs.get(weight)), "")
    sizes = weight.meta["example_value"].shape
    n, k = sizes if len(sizes) == 2 else (1, 0)
    rows = x.meta["example_value"].shape
    found = Found(
        index=index,
        kind="linear",
        op="linear",
        module=module_path(node),
        shape=f"{numel(rows[:-1])} x {rows[-1]} -> {n}",
        origin=node.name,
        roles=(Role.ACTIVATION, Role.CONSTANT if name else Role.ACTIVATION),
        k=k if isinstance(k, int) else 0,
        n=n if isinstance(n, int) else 0,
        parameters=(name,) if name else (),
    )
    site = Site(found, node)
    if obstacle := _obstacle(*(each.meta["example_value"] for each in (x, weight, node))):
        site.decline(*obstacle)
    return site


def _obstacle(x: Any, weight: Any, result: Any) -> Declined | None:
    if is_dtensor(x) or is_dtensor(weight):
        return Reason.UNSUPPORTED_OP, product_text(x, weight, result)
    if x.dtype not in FLOATS or weight.dtype not in FLOATS:
        return Reason.UNSUPPORTED_DTYPE, f"{x.dtype}, {weight.dtype}; accepted: float32, bfloat16, float16"
    if weight.dim() != 2 or not all(isinstance(size, int) for size in weight.shape):
        return Reason.UNSUPPORTED_OP, f"weight of shape {tuple(weight.shape)}"
    return None
