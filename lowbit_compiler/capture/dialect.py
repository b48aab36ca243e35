"""Dynamo's spellings of the operations that the passes look at, and the ATen overload of each."""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

aten = torch.ops.aten

FUNCTIONS: dict[Any, Any] = {
    F.linear: aten.linear.default,
    torch.matmul: aten.matmul.default,
    operator.matmul: aten.matmul.default,
    torch.mm: aten.mm.default,
    torch.bmm: aten.bmm.default,
    torch.addmm: aten.addmm.default,
    torch.baddbmm: aten.baddbmm.default,
    F.softmax: aten.softmax.int,
    torch.softmax: aten.softmax.int,
    F.log_softmax: aten.log_softmax.int,
    torch.log_softmax: aten.log_softmax.int,
    F.scaled_dot_product_attention: aten.scaled_dot_product_attention.default,
    torch.conv1d: aten.conv1d.default,
    torch.conv2d: aten.conv2d.default,
    torch.conv3d: aten.conv3d.default,
}
METHODS: dict[str, Any] = {
    "matmul": aten.matmul.default,
    "__matmul__": aten.matmul.default,
    "mm": aten.mm.default,
    "bmm": aten.bmm.default,
    "addmm": aten.addmm.default,
    "baddbmm": aten.baddbmm.default,
    "softmax": aten.softmax.int,
    "log_softmax": aten.log_softmax.int,
}
SOFTMAX = (aten.softmax.int, aten.log_softmax.int)
PRODUCTS = (
    aten.linear.default, aten.matmul.default, aten.mm.default, aten.bmm.default,
    aten.addmm.default, aten.baddbmm.default, aten.einsum.default,
)  # fmt: skip


def _bound(node: fx.Node, overload: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return the call's arguments in the overload's own order, or None where they do not fit its schema."""
    names = [argument.name for argument in overload._schema.arguments]
    positional = sum(not argument.kwarg_only for argument in overload._schema.arguments)
    args = list(node.args)
    kwargs = {"self" if name == "input" and "input" not in names else name: arg for name, arg in node.kwargs.items()}
    if overload in SOFTMAX:
        kwargs.pop("_stacklevel", None)
        if len(args) > 2 and node.target in (F.softmax, F.log_softmax):
            del args[2]  # F.softmax(input, dim, _stacklevel, dtype)
    if len(args) > positional or any(name not in names or name in names[: len(args)] for name in kwargs):
        return None
    for argument in overload._schema.arguments[len(args) : positional]:
        if argument.name in kwargs:
            args.append(kwargs.pop(argument.name))
        elif argument.has_default_value():
            args.append(argument.default_value)
        else:
            return None
    defaults = {argument.name: argument.default_value for argument in overload._schema.arguments if argument.has_default_value()}
    while args and len(args) > 1 and names[len(args) - 1] in defaults and args[-1] == defaults[names[len(args) - 1]]:
        args.pop()  # the printed graph stays short
    return tuple(args), kwargs


def to_aten(node: fx.Node) -> bool:
    """Rename ``node`` in place to its ATen overload; False where the table has none or the arguments do not fit."""
    if node.op == "call_function" and node.target in (torch.einsum, aten.einsum.default):
        operands = node.args[1:] if len(node.args) > 2 else node.args[1]
        operands = operands if isinstance(operands, (list, tuple)) else (operands,)
        if node.kwargs or not isinstance(node.args[0], str):
            return False
        node.target, node.args = aten.einsum.default, (node.args[0], list(operands))
        return True
    if node.op == "call_function":
        overload = FUNCTIONS.get(node.target)
    elif node.op == "call_method":
        overload = METHODS.get(str(node.target))
    else:
        return False
    bound = _bound(node, overload) if overload is not None else None
    if bound is None:
        return False
    node.op, node.target = "call_function", overload
    node.args, node.kwargs = bound
    return True
