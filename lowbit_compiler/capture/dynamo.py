"""Capture from torch.compile: Dynamo's graph, with the operations of interest renamed to ATen in place.

Renaming costs almost nothing, where a second trace of the whole graph would add seconds and lose dynamic shapes.
"""

import functools
import inspect
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves

from lowbit_compiler.capture.captured import Captured, dotted
from lowbit_compiler.capture.dialect import PRODUCTS, product_name, spelling, to_aten
from lowbit_compiler.capture.expand import COMPOSITE, FUSED, WRAPPERS, inline, splice
from lowbit_compiler.capture.probe import Probe
from lowbit_compiler.passes.graph import is_pure, is_tensor, value

IN_PLACE = (
    operator.setitem, operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod, operator.ipow,
    operator.iand, operator.ior, operator.ixor, operator.ilshift, operator.irshift,
)  # fmt: skip
RENORMING = (torch.nn.functional.embedding, torch.nn.functional.embedding_bag)
"""With ``max_norm``, the fourth argument, they write the rows that they look up back to the table."""
IN_PLACE_METHODS = frozenset(f"__{function.__name__}__" for function in IN_PLACE)


def _parameter_name(node: fx.Node, example: Any) -> str | None:
    static = "_dynamo_static_input_type" in (node.meta.get("tensor_dict") or {})
    if not isinstance(example, Tensor) or not (isinstance(example, nn.Parameter) or static):
        return None
    source = getattr(node, "_dynamo_source", None)
    return dotted(source.name if isinstance(source.name, str) else source.name()) if source is not None else node.name


def _written(node: fx.Node) -> list[fx.Node]:
    """Return what the call ``node`` writes to in place."""
    targets: list[Any] = []
    if node.op == "call_method":
        name = str(node.target)
        if (name.endswith("_") and not name.endswith("__")) or name in IN_PLACE_METHODS:
            targets.append(node.args[0])
    elif node.op == "call_function":
        targets.append(node.kwargs.get("out"))
        position = _inplace_position(node.target)
        asked = node.kwargs.get("inplace") is True or (position is not None and node.args[position : position + 1] == (True,))
        if asked or node.target in IN_PLACE or _named_in_place(node.target):
            targets.append(node.args[0] if node.args else node.kwargs.get("input"))
        if node.target in RENORMING and (node.args[3:4] or (node.kwargs.get("max_norm"),))[0] is not None:
            targets.append(node.args[1] if len(node.args) > 1 else node.kwargs.get("weight"))
        for index, name in _mutable_arguments(node.target):
            targets.append(node.args[index] if index < len(node.args) else node.kwargs.get(name))
    return [target for target in tree_leaves(targets) if isinstance(target, fx.Node)]


def _named_in_place(target: Any) -> bool:
    name = getattr(target, "__name__", "")
    return name.endswith("_") and not name.endswith("__") and getattr(target, "__module__", "") != "_operator"  # operator.and_


@functools.cache
def _inplace_position(target: Any) -> int | None:
    """Return the position of the parameter ``inplace`` of a function (nn.LeakyReLU and others pass it so), or None."""
    try:
        names = list(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return None
    return names.index("inplace") if "inplace" in names else None


@functools.cache
def _mutable_arguments(target: Any) -> list[tuple[int, str]]:
    """Return position and name of the arguments that an op's schema says it writes to."""
    if isinstance(target, torch._ops.OpOverloadPacket):
        overloads = [getattr(target, name) for name in target.overloads()]
    else:
        overloads = [target] if isinstance(target, torch._ops.OpOverload) else []
    return [
        (index, argument.name)
        for overload in overloads[:1]
        for index, argument in enumerate(overload._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def _storage(node: fx.Node) -> int | None:
    """Return what is equal for two values that share memory."""
    tensor = value(node)
    return tensor.untyped_storage()._cdata if isinstance(tensor, FakeTensor) and tensor.layout is torch.strided else None


def mark_written(gm: fx.GraphModule) -> set[str]:
    """Mark every value that some in-place call writes to, what it is a view of, and other views of that.

    Returns the names of the placeholders among these.
    """
    written = []
    for node in gm.graph.nodes:
        if targets := _written(node):
            node.meta["lowbit_writes"] = True
            written += targets
    shared = {_storage(target) for target in written} - {None}
    marked = {node for node in gm.graph.nodes if shared and _storage(node) in shared}
    for target in written:
        marked.add(target)
        while target.all_input_nodes:
            target = target.all_input_nodes[0]
            marked.add(target)
    for node in marked:
        node.meta["lowbit_written"] = True
    return {node.name for node in marked if node.op == "placeholder"}


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
            new.meta.pop("grapharg", None)  # refers weakly to the parameter, which torch.utils.swap_tensors refuses
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
    elif _written(node):
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
            computed = bool(node.all_input_nodes) and all(n in constant for n in node.all_input_nodes) and not _written(node)
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


__all__ = ["PRODUCTS", "capture_dynamo", "mark_written", "name_products", "trace_weights"]
