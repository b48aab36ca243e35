"""What every capture does with the graph it copied: products get their ATen names, and nodes the model's own names.

Renaming costs almost nothing, where a second trace of the whole graph would add seconds and lose dynamic shapes.
"""

from collections.abc import Sequence

from torch import Tensor, fx, nn

from lowbit_compiler.capture.dialect import PRODUCTS, product_name, spelling, to_aten
from lowbit_compiler.capture.expand import COMPOSITE, FUSED, WRAPPERS, inline, splice
from lowbit_compiler.capture.names import Names
from lowbit_compiler.capture.probe import Probe
from lowbit_compiler.passes.graph import is_pure, is_tensor, value
from lowbit_compiler.passes.notes import Hidden, note, notes
from lowbit_compiler.passes.writes import written
from lowbit_compiler.torch_internals import autocast
from lowbit_compiler.torch_internals.dispatch import HigherOrderOperator, OpOverload, OpOverloadPacket
from lowbit_compiler.torch_internals.trees import tree_leaves


def name_modules(node: fx.Node, names: Names) -> None:
    """Write the model's own names for the modules that made ``node``; what no submodule made is the traced module's."""
    stack = names.stack(node.meta.get("nn_module_stack") or {})
    if not stack and names.here and node.op not in ("placeholder", "output"):
        stack = {names.here: (names.here, nn.Module)}
    if stack:
        node.meta["nn_module_stack"] = stack


def name_products(gm: fx.GraphModule) -> None:
    """Give every product its ATen name, take calls that hide some apart, and mark those that cannot be taken apart."""
    probe = Probe(gm)
    autocasts: list[fx.Node] = []
    for node in list(gm.graph.nodes):
        if node.target is autocast.ENTER:
            autocasts.append(node)
        elif node.target is autocast.EXIT and node.args[0] in autocasts:
            autocasts.remove(node.args[0])
        elif node.op in ("call_function", "call_method"):
            _name(gm, node, probe, autocasts)


def _name(gm: fx.GraphModule, node: fx.Node, probe: Probe, autocasts: Sequence[fx.Node]) -> None:
    if node.target in WRAPPERS and (body := splice(gm, node)) is not None:
        for inner in body:
            _name(gm, inner, probe, autocasts)
    elif node.target in FUSED:
        made = inline(gm, node, autocasts)
        for inner in [node] if made is None else made:
            _name_or_mark(inner, probe)
    elif to_aten(node):
        note(node, op=spelling(node))
    elif not isinstance(node.target, HigherOrderOperator) and written(node):
        if name := product_name(node):
            note(node, opaque=(Hidden("matmul", name, f"{name} writes into an existing tensor"),))
    elif _computes(node) and (products := probe.products(node)):
        made = inline(gm, node, autocasts) if _may_inline(node) else None
        if made is None:
            note(node, opaque=tuple(products))
        for inner in made or ():
            _name_or_mark(inner, probe)


def _name_or_mark(node: fx.Node, probe: Probe) -> None:
    if to_aten(node):
        note(node, op=spelling(node))
    elif _computes(node) and (products := probe.products(node)):
        note(node, opaque=tuple(products))


def _computes(node: fx.Node) -> bool:
    """Return whether the call makes tensors from tensors: anything else (contexts, sizes) must not be run to see what it does."""
    return any(isinstance(part, Tensor) for part in tree_leaves(value(node))) and any(is_tensor(arg) for arg in node.all_input_nodes)


def _may_inline(node: fx.Node) -> bool:
    """Return whether the call may be taken apart: an op of its own, or a loop over time steps, stays whole."""
    return not isinstance(node.target, (HigherOrderOperator, OpOverload, OpOverloadPacket)) or (node.target in COMPOSITE)


def trace_weights(gm: fx.GraphModule, parameters: set[str]) -> None:
    """Write whatever products read that depends on parameters alone (transposed, normalised, cast weights) in ATen calls."""
    constant: set[fx.Node] = set()
    operands: list[fx.Node] = []
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            if node.name in parameters:
                constant.add(node)
            continue
        if node.target in PRODUCTS:
            operands += node.all_input_nodes
        if node.op in ("call_function", "call_method") and not isinstance(node.target, HigherOrderOperator):
            computed = bool(node.all_input_nodes) and all(n in constant for n in node.all_input_nodes) and not written(node)
            if computed and not notes(node).written and "val" in node.meta:
                constant.add(node)
    wanted: set[fx.Node] = set()
    while operands:
        node = operands.pop()
        if node in constant and node not in wanted:
            wanted.add(node)
            operands += node.all_input_nodes
    for node in list(gm.graph.nodes):
        if node in wanted and node.op != "placeholder" and not is_pure(node.target):
            inline(gm, node)
