"""Tensors that are made of others: how torch makes their outside, and what results of views and of writes have to be."""

from contextlib import nullcontext
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing

__all__ = ["PLAIN", "outside", "return_and_correct_aliasing"]

T = TypeVar("T", bound=Tensor)
PLAIN = torch._C._disabled_torch_function_impl
"""The ``__torch_function__`` of a class that sees ops, and no functions."""


def outside(kind: type[T], like: Tensor, shape: torch.Size, dtype: torch.dtype, requires_grad: bool) -> T:
    """Return a tensor of class ``kind`` without memory, on the device of ``like``; it lies in memory as ``like`` does where it has that shape."""
    same, inference = shape == like.shape, like.is_inference()
    # Under inference_mode a view of what was made outside has the counter of that, which a tensor of inference cannot take.
    with nullcontext() if inference == torch.is_inference_mode_enabled() else torch.inference_mode(inference):
        made: T = torch.Tensor._make_wrapper_subclass(
            kind,
            shape,
            strides=like.stride() if same else None,
            storage_offset=like.storage_offset() if same else None,
            dtype=dtype,
            device=like.device,
            layout=like.layout,
            requires_grad=requires_grad,
        )
    return made
