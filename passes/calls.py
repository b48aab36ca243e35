"""What one softmax, attention or linear computes, as plain data: what the planner asks the machine to time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from lowbit_compiler.runtime.products import Plan
from lowbit_compiler.torch_internals.shapes import statically_known_true

UNKNOWN_SIZE = 128  # of a dimension that nothing is known about before the first run


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a site; symbolic sizes by their hints."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class SoftmaxCall:
    """``(log_)softmax(x * scale + mask, dim)`` in ``dtype``."""

    x: TensorSpec
    dim: int
    scale: float
    mask: TensorSpec | None
    log: bool
    dtype: torch.dtype
    alone: bool = field(default=False, repr=False)
    """Whether there is nothing else in its graph."""
    loops: int = 0
    """Sides on which it has a loop beside it that Inductor would make one with its own softmax."""

    @property
    def op(self) -> str:
        """The op of ours that computes it."""
        return "softmax"

    @property
    def more_accurate(self) -> bool:
        """Whether our result on a CPU is nearer to the exact one than torch's: of float32 it is, except for logarithms of short rows."""
        return self.dtype is torch.float32 and not self.log

    def arguments(self, mask: Any) -> tuple[Any, ...]:
        """Return what ``lowbit::softmax`` takes after x, with ``mask`` as a node or tensor, up to the last that is not the default."""
        given = (self.scale, mask, self.log, self.dtype)
        needed = (self.scale != 1, mask is not None, self.log, self.dtype is not self.x.dtype)
        return self.dim, *given[: max((count for count, one in enumerate(needed, 1) if one), default=0)]


@dataclass(frozen=True)
class AttentionCall:
    """Scaled-dot-product attention of 4-D operands; ``repeated``: the float model writes each key head once per query head."""

    q: TensorSpec
    k: TensorSpec
    v: TensorSpec
    mask: TensorSpec | None
    causal: bool
    scale: float
    repeated: bool

    @property
    def op(self) -> str:
        """The op of ours that computes it: keys and values may be int8 codes."""
        return "sdpa_codes" if self.k.dtype is torch.int8 else "sdpa"


@dataclass(frozen=True)
class LinearCall:
    """``rows`` x ``k`` times the weights of siblings: one product for each of ``widths`` in float, one for all of them in low precision."""

    rows: int
    k: int
    widths: tuple[int, ...]
    dtype: torch.dtype
    stored: torch.dtype
    """Of the float weights; under autocast another than ``dtype``, and cast at every call."""
    bias: bool
    column_major: bool
    """Whether elements of one column of x lie side by side."""
    transposed: bool
    """Whether the float weights are stored as [k, n]."""
    plans: tuple[Plan, ...] = field(repr=False)
    """The candidates."""
    near: bool = False
    """Whether the graph's weights are so few that they stay in a cache from call to call."""


@dataclass(frozen=True)
class Cost:
    """Seconds of one call: by the ``lowbit`` op, and by what torch would run instead."""

    lowbit: float
    torch: float


Costs = Callable[[SoftmaxCall | AttentionCall], Cost]
LinearCosts = Callable[[LinearCall], dict[str, float]]
"""Returns the seconds of one call: of "float" and of the op of each candidate."""


def operand(tensor: Any) -> TensorSpec:
    """Describe a (fake) tensor."""
    return TensorSpec(tuple(map(hint, tensor.shape)), tuple(map(hint, tensor.stride())), tensor.dtype)


def hint(size: Any) -> int:
    """Return a size as a number: that of the example where it is symbolic."""
    if isinstance(size, int):
        return size
    return int(size.node.hint) if size.node.has_hint() else UNKNOWN_SIZE


def equal(a: Any, b: Any) -> bool:
    """Return whether two sizes are equal; of symbolic ones that are, it becomes a condition of the compiled graph."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    known = all(isinstance(size, int) or size.node.has_hint() for size in (a, b))
    return statically_known_true(a == b) or (known and hint(a) == hint(b) and bool(a == b))
