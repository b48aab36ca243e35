"""Inputs and dynamic shapes as users write them, and the names of dimensions and outputs in the file."""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument

from lowbit_compiler.errors import OptionError
from lowbit_compiler.torch_internals import trees

Structure = TypeVar("Structure")
Inputs = Tensor | Sequence[Any] | Mapping[str, Any]


def split_inputs(model: nn.Module, inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments: a tensor or sequence is positional, a mapping holds keywords, in the model's order.

    Each tensor is copied to memory of its own, in rows, as a reader of a file hands it over: the trace would merge inputs that share it.
    """
    if isinstance(inputs, Tensor):
        return apart((inputs,)), {}
    if isinstance(inputs, Mapping):
        order = [name for name in inspect.signature(model.forward).parameters if name in inputs]
        return (), apart({name: inputs[name] for name in dict.fromkeys([*order, *inputs])})
    if isinstance(inputs, Sequence) and not isinstance(inputs, str):
        return apart(tuple(inputs)), {}
    raise OptionError(f"inputs takes a tensor, a sequence of arguments or a mapping of keywords, got {type(inputs).__name__}")


def apart(values: Structure) -> Structure:
    """Return ``values`` with each tensor in memory of its own, in rows."""

    def copy(x: Tensor) -> Tensor:
        return x.detach().clone(memory_format=torch.contiguous_format) if x.layout is torch.strided else x

    copied: Structure = trees.tree_map_only(Tensor, copy, values)
    return copied


def _is_dimension(item: Any) -> bool:
    return item is None or isinstance(item, (str, int)) or type(item).__name__ in ("Dim", "_DimHint", "_StaticDim", "_DerivedDim")


def _is_shape(item: Any) -> bool:
    """Return whether ``item`` describes one tensor: {position: dimension}, or a dimension for each position."""
    if isinstance(item, Mapping):
        return bool(item) and all(isinstance(key, int) for key in item)
    return item is None or (isinstance(item, (list, tuple)) and bool(item) and all(map(_is_dimension, item)) and not _all_none(item))


def _all_none(item: Sequence[Any]) -> bool:
    return all(part is None for part in item)


def arguments(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments by the names of ``model.forward``, those of its ``**kwargs`` too; raises OptionError where they do not fit."""
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise OptionError(f"inputs do not fit {type(model).__name__}.forward{inspect.signature(model.forward)}: {error}") from None
    rest = _keywords(model)
    return {**{name: value for name, value in bound.arguments.items() if name != rest}, **bound.arguments.get(rest, {})}


def require_rows(given: dict[str, Any]) -> None:
    """Raise OptionError for inputs without rows: a first dimension of 0, or no element in any of them (a cache may be empty)."""
    tensors = [(name, leaf) for name, value in given.items() for leaf in trees.tree_leaves(value) if isinstance(leaf, Tensor)]
    filled = any(tensor.numel() for _, tensor in tensors)
    for name, tensor in tensors:
        if not tensor.numel() and (tensor.shape[0] == 0 or not filled):
            raise OptionError(f"inputs: {name!r} has the shape {tuple(tensor.shape)}, which holds nothing to run the model on; give rows")


def constants(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, str]:
    """Return what the arguments of ``model.forward``, defaults among them, hold beside tensors, as text: it is part of the exported graph."""
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    bound.apply_defaults()
    leaves, _ = trees.tree_flatten_with_path(dict(bound.arguments))
    return {".".join(map(_key, path)): repr(leaf) for path, leaf in leaves if leaf is None or isinstance(leaf, (bool, int, float, str))}


def _keywords(model: nn.Module) -> str:
    """Return the name of the parameter ``**name``, or ""."""
    parameters = inspect.signature(model.forward).parameters.values()
    return next((parameter.name for parameter in parameters if parameter.kind is parameter.VAR_KEYWORD), "")


def for_export(model: nn.Module, shapes: dict[str, Any]) -> Any:
    """Return the shapes of ``by_argument`` as torch.export takes them: a dimension given by its name alone may be any size."""
    if all(part is None for part in trees.tree_leaves(shapes)):
        return None
    if rest := [name for name in shapes if name not in inspect.signature(model.forward).parameters]:
        kind = type(model).__name__
        raise OptionError(
            f"dynamic_shapes: {kind}.forward takes {rest[0]!r} by **{_keywords(model)}, for which torch.export has no dynamic shapes; "
            f"export a module whose forward names {rest[0]!r}"
        )
    return trees.tree_map(lambda item: Dim.DYNAMIC if isinstance(item, str) else item, shapes)


def by_argument(given: dict[str, Any], dynamic_shapes: Any) -> dict[str, Any]:
    """Return ``dynamic_shapes`` for each of the arguments ``given``; raises OptionError for what they cannot mean."""
    if isinstance(dynamic_shapes, Mapping):
        if unknown := [name for name in dynamic_shapes if name not in given]:
            raise OptionError(f"dynamic_shapes: inputs have no argument {unknown[0]!r}; they have: {', '.join(given)}")
        shapes = {name: dynamic_shapes.get(name) for name in given}
    elif isinstance(dynamic_shapes, (list, tuple)) and len(dynamic_shapes) == len(given):
        shapes = dict(zip(given, dynamic_shapes, strict=True))
    elif dynamic_shapes is None:
        return dict.fromkeys(given)
    else:
        raise OptionError(
            f"dynamic_shapes takes a mapping by argument, or one entry for each of: {', '.join(given)}; got {dynamic_shapes!r}"
        )
    for name, value in given.items():
        for leaf, part in zip(trees.tree_leaves(value), parts(shapes[name], value), strict=True):
            _check(name, leaf, part)
    return shapes


def parts(shapes: Any, value: Any) -> list[Any]:
    """Return what ``shapes`` says of each leaf of ``value``: None where it does not have the same structure, which torch.export explains."""
    count = len(trees.tree_leaves(value))
    found = trees.tree_leaves(shapes, is_leaf=_is_shape) if shapes is not None else []
    return found if len(found) == count else [None] * count


def _check(argument: str, leaf: Any, part: Any) -> None:
    described = items(part)
    if not isinstance(leaf, Tensor):
        if part is not None and part != {} and not (described and _all_none(list(described.values()))):
            raise OptionError(
                f"dynamic_shapes: {argument!r} is no tensor but {leaf!r}, which is part of the exported graph; give None there"
            )
        return
    for axis, item in described.items():
        if not 0 <= axis < leaf.dim():
            raise OptionError(f"dynamic_shapes: {argument!r} has the shape {tuple(leaf.shape)}, no dimension {axis} counted from 0")
        if isinstance(item, str) and not item.isidentifier():
            raise OptionError(f"dynamic_shapes: a dimension's name is a word such as 'batch', got {item!r} for {argument!r}")


def dimension_names(given: dict[str, Any], shapes: dict[str, Any]) -> list[dict[int, str]]:
    """Return, for each leaf of the inputs in order, the names that its dimensions were given."""
    return [_names(part) for name, value in given.items() for part in parts(shapes[name], value)]


def without_ones(args: tuple[Any, ...], kwargs: dict[str, Any], given: dict[str, Any], shapes: dict[str, Any]) -> Any:
    """Return (args, kwargs) with each size of 1 that may change by ``shapes`` doubled; None where there is none.

    ``given`` are the same arguments by name, ``shapes`` what :func:`by_argument` returns for them.
    """
    leaves, spec = trees.tree_flatten((args, kwargs))
    described = [part for name, value in given.items() for part in parts(shapes[name], value)]
    if len(described) != len(leaves):
        return None
    doubled = [_doubled(leaf, part) if isinstance(leaf, Tensor) else leaf for leaf, part in zip(leaves, described, strict=True)]
    return trees.tree_unflatten(doubled, spec) if any(a is not b for a, b in zip(doubled, leaves, strict=True)) else None


def _doubled(leaf: Tensor, part: Any) -> Tensor:
    for axis, item in items(part).items():
        if leaf.shape[axis] == 1 and item is not None and item != Dim.STATIC and not isinstance(item, int):
            leaf = torch.cat([leaf, leaf], axis)
    return leaf


@dataclass(frozen=True)
class Traced:
    """A dimension that may change, and for which sizes the trace holds: the model's code may ask whether it is above or below some number."""

    where: str
    example: int
    least: int
    most: int | None

    @property
    def limited(self) -> bool:
        """Whether it holds for less than every size."""
        return self.least > 1 or self.most is not None

    def __str__(self) -> str:
        sizes = f"{self.least} to {self.most}" if self.most is not None else f"{self.least} on"
        return f"{self.where} was traced for sizes from {sizes}: the model's code asks about it, and may do otherwise for others"


def traced(program: ExportedProgram, given: dict[str, Any], shapes: dict[str, Any]) -> list[Traced]:
    """Return the dimensions that ``shapes`` says may change, but those which follow from others."""
    described = [(name, part) for name, value in given.items() for part in parts(shapes[name], value)]
    leaves = [leaf for value in given.values() for leaf in trees.tree_leaves(value)]
    found = []
    for node, leaf, (name, part) in zip(input_nodes(program, len(described)), leaves, described, strict=True):
        for axis, item in items(part).items():
            if node is None or not (_name(item) or item == Dim.DYNAMIC):
                continue
            size, now = node.meta["val"].shape[axis], leaf.shape[axis]
            expr = size.node.expr if isinstance(size, torch.SymInt) else size
            limits = program.range_constraints.get(expr)
            least, most = (limits.lower, limits.upper) if limits is not None else (now, now)
            if limits is not None or not getattr(expr, "free_symbols", None):
                found.append(Traced(f"dimension {axis} of {name!r}", now, int(least), int(most) if _is_number(most) else None))
    return found


def _is_number(bound: Any) -> bool:
    return bool(getattr(bound, "is_Integer", isinstance(bound, int)))


def input_nodes(program: ExportedProgram, count: int) -> list[fx.Node | None]:
    """Return the placeholder of each of the ``count`` leaves of the inputs; None for what is no tensor."""
    by_name = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    given = [spec.arg for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    found = [by_name.get(arg.name) if isinstance(arg, TensorArgument) else None for arg in given]
    return found if len(found) == count else [None] * count


def items(shape: Any) -> dict[int, Any]:
    """Return the dimensions that ``shape`` says of one tensor, by position."""
    return dict(shape if isinstance(shape, Mapping) else enumerate(shape if isinstance(shape, (list, tuple)) else ()))


def _names(shape: Any) -> dict[int, str]:
    return {position: name for position, item in items(shape).items() if (name := _name(item))}


def _name(item: Any) -> str:
    if isinstance(item, str):
        return item
    return str(item.__name__) if type(item).__name__ == "Dim" else ""


def output_names(program: ExportedProgram) -> list[str]:
    """Return a name for each output: its path in what the model returns (``logits``, ``past_key_values.0.key``)."""
    spec = program.call_spec.out_spec
    count = spec.num_leaves if spec is not None else 0
    try:
        tree = trees.tree_unflatten(list(range(count)), spec)
        paths = [path for path, _ in trees.tree_flatten_with_path(tree)[0]]
    except Exception:  # a container that only flattens
        return [f"output_{i}" for i in range(count)]
    names = [".".join(_key(key) for key in path) for path in paths]
    return [f"output_{name}" if name[:1].isdigit() else name or "output" for name in names]


def _key(key: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def parse_dynamic(texts: Sequence[str]) -> dict[str, dict[int, Any]] | None:
    """Return dynamic shapes from the command line's ``argument:axis=name,axis=name:largest``; raises OptionError."""
    shapes: dict[str, dict[int, Any]] = {}
    for text in texts:
        argument, colon, axes = text.partition(":")
        pairs = [pair.partition("=") for pair in axes.split(",")]
        if not colon or not all(axis.strip().isdecimal() and _DIMENSION.fullmatch(name) for axis, _, name in pairs):
            raise OptionError(f"--dynamic takes argument:axis=name,axis=name or, with a largest size, axis=name:size, got {text!r}")
        if argument in shapes:
            raise OptionError(f"--dynamic names {argument!r} twice; write {argument}:0=batch,1=length")
        shapes[argument] = {int(axis): _dimension(name) for axis, _, name in pairs}
    return shapes or None


_DIMENSION = re.compile(r"\s*[^\W\d]\w*(:[1-9]\d{0,8})?\s*")


def _dimension(text: str) -> Any:
    name, _, largest = text.strip().partition(":")
    return Dim(name, max=int(largest)) if largest else name
