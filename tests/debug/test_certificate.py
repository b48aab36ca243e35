"""Certificates hold: the error of every op, treatment and dtype stays below its bound, and the bound is not far above."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers import operands
from lowbit_compiler.debug.tally import Tally
from lowbit_compiler.passes.site import Plan
from lowbit_compiler.report import Measured
from lowbit_compiler.runtime.reference import quantize, treatments

L = torch.ops.lowbit
PLANS = {
    "none": Plan("int8", "int8", "none"),
    "rotation": Plan("int8", "int8", "rotation"),
    "columns": Plan("int8", "int8", "columns"),
    "rows": Plan("int8", "int8", "rows"),
    "weight-only": Plan("int8", "float", "none"),
    "int4-32": Plan("int4", "float", "none", group_size=32),
    "int4-128": Plan("int4", "float", "none", group_size=128),
}


def compute(plan: Plan, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, spoil: float = 1.0) -> Tensor:
    """What the op of ``plan`` makes of ``weight`` packed as the passes pack it, its scales multiplied by ``spoil``."""
    if plan.weights == "int4":
        q, scale = quantize.quantize_s4(weight, plan.group_size)
        packed = L.pack_s4(q, scale * spoil, plan.group_size)
    else:
        q, scale = quantize.quantize_s8(treatments.rotate(weight) if plan.treatment == "rotation" else weight)
        packed = L.pack_s8(q, scale * spoil)
    return getattr(L, plan.op)(x, packed, bias, len(weight), *plan.arguments, dtype)


def measured(plan: Plan, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, spoil: float = 1.0) -> Measured:
    tally = Tally()
    tally.add(x, weight, bias, plan, compute(plan, x, weight, bias, dtype, spoil))
    return tally.measured()


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 300), st.integers(1, 70)),
    sizes=st.tuples(st.integers(-30, 12), st.integers(-30, 12)),
    dtypes=st.tuples(st.sampled_from(operands.DTYPES), st.sampled_from(operands.DTYPES)),
    bias=st.booleans(),
    zeros=st.booleans(),
    seed=st.integers(0, 1 << 16),
)
def test_error_is_below_its_bound(plan: Plan, shape, sizes, dtypes, bias, zeros, seed) -> None:
    """Any shape, magnitude, outliers and rows of zeros."""
    (m, k, n), (size_x, size_w), (dtype, out) = shape, sizes, dtypes
    x = (operands.rows(m, k, torch.float32, seed) * 2.0**size_x).to(dtype)
    weight = (operands.weight(n, k, seed + 1) * 2.0**size_w).to(dtype)
    if zeros:
        x[::3] = 0
        weight[::4] = 0
    offset = torch.randn(n, generator=operands.generator(seed)).to(dtype) if bias else None
    row = measured(plan, x, weight, offset, out)
    assert row.tightness is not None
    assert 0 <= row.tightness <= 1
    assert row.error is not None
    assert row.bound is not None
    assert row.error <= row.bound


@pytest.mark.parametrize("dtype", operands.DTYPES)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_rows_that_int8_hardly_holds(plan: Plan, dtype: torch.dtype) -> None:
    """NaN and Inf are no error where the float product has them; empty and huge rows are within their bounds."""
    rows = operands.special_rows(96) | {"overflowing": operands.overflowing_row(96)}
    for name, row in rows.items():
        x = torch.stack([row, operands.rows(1, 96, torch.float32)[0]]).to(dtype)
        shown = measured(plan, x, operands.weight(40, 96).to(dtype), None, dtype)
        assert (shown.tightness or 0.0) <= 1, name


@pytest.mark.parametrize("k", [64, 576, 1537])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_bound_is_not_vacuous(plan: Plan, dtype: torch.dtype, k: int) -> None:
    """K errors of random sign add up to about sqrt(K) of one, where the bound has K: some element reaches 1 / (2 sqrt(K)) of its bound."""
    x = torch.randn(64, k, generator=operands.generator(3)).to(dtype)
    row = measured(plan, x, operands.weight(96, k).to(dtype), None, torch.float32)
    assert row.tightness is not None
    assert 1 / (2 * k**0.5) < row.tightness <= 1
    assert row.sqnr is not None
    assert row.sqnr > (12 if plan.weights == "int4" else 30)
    assert row.cosine is not None
    assert row.cosine > (0.97 if plan.weights == "int4" else 0.999)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_wrong_scale_breaks_the_certificate(plan: Plan) -> None:
    x, weight = torch.randn(30, 128, generator=operands.generator(5)), operands.weight(48, 128)
    sound, spoiled = (measured(plan, x, weight, None, torch.float32, spoil) for spoil in (1.0, 3.0))
    assert sound.tightness is not None
    assert spoiled.tightness is not None
    assert sound.tightness <= 1 < spoiled.tightness


def test_many_columns_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = operands.rows(7, 80, torch.float32), operands.weight(50, 80), torch.randn(50)
    for plan in PLANS.values():
        whole = measured(plan, x, weight, bias, torch.float32)
        with monkeypatch.context() as patch:
            patch.setattr("lowbit_compiler.debug.tally.AT_ONCE", 80 * 12)
            parts = measured(plan, x, weight, bias, torch.float32)
        assert (whole.error, whole.bound, whole.weight_scales) == (parts.error, parts.bound, parts.weight_scales)
        assert whole.sqnr == pytest.approx(parts.sqnr)


def test_scales_and_outliers() -> None:
    x = torch.ones(4, 64)
    x[1, 3] = 127.0
    weight = torch.full((16, 64), 12.7)
    row = measured(PLANS["columns"], x, weight, None, torch.float32)
    assert row.outlier_share == 4 / 256
    assert row.activation_scales == pytest.approx((1 / 127,) * 3)
    assert row.weight_scales == pytest.approx((0.1,) * 3)
    assert measured(PLANS["none"], x, weight, None, torch.float32).outlier_share is None
    assert measured(PLANS["weight-only"], x, weight, None, torch.float32).activation_scales is None
