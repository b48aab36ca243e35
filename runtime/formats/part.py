"""One of the tensors that a quantized operand is stored as."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Part:
    """Its name, which ops use for the argument, and dtype.

    Of a tensor [..., K] in G blocks, codes have the shape [..., K], what there is for each block [..., G], a ``single`` number [].
    """

    name: str
    dtype: torch.dtype
    single: bool = False
