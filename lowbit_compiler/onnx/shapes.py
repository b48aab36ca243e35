"""Inputs and dynamic shapes as users write them, and the names of dimensions and outputs in the file."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from lowbit_compiler.errors import OptionError

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]


def split_inputs(model: nn.Module, inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments: a tensor or sequence is positional, a mapping holds keywords, in the model's order."""
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        order = [name for name in inspect.signature(model.forward).parameters if name in inputs]
        return (), {name: inputs[name] for name in dict.fromkeys([*order, *inputs])}
    if isinstance(inputs, Sequence) and not isinstance(inputs, str):
        return tuple(inputs), {}
    raise OptionError(f"inputs takes a tensor, a sequence of arguments or a mapping of keywords, got {type(inputs).__name__}")


def _is_dimension(item: Any) -> bool:
    return item is None or isinstance(item, (str, int)) or type(item).__name__ in ("Dim", "_DimHint", "_StaticDim", "_DerivedDim")


def _is_shape(item: Any) -> bool:
    """Return whether ``item`` describes one tensor: {position: dimension}, or a dimension for each position."""
    if isinstance(item, Mapping):
        return bool(item) and all(isinstance(key, int) for key in item)
    return item is None or (isinstance(item, (list, tuple)) and bool(item) and all(map(_is_dimension, item)) and not _all_none(item))


def _all_none(item: Sequence[Any]) -> bool:
    return all(part is None for part in item)


def for_export(dynamic_shapes: Any) -> Any:
    """Return ``dynamic_shapes`` as torch.export takes them: a dimension given by its name alone may be any size."""
    return pytree.tree_map(lambda item: Dim.DYNAMIC if isinstance(item, str) else item, dynamic_shapes)


def dimension_names(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any) -> list[dict[int, str]]:
    """Return, for each leaf of the inputs in order, the names that its dimensions were given; empty where that cannot be told."""
    if not dynamic_shapes:
        return []
    if isinstance(dynamic_shapes, Mapping):
        arguments = inspect.signature(model.forward).bind(*args, **kwargs).arguments
        given = {name: value for name, value in arguments.items() if name not in kwargs or kwargs[name] is value}
        ordered = [dynamic_shapes.get(name) for name in (*given, *(name for name in kwargs if name not in given))]
        values = [given.get(name, kwargs.get(name)) for name in (*given, *(name for name in kwargs if name not in given))]
    else:
        ordered, values = list(dynamic_shapes), [*args, *kwargs.values()]
    names: list[dict[int, str]] = []
    for shapes, value in zip(ordered, values, strict=False):
        leaves = len(pytree.tree_leaves(value))
        parts = pytree.tree_leaves(shapes, is_leaf=_is_shape) if shapes is not None else []
        names += [_names(part) for part in parts] if len(parts) == leaves else [{}] * leaves
    return names


def _names(shape: Any) -> dict[int, str]:
    items = shape.items() if isinstance(shape, Mapping) else enumerate(shape or ())
    return {position: name for position, item in items if (name := _name(item))}


def _name(item: Any) -> str:
    if isinstance(item, str):
        return item
    return str(item.__name__) if type(item).__name__ == "Dim" else ""


def output_names(program: ExportedProgram) -> list[str]:
    """Return a name for each output: its path in what the model returns (``logits``, ``past_key_values.0.key``)."""
    spec = program.call_spec.out_spec
    count = spec.num_leaves if spec is not None else 0
    try:
        tree = pytree.tree_unflatten(list(range(count)), spec)
        paths = [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    except Exception:  # a container that only flattens
        return [f"output_{i}" for i in range(count)]
    names = [".".join(_key(key) for key in path) for path in paths]
    return [f"output_{name}" if name[:1].isdigit() else name or "output" for name in names]


def _key(key: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def parse_dynamic(texts: Sequence[str], model: Any, inputs: Sequence[Any]) -> dict[str, dict[int, str] | None] | None:
    """Return dynamic shapes from the command line's ``argument:axis=name,axis=name``; raises OptionError."""
    if not texts:
        return None
    arguments = list(inspect.signature(model.forward).bind(*inputs).arguments)
    shapes: dict[str, dict[int, str] | None] = dict.fromkeys(arguments)
    for text in texts:
        argument, colon, axes = text.partition(":")
        pairs = [pair.partition("=") for pair in axes.split(",")]
        if not colon or not all(axis.strip().isdecimal() and name.strip().isidentifier() for axis, _, name in pairs):
            raise OptionError(f"--dynamic takes argument:axis=name,axis=name, got {text!r}")
        if argument not in shapes:
            raise OptionError(f"--dynamic: the model has no argument {argument!r}; it takes: {', '.join(arguments)}")
        shapes[argument] = {int(axis): name.strip() for axis, _, name in pairs}
    return shapes
