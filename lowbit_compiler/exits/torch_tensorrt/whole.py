"""Dequantizations that stay whole, beside what reads them.

torch takes composite ops apart while it traces, and constant folding makes float weights of the parts. And what depends on constants alone is
put into the first of several engines, which hands float weights to the others. So each dequantization also takes what its weight is multiplied
with, and makes nothing of it.
"""

import functools
from typing import Any

import torch
from torch import fx

from lowbit_compiler.passes.graph import aten, calls, is_tensor
from lowbit_compiler.runtime.formats import KINDS
from lowbit_compiler.runtime.formats.operand import op_name
from lowbit_compiler.runtime.treatments.treatment import packet

LIBRARY = torch.library.Library("lowbit_whole", "FRAGMENT")
NAMES = (*(op_name("dequantize", *kind) for kind in KINDS), "dequantize_columns", "dequantize_groups")
PRODUCTS = (aten.linear.default, aten.matmul.default)


@functools.cache
def whole_ops() -> dict[Any, Any]:
    """Return the op of each dequantization -> one that computes the same, with one more argument ``after``, and that no trace takes apart."""
    return {packet(name): _whole(packet(name)) for name in NAMES}


def keep_whole(graph: fx.Graph) -> None:
    """Let whoever reads a dequantized weight of ``graph`` read one of its own, after the other operand; in place."""
    for node in list(graph.nodes):
        if not calls(node, *whole_ops()):
            continue
        stored = all(each.op == "get_attr" for each in node.all_input_nodes)
        for reader in list(node.users):
            with graph.inserting_before(reader):
                after = _operand(reader, node) if stored else None
                own = graph.call_function(whole_ops()[node.target], (*node.args, after), node.kwargs)
            own.meta = dict(node.meta)
            reader.replace_input_with(node, own)
        graph.erase_node(node)


def _operand(reader: fx.Node, weight: fx.Node) -> fx.Node | None:
    """Return what ``reader`` multiplies ``weight`` with; None where it is no product."""
    operands: tuple[Any, ...] = reader.args[:2] if calls(reader, *PRODUCTS) else ()
    return next((each for each in operands if is_tensor(each) and each is not weight), None)


def _whole(op: Any) -> Any:
    name, rest = str(op._schema).partition("::")[2].split("(", 1)
    arguments, result = rest.split(") -> ")

    def call(*args: Any) -> Any:
        return op(*args[:-1])

    LIBRARY.define(f"{name}({arguments}, Tensor? after) -> {result}")
    LIBRARY.impl(name, call, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{LIBRARY.ns}::{name}", call, lib=LIBRARY)
    return getattr(getattr(torch.ops, LIBRARY.ns), name).default
