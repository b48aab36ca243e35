"""Dynamo's spellings of the operations that the passes look at, and the ATen overload of each."""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from lowbit_compiler.torch_internals.dispatch import OpOverload

aten = torch.ops.aten

FUNCTIONS: dict[Any, Any] = {
    F.linear: aten.linear.default,
    torch.matmul: aten.matmul.default,
    operator.matmul: aten.matmul.default,
    operator.imatmul: aten.matmul.default,  # tensors have no in-place product: x @= w makes a new x
    torch.linalg.matmul: aten.matmul.default,
    torch.mm: aten.mm.default,
    torch.mv: aten.matmul.default,
    torch.dot: aten.matmul.default,
    torch.bmm: aten.bmm.default,
    torch.addmm: aten.addmm.default,
    torch.baddbmm: aten.baddbmm.default,
    F.softmax: aten.softmax.int,
    torch.softmax: aten.softmax.int,
    F.log_softmax: aten.log_softmax.int,
    torch.log_softmax: aten.log_softmax.int,
    torch.special.softmax: aten.softmax.int,
    torch.special.log_softmax: aten.log_softmax.int,
    F.scaled_dot_product_attention: aten.scaled_dot_product_attention.default,
    torch.conv1d: aten.conv1d.default,
    torch.conv2d: aten.conv2d.default,
    torch.conv3d: aten.conv3d.default,
    torch.conv_transpose1d: aten.conv_transpose1d.default,
    torch.conv_transpose2d: aten.conv_transpose2d.input,
    torch.conv_transpose3d: aten.conv_transpose3d.input,
}
METHODS: dict[str, Any] = {
    "matmul": aten.matmul.default,
    "__matmul__": aten.matmul.default,
    "mm": aten.mm.default,
    "mv": aten.matmul.default,
    "dot": aten.matmul.default,
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
OVERLOADS = frozenset(FUNCTIONS.values()) | {aten.convolution.default, aten._softmax.default, aten._log_softmax.default}
PACKETS: dict[Any, Any] = {overload.overloadpacket: overload for overload in OVERLOADS}  # torch.ops.aten.mm, called without its overload
PADDED: dict[Any, Any] = {  # padding="same"
    aten.conv1d.default: aten.conv1d.padding,
    aten.conv2d.default: aten.conv2d.padding,
    aten.conv3d.default: aten.conv3d.padding,
}
WRITING = ("addmm", "baddbmm", "addbmm", "addmv", "mm", "bmm", "mv", "matmul", "dot", "linear", "einsum", "tensordot", "inner")


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
    if overload is aten.matmul.default:  # mv and dot name their second operand otherwise
        kwargs = {"other" if name in ("mat2", "vec", "tensor") else name: arg for name, arg in kwargs.items()}
    if len(args) > positional or any(name not in names or name in names[: len(args)] for name in kwargs):
        return None
    for argument in overload._schema.arguments[len(args) : positional]:
        if argument.name in kwargs:
            args.append(kwargs.pop(argument.name))
        elif argument.has_default_value():
            args.append(argument.default_value)
        else:
            return None
    if overload in SOFTMAX and args[1] is None:
        return None  # the dimension that F.softmax guesses
    args = [_as_declared(argument, arg) for argument, arg in zip(overload._schema.arguments, args, strict=False)]
    defaults = {argument.name: argument.default_value for argument in overload._schema.arguments if argument.has_default_value()}
    while args and len(args) > 1 and names[len(args) - 1] in defaults and args[-1] == defaults[names[len(args) - 1]]:
        args.pop()  # the printed graph stays short
    return tuple(args), kwargs


def _as_declared(argument: torch.Argument, given: Any) -> Any:
    """Return what Python's spelling of an argument means to the schema: a number for a list stands for each of its elements."""
    number = isinstance(given, int) or (isinstance(given, fx.Node) and isinstance(given.meta.get("val"), int | torch.SymInt))
    count = getattr(argument, "N", None)  # of a list of that many
    return [given] * count if count is not None and number else given


def _einsum(node: fx.Node) -> bool:
    operands = node.args[1:] if len(node.args) > 2 else node.args[1]
    operands = operands if isinstance(operands, (list, tuple)) else (operands,)
    if node.kwargs or not isinstance(node.args[0], str):
        return False
    node.target, node.args = aten.einsum.default, (node.args[0], list(operands))
    return True


def _overload(node: fx.Node) -> Any:
    """Return the overload that computes what ``node`` calls, or None."""
    if node.op == "call_method":
        return METHODS.get(str(node.target))
    if node.op != "call_function":
        return None
    target = node.target
    overload = target if target in OVERLOADS else FUNCTIONS.get(target) or PACKETS.get(target)
    if overload in PADDED and any(isinstance(arg, str) for arg in (*node.args, *node.kwargs.values())):
        return PADDED[overload]
    return overload


def to_aten(node: fx.Node) -> bool:
    """Rename ``node`` in place to its ATen overload; False where the table has none or the arguments do not fit."""
    if node.op == "call_function" and node.target in (torch.einsum, aten.einsum, aten.einsum.default):
        return len(node.args) > 1 and _einsum(node)
    if node.op == "call_method" and node.target == "__rmatmul__":
        node.target, node.args = "matmul", tuple(reversed(node.args))
    overload = _overload(node)
    bound = _bound(node, overload) if overload is not None else None
    if bound is None:
        return False
    node.op, node.target = "call_function", overload
    node.args, node.kwargs = bound
    return True


def product_name(node: fx.Node) -> str:
    """Return the name of a product that writes its result in place or to ``out``; "" for any other call."""
    name = spelling(node)
    return name if name.partition(".")[0].rstrip("_") in WRITING else ""


def spelling(node: fx.Node) -> str:
    """Return the name that the report gives a call: the ATen op's, or Dynamo's own."""
    if isinstance(node.target, OpOverload):
        name = str(node.target._schema.name).removeprefix("aten::")
        return f"einsum {node.args[0]!r}" if name == "einsum" else name
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
