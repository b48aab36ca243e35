"""What is done with outliers before a product's operands are quantized."""

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

Call = Callable[..., Any]
"""Computes an op of arguments: on tensors at once, or as a node of a graph."""


@dataclass(frozen=True)
class Op:
    """An op that a treatment brings: schema, reference and shape function (runtime/ops.py registers it)."""

    schema: str
    reference: Callable[..., Any]
    fake: Callable[..., Any]
    row_local: bool = True
    """Whether what it makes of a row depends on that row alone."""

    @property
    def name(self) -> str:
        """Without its namespace."""
        return self.schema.partition("(")[0]


class Treatment(ABC):
    """Maps of both operands that leave the product as it is, and what of the activation stays exact beside the quantized part."""

    name: ClassVar[str]
    """How recipes spell it."""
    ops: ClassVar[tuple[Op, ...]] = ()
    splits: ClassVar[bool] = False
    """Whether some elements stay exact."""
    ragged: ClassVar[bool] = False
    """Whether files that open its product gather the exact elements: a tensor whose size follows from values."""
    span: ClassVar[int] = 1
    """The columns that are treated together: parts of a row that are whole spans are treated as the row is."""
    rotates: ClassVar[bool] = False
    """Whether elements of a row are mixed: a zero may become another number in one order of the sums and not in another."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the op of a product takes for it."""
        return ()

    @classmethod
    def of(cls, **settings: Any) -> "Treatment":
        """Return the treatment, with those of ``settings`` (a recipe's fields) that it has."""
        return cls(**{name: value for name, value in settings.items() if name in getattr(cls, "__dataclass_fields__", {})})

    def activation(self, call: Call, x: Any) -> tuple[Any, Any]:
        """Return what of ``x`` [..., K] is quantized, and what stays exact (None where nothing does)."""
        return x, None

    def weight(self, call: Call, w: Any) -> Any:
        """Return what of ``w`` [N, K] is quantized."""
        return w

    def untreated(self, call: Call, w: Any, k: int) -> Any:
        """Return [N, ``k``] of what :meth:`weight` made of it, to rounding."""
        return w

    @property
    def weight_ops(self) -> tuple[Any, ...]:
        """The ops that :meth:`weight` calls, in order."""
        called: list[Any] = []
        self.weight(lambda op, *args: called.append(op), None)
        return tuple(called)

    def drawn(self, stream: Any) -> "Treatment":
        """Return the treatment with its random numbers from ``stream`` (runtime/training/noise.py), where it has any."""
        return self

    def padded(self, k: int) -> int:
        """Return the length of a treated row of ``k``."""
        return k

    def transposed(self, g: Tensor, k: int) -> Tensor:
        """Return the gradient of rows of ``k`` for that of the treated rows, ``g`` [..., K padded]."""
        return g[..., :k]

    def moved(self, x: Tensor) -> Tensor:
        """Return by how much rounding in the maps may move an element of each row of ``x`` [..., K]: float64, broadcasts to [..., 1]."""
        return torch.zeros((), dtype=torch.float64)


def at_once(op: Callable[..., Any], *args: Any) -> Any:
    """Compute ``op`` on tensors."""
    return op(*args)


def packet(name: str) -> Any:
    """Return the op ``lowbit::<name>``."""
    return getattr(torch.ops.lowbit, name).default
