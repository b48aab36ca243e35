"""Between which sizes each input may change: readers that choose kernels beforehand must know."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.export import Dim

from lowbit_compiler.capture.shapes import items, parts
from lowbit_compiler.errors import OptionError
from lowbit_compiler.torch_internals import trees

UNBOUNDED = 1 << 31
"""torch has this or more as the largest size of a dimension that was given none; no reader takes so large a one."""


@dataclass(frozen=True)
class Limits:
    """The sizes of one tensor: the least, those of the example, and the largest."""

    least: tuple[int, ...]
    example: tuple[int, ...]
    most: tuple[int, ...]

    @property
    def dynamic(self) -> bool:
        """Whether any of them may change."""
        return self.least != self.most


def limits(given: dict[str, Any], shapes: dict[str, Any]) -> list[Limits]:
    """Return the limits of each tensor in ``given``, in order.

    ``given`` are arguments by name, ``shapes`` what :func:`shapes.by_argument` returns for them. Raises OptionError for a size that may change
    without a largest, for an example outside its range, and for one name with two ranges.
    """
    _require_one_range(trees.tree_leaves(shapes))
    return [
        _limits(name, leaf, part)
        for name, value in given.items()
        for leaf, part in zip(trees.tree_leaves(value), parts(shapes[name], value), strict=True)
        if isinstance(leaf, Tensor)
    ]


def _limits(argument: str, leaf: Tensor, part: Any) -> Limits:
    example = tuple(leaf.shape)
    least, most = list(example), list(example)
    for axis, item in items(part).items():
        if item is None or isinstance(item, int) or item == Dim.STATIC:
            continue
        largest = getattr(item, "max", None)
        if largest is None or largest >= UNBOUNDED:
            name = item if isinstance(item, str) else getattr(item, "__name__", "size")
            raise OptionError(
                f"dynamic_shapes: dimension {axis} of {argument!r} needs a largest size: torch.export.Dim({name!r}, max=...), got {item!r}"
            )
        least[axis] = item.min or min(1, example[axis])  # torch has 0 where none was given, and a cache may be empty
        most[axis] = int(largest)
        if not least[axis] <= example[axis] <= most[axis]:
            raise OptionError(
                f"dynamic_shapes: dimension {axis} of {argument!r} is {example[axis]} in inputs, and takes {least[axis]} to {most[axis]}"
            )
    return Limits(tuple(least), example, tuple(most))


def _require_one_range(dimensions: list[Any]) -> None:
    """Raise OptionError for a name that is of two ranges: the file has one size for it."""
    found: dict[str, tuple[Any, Any]] = {}
    for item in dimensions:
        root = getattr(item, "root", item)  # 2 * Dim("length") is as long as length lets it be
        if type(root) is not Dim:
            continue
        name, span = root.__name__, (root.min, root.max)
        if (first := found.setdefault(name, span)) != span:
            raise OptionError(
                f"dynamic_shapes: {name!r} is one size, and takes one range; got {_text(*first)} and {_text(*span)}: give one, or two names"
            )


def _text(least: Any, most: Any) -> str:
    return f"{least} to {'any' if most >= UNBOUNDED else most}"


def unlimited(shapes: dict[str, Any]) -> dict[str, Any]:
    """Return ``shapes`` with names in the place of named dimensions: what is traced for any size serves for those within limits too.

    torch.export asks that a trace holds for every size within the range of a Dim, also where its code is another for a size of 1.
    """
    found: dict[str, Any] = trees.tree_map(lambda item: item.__name__ if type(item) is Dim else item, shapes)
    return found
