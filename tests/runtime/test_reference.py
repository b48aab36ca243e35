"""The plain-torch reference against float64 arithmetic, within the bounds of docs/arithmetic.md."""

import pytest
import torch

from helpers import bounds, operands, plain
from lowbit_compiler.runtime.reference import linear

SHAPES = [(1, 1, 1), (3, 100, 33), (9, 576, 40)]


@pytest.mark.parametrize("dtype", operands.DTYPES)
@pytest.mark.parametrize("k", [1, 64, 777])
def test_quantization_error(k, dtype):
    x = torch.cat([operands.rows(20, k, torch.float32), torch.stack([*operands.special_rows(k).values()])]).to(dtype)
    q, scale = plain.quantize_s8(x)
    held = torch.isfinite(x.float()).all(1)
    error = (q.double() * scale.double() - x.double()).abs()[held]
    assert (error <= bounds.quantization(scale[held])).all()
    assert q.min() >= -127
    assert not q[~held].any()
    assert scale[~held].isnan().all()


@pytest.mark.parametrize("group", [32, 64, 128])
def test_group_quantization_error(group):
    w = operands.weight(20, 777)
    q, scale = plain.quantize_s4(w, group)
    step = scale.repeat_interleave(group, 1)[:, :777]
    assert ((q.double() * step.double() - w.double()).abs() <= bounds.quantization(step)).all()
    assert q.abs().max() <= 7


def test_scale_reaches_the_largest_code():
    q, _ = plain.quantize_s8(operands.rows(50, 200, torch.float32))
    assert (q.abs().amax(1) == 127).all()


@pytest.mark.parametrize("dtype", operands.DTYPES)
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_int8_products(m, k, n, dtype):
    x, w, bias = operands.rows(m, k, dtype), operands.weight(n, k), torch.randn(n, generator=operands.generator(3))
    q, scale = plain.quantize_s8(w)
    packed = plain.pack_s8(q, scale)
    cases = [(linear.linear_s8s8(x, packed, bias, n, None), x, None)]
    kept, exact = plain.split_columns(x, 6.0)
    cases.append((linear.linear_s8s8_columns(x, packed, bias, n, 6.0, None), kept, exact))
    kept, exact = plain.split_rows(x)
    cases.append((linear.linear_s8s8_rows(x, packed, bias, n, None), kept, exact))
    for y, kept, exact in cases:
        bounds.assert_within(y, *bounds.linear_s8s8(*plain.quantize_s8(kept), q, scale, bias, dtype, exact))
    q, scale = plain.quantize_s8(plain.rotate(w))
    y = linear.linear_s8s8_rotated(x, plain.pack_s8(q, scale), bias, n, None)
    bounds.assert_within(y, *bounds.linear_s8s8(*plain.quantize_s8(plain.rotate(x)), q, scale, bias, dtype))


@pytest.mark.parametrize("dtype", operands.DTYPES)
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_weight_only_products(m, k, n, dtype):
    x, w, bias = operands.rows(m, k, dtype), operands.weight(n, k), torch.randn(n, generator=operands.generator(3))
    q, scale = plain.quantize_s8(w)
    y = linear.linear_fs8(x, plain.pack_s8(q, scale), bias, n, None)
    bounds.assert_within(y, *bounds.linear_float(x, q.double() * scale.double(), bias, dtype))
    q, scale = plain.quantize_s4(w, 32)
    y = linear.linear_fs4(x, plain.pack_s4(q, scale, 32), bias, n, 32, None)
    wide = q.double() * scale.double().repeat_interleave(32, 1)[:, :k]
    bounds.assert_within(y, *bounds.linear_float(x, wide, bias, dtype))


def test_largest_k_fits_int32():
    from lowbit_compiler.runtime.products import MAX_K

    assert MAX_K * 127 * 127 <= 2**31 - 1 < (MAX_K + 1) * 127 * 127
