"""Small questions about fx nodes, asked by more than one pass."""

import contextlib
import functools
import operator
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from lowbit_compiler.passes.notes import note, notes
from lowbit_compiler.passes.repeated import fake_result
from lowbit_compiler.torch_internals import autocast
from lowbit_compiler.torch_internals.dispatch import OpOverload, enable_python_dispatcher
from lowbit_compiler.torch_internals.dtensor import is_dtensor, local
from lowbit_compiler.torch_internals.fakes import FakeTensor
from lowbit_compiler.torch_internals.shapes import statically_known_true
from lowbit_compiler.torch_internals.trees import tree_leaves

aten = torch.ops.aten


def value(node: Any) -> Any:
    """Return the fake value of ``node`` (a FakeTensor, a SymInt, ...), or the argument itself."""
    return node.meta.get("val") if isinstance(node, fx.Node) else node


def is_tensor(node: Any) -> bool:
    """Return whether ``node`` is a graph node that holds a tensor."""
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), Tensor)


def calls(node: Any, *targets: Any) -> bool:
    """Return whether ``node`` is a call of one of ``targets``."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def copied(nodes: Iterable[fx.Node], into: fx.Graph, known: Mapping[fx.Node, Any] | None = None) -> dict[fx.Node, Any]:
    """Append copies of ``nodes`` to a graph; returns the copy of each, beside what was ``known``.

    What a node reads is among those before it, or ``known``: what stands for a node that is not copied.
    """
    copies = dict(known or {})
    for node in nodes:
        copies[node] = into.node_copy(node, copies.__getitem__)
    return copies


def emit(
    gm: fx.GraphModule,
    target: Callable[..., Any],
    *args: Any,
    like: fx.Node | None = None,
    before: fx.Node | None = None,
    cast: torch.dtype | None = None,
    **kwargs: Any,
) -> fx.Node:
    """Append a call at the insertion point (or just ``before`` a node), with its fake value and the provenance of ``like``.

    ``cast`` is the dtype that autocast gives the operands when the graph runs.
    """
    where = before.graph.inserting_before(before) if before is not None else contextlib.nullcontext()
    with where:
        node = gm.graph.call_function(target, args, kwargs)
    fakes = fx.map_arg((args, kwargs), lambda n: value(n) if cast is None else value(n).to(cast))
    mode = fake_mode(gm)
    with enable_python_dispatcher(), mode, autocast.disabled():  # sizes stay symbolic; dtypes are those of the operands
        node.meta["val"] = fake_result(target, *fakes)
    if like is not None:
        for key in ("nn_module_stack", "stack_trace"):
            if key in like.meta:
                node.meta[key] = like.meta[key]
        note(node, op=notes(like).op, origin=notes(like).origin)
    if any(notes(source).written and shares_memory(source, node) for source in node.all_input_nodes):
        note(node, written=True)
    return node


def emit_linear(gm: fx.GraphModule, x: fx.Node, weight: fx.Node, *bias: fx.Node, like: fx.Node, dtype: torch.dtype) -> fx.Node:
    """Emit a product whose result is in ``dtype``: under autocast, which casts the operands as the graph runs, another than theirs."""
    product = emit(gm, aten.linear.default, x, weight, *bias, like=like, cast=dtype)
    product.meta["val"] = product.meta["val"].to(dtype)
    return product


def substitute(old: fx.Node, new: fx.Node, but: fx.Node | None = None) -> None:
    """Let the readers of ``old`` (but for one) read ``new``; what the model writes to in place is marked so in the new memory too."""
    if notes(old).written:
        mark_memory(new)
    old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not but)


def mark_memory(node: fx.Node) -> None:
    """Mark ``node``, and what it is a view of, as written to in place."""
    todo = [node]
    while todo:
        item = todo.pop()
        note(item, written=True)
        todo += [source for source in item.all_input_nodes if not notes(source).written and shares_memory(source, item)]


def shares_memory(a: fx.Node, b: fx.Node) -> bool:
    """Return whether two nodes are known to share memory."""
    return not storages(a).isdisjoint(storages(b))


def storages(node: Any) -> set[int]:
    """Return what is equal for values that share memory; that of a DTensor is where what this process holds of it is."""
    leaves = [local(x) if is_dtensor(x) else x for x in tree_leaves(value(node))]
    return {x.untyped_storage()._cdata for x in leaves if isinstance(x, FakeTensor) and x.layout is torch.strided}


def placeholder(gm: fx.GraphModule, name: str, after: fx.Node) -> fx.Node:
    """Add an input, whose name gets a number where the model has that name already."""
    with gm.graph.inserting_after(after):
        node = gm.graph.placeholder(name)
    node.target = node.name  # the name of the argument in generated code: it must not be a variable of the model's
    return node


def fake_mode(gm: fx.GraphModule) -> Any:
    """Return the fake mode of the graph's values (or a null context where it holds no tensor)."""
    for node in gm.graph.nodes:
        if is_tensor(node) and hasattr(node.meta["val"], "fake_mode"):
            return node.meta["val"].fake_mode
    return contextlib.nullcontext()


