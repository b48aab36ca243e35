"""Certificates hold: the error of every op, treatment and dtype stays below its bound, and the bound is not far above."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers import operands, plain
from helpers.recipes import EMULATED
from lowbit_compiler.debug.certificate import Activations, Weights, bound
from lowbit_compiler.debug.tally import Tally
from lowbit_compiler.report import Measured
from lowbit_compiler.runtime.formats.grid import Floats
from lowbit_compiler.runtime.products import Plan, Stored
from lowbit_compiler.runtime.treatments.treatment import at_once

L = torch.ops.lowbit
PLANS = {
    "none": plain.plan("int8", "int8", "none"),
    "rotation": plain.plan("int8", "int8", "rotation"),
    "columns": plain.plan("int8", "int8", "columns"),
    "rows": plain.plan("int8", "int8", "rows"),
    "weight-only": plain.plan("int8", "float", "none"),
    "int4-32": plain.plan("int4-symmetric", "float", "none", group_size=32),
    "int4-128": plain.plan("int4-symmetric", "float", "none", group_size=128),
    **{name: recipe.plan for name, recipe in EMULATED.items()},
}


def spoiled_part(tensor: Tensor, spoil: float) -> Tensor:
    """A stored scale ``spoil`` times too large: a power of two at least as large where it can be no other."""
    if tensor.dtype.is_floating_point:
        return tensor * spoil
    return torch.full_like(tensor, 255) if math.isnan(spoil) else tensor + math.ceil(math.log2(spoil))


def parts(plan: Plan, weight: Tensor, spoil: float = 1.0) -> tuple[Tensor, ...]:
    """``weight`` quantized as the passes quantize it for ``plan``, its scales multiplied by ``spoil``: of nested ones, the outer."""
    codes, *others = plan.w.quantize(plan.treatment.weight(at_once, weight))
    scale = len(others) - 1 if plan.w.parts[-1].each == "tensor" else 0
    others[scale] = spoiled_part(others[scale], spoil)
    return codes, *others


def measured(plan: Plan, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, spoil: float = 1.0) -> Measured:
    stored: Stored = parts(plan, weight, spoil)
    if plan.product is None:
        got = plan.emulate(x, stored, bias, dtype)
    else:
        stored = plan.w.pack(stored)
        got = getattr(L, plan.op)(x, stored, bias, len(weight), *plan.arguments, dtype)
    tally = Tally()
    tally.add(x, weight, bias, plan, stored, got)
    return tally.measured()


def floats(plan: Plan) -> bool:
    return isinstance(plan.w.format.grid, Floats)


def coarse(plan: Plan) -> int:
    """Bits of the codes, of weights or activations, whichever are fewer."""
    return min(one.format.grid.bits - (one.format.name == "exmy") for one in (plan.x, plan.w) if one is not None)


SQNR = {2: 7, 4: 12, 7: 26, 8: 30}
COSINE = {2: 0.9, 4: 0.97, 7: 0.998, 8: 0.999}
"""By the bits of the coarser operand; of a float with three bits of mantissa, a bit less."""


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
    assert row.tightness <= 1
    assert row.weight_tightness is not None
    assert row.weight_tightness <= 1


@pytest.mark.parametrize("dtype", operands.DTYPES)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_rows_that_int8_hardly_holds(plan: Plan, dtype: torch.dtype) -> None:
    """NaN and Inf are no error where the float product has them; empty and huge rows are within their bounds."""
    rows = operands.special_rows(96) | {"overflowing": operands.overflowing_row(96)}
    for name, row in rows.items():
        x = torch.stack([row, operands.rows(1, 96, torch.float32)[0]]).to(dtype)
        shown = measured(plan, x, operands.weight(40, 96).to(dtype), None, dtype)
        assert shown.tightness is not None
        assert shown.tightness <= 1, name


@pytest.mark.parametrize("k", [64, 576, 1537])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_bound_is_not_vacuous(plan: Plan, dtype: torch.dtype, k: int) -> None:
    """K errors of random sign add up to about sqrt(K) of one, where the bound has K: some element reaches 1 / (2 sqrt(K)) of its bound.

    Floats round small elements less than the largest, of which the bound is: a third of that.
    """
    x = torch.randn(64, k, generator=operands.generator(3)).to(dtype)
    row = measured(plan, x, operands.weight(96, k).to(dtype), None, torch.float32)
    assert row.tightness is not None
    assert 1 / (2 * k**0.5) / (3 if floats(plan) else 1) < row.tightness <= 1
    assert row.sqnr is not None
    assert row.sqnr > SQNR[coarse(plan)]
    assert row.cosine is not None
    assert row.cosine > COSINE[coarse(plan)]


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_wrong_scale_breaks_the_certificate(plan: Plan) -> None:
    x, weight = torch.randn(30, 128, generator=operands.generator(5)), operands.weight(48, 128)
    wrong = 8.0 if floats(plan) else 3.0
    sound, spoiled = (measured(plan, x, weight, None, torch.float32, spoil) for spoil in (1.0, wrong))
    assert sound.tightness is not None
    assert spoiled.tightness is not None
    assert sound.tightness <= 1 < spoiled.tightness


@pytest.mark.parametrize("dtype", operands.DTYPES)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_weight_that_the_product_hides(plan: Plan, dtype: torch.dtype) -> None:
    """In sums of 4096 terms what is wrong by a tenth is far below the bound; the packed weight itself shows it."""
    x, weight = torch.randn(4, 4096, generator=operands.generator(5)).to(dtype), operands.weight(48, 4096).to(dtype)
    sound, spoiled = (measured(plan, x, weight, None, torch.float32, spoil) for spoil in (1.0, 1.1))
    assert spoiled.tightness is not None
    assert spoiled.tightness <= 1
    assert sound.weight_tightness is not None
    assert spoiled.weight_tightness is not None
    assert 0.9 < sound.weight_tightness <= 1 < spoiled.weight_tightness


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_products_that_are_not_finite(plan: Plan) -> None:
    """Errors and ratios are the largest float in place of infinity, which JSON does not have; a cosine is not known."""
    x, weight = torch.randn(30, 128, generator=operands.generator(5)), operands.weight(48, 128)
    row = measured(plan, x, weight, None, torch.float32, math.nan)
    assert row.error == row.tightness == row.weight_tightness == torch.finfo(torch.float64).max
    assert row.cosine is None
    assert row.sqnr is None


def test_partial_sums_may_overflow() -> None:
    """A sum that passes through Inf on its way to a small number is no wrong kernel."""
    x, weight = torch.ones(1, 256), torch.full((16, 256), 3e38)
    weight[:, 128:] *= -1
    x[:, 128:] -= 2.0**-20
    rows = Activations.of(x, PLANS["int4-128"])
    y = x.double() @ weight.double().t()
    limit = bound(rows, Weights.of(weight, PLANS["int4-128"]), None, y, torch.float32)
    assert bool(torch.isinf(limit).all())


@pytest.mark.parametrize("scale", [1e-2, 1e-4])
def test_small_float16_results_are_looked_at(scale: float) -> None:
    """The absolute part of the bound is half of the smallest subnormal number, not the smallest normal one."""
    x = (torch.randn(32, 128, generator=operands.generator(7)) * scale).half()
    weight = (operands.weight(48, 128) * 0.1).half()
    sound, spoiled = (measured(PLANS["none"], x, weight, None, torch.float16, spoil) for spoil in (1.0, 3.0))
    assert (sound.tightness or 0.0) <= 1 < (spoiled.tightness or 0.0)


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
