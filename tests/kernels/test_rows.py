"""Integers, scales and rotated floats are equal to the reference on every ISA."""

import pytest
import torch

from helpers import operands, plain
from lowbit_compiler.runtime import kernels

L = torch.ops.lowbit
KS = (1, 7, 16, 31, 63, 64, 65, 129, 576, 1000)


def same(got, expected):
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def every_row(k, dtype):
    made = [operands.rows(3, k, torch.float32), torch.stack([*operands.special_rows(k).values(), operands.overflowing_row(k)])]
    return torch.cat(made).to(dtype)


@pytest.mark.parametrize("dtype", operands.DTYPES)
@pytest.mark.parametrize("k", KS)
def test_equal_to_reference(isa, k, dtype):
    x = every_row(k, dtype)
    with kernels.using(isa=isa):
        same(L.quantize_s8(x), plain.quantize_s8(x))
        same([L.rotate(x)], [plain.rotate(x)])
        for group in (32, 64, 128):
            same(L.quantize_s4(x, group), plain.quantize_s4(x, group))


@pytest.mark.parametrize("dtype", operands.DTYPES)
def test_strides(isa, dtype):
    base = every_row(300, dtype)
    views = [base[:, 3:260], base[::2], base[1:2].expand(4, 300), base[:, ::2], base.t(), base[:6].reshape(2, 3, 300)[:, 1:, 1:], base[0]]
    with kernels.using(isa=isa):
        for x in views:
            same(L.quantize_s8(x), plain.quantize_s8(x))
            same([L.rotate(x)], [plain.rotate(x)])


def test_no_rows(isa):
    with kernels.using(isa=isa):
        same(L.quantize_s8(torch.empty(0, 40)), (torch.empty(0, 40, dtype=torch.int8), torch.empty(0, 1)))
        same([L.rotate(torch.empty(2, 0, 40))], [torch.empty(2, 0, 64)])


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 7), (16, 64), (33, 130), (48, 576)])
def test_packing(n, k):

    w = operands.weight(n, k)
    q, scale = plain.quantize_s8(w)
    same([L.pack_s8(q, scale)], [plain.pack_s8(q, scale)])
    for group in (32, 64, 128):
        q, scale = plain.quantize_s4(w, group)
        same([L.pack_s4(q, scale, group)], [plain.pack_s4(q, scale, group)])
