"""Emulated: integer products with every treatment, within the bounds of docs/arithmetic.md of the same integers in float64."""

import pytest
import torch

from helpers import bounds, plain
from helpers.operands import DTYPES, hit_columns, overflowing_row, packed_s8, rows, special_rows, weight
from lowbit_compiler.runtime.reference import linear

OPS = ["linear_s8s8", "linear_s8s8_rotated", "linear_s8s8_columns", "linear_s8s8_rows"]
THRESHOLD = 6.0
# Rows and outputs on both sides of every tile: 16 x 32, 32 x 32, 64 x 64 and (from 96 tiles of it on) 128 x 128.
SHAPES = [(1, 16, 64), (1, 33, 1100), (3, 5, 7), (16, 40, 520), (17, 50, 130), (33, 31, 300), (64, 17, 64), (65, 70, 200), (130, 129, 96)]
SHAPES += [(2, 33, 2600), (20, 33, 1700), (65, 66, 600)]  # long enough that stages of shared memory are used again


def extra(op):
    return (THRESHOLD,) if op.endswith("columns") else ()


def operands(op, x, n):
    w = weight(n, x.shape[1])
    packed, q, scale = packed_s8(plain.rotate(w) if op.endswith("rotated") else w)
    return packed, q, scale


def check(machine, op, x, n, bias=None, dtype=None, threshold=THRESHOLD):
    packed, qw, sw = operands(op, x, n)
    got = machine.linear(op, x, packed, bias, n, *((threshold,) if extra(op) else ()), dtype)
    bounds.assert_within(got, *expected(op, x, qw, sw, bias, dtype or x.dtype, threshold)[:2])


def expected(op, x, qw, sw, bias, dtype, threshold=THRESHOLD):
    """Return float64 results, the bound on their error, and which rows int8 holds: the others are not these."""
    exact = None
    kept = x.float()
    if op.endswith("rotated"):
        kept = plain.rotate(x)
    elif op.endswith("columns"):
        exact = hit_columns(x, threshold)
        kept = torch.where(exact != 0, 0, x).float()
    elif op.endswith("rows"):
        kept, exact = (part.float() for part in plain.split_rows(x))
    qx, sx = plain.quantize_s8(kept)
    y, bound = bounds.linear_s8s8(qx, sx, qw[:, : qx.shape[1]], sw, bias, dtype, None if exact is None else exact.float())
    return y, bound, x.isfinite().all(1) & ~sx.isnan().flatten()


def as_float(x, qw, sw, bias):
    """Return float64 results of a row that int8 does not hold, by the rotated weight rotated back, and the bound on their error."""
    k = x.shape[1]
    w = qw.double() * sw.double()
    hadamard = plain.rotate(torch.eye(64)).double()
    back = (w.reshape(len(w), -1, 64) @ hadamard).reshape(w.shape)[:, :k]
    y, bound = bounds.linear_float(x, back, bias, x.dtype)
    rotated = x.double().abs() @ bounds.rotation(w)[:, :k].t()
    return y, bound + rotated * (1 + 2 * bounds.EPS * (k + 2))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(machine, op, shape):
    m, n, k = shape
    check(machine, op, rows(m, k, torch.bfloat16), n, torch.randn(n))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(machine, op, dtype):
    for out in DTYPES:
        check(machine, op, rows(5, 136, dtype), 20, torch.randn(20).to(out), out)
    check(machine, op, rows(4, 77, dtype), 19)
    check(machine, op, rows(6, 200, dtype)[:, 8:144], 19)


@pytest.mark.parametrize(
    ("op", "k"), [*((op, 72) for op in OPS), ("linear_s8s8", 328)]
)  # the longer one uses stages again, the same for all
def test_large_tiles(machine, op, k):
    check(machine, op, rows(129, k, torch.bfloat16), 128 * 48 - 3)


@pytest.mark.parametrize("m", [2, 30, 100])
@pytest.mark.parametrize("op", OPS)
def test_special_rows(machine, op, m):
    k, n = 130, 37
    x = rows(m, k, torch.float32)
    special = list(special_rows(k).values())
    for i in range(min(m, len(special))):
        x[-1 - i] = special[i]
    if op.endswith("rotated"):
        x[0] = overflowing_row(k) / 3  # finite, and so is its product; its rotation is not
    packed, qw, sw = operands(op, x, n)
    bias = torch.randn(n)
    got = machine.linear(op, x, packed, bias, n, *extra(op), None)
    want = getattr(linear, op)(x, packed, bias, n, *extra(op), None)
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.isinf(), want.isinf())
    y, bound, held = expected(op, x, qw, sw, bias, x.dtype)
    bounds.assert_within(got[held], y[held], bound[held])
    if op.endswith("rotated"):
        assert not held[0]
        bounds.assert_within(got[:1], *as_float(x[:1], qw, sw, bias))
    assert bool(want[~held & (torch.arange(m) > 0)].isfinite().logical_not().all())  # the others are what they have in common with float


@pytest.mark.parametrize("m", [1, 20, 70])
def test_any_number_of_exact_columns(machine, m):
    k, n = 200, 35
    for count in (0, 1, 7, 8, 9, 17, k):  # 8 at a time
        x = torch.rand(m, k) - 0.5
        x[m // 2, torch.randperm(k)[:count]] = 9.0
        check(machine, "linear_s8s8_columns", x, n)
    check(machine, "linear_s8s8_columns", torch.randn(m, k), n, threshold=0.0)


def test_rows_at_their_capacity(machine):
    k = 300
    x = torch.zeros(6, k)
    for row, count in enumerate((1, 15, 16, 17, 200, 300)):
        x[row, :count] = torch.linspace(1.0, 1.4, count)
        x[row, count:] = 0.01
    check(machine, "linear_s8s8_rows", x, 33)
