"""Capture from torch.compile: Dynamo's graph, with the operations of interest renamed to ATen in place.

Renaming costs almost nothing, where a second trace of the whole graph would add seconds and lose dynamic shapes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from lowbit_compiler.capture.captured import Captured, dotted
from lowbit_compiler.capture.dialect import PRODUCTS, product_name, spelling, to_aten
from lowbit_compiler.capture.expand import COMPOSITE, FUSED, WRAPPERS, inline, splice
from lowbit_compiler.capture.probe import Probe
from lowbit_compiler.passes.graph import is_pure, is_tensor, value
from lowbit_compiler.passes.writes import mark_written, written


def _parameter_name(node: fx.Node, example: Any) -> str | None:
    static = "_dynamo_static_input_type" in (node.meta.get("tensor_dict") or {})
    if not isinstance(example, Tensor) or not (isinstance(example, nn.Parameter) or static):
        return None
    source = getattr(node, "_dynamo_source", None)
    return dotted(source.name if isinstance(source.name, str) else source.name()) if source is not None else node.name


def _model_names() -> frozenset[str]:
    """Return every module and parameter name of the model whose frame Dynamo is tracing (empty where that cannot be told)."""
    try:
        from torch._dynamo.symbolic_convert import InstructionTranslator

        frame = InstructionTranslator.current_tx().f_locals
    except (ImportError, AttributeError):  # not called by Dynamo, or a torch that moved it
        return frozenset()
    names: set[str] = set()
    for local in frame.values():
        if isinstance(local, nn.Module):
            names.update(name for name, _ in local.named_modules())
            names.update(name for name, _ in local.named_parameters())
    return frozenset(names)


def capture_dynamo(gm: fx.GraphModule, examples: Sequence[Any]) -> Captured:
    """Return a copy of Dynamo's graph ``gm`` in the common dialect; ``examples`` are its inputs, one per placeholder."""
    graph = fx.Graph()
    environment: dict[fx.Node, fx.Node] = {}
    parameters: dict[str, str] = {}
    values = iter(examples)
    for node in gm.graph.nodes:
        new = environment[node] = graph.node_copy(node, lambda n: environment[n])
        if node.op == "placeholder":
            example = next(values)
            new.meta["val"] = node.meta.get("example_value", example)
            if name := _parameter_name(node, example):
                parameters[new.name] = name
        elif "example_value" in node.meta:
            new.meta["val"] = node.meta["example_value"]
    # A fresh module: Dynamo's own carries _param_name_to_source, which AOTAutograd wants complete for every input.
    copy = fx.GraphModule(gm, graph)
    name_products(copy)
    for name in mark_written(copy):
        parameters.pop(name, None)
    trace_weights(copy, set(parameters))
    copy.recompile()
    return Captured(copy, parameters, _model_names())


def name_products(gm: fx.GraphModule) -> None:
    """Give every product its ATen name, take calls that hide some apart, and mark those that cannot be taken apart."""
    probe = Probe(gm)
    autocasts: list[fx.Node] = []
    for node in list(gm.graph.nodes):
        if node.target is torch.amp.autocast_mode._enter_autocast:
            autocasts.append(node)
        elif node.target is torch.amp.autocast_mode._exit_autocast and node.args[0] in autocasts:
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
        node.meta["lowbit_op"] = spelling(node)
    elif written(node):
        if name := product_name(node):
            node.meta["lowbit_opaque"] = [("matmul", name, f"{name} writes into an existing tensor")]
    elif _computes(node) and (products := probe.products(node)):
        made = inline(gm, node, autocasts) if _may_inline(node) else None
        if made is None:
            node.meta["lowbit_opaque"] = products
        for inner in made or ():
            _name_or_mark(inner, probe)


def _name_or_mark(node: fx.Node, probe: Probe) -> None:
    if to_aten(node):
        node.meta["lowbit_op"] = spelling(node)
    elif _computes(node) and (products := probe.products(node)):
        node.meta["lowbit_opaque"] = products


def _computes(node: fx.Node) -> bool:
    """Return whether the call makes tensors from tensors: anything else (contexts, sizes) must not be run to see what it does."""
    return any(isinstance(part, Tensor) for part in tree_leaves(value(node))) and any(is_tensor(arg) for arg in node.all_input_nodes)


def _may_inline(node: fx.Node) -> bool:
    """Return whether the call may be taken apart: an op of its own, or a loop over time steps, stays whole."""
    return not isinstance(node.target, (torch._ops.HigherOrderOperator, torch._ops.OpOverload, torch._ops.OpOverloadPacket)) or (
        node.target in COMPOSITE
    )


def trace_weights(gm: fx.GraphModule, parameters: set[str]) -> None:
    """Write whatever products read that depends on parameters alone (transposed, normalised, cast weights) in ATen calls."""
    constant: set[fx.Node] = set()
    operands: list[fx.Node] = []
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            if node.name in parameters:
                constant.add(node)
        elif node.target in PRODUCTS:
            operands += node.all_input_nodes
        elif node.op in ("call_function", "call_method") and not isinstance(node.target, torch._ops.HigherOrderOperator):
            computed = bool(node.all_input_nodes) and all(n in constant for n in node.all_input_nodes) and not written(node)
            if computed and "lowbit_written" not in node.meta and "val" in node.meta:
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


__all__ = ["PRODUCTS", "capture_dynamo", "name_products", "trace_weights"]
