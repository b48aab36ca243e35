"""The memory of a result: a reader that sees strides, offset or storage gets those that the model's own op would have given it."""

import re
from typing import Any

import torch
from torch import Tensor, fx

from lowbit_compiler.passes.calls import hint
from lowbit_compiler.passes.graph import aten, emit, fake_mode, same, same_shape, storages, value
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.torch_internals.dispatch import TorchDispatchMode, enable_python_dispatcher
from lowbit_compiler.torch_internals.shapes import unmarked

MOST_VIEWS = 8  # in a row, before a copy is the simpler answer
NAMESPACES = ("aten", "prims", "prim", "lowbit")
MEMORY = re.compile(r"(^|_)(as_strided|set|resize|stride|strides|storage|offset)(_|$)")
"""Words in the names of the ops that address memory themselves; every other op of torch's own reads elements by their index."""


def laid_out(gm: fx.GraphModule, new: fx.Node, old: fx.Node) -> fx.Node:
    """Return what takes the place of ``old``: ``new``, or a copy of it in the memory order of ``old`` where a reader may tell the two apart.

    Raises ValueError where the memory of ``old`` has gaps or overlaps, and no copy can be like it.
    """
    if all(reads_elements(gm, user, old, new) for user in old.users):
        return new
    if any(map(_turns_in_place, old.users)):  # t_ and its like changed the known value: products, as they are made, are contiguous
        return emit(gm, aten.clone.default, new, like=old, memory_format=torch.contiguous_format)
    was = value(old)
    order = sorted(range(was.dim()), key=lambda dim: -hint(was.stride(dim)))
    step: Any = 1
    for dim in reversed(order):
        if not same(was.shape[dim], 1) and not same(was.stride(dim), step):
            raise ValueError(f"{old.format_node()} has strides {tuple(was.stride())}, which no copy has")
        step = step * (max(was.shape[dim], 1) if isinstance(was.shape[dim], int) else was.shape[dim])
    if order == sorted(order):
        return emit(gm, aten.clone.default, new, like=old, memory_format=torch.contiguous_format)
    turned = emit(gm, aten.permute.default, new, order, like=old)
    copied = emit(gm, aten.clone.default, turned, like=old, memory_format=torch.contiguous_format)
    return emit(gm, aten.permute.default, copied, [order.index(dim) for dim in range(len(order))], like=old)


def reads_elements(gm: fx.GraphModule, user: fx.Node, old: fx.Node, new: fx.Node) -> bool:
    """Return whether ``user``, and whoever reads a view of what it is given, gets the same from ``new`` as from ``old``.

    Shown by running it on fake values: only ops that read elements by their index are let through, so an op of somebody's own, the caller
    of the graph, and as_strided are not.
    """
    return _same_memory(value(new), value(old)) or _accepts(gm, user, old, value(old), value(new), MOST_VIEWS)


def _turns_in_place(user: fx.Node) -> bool:
    packet = getattr(aten, str(user.target), None) if user.op == "call_method" else None
    return packet is not None and torch.Tag.inplace_view in getattr(packet, packet.overloads()[0]).tags


class _Elements(TorchDispatchMode):
    """Stops, before it runs, every op that may look at memory."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, _, name = func._schema.name.partition("::")
        if namespace not in NAMESPACES or MEMORY.search(name) or torch.Tag.inplace_view in func.tags:
            raise TypeError(f"{name} may look at memory")
        if func in (aten.view.default, aten._unsafe_view.default):
            x, shape = args  # torch's fake view takes strides that the real one refuses beside a dimension of size 1
            x.squeeze([dim for dim, size in enumerate(x.shape) if isinstance(size, int) and size == 1]).view(shape)
        return func(*args, **(kwargs or {}))


def _accepts(gm: fx.GraphModule, user: fx.Node, old: fx.Node, was: Any, new: Any, depth: int) -> bool:
    """Return whether ``user`` makes the same of ``new`` as of ``was``, both values of ``old``.

    It is run on both: what the graph notes of ``user`` may be a view of an older value of ``old`` than ``was``.
    """
    if user.op == "output" or depth == 0:
        return False  # the caller may rely on what it gets
    try:
        mode = fake_mode(gm)
        with torch.no_grad(), enable_python_dispatcher(), mode, unmarked(mode), _Elements():
            expected, result = (_run(user, old, given) for given in (was, new))
    except Exception:  # a view that strides forbid, an op that may look at memory, or a call that cannot be tried like this
        return False
    written = notes(old).written or notes(user).written
    if written and storages(result).isdisjoint(storages(new)) != storages(expected).isdisjoint(storages(was)):
        return False  # reshape and its like: a copy of the one and a view of the other, and somebody writes to it
    return _same(result, expected) or (
        isinstance(result, Tensor | tuple | list) and all(_accepts(gm, reader, user, expected, result, depth - 1) for reader in user.users)
    )


def _run(user: fx.Node, old: fx.Node, given: Any) -> Any:
    """Return what ``user`` makes of ``given`` in the place of ``old``."""
    args, kwargs = fx.map_arg((user.args, user.kwargs), lambda n: given if n is old else value(n))
    if user.op == "call_method":
        return getattr(args[0], str(user.target))(*args[1:], **kwargs)
    return user.target(*args, **kwargs)  # type: ignore[operator]


def _same(a: Any, b: Any) -> bool:
    """Return whether two results are the same to all readers."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and _same_memory(a, b)
    if isinstance(a, tuple | list):
        return isinstance(b, tuple | list) and len(a) == len(b) and all(map(_same, a, b))
    return a is b or (isinstance(a, int | torch.SymInt) and isinstance(b, int | torch.SymInt) and same(a, b))


def _same_memory(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors of one shape lie the same way, each in a storage of the same size."""
    if not same_shape(a.stride(), b.stride()) or not same(a.storage_offset(), b.storage_offset()):
        return False
    return a.dtype is b.dtype and same(a.untyped_storage().nbytes(), b.untyped_storage().nbytes())
