"""Other inputs than those of an export, made from them: what a file, or the traced program, took from the example as a constant shows on these.

Values are drawn from one seed. Sizes that may change are one or more larger (smaller at the end of their range), each name by another
number, so that two sizes which were equal by chance no longer are.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from lowbit_compiler.capture.shapes import input_nodes
from lowbit_compiler.exits.onnx.build import Request
from lowbit_compiler.passes.graph import aten, calls
from lowbit_compiler.torch_internals import trees

SEED = 0
FEW = 2  # integers that differ by less say little of what may be chosen
MOST = 2**63 - 1  # numbers that randint chooses from
HIDDEN = -1e4  # and below: what a float mask adds where nothing may be seen
SAME_VALUE = (
    aten.view.default, aten.reshape.default, aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.expand.default,
    aten.to.dtype, aten.to.device, aten._to_copy.default, aten.clone.default, aten.alias.default, aten.contiguous.default,
    aten.slice.Tensor,
)  # fmt: skip


def varied(request: Request, program: ExportedProgram, names: list[list[Any]] | None) -> Request:
    """Return ``request`` with other inputs, of the traced ``program``; of other sizes too, where there are ``names``.

    ``names`` are those of the dimensions of each input (a number where it stays): sizes under one name stay equal.

    Float values are drawn column by column (last dimension) from those of the example, times 0.5 to 1; a tensor of zeros becomes normal
    noise. Integers are drawn from the range of the example or, where that has fewer than three, from the rows of the embedding that
    they choose from. Masks (booleans, numbers that are 0 and 1, floats below -1e4) stay masks: rows of the example in another order, or,
    where all is visible, with ends that are not.
    """
    flat, spec = trees.tree_flatten((request.args, request.kwargs))
    nodes = input_nodes(program, len(flat))
    shapes = _shapes(program, nodes, flat, names) if names is not None else [tuple(x.shape) if isinstance(x, Tensor) else () for x in flat]
    generator = torch.Generator().manual_seed(SEED)
    leaves = [
        _drawn(x.cpu(), shape, _rows_chosen(node), generator).to(x.device) if isinstance(x, Tensor) else x
        for x, shape, node in zip(flat, shapes, nodes, strict=True)
    ]
    args, kwargs = trees.tree_unflatten(leaves, spec)
    return replace(request, args=args, kwargs=kwargs)


def _shapes(program: ExportedProgram, nodes: list[fx.Node | None], flat: list[Any], names: list[list[Any]]) -> list[tuple[int, ...]]:
    """Return other sizes that fit together, for each leaf: every symbol of the traced program gets another value."""
    pairs = [(x if node is None else node.meta["val"], x) for node, x in zip(nodes, flat, strict=True) if isinstance(x, Tensor)]
    traced, tensors = [tuple(val.shape) for val, _ in pairs], [x for _, x in pairs]
    values = _sizes(program, traced, tensors, names)
    if any(expr.free_symbols - set(values) for expr, _ in _symbolic(traced, tensors)):
        traced = [tuple(x.shape) for x in tensors]  # what belongs together cannot be told
    made = iter([tuple(_size(size, values) for size in shape) for shape in traced])
    return [next(made) if isinstance(x, Tensor) else () for x in flat]


def _size(size: Any, values: dict[Any, int]) -> int:
    return int(size.node.expr.subs(values)) if isinstance(size, torch.SymInt) else int(size)


def _sizes(program: ExportedProgram, traced: list[tuple[Any, ...]], tensors: list[Tensor], names: list[list[Any]]) -> dict[Any, int]:
    """Return another value for each symbol in the shapes ``traced``, as far as the example tells its own."""
    now: dict[Any, int] = {}
    for expr, size in _symbolic(traced, tensors):
        if expr.is_Symbol:
            now[expr] = size
    for expr, size in _symbolic(traced, tensors):  # such as 8 * s, where s is no size itself
        if len(free := expr.free_symbols - set(now)) == 1:
            symbol = free.pop()
            fitting = [value for value in range(size + 1) if expr.subs(now | {symbol: value}) == size]
            now.update(zip([symbol], fitting, strict=False))
    called = {expr: name for shape, own in zip(traced, names, strict=False) for expr, name in _named(shape, own)}
    chosen: dict[Any, int] = {}
    for symbol, value in now.items():
        chosen.setdefault(called.get(symbol, symbol), _other(value, len(chosen) + 1, program.range_constraints.get(symbol)))
    return {symbol: chosen[called.get(symbol, symbol)] for symbol in now}


def _named(shape: tuple[Any, ...], names: list[Any]) -> Iterator[tuple[Any, str]]:
    for size, name in zip(shape, names, strict=False):
        if isinstance(size, torch.SymInt) and isinstance(name, str):
            yield size.node.expr, name


def _symbolic(traced: list[tuple[Any, ...]], tensors: list[Tensor]) -> Iterator[tuple[Any, int]]:
    for shape, tensor in zip(traced, tensors, strict=True):
        for size, now in zip(shape, tensor.shape, strict=True):
            if isinstance(size, torch.SymInt):
                yield size.node.expr, now


def _other(value: int, more: int, limits: Any) -> int:
    """Return ``value + more``, or what is in the range ``limits`` and not ``value`` where that is not."""
    for other in (value + more, value + 1, value - 1):
        if other >= 1 and (limits is None or limits.lower <= other <= limits.upper):
            return other
    return value


def _rows_chosen(node: fx.Node | None) -> int | None:
    """Return the rows of the smallest embedding that the input ``node`` chooses from, as it is."""
    found: list[int] = []
    reached = [] if node is None else [node]
    for each in reached:
        for user in each.users:
            if calls(user, aten.embedding.default) and user.args[1] is each and isinstance(user.args[0], fx.Node):
                found.append(int(user.args[0].meta["val"].shape[0]))
            elif user.target in SAME_VALUE and user not in reached:
                reached.append(user)
    return min(found, default=None)


def _drawn(x: Tensor, shape: tuple[int, ...], rows: int | None, generator: torch.Generator) -> Tensor:
    """Return other values like those of ``x`` in the shape ``shape``; ``rows``: of the embedding that they choose from."""
    wide = _fitted(x, shape)
    if not wide.numel() or wide.is_complex():
        return wide
    if wide.is_floating_point():
        return _floats(wide, generator)
    whole = wide.long()  # also of booleans, and of unsigned integers, for which torch has little
    least, largest = int(whole.min()), int(whole.max())
    if rows is not None and largest - least < FEW:
        least, largest = 0, rows - 1
    elif 0 <= least and largest <= 1:
        return _mask(whole, generator).to(x.dtype)
    return (torch.randint(min(largest - least + 1, MOST), shape, generator=generator) + least).to(x.dtype)


def _floats(x: Tensor, generator: torch.Generator) -> Tensor:
    if bool((x <= HIDDEN).any()):
        return _reordered(x, generator)
    if not x.any():
        return torch.randn(x.shape, generator=generator).to(x.dtype)
    if bool(((x == 0) | (x == 1)).all()):
        return _mask(x, generator)
    table = x.reshape(-1, x.shape[-1] if x.dim() else 1)
    rows = torch.randint(0, table.shape[0], table.shape, generator=generator)
    factors = torch.rand(table.shape, generator=generator) / 2 + 0.5
    return (table.gather(0, rows) * factors.to(x.dtype)).reshape(x.shape)


def _fitted(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return ``x`` repeated or cut to ``shape``."""
    for axis, size in enumerate(shape):
        if size != x.shape[axis]:
            if x.shape[axis] == 0:
                return x.new_zeros(shape)
            x = x.index_select(axis, torch.arange(size) % x.shape[axis])
    return x


def _mask(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return a mask like ``x``, whose values are 0 and 1."""
    if x.dim() == 0 or not bool((x == 1).all()):
        return _reordered(x, generator)
    width = x.shape[-1]
    ends = torch.randint((width + 1) // 2, width + 1, x.shape[:-1], generator=generator)
    return x.masked_fill(torch.arange(width) >= ends.unsqueeze(-1), 0)


def _reordered(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return rows (first dimension) of ``x`` drawn from its own: none is in it that the example does not have."""
    return x if x.dim() < 2 else x.index_select(0, torch.randint(0, x.shape[0], (x.shape[0],), generator=generator))
