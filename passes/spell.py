"""The many spellings of one operation: operator.mul, torch.mul, Tensor.mul and aten.mul are all "mul"."""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from lowbit_compiler.passes.contract import FLOATS
from lowbit_compiler.passes.graph import is_tensor, value
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.torch_internals.dispatch import OpOverload

NAMES = frozenset({
    "add", "sub", "mul", "div", "exp", "log", "sum", "amax", "max", "logsumexp", "detach",
    "silu", "gelu", "relu", "layer_norm", "rms_norm", "pow", "square", "mean", "rsqrt", "sin", "cos",
    "where", "masked_fill", "full", "full_like", "dropout", "matmul", "bmm",
    "transpose", "permute", "mT", "unsqueeze", "expand", "reshape", "repeat_interleave", "contiguous", "getitem",
    "to", "type", "type_as", "float", "half", "bfloat16", "_to_copy",
})  # fmt: skip
ALIASES = {
    "subtract": "sub", "multiply": "mul", "divide": "div", "true_divide": "div", "truediv": "div", "special_logsumexp": "logsumexp",
    "swapaxes": "transpose", "swapdims": "transpose", "view": "reshape", "_unsafe_view": "reshape",
}  # fmt: skip
IN_PLACE = {"iadd": "add", "imul": "mul", "itruediv": "div", "add_": "add", "mul_": "mul", "div_": "div", "masked_fill_": "masked_fill"}
CASTS = ("to", "type", "type_as", "float", "half", "bfloat16", "_to_copy")
FUNCTIONS: dict[Any, str] = {
    getattr(module, alias): name
    for module in (torch, torch.special, F, operator)
    for alias, name in {**{name: name for name in NAMES}, **ALIASES}.items()
    if name and callable(getattr(module, alias, None))
}
FUNCTIONS |= {operator.iadd: "iadd", operator.imul: "imul", operator.itruediv: "itruediv"}


def raw_name(node: Any) -> str:
    """Return the canonical name of what ``node`` calls, in-place calls under their own name; "" for what nobody asks about."""
    if not isinstance(node, fx.Node) or not node.args:
        return ""  # a call with keywords alone: rare, and nobody below looks for its tensors there
    if node.op == "call_method":
        name = str(node.target)
    elif node.op != "call_function":
        return ""
    elif isinstance(node.target, OpOverload):
        namespace, _, name = node.target._schema.name.partition("::")
        if namespace != "aten":
            return ""
    elif node.target is getattr:
        name = str(node.args[1])
    else:
        return FUNCTIONS.get(node.target, "")
    name = ALIASES.get(name, name)
    return name if name in NAMES or name in IN_PLACE else ""


def name_of(node: Any) -> str:
    """Return the canonical name of the operation that ``node`` computes without writing to an operand; else ""."""
    name = raw_name(node)
    return "" if name in IN_PLACE else name


def argument(node: fx.Node, position: int, keyword: str, default: Any = None) -> Any:
    """Return an argument given by position or by name."""
    return node.args[position] if position < len(node.args) else node.kwargs.get(keyword, default)


def number(x: Any) -> float | None:
    """Return a Python number, also from a tensor filled with one; None for anything else."""
    if name_of(x) in ("full", "full_like"):
        if notes(x).written:
            return None
        x = argument(x, 1, "fill_value")
    return float(x) if isinstance(x, int | float) and not isinstance(x, bool) else None


def scaled(node: Any) -> tuple[fx.Node, float] | None:
    """Return (tensor, factor) where ``node`` multiplies or divides a tensor by a number."""
    name = IN_PLACE.get(raw_name(node), raw_name(node))
    if name not in ("mul", "div") or len(node.args) != 2 or node.kwargs:
        return None
    x, factor = node.args
    if name == "mul" and not is_tensor(x):
        x, factor = factor, x
    if not is_tensor(x) or not isinstance(factor, int | float) or isinstance(factor, bool) or value(x).dtype not in FLOATS:
        return None
    if name == "div":
        return (x, 1 / factor) if factor else None
    return x, float(factor)


def cast(node: Any) -> fx.Node | None:
    """Return the tensor that ``node`` converts to another floating dtype (or to its own)."""
    if name_of(node) not in CASTS or not is_tensor(node) or not is_tensor(node.args[0]):
        return None
    x, y = value(node.args[0]), value(node)
    return node.args[0] if x.dtype in FLOATS and y.dtype in FLOATS and x.device == y.device else None


def widened(node: Any) -> fx.Node | None:
    """Return the tensor below a conversion that loses nothing."""
    x = cast(node)
    if x is None or value(x).dtype not in (
        value(node).dtype,
        *((torch.bfloat16, torch.float16) if value(node).dtype is torch.float32 else ()),
    ):
        return None
    return x


def idle_dropout(node: Any) -> fx.Node | None:
    """Return the tensor below a dropout that does nothing."""
    if name_of(node) != "dropout":
        return None
    positions = (1, "p", 0.5), (2, "training" if node.target is F.dropout else "train", True)
    p, training = (argument(node, *position) for position in positions)
    written = argument(node, 3, "inplace", False)
    return node.args[0] if (p == 0 or training is False) and not written and is_tensor(node.args[0]) else None


def untransposed(node: Any) -> fx.Node | None:
    """Return the tensor whose last two dimensions ``node`` swaps."""
    name = name_of(node)
    if name not in ("transpose", "permute", "mT") or not is_tensor(node):
        return None
    x, dim = node.args[0], value(node).dim()
    swapped = [*range(dim - 2), dim - 1, dim - 2]
    if name == "mT":
        return x  # type: ignore[no-any-return]
    if name == "permute":
        order = node.args[1] if len(node.args) == 2 and isinstance(node.args[1], list | tuple) else node.args[1:]
        return x if [d % dim for d in order] == swapped else None
    dims = (argument(node, 1, "dim0"), argument(node, 2, "dim1"))
    return x if all(isinstance(d, int) for d in dims) and {d % dim for d in dims} == {dim - 2, dim - 1} else None
