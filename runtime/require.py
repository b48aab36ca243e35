"""What checks of arguments are written in (runtime/checks.py): one error that says what is accepted and what was got."""

import math
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
MOST_DIMS = 64
MOST_ELEMENTS = 2**47  # more than an address space holds: counts and sizes in bytes stay far from 2^63
FLOAT = "float32, bfloat16 or float16"


def require(op: str, condition: Any, expected: str, got: object) -> None:
    """Raise RuntimeError in the words of all ops, unless ``condition``."""
    if not condition:
        raise RuntimeError(f"lowbit::{op}: expected {expected}, got {got}")


def tensors(op: str, **arguments: Tensor | None) -> None:
    """Check that the arguments given are dense tensors of countable size on one device."""
    given = {name: tensor for name, tensor in arguments.items() if tensor is not None}
    first = next(iter(given))
    device = given[first].device
    for name, tensor in given.items():
        require(op, tensor.layout is torch.strided, f"{name} to be a dense tensor", tensor.layout)
        require(op, tensor.dim() <= MOST_DIMS, f"{name} of at most {MOST_DIMS} dimensions", tensor.dim())
        if all(isinstance(size, int) for size in tensor.shape):  # comparing symbolic sizes would guard
            count = math.prod(size or 1 for size in tensor.shape)
            require(op, count <= MOST_ELEMENTS, f"{name} of at most 2^47 elements", tuple(tensor.shape))
        require(op, tensor.device == device, f"{name} on {device}, where {first} is", tensor.device)


def result_dtype(op: str, dtype: torch.dtype | None) -> None:
    """Check the dtype of a result."""
    require(op, dtype is None or dtype in FLOATS, f"dtype {FLOAT}", dtype)


def same(tensor: Tensor, shape: tuple[Any, ...]) -> bool:
    """Return whether ``tensor`` has this shape."""
    return tensor.dim() == len(shape) and tensor.shape == shape  # lengths first: comparing symbolic sizes would guard


def codes_of(op: str, q: Tensor, dtype: torch.dtype, matrix: bool) -> None:
    """Check codes of ``dtype``: a matrix, or rows."""
    name = str(dtype).removeprefix("torch.")
    fits, dims = (q.dim() == 2, "of 2 dimensions") if matrix else (q.dim() >= 1, "with at least one dimension")
    require(op, q.dtype is dtype and fits, f"q in {name} {dims}", f"{q.dtype} of {q.dim()} dimensions")


def float_scale(op: str, scale: Tensor, shape: tuple[Any, ...]) -> None:
    """Check a float32 scale of one shape."""
    fits = scale.dtype is torch.float32 and same(scale, shape)
    require(op, fits, f"scale in float32 of shape {shape}", f"{scale.dtype} of {tuple(scale.shape)}")
