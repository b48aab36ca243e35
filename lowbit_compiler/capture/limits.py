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
    """Return the limits of each tensor in ``given``, in order; raises OptionError for a size that may change without a largest.

    ``given`` are arguments by name, ``shapes`` what :func:`shapes.by_argument` returns for them.
    """
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
        least[axis] = min(max(item.min or 0, 1), example[axis])
        most[axis] = int(largest)
        if not least[axis] <= example[axis] <= most[axis]:
            raise OptionError(
                f"dynamic_shapes: dimension {axis} of {argument!r} is {example[axis]} in inputs, and takes {least[axis]} to {most[axis]}"
            )
    return Limits(tuple(least), example, tuple(most))


def unlimited(shapes: dict[str, Any]) -> dict[str, Any]:
    """Return ``shapes`` with names in the place of named dimensions: what is traced for any size serves for those within limits too.

    torch.export asks that a trace holds for every size within the range of a Dim, also where its code is another for a size of 1.
    """
    found: dict[str, Any] = trees.tree_map(lambda item: item.__name__ if type(item) is Dim else item, shapes)
    return found
