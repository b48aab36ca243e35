"""Tensors that are made of others: how torch makes their outside, and what results of views and of writes have to be."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing

__all__ = ["PLAIN", "outside", "return_and_correct_aliasing"]

PLAIN = torch._C._disabled_torch_function_impl
"""The ``__torch_function__`` of a class that sees ops, and no functions."""


def outside(kind: type[Tensor], like: Tensor, shape: torch.Size, dtype: torch.dtype, requires_grad: bool) -> Tensor:
    """Return a tensor of class ``kind`` without memory, contiguous, on the device of ``like``."""
    made: Tensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
        kind, shape, dtype=dtype, device=like.device, layout=like.layout, requires_grad=requires_grad
    )
    return made