@functools.cache
def is_pure(target: Any) -> bool:
    """Return whether a call of ``target`` gives equal results for equal arguments, writes nothing, and fits any shape."""
    if target is operator.getitem:
        return True
    if not isinstance(target, OpOverload) or target.namespace not in ("aten", "prims", "lowbit"):
        return False
    impure = {torch.Tag.nondeterministic_seeded, torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output, torch.Tag.inplace_view}
    uninitialised = "empty" in target._schema.name
    return not target._schema.is_mutable and not impure & set(target.tags) and not uninitialised


def is_constant(node: Any, parameters: Container[str]) -> bool:
    """Return whether ``node`` depends on nothing but parameters, through pure operations."""
    todo, seen = [node], set()
    while todo:
        item = todo.pop()
        if not isinstance(item, fx.Node) or notes(item).written:
            return False
        if item in seen:
            continue
        seen.add(item)
        if item.op == "placeholder":
            if item.name not in parameters:
                return False
        elif item.op == "call_function" and item.all_input_nodes and is_pure(item.target):
            todo.extend(item.all_input_nodes)
        else:
            return False
    return True


def constant_sources(node: fx.Node) -> list[fx.Node]:
    """Return the placeholders that the constant ``node`` is computed from, in graph order."""
    todo, seen = [node], {node}
    while todo:
        for item in todo.pop().all_input_nodes:
            if item not in seen:
                seen.add(item)
                todo.append(item)
    return sorted(item for item in seen if item.op == "placeholder")


def numel(shape: Iterable[Any]) -> Any:
    """Return the product of ``shape`` (1 for a scalar); symbolic sizes stay symbolic."""
    total: Any = 1
    for size in shape:
        total = total * size
    return total


def undisturbed(first: fx.Node, last: fx.Node, ours: Container[fx.Node]) -> bool:
    """Return whether nothing but ``ours`` writes to memory from ``first`` to ``last``, so that values read there may be read later."""
    node = first
    while node is not last:
        if notes(node).writes and node not in ours:
            return False
        node = node.next
    return True


def dead(gm: fx.GraphModule) -> set[fx.Node]:
    """Return the ATen and lowbit calls whose results nobody reads; Dynamo's own may have effects that fx cannot see."""
    ours = ("aten.", "lowbit.", "<built-in function getitem")
    unread: set[fx.Node] = set()
    for node in reversed(gm.graph.nodes):
        if node.op == "call_function" and unread.issuperset(node.users) and str(node.target).startswith(ours) and not _effects(node):
            unread.add(node)
    return unread


def _effects(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def erase_unused(nodes: Iterable[fx.Node]) -> None:
    """Erase those of ``nodes`` that nothing reads any more, readers first (fx cannot tell that Dynamo's calls have no effects)."""
    for node in sorted(set(nodes), reverse=True):
        if not node.users and node.op in ("call_function", "call_method"):
            node.graph.erase_node(node)


def bypass(graph: fx.Graph, idle: Callable[[fx.Node], bool]) -> None:
    """Let the readers of every ``idle`` node, which gives back its first argument, read that instead."""
    for node in graph.nodes:
        if idle(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def same(a: Any, b: Any) -> bool:
    """Return whether two sizes are known to be equal, without making it a condition of the compiled graph."""
    return a is b or statically_known_true(a == b)


def same_shape(a: Iterable[Any], b: Iterable[Any]) -> bool:
    """Return whether two shapes are known to be equal."""
    a, b = list(a), list(b)
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
