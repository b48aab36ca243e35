"""Emulated: softmax of rows, and of rows side by side, within the bounds of docs/arithmetic.md."""

import pytest
import torch

from helpers import bounds
from helpers.operands import DTYPES
from helpers.softmax import assert_values, uniform

INF = float("inf")


def check(machine, x, scale=1.0, mask=None, log=False, dtype=None, dim=1):
    got = machine.softmax(x, scale, mask, log, dtype, dim)
    expected, bound = bounds.softmax(x, dim, scale, mask, log, dtype or x.dtype)
    assert_values(got, expected, bound)
    return got


# Outer, length, columns: a warp a row up to 1024, held up to 256; a block above, held up to 2048; rows side by side, held up to 64.
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (9, 7, 1), (3, 256, 1), (3, 257, 1), (2, 1024, 1), (2, 1025, 1), (1, 2049, 1), (1, 40000, 1)])
def test_rows(machine, shape, log):
    check(machine, uniform(*shape), log=log)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 33), (2, 7, 5), (1, 64, 40), (2, 65, 32), (1, 700, 3)])
def test_rows_side_by_side(machine, shape, log):
    check(machine, uniform(*shape), log=log)


# Heads that lie between positions, as attention has them; rows that are aligned for wide accesses, and rows that are not.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [40, 37, 264, 1032])
def test_rows_with_strides(machine, n, dtype):
    x = uniform(2, 3, 4, n, reach=10.0).to(dtype).permute(0, 2, 1, 3)  # [2, 4, 3, n]
    for part in (x, x[:, :, ::2], x[..., 8:], x[..., 1:30]):
        check(machine, part, 0.5, dim=3)
        check(machine, part, 0.5, torch.randn(2, 1, 1, part.shape[3]), dim=3, dtype=torch.float32)
        check(machine, part, 0.5, torch.rand(4, part.shape[2], 1) < 0.9, log=True, dim=3)


@pytest.mark.parametrize("n", [5, 70])
def test_rows_side_by_side_with_strides(machine, n):
    x = uniform(2, 3, n, 4, 9, reach=10.0).permute(0, 3, 1, 2, 4)  # [2, 4, 3, n, 9]
    for part in (x, x[:, 1:, :, :, 2:8], x[:, :, ::2]):
        check(machine, part, dim=3)
        check(machine, part, 0.5, torch.randn(part.shape[1], 1, n, 1), dim=3)
        check(machine, part, 0.5, torch.rand(2, 1, 1, 1, part.shape[4]) < 2, dim=3)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(machine, dtype, columns):
    for out in DTYPES:
        check(machine, uniform(3, 90, columns).to(dtype), scale=0.3, dtype=out)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("shape", [(4, 90, 3), (1, 90, 1), (4, 1, 1), (1, 1, 1), (1, 90, 3), (4, 1, 3)])
def test_masks(machine, shape, columns):
    shape = (*shape[:2], min(shape[2], columns))
    x = uniform(4, 90, columns, reach=10.0)
    keep = torch.rand(shape) < 0.7
    keep[:, :1] |= ~keep.any(1, keepdim=True)
    check(machine, x, 0.125, keep)
    for dtype in DTYPES:
        check(machine, x, 0.125, torch.randn(shape).to(dtype))
    check(machine, x, 0.125, torch.where(keep, 0.0, torch.finfo(torch.float32).min))
    check(machine, x, 0.125, torch.full(shape, -1e9))


@pytest.mark.parametrize("n", [6, 300, 1500])
@pytest.mark.parametrize("columns", [1, 5])
def test_rows_that_need_care(machine, n, columns):
    values = [float("nan"), INF, -INF, 3e38, -3e38, 2e5, -2e5, 1e9]
    x = uniform(len(values) + 3, n, columns)
    for row, value in enumerate(values):
        x[row, n // 2, 0] = value
    x[-1] = -INF
    x[-2] *= 1e6
    x[-3] = -3e38
    for log in (False, True):
        check(machine, x, log=log)
        check(machine, x, scale=100.0, log=log)
    check(machine, torch.full((2, 1, columns), INF))
    check(machine, torch.full((2, 1, columns), -3e38))


def test_a_row_sums_to_one(emulated_library):
    y = check(emulated_library, uniform(1, 1 << 18, 1, reach=3.0))
    assert abs(float(y.double().sum()) - 1) < 1e-6
