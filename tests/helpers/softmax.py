"""Calls of lowbit::softmax, checked against float64."""

import torch
from torch import Tensor

from helpers import bounds, operands

ALGORITHMS = ("two-pass", "three-pass")


def softmax(
    x: Tensor, dim: int = -1, scale: float = 1.0, mask: Tensor | None = None, log: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    """Return lowbit::softmax of ``x``."""
    return torch.ops.lowbit.softmax(x, dim, scale, mask, log, dtype)


def check(
    x: Tensor,
    dim: int = -1,
    scale: float = 1.0,
    mask: Tensor | None = None,
    log: bool = False,
    dtype: torch.dtype | None = None,
    threads: int = 1,
) -> Tensor:
    """Return the same, asserted to be within its bounds."""
    torch.set_num_threads(threads)  # of the op only: the reference is not what is tested
    got = softmax(x, dim, scale, mask, log, dtype)
    torch.set_num_threads(1)
    expected, bound = bounds.softmax(x, dim, scale, mask, log, dtype or x.dtype)
    assert got.shape == x.shape
    assert got.is_contiguous()
    assert_values(got, expected, bound)
    return got


def assert_values(got: Tensor, expected: Tensor, bound: Tensor) -> None:
    """Assert that NaN and infinities are where they are expected, and the rest is within ``bound``."""
    assert torch.equal(got.isnan(), expected.isnan())
    infinite = expected.isinf()
    assert torch.equal(got[infinite].double(), expected[infinite])
    finite = ~expected.isnan() & ~infinite
    bounds.assert_within(got[finite], expected[finite], bound[finite])


def uniform(*shape: int, reach: float = 100.0, seed: int = 0) -> Tensor:
    """Return random numbers within ``reach`` of zero."""
    return (torch.rand(*shape, generator=operands.generator(seed)) * 2 - 1) * reach
