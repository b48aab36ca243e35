"""Emulated: float rows times int8 and int4 weights, within the bounds of docs/arithmetic.md."""

import pytest
import torch

from helpers import bounds, plain
from helpers.operands import DTYPES, packed_s8, rows, special_rows, weight
from helpers.plain import pack_s4
from lowbit_compiler.runtime.reference import linear

GROUPS = [0, 32, 64, 128]
# Rows on both sides of the kernels: up to 8 outside tensor cores, then tiles of 32 x 32 and 64 x 128.
SHAPES = [
    (1, 16, 64),
    (2, 33, 1100),
    (3, 5, 7),
    (8, 40, 520),
    (9, 50, 130),
    (33, 31, 300),
    (64, 17, 64),
    (65, 70, 200),
    (130, 140, 96),
    (9, 33, 1100),
]


def operands(n, k, group):
    w = weight(n, k)
    if group == 0:
        packed, q, scale = packed_s8(w)
        return packed, q.double() * scale.double()
    q, scale = plain.quantize_s4(w, group)
    return pack_s4(q, scale, group), q.double() * scale.double().repeat_interleave(group, 1)[:, :k]


def call(machine, group, x, packed, bias, n, dtype):
    return (
        machine.linear("linear_fs4", x, packed, bias, n, group, dtype) if group else machine.linear("linear_fs8", x, packed, bias, n, dtype)
    )


def check(machine, group, x, n, bias=None, dtype=None):
    packed, w = operands(n, x.shape[1], group)
    bounds.assert_within(call(machine, group, x, packed, bias, n, dtype), *bounds.linear_float(x, w, bias, dtype or x.dtype))


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(machine, group, shape):
    m, n, k = shape
    check(machine, group, rows(m, k, torch.bfloat16), n, torch.randn(n))


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("m", [1, 4, 12, 70])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(machine, group, m, dtype):
    for out in DTYPES:
        check(machine, group, rows(m, 136, dtype), 20, torch.randn(20).to(out), out)
    check(machine, group, rows(m, 77, dtype), 19)
    check(machine, group, rows(m, 200, dtype)[:, 8:144], 19)
    check(machine, group, rows(m, 200, dtype)[:, 3:100], 19)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("m", [8, 20, 70])
def test_special_rows(machine, group, m):
    k, n = 130, 37
    x = rows(m, k, torch.float32)
    for i, row in enumerate(list(special_rows(k).values())[:m]):
        x[-1 - i] = row
    packed, _ = operands(n, k, group)
    got = call(machine, group, x, packed, None, n, None)
    want = linear.linear_fs4(x, packed, None, n, group, None) if group else linear.linear_fs8(x, packed, None, n, None)
    assert torch.equal(got.isfinite(), want.isfinite())
    assert torch.equal(got.isnan(), want.isnan())
