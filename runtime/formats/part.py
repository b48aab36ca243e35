"""One of the tensors that a quantized operand is stored as."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class Part:
    """Its name, which ops use for the argument, its dtype, and what there is one number of it for."""

    name: str
    dtype: torch.dtype
    each: Literal["element", "block", "row", "tensor"] = "block"

    def shape(self, x: Sequence[Any], blocks: Any) -> tuple[Any, ...]:
        """Return its shape for a tensor of shape ``x`` whose rows have ``blocks`` blocks."""
        return {"element": tuple(x), "block": (*x[:-1], blocks), "row": (*x[:-1], 1), "tensor": ()}[self.each]
