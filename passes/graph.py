"""Small questions about fx nodes, asked by more than one pass."""

import contextlib
import functools
import operator
from collections.abc import Callable, Container, Iterable
from typing import Any

import torch
from torch import Tensor, fx

from lowbit_compiler.torch_internals import autocast
from lowbit_compiler.torch_internals.dispatch import OpOverload, enable_python_dispatcher
from lowbit_compiler.torch_internals.shapes import statically_known_true

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


def emit(
    gm: fx.GraphModule, target: Callable[..., Any], *args: Any, like: fx.Node | None = None, before: fx.Node | None = None, **kwargs: Any
) -> fx.Node:
    """Append a call at the insertion point (or just ``before`` a node), with its fake value and the provenance of ``like``."""
    where = before.graph.inserting_before(before) if before is not None else contextlib.nullcontext()
    with where:
        node = gm.graph.call_function(target, args, kwargs)
    fakes = fx.map_arg((args, kwargs), value)
    mode = fake_mode(gm)
    with enable_python_dispatcher(), mode, autocast.disabled():  # sizes stay symbolic; dtypes are those of the operands
        node.meta["val"] = target(*fakes[0], **fakes[1])
    if like is not None:
        for key in ("nn_module_stack", "stack_trace", "lowbit_op"):
            if key in like.meta:
                node.meta[key] = like.meta[key]
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
        if not isinstance(item, fx.Node) or item.meta.get("lowbit_written"):
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


MOST_VIEWS = 8  # in a row, before a dense copy is the simpler answer


def takes_strided(user: fx.Node, old: fx.Node, new: fx.Node) -> bool:
    """Return whether ``user`` accepts the strides of ``new`` in place of those of ``old`` (a view may not), and what reads its result too."""
    return same_shape(value(old).stride(), value(new).stride()) or _accepts(user, old, value(new), MOST_VIEWS)


def _accepts(user: fx.Node, old: fx.Node, new: Any, depth: int) -> bool:
    if user.op == "output" or depth == 0:
        return False  # the caller may rely on a dense result
    arguments = fx.map_arg((user.args, user.kwargs), lambda n: new if n is old else value(n))
    try:
        with new.fake_mode:
            if user.op == "call_method":
                result = getattr(arguments[0][0], str(user.target))(*arguments[0][1:], **arguments[1])
            else:
                result = user.target(*arguments[0], **arguments[1])  # type: ignore[operator]
    except Exception:  # a view that strides forbid, or a call that cannot be tried like this: a dense tensor fits any
        return False
    if not isinstance(result, Tensor) or not is_tensor(user):
        return not isinstance(result, tuple | list)  # parts of a tensor: their readers are not followed
    if same_shape(result.stride(), value(user).stride()):
        return True
    return all(_accepts(reader, user, result, depth - 1) for reader in user.users)


def as_dense(gm: fx.GraphModule, old: fx.Node, new: fx.Node) -> fx.Node:
    """Return ``new``, or a dense copy of it where a user of ``old`` needs the memory order that it had."""
    if all(takes_strided(user, old, new) for user in old.users):
        return new
    return emit(gm, aten.contiguous.default, new, like=old)


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
        if node.meta.get("lowbit_writes") and node not in ours:
            return False
        node = node.next
    return True


def erase_unused(nodes: Iterable[fx.Node]) -> None:
    """Erase those of ``nodes`` that nothing reads any more, readers first (fx cannot tell that Dynamo's calls have no effects)."""
    for node in sorted(set(nodes), reverse=True):
        if not node.users and node.op in ("call_function", "call_method"):
            node.graph.erase_node(node)


def same(a: Any, b: Any) -> bool:
    """Return whether two sizes are known to be equal, without making it a condition of the compiled graph."""
    return a is b or statically_known_true(a == b)


def same_shape(a: Iterable[Any], b: Iterable[Any]) -> bool:
    """Return whether two shapes are known to be equal."""
    a, b = list(a), list(b)
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
