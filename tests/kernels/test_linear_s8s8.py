"""linear_s8s8 and its treatments on every ISA: bounds, rows that int8 cannot hold, layouts of x."""

import pytest
import torch

from helpers import bounds, operands, plain
from lowbit_compiler.runtime import kernels

L = torch.ops.lowbit
THRESHOLD = 6.0
TREATMENTS = ("none", "rotation", "columns", "rows")
SHAPES = [(1, 1, 1), (1, 64, 16), (3, 100, 33), (5, 577, 50), (33, 576, 65), (40, 1537, 20), (70, 130, 100)]


def call(treatment, x, packed, bias, n, dtype=None):
    if treatment == "columns":
        return L.linear_s8s8_columns(x, packed, bias, n, THRESHOLD, dtype)
    return {"none": L.linear_s8s8, "rotation": L.linear_s8s8_rotated, "rows": L.linear_s8s8_rows}[treatment](x, packed, bias, n, dtype)


def weights(treatment, n, k):
    w = operands.weight(n, k)
    return operands.packed_s8(plain.rotate(w) if treatment == "rotation" else w)


def expected(treatment, x, q, scale, bias, dtype):
    """Float64 result and bound from the reference's integers."""
    kept, exact = x, None
    if treatment == "rotation":
        kept = plain.rotate(x)
    elif treatment == "columns":
        kept, exact = plain.split_columns(x, THRESHOLD)
    elif treatment == "rows":
        kept, exact = plain.split_rows(x)
    qx, sx = plain.quantize_s8(kept)
    return bounds.linear_s8s8(qx, sx, q, scale, bias, dtype, exact)


@pytest.mark.parametrize("dtype", operands.DTYPES)
@pytest.mark.parametrize("treatment", TREATMENTS)
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_within_bound(isa, treatment, dtype, m, k, n):
    x = operands.rows(m, k, dtype)
    packed, q, scale = weights(treatment, n, k)
    bias = torch.randn(n, generator=operands.generator(9)).to(dtype) if m % 2 else None
    for out in (dtype, torch.float32):
        with kernels.using(isa=isa):
            y = call(treatment, x, packed, bias, n, out)
        bounds.assert_within(y, *expected(treatment, x, q, scale, bias, out))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("m", [17, 70])
@pytest.mark.parametrize("treatment", ["columns", "rows"])
def test_exact_elements_of_many_panels(isa, treatment, m):
    """More panels than the AMX kernel widens at a time, the last one without a partner."""
    x = operands.rows(m, 4096, torch.bfloat16)
    packed, q, scale = weights(treatment, 501, 4096)
    with kernels.using(isa=isa):
        y = call(treatment, x, packed, None, 501, torch.float32)
    bounds.assert_within(y, *expected(treatment, x, q, scale, None, torch.float32))


@pytest.mark.parametrize("treatment", TREATMENTS)
@pytest.mark.parametrize("dtype", operands.DTYPES)
def test_special_rows(isa, treatment, dtype):
    """NaN and Inf as in the float product; ordinary rows between them as if they were alone."""
    k, n = 130, 40
    special = [*operands.special_rows(k).values(), operands.overflowing_row(k)]
    ordinary = operands.rows(len(special), k, torch.float32)
    x = torch.stack([ordinary, torch.stack(special)], 1).reshape(-1, k).to(dtype)
    packed, q, scale = weights(treatment, n, k)
    w = plain.dequantize_s8(q, scale, torch.float32)
    w = (plain.rotate(w)[:, :k] if treatment == "rotation" else w).double()
    with kernels.using(isa=isa):
        y = call(treatment, x, packed, None, n, torch.float32)
        held = torch.isfinite((plain.rotate(x) if treatment == "rotation" else x).float()).all(1)
        alone = call(treatment, x[held], packed, None, n, torch.float32)
    torch.testing.assert_close(y[held], alone, rtol=0, atol=0, equal_nan=True)
    bounds.assert_within(alone, *expected(treatment, x[held], q, scale, None, torch.float32))
    exact, bound = bounds.linear_float(x, w, None, torch.float32)
    if treatment == "rotation":  # the weight itself was rotated back in float32
        bound = bound + x.double().abs().nan_to_num(0, 0, 0) @ bounds.rotation(q.double() * scale.double())[:, :k].t()
    for row in (~held).nonzero().flatten().tolist():
        assert torch.equal(y[row].isnan(), exact[row].isnan()), row
        finite = torch.isfinite(exact[row]) & (x[row].double().abs() @ w.abs().t() < torch.finfo(torch.float32).max)
        bounds.assert_within(y[row][finite], exact[row][finite], bound[row][finite])
        infinite = torch.isinf(exact[row])
        assert torch.equal(y[row][infinite].double(), exact[row][infinite])


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_all_rows_special(isa, treatment):
    packed, _, _ = weights(treatment, 20, 100)
    with kernels.using(isa=isa):
        assert call(treatment, torch.full((130, 100), float("nan")), packed, None, 20).isnan().all()


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_layouts_of_x(isa, treatment):
    """Strided, unaligned, transposed and expanded rows, three dimensions and one, equal to a contiguous copy."""
    base = operands.rows(40, 200, torch.bfloat16)
    views = [base[:, 3:131], base[::3, :128], base[:, 64:192:1], base[:1, :128].expand(20, 128), base[:, :128].t()[:, :32].t()]
    views += [base[:, 1:129].reshape(4, 10, 128)[:, 2:], base[7, 5:133], base[:, :128].t().contiguous().t()]
    packed, _, _ = weights(treatment, 24, 128)
    with kernels.using(isa=isa):
        for x in views:
            y = call(treatment, x, packed, None, 24)
            assert y.shape == (*x.shape[:-1], 24)
            assert torch.equal(y, call(treatment, x.contiguous(), packed, None, 24))


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_no_rows(isa, treatment):
    packed, _, _ = weights(treatment, 24, 128)
    with kernels.using(isa=isa):
        assert call(treatment, torch.empty(0, 128), packed, None, 24).shape == (0, 24)
        assert call(treatment, torch.empty(2, 0, 128, dtype=torch.bfloat16), packed, None, 24, torch.float32).shape == (2, 0, 24)


@pytest.mark.parametrize("m", [1, 40])
def test_columns_depend_on_all_rows(isa, m):
    """A hit in any row makes a column exact, unless that row has NaN or Inf."""
    x = operands.rows(m + 1, 64, torch.float32).clamp(-5, 5)
    packed, q, scale = weights("columns", 16, 64)
    x[0, 9] = 7.0
    with kernels.using(isa=isa):
        bounds.assert_within(call("columns", x, packed, None, 16), *expected("columns", x, q, scale, None, torch.float32))
        x[0, 3] = float("nan")
        y = call("columns", x, packed, None, 16)
        assert torch.equal(y[1:], call("none", x[1:].contiguous(), packed, None, 16))


def test_every_column_exact(isa):
    x = operands.rows(20, 200, torch.float32).abs() + THRESHOLD
    packed, q, scale = weights("columns", 33, 200)
    with kernels.using(isa=isa):
        y = call("columns", x, packed, None, 33)
    bounds.assert_within(y, *expected("columns", x, q, scale, None, torch.float32))
