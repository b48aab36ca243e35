"""Capture from torch.compile: Dynamo's graph, with the operations of interest renamed to ATen in place.

Renaming costs almost nothing, where a second trace of the whole graph would add seconds and lose dynamic shapes.
"""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from lowbit_compiler.capture.captured import Captured, dotted
from lowbit_compiler.capture.dialect import PRODUCTS, to_aten
from lowbit_compiler.capture.expand import FUSED, inline
from lowbit_compiler.passes.graph import PURE_MATHS, PURE_VIEWS, is_tensor


def _parameter_name(node: fx.Node, example: Any) -> str | None:
    static = "_dynamo_static_input_type" in (node.meta.get("tensor_dict") or {})
    if not isinstance(example, Tensor) or not (isinstance(example, nn.Parameter) or static):
        return None
    source = getattr(node, "_dynamo_source", None)
    return dotted(source.name if isinstance(source.name, str) else source.name()) if source is not None else node.name


def _mutated(gm: fx.GraphModule) -> set[str]:
    """Return the placeholders that some in-place call writes to: these are state, not weights."""
    names = set()
    for node in gm.graph.nodes:
        in_place = node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__")
        if in_place or node.target in (operator.setitem, operator.iadd, operator.imul, operator.isub):
            target = node.args[0]
            while isinstance(target, fx.Node) and target.op != "placeholder":
                target = target.all_input_nodes[0] if target.all_input_nodes else None
            if isinstance(target, fx.Node):
                names.add(target.name)
    return names


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


def _read(example: Tensor | Any, node: fx.Node) -> Any:
    return node.meta.get("example_value", example)


def capture_dynamo(gm: fx.GraphModule, examples: Sequence[Any]) -> Captured:
    """Return a copy of Dynamo's graph ``gm`` in the common dialect; ``examples`` are its inputs, one per placeholder."""
    # A fresh module: Dynamo's own carries _param_name_to_source, which AOTAutograd wants complete for every input.
    copy = fx.GraphModule(gm, torch.fx.Graph())
    environment: dict[fx.Node, fx.Node] = {}
    parameters: dict[str, str] = {}
    placeholders = 0
    for node in gm.graph.nodes:
        new = environment[node] = copy.graph.node_copy(node, lambda n: environment[n])
        if node.op == "placeholder":
            new.meta["val"] = _read(examples[placeholders], node)
            if name := _parameter_name(node, examples[placeholders]):
                parameters[new.name] = name
            placeholders += 1
        elif "example_value" in node.meta:
            new.meta["val"] = node.meta["example_value"]
    for name in _mutated(copy):
        parameters.pop(name, None)
    _rename(copy, set(parameters))
    copy.recompile()
    return Captured(copy, parameters, _model_names())


def _rename(gm: fx.GraphModule, parameters: set[str]) -> None:
    constants = {node for node in gm.graph.nodes if node.name in parameters and node.op == "placeholder"}
    for node in list(gm.graph.nodes):
        if node.op not in ("call_function", "call_method"):
            continue
        if node.target in FUSED and is_tensor_result(node):
            inline(gm, node, FUSED[node.target])
        elif to_aten(node):
            node.meta["lowbit_op"] = _spelling(node)
        elif node.all_input_nodes and all(n in constants for n in node.all_input_nodes) and is_tensor(node) and _pure(node):
            before = node.prev
            inline(gm, node, _callable(node))
            while before.next.op != "root" and all(n in constants for n in before.next.all_input_nodes) and _known(before.next):
                before = before.next
                constants.add(before)


def is_tensor_result(node: fx.Node) -> bool:
    """Return whether the node's value is a tensor or a tuple of tensors read only through getitem."""
    if is_tensor(node):
        return True
    return all(user.target is operator.getitem for user in node.users)


def _spelling(node: fx.Node) -> str:
    name = str(node.target._schema.name).removeprefix("aten::")
    return f"einsum {node.args[0]!r}" if name == "einsum" else name


def _pure(node: fx.Node) -> bool:
    """Return whether a node on parameters alone is worth tracing: somebody downstream may multiply with it."""
    methods = {"t", "transpose", "permute", "view", "reshape", "unsqueeze", "squeeze", "contiguous", "to", "float", "half", "bfloat16",
               "type_as", "detach", "expand", "flatten", "clone", "swapaxes", "mul", "select", "narrow", "chunk"}  # fmt: skip
    functions = {getattr, operator.getitem, operator.mul, operator.truediv, operator.neg, torch.t, torch.transpose, torch.permute, torch.cat,
                 torch.mul, torch.swapaxes, torch.reshape, torch.flatten, torch.unsqueeze, torch.squeeze}  # fmt: skip
    if node.op == "call_method":
        return node.target in methods
    return node.target in functions


def _callable(node: fx.Node) -> Any:
    if node.op == "call_method":
        name = str(node.target)
        return lambda tensor, *args, **kwargs: getattr(tensor, name)(*args, **kwargs)
    return node.target


def _known(node: fx.Node) -> bool:
    return node.op == "call_function" and (node.target in PURE_VIEWS or node.target in PURE_MATHS)


__all__ = ["PRODUCTS", "capture_dynamo"]
