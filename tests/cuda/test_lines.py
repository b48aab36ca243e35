"""Emulated: products with codes on lines, within the bounds of docs/arithmetic.md; of int8 activations with nested lines to the bit."""

import pytest
import torch

from helpers import bounds, operands, plain
from lowbit_compiler.runtime.formats import Operand
from lowbit_compiler.runtime.formats.affine import FORMATS, U4
from lowbit_compiler.runtime.formats.lines import HalfLines, IntegerLines
from lowbit_compiler.runtime.reference import linear

KINDS = [(format, scale) for format in FORMATS if format.panels for scale in format.scales]
OPERANDS = [Operand(format(), scale(group)) for format, scale in KINDS for group in (32, 64, 128)]
# Rows and outputs on both sides of the kernels: up to 8 rows read from memory, then tiles of 32 x 32 and 64 x 128; an odd number of panels.
SHAPES = [(1, 16, 64), (2, 33, 1100), (3, 5, 7), (8, 40, 520), (9, 50, 130), (33, 31, 300), (65, 70, 200), (130, 140, 96)]

every = pytest.mark.parametrize("one", OPERANDS, ids=lambda one: f"{one.format}{one.scale.suffix}-{one.scale.size}")


def lopsided(n, k):
    """Rows of both signs, of one sign, of one number, and with an outlier."""
    w = operands.weight(n, k)
    w[1::4] = w[1::4].abs() + 0.1
    w[2::4] = 0.25
    w[3::4, 0] *= 100
    return w


def product(machine, one, x, packed, bias, n, dtype=None):
    return machine.linear(f"linear_f{one.format.name}{one.scale.suffix}", x, packed, bias, n, one.scale.size, dtype)


@every
def test_shapes(machine, one):
    for m, n, k in SHAPES:
        parts = one.quantize(lopsided(n, k))
        x, bias = operands.rows(m, k, torch.bfloat16), torch.randn(n)
        bounds.assert_within(product(machine, one, x, one.pack(parts), bias, n), *bounds.exact_lines(x, one, parts, bias, x.dtype))


@every
@pytest.mark.parametrize("m", [4, 70])
def test_dtypes(machine, one, m):
    parts = one.quantize(lopsided(20, 136))
    packed = one.pack(parts)
    for dtype in operands.DTYPES:
        for x in (operands.rows(m, 136, dtype), operands.rows(m, 200, dtype)[:, 8:144], operands.rows(m, 200, dtype)[:, 3:139]):
            bounds.assert_within(product(machine, one, x, packed, None, 20), *bounds.exact_lines(x, one, parts, None, dtype))
    for out in operands.DTYPES:
        bias = torch.randn(20).to(out)
        bounds.assert_within(product(machine, one, x, packed, bias, 20, out), *bounds.exact_lines(x, one, parts, bias, out))


@every
@pytest.mark.parametrize("m", [7, 20])
def test_rows_that_are_not_finite(machine, one, m):
    """NaN and infinity come out where the float product has them; very large and very small rows are as close as others."""
    n, k = 20, 200
    parts = one.quantize(lopsided(n, k))
    x = operands.rows(m, k, torch.float32)
    x[1], x[2], x[3] = x[1] * 2.0**-90, x[2].sign() * 2.0**100, 0
    want, bound = bounds.exact_lines(x, one, parts, None, torch.float32)
    x[5, 3], x[6, 5] = float("nan"), float("inf")
    y, w = product(machine, one, x, one.pack(parts), None, n), one.dequantize(parts)
    bounds.assert_within(y[:5], want[:5], bound[:5])
    bounds.assert_within(y[7:], want[7:], bound[7:])
    assert y[5].isnan().all()
    assert torch.equal(y[6][w[:, 5] != 0], w[:, 5][w[:, 5] != 0].sign() * float("inf"))


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("op", ["linear_s8u4_nested", "linear_s8u4_nested_rotated"])
def test_nested_integers(machine, op, group):
    """The bits of the reference on every tile, for rows that are quantized; the others are not finite where it is not."""
    one = Operand(U4(), IntegerLines(group))
    for m, n, k in [(1, 1, 1), (3, 17, 65), (17, 33, 1000), (40, 50, 130), (65, 70, 520)]:
        w = lopsided(n, k)
        packed = one.pack(one.quantize(plain.rotate(w) if op.endswith("rotated") else w))
        x = operands.rows(m, k, torch.bfloat16)
        if m > 3:
            x[1, 0], x[2, k // 2] = float("nan"), float("inf")
        fine = torch.isfinite(x).all(1)
        bias = torch.randn(n)
        got, want = (call(x, packed, bias, n, group, torch.float32) for call in (_emulated(machine, op), getattr(linear, op)))
        assert torch.equal(got[fine], want[fine])
        assert torch.equal(got[~fine].isnan(), want[~fine].isnan())
        assert not got[~fine].isfinite().any()


def _emulated(machine, op):
    return lambda *arguments: machine.linear(op, *arguments)


def test_nested_integers_on_the_largest_tile(machine):
    """All codes at the ends, for which sums of products are largest."""
    one, k, n = Operand(U4(), IntegerLines(32)), 328, 128 * 48 - 3
    sign = torch.where(torch.arange(k) % 2 == 0, 1.0, -1.0)
    w = torch.stack([torch.ones(k), -torch.ones(k), sign]).repeat(-(-n // 3), 1)[:n]
    packed, x = one.pack(one.quantize(w)), torch.stack([torch.ones(k), sign, -torch.ones(k)]).repeat(43, 1)
    want = linear.linear_s8u4_nested(x, packed, None, n, 32, None)
    assert torch.equal(machine.linear("linear_s8u4_nested", x, packed, None, n, 32, None), want)


def test_horizontal_lines_are_no_obstacle(machine):
    """HalfLines whose scale is 0: every number of the group is its minimum."""
    one, n, k = Operand(U4(), HalfLines(32)), 33, 96
    parts = one.quantize(torch.linspace(-2, 3, n).reshape(n, 1).expand(n, k).contiguous())
    assert not parts[1].any()
    x = torch.randn(5, k)
    bounds.assert_within(product(machine, one, x, one.pack(parts), None, n), *bounds.exact_lines(x, one, parts, None, x.dtype))
