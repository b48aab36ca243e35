"""Which calls write to a tensor in place, and which values change by it."""

import functools
import inspect
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from lowbit_compiler.passes.find import KINDS
from lowbit_compiler.passes.graph import calls, shares_memory, storages
from lowbit_compiler.passes.notes import note, notes
from lowbit_compiler.torch_internals.dispatch import HigherOrderOperator, OpOverload, OpOverloadPacket
from lowbit_compiler.torch_internals.trees import tree_leaves

IN_PLACE = (
    operator.setitem, operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod, operator.ipow,
    operator.iand, operator.ior, operator.ixor, operator.ilshift, operator.irshift,
)  # fmt: skip
RENORMING = (torch.nn.functional.embedding, torch.nn.functional.embedding_bag)
"""With ``max_norm``, the fourth argument, they write the rows that they look up back to the table."""
IN_PLACE_METHODS = frozenset(f"__{function.__name__}__" for function in IN_PLACE)


def written(node: fx.Node) -> list[fx.Node]:
    """Return what the call ``node`` writes to in place."""
    targets: list[Any] = []
    if node.op == "call_method":
        name = str(node.target)
        if (name.endswith("_") and not name.endswith("__")) or name in IN_PLACE_METHODS:
            targets.append(node.args[0])
    elif node.op == "call_function" and isinstance(node.target, HigherOrderOperator):
        # Its bodies name what they are given otherwise: any of it may be what is written to. Kernels of the user's own have no body.
        if "mutation" in str(node.target) or any(written(inner) for body in _bodies(node) for inner in body.graph.nodes):
            targets += [arg for arg in node.all_input_nodes if arg.op != "get_attr"]
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


def _bodies(node: fx.Node) -> Iterator[fx.GraphModule]:
    """Yield the graphs that the higher-order op ``node`` is given to run."""
    for arg in node.all_input_nodes:
        body = getattr(node.graph.owning_module, str(arg.target), None) if arg.op == "get_attr" else None
        if isinstance(body, fx.GraphModule):
            yield body


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
    if isinstance(target, OpOverloadPacket):
        overloads = [getattr(target, name) for name in target.overloads()]
    else:
        overloads = [target] if isinstance(target, OpOverload) else []
    return [
        (index, argument.name)
        for overload in overloads[:1]
        for index, argument in enumerate(overload._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def mark_written(gm: fx.GraphModule) -> set[str]:
    """Mark every value that some in-place call writes to, what it is a view of, and other views of that.

    Returns the names of the placeholders among these.
    """
    targets: list[fx.Node] = []
    for node in gm.graph.nodes:
        if found := written(node):
            note(node, writes=True)
            targets += found
    shared = set().union(*map(storages, targets))
    marked = {node for node in gm.graph.nodes if shared and not shared.isdisjoint(storages(node))}
    for target in targets:
        marked.add(target)
        while target.all_input_nodes and not _fresh(target):
            target = target.all_input_nodes[0]
            marked.add(target)
    for node in marked:
        note(node, written=True)
    return {node.name for node in marked if node.op == "placeholder"}


def _fresh(node: fx.Node) -> bool:
    """Return whether ``node`` is known to make new memory, so that a write to it changes no operand."""
    return calls(node, *KINDS) and storages(node) != set() and not any(shares_memory(node, source) for source in node.all_input_nodes)


def unmarked(gm: fx.GraphModule) -> fx.Node | None:
    """Return a call that writes to a value without the mark: a pass put a node there and did not use :func:`graph.substitute`."""
    writing = (node for node in gm.graph.nodes if notes(node).writes)
    return next((node for node in writing if not all(notes(target).written for target in written(node))), None)
