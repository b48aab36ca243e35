"""One of the tensors that a quantized operand is stored as."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Part:
    """Its name and dtype; the shape is [..., K] of codes, [..., G] of what there is for each block, [] where ``single``."""

    name: str
    dtype: torch.dtype
    single: bool = False
