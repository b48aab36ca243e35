"""The ops of training in integers: equal to plain torch bit by bit, whatever the ISA, the shape and the dtype."""

import pytest
import torch
from torch import Tensor

from helpers import operands
from lowbit_compiler.runtime import kernels
from lowbit_compiler.runtime.training import integers
from lowbit_compiler.runtime.training.integers import in_integers

L = torch.ops.lowbit
FORMATS = [(8, False), (4, True), (4, False), (8, True)]
SHAPES = [(37, 45, 70), (1, 16, 64), (130, 33, 201), (65, 1, 33), (96, 80, 128), (3, 20, 1)]
SEED, SITE = torch.tensor([2**40 + 12345]), 7


def same(got: Tensor, want: Tensor) -> None:
    assert got.dtype == want.dtype
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


def tensors(m: int, n: int, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Activation, weight, bias and gradient: with rows and columns of zeros, of tiny numbers and, of the gradient, with what is not finite."""
    torch.manual_seed(m)
    x, w = torch.randn(m, k) + 0.3, torch.randn(n, k) / 8
    dy = torch.randn(m, n) * torch.exp(2 * torch.randn(m, 1)) * torch.exp(torch.randn(n))
    if m > 5 and n > 5:
        x[2], w[3], dy[3], dy[:, 2] = 0, 0, 1e-37, 0
        dy[4, 1], dy[5, 5], x[1, 0] = torch.nan, -torch.inf, torch.inf
    return x.to(dtype), w, torch.randn(n).to(dtype), dy.to(dtype)


def check(bits: int, rotated: bool, x: Tensor, w: Tensor, bias: Tensor, dy: Tensor) -> None:
    """Compare every op with its reference, which has the same arguments."""
    k, width = w.shape[1], in_integers(bits, rotated).forward.treatment.padded(w.shape[1])
    kept = []
    for one in (x, w):
        kept.append(L.train_quantize(one, bits, rotated))
        for got, want in zip(kept[-1], integers.train_quantize(one, bits, rotated), strict=True):
            same(got, want)
    for added in (bias, None):
        same(
            L.train_multiply(*kept[0], *kept[1], added, bits, width, x.dtype),
            integers.train_multiply(*kept[0], *kept[1], added, bits, width, x.dtype),
        )
    for columns in (False, True):
        arguments = (dy, *kept[not columns], SEED, SITE, columns, bits, rotated, k, x.dtype)
        same(L.train_fold(*arguments), integers.train_fold(*arguments))


@pytest.mark.parametrize(("bits", "rotated"), FORMATS)
@pytest.mark.parametrize("dtype", operands.DTYPES)
def test_equal_to_reference(isa: str, dtype: torch.dtype, bits: int, rotated: bool) -> None:
    with kernels.using(isa=isa):
        for shape in SHAPES:
            check(bits, rotated, *tensors(*shape, dtype))


def test_equal_to_reference_with_every_product(kernel_of_qgemm: str) -> None:
    with kernels.using(kernel=kernel_of_qgemm):
        check(8, False, *tensors(130, 100, 201, torch.bfloat16))
        check(4, True, *tensors(130, 100, 201, torch.float32))


@pytest.mark.parametrize(("bits", "rotated"), FORMATS[:2])
def test_threads_and_blocks_of_rows(bits: int, rotated: bool) -> None:
    """More rows than a block has, by two threads; strides that are no matrix's, and dimensions in front."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x, w, bias, dy = tensors(1030, 150, 128, torch.bfloat16)
        check(bits, rotated, x.reshape(2, 515, 128), w, bias, dy.t().contiguous().t())
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("bits", "rotated"), FORMATS[:2])
def test_no_rows(bits: int, rotated: bool) -> None:
    x, w, bias, dy = tensors(0, 20, 70, torch.float32)
    check(bits, rotated, x, w, bias, dy)
    check(bits, rotated, torch.randn(3, 70), w[:0], bias[:0], dy.new_empty(3, 0))
