"""A convolution whose windows lie side by side, as the patch embedding of a vision transformer, is a linear between two permutations."""

import itertools
from collections.abc import Container
from typing import Any

from torch import fx

from lowbit_compiler.passes.graph import aten, emit, emit_linear, is_constant, is_tensor, numel, value

SPATIAL: dict[Any, int] = {
    aten.conv1d.default: 1, aten.conv1d.padding: 1, aten.conv2d.default: 2, aten.conv2d.padding: 2, aten.conv3d.default: 3, aten.conv3d.padding: 3,
}  # fmt: skip
"""Convolutions of this kind, and their spatial dimensions."""


def obstacle(node: fx.Node, parameters: Container[str]) -> str | None:
    """Return why a convolution is no product of patches; None for one that is."""
    count = SPATIAL.get(node.target)
    if count is None:
        return "is transposed, or called by an op of torch's own"
    x, weight, bias, stride, padding, dilation, groups = _arguments(node)
    if not is_constant(weight, parameters):
        return "has a weight that is not a parameter"
    shape, kernel = value(x).shape, tuple(value(weight).shape[2:])
    spatial = tuple(shape[2:])
    for wrong, reason in (
        (bias is not None and not is_constant(bias, parameters), "has a bias that is not a parameter"),
        (len(shape) != count + 2, f"has an input of {len(shape)} dimensions, without a batch"),
        (groups != 1, f"has {groups} groups"),
        (any(one != 1 for one in dilation), f"has dilation {dilation}"),
        (stride != kernel, f"has stride {stride}, and its kernel is {kernel}"),
        (any(padding), f"has padding {padding}"),
        (numel(kernel) == 1, "is of single elements: a product would copy its input and its result"),
        (not all(isinstance(size, int) for size in (*shape[1:], *value(weight).shape)), f"has an input of unknown sizes {spatial}"),
    ):
        if wrong:
            return reason
    if any(size % one for size, one in zip(spatial, kernel, strict=True)):
        return f"has an input {spatial} that is no multiple of its kernel {kernel}"
    return None


def convolution_as_linear(gm: fx.GraphModule, node: fx.Node, parameters: Container[str]) -> fx.Node | None:
    """Return the linear that computes ``node``, or None where it is none.

    Before::

        %y = aten.conv2d(%x, %w, %bias, [p, q], ...)      # x [B, C, H, W], w [N, C, p, q]

    After::

        %r = aten.reshape(%x, [B, C, H / p, p, W / q, q])
        %m = aten.permute(%r, [0, 2, 4, 1, 3, 5])
        %k = aten.reshape(%m, [B, H / p, W / q, C p q])
        %f = aten.reshape(%w, [N, C p q])
        %l = aten.linear(%k, %f, %bias)                   # [B, H / p, W / q, N]
        %y = aten.permute(%l, [0, 3, 1, 2])
    """
    if not all(map(is_tensor, node.args[:2])) or obstacle(node, parameters) is not None:
        return None
    x, weight, bias, *_ = _arguments(node)
    (batch, channels, *spatial), (n, _, *kernel) = value(x).shape, value(weight).shape
    count, k = len(kernel), channels * numel(kernel)
    if not isinstance(batch, int):
        batch = emit(gm, aten.sym_size.int, x, 0, like=node)
    patches = [size // one for size, one in zip(spatial, kernel, strict=True)]
    cut = emit(gm, aten.reshape.default, x, [batch, channels, *itertools.chain(*zip(patches, kernel, strict=True))], like=node)
    order = [0, *range(2, 2 * count + 2, 2), 1, *range(3, 2 * count + 2, 2)]
    rows = emit(gm, aten.reshape.default, emit(gm, aten.permute.default, cut, order, like=node), [batch, *patches, k], like=node)
    matrix = emit(gm, aten.reshape.default, weight, [n, k], like=node)
    product = emit_linear(gm, rows, matrix, *([] if bias is None else [bias]), like=node, dtype=value(node).dtype)
    return emit(gm, aten.permute.default, product, [0, count + 1, *range(1, count + 1)], like=node)


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    """Return input, weight, bias, stride, padding, dilation and groups; lists as tuples of the kernel's length, padding "valid" as zeros."""
    count = SPATIAL[node.target]
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    defaults = (None, None, None, [1], [0], [1], 1)
    given = dict(zip(names, defaults, strict=True)) | dict(zip(names, node.args, strict=False)) | node.kwargs
    values = [given[name] for name in names]
    if isinstance(values[4], str):
        values[4] = [0 if values[4] == "valid" else values[4]]
    for at in (3, 4, 5):
        each = values[at] if isinstance(values[at], list | tuple) else [values[at]]
        values[at] = tuple(each) * (count if len(each) == 1 else 1)
    return tuple(values)
