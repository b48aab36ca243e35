"""Formats without a kernel through torch.compile: the result is that of the plan, in every situation in which int8 works."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import bounds
from helpers.compiled import compiled, cosine, reports_of
from helpers.recipes import EMULATED
from lowbit_compiler.recipes import Recipe
from lowbit_compiler.report import Report
from lowbit_compiler.runtime.products import Plan
from lowbit_compiler.runtime.treatments.treatment import at_once

every = pytest.mark.parametrize("recipe", EMULATED.values(), ids=EMULATED)
some = pytest.mark.parametrize("recipe", [EMULATED[name] for name in ("int2", "mxfp4", "nvfp4", "e4m3")], ids=lambda recipe: recipe.name)


def rows(*shape: int) -> Tensor:
    x = torch.randn(*shape)
    x[..., 3] *= 20
    return x


def parts(plan: Plan, weight: Tensor) -> tuple[Tensor, ...]:
    return plan.w.quantize(plan.treatment.weight(at_once, weight.detach().float()))


def planned(plan: Plan, layer: nn.Linear, x: Tensor) -> Tensor:
    """Return what the plan says that ``layer`` computes."""
    return plan.emulate(x, parts(plan, layer.weight), layer.bias)


def exactly(plan: Plan, layer: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the float64 product of the operands as quantized, and the bound on float32 sums of it."""
    weight = plan.w.dequantize(parts(plan, layer.weight)).double()
    kept, exact = plan.treatment.activation(at_once, x.float())
    low = kept if plan.x is None else plan.x.dequantize(plan.x.quantize(kept))
    y, bound = bounds.linear_float(low, weight, layer.bias, x.dtype)
    if exact is not None:
        more, beside = bounds.linear_float(exact, weight, None, x.dtype)
        y, bound = y + more, bound + beside + 2 * bounds.EPS * (y.abs() + more.abs())
    return y, bound


def run(model: Any, x: Tensor, recipe: Recipe, **options: Any) -> tuple[Tensor, Report]:
    with torch.no_grad():
        got, (report,) = reports_of(lambda: compiled(model, recipe, **options)(x))
    return got, report


@pytest.mark.parametrize(
    ("recipe", "dtype"),
    [
        *((recipe, torch.float32) for recipe in EMULATED.values()),
        *((EMULATED[name], torch.bfloat16) for name in ("int2", "nvfp4", "mxfp4-columns")),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_result_is_that_of_the_plan(recipe: Recipe, dtype: torch.dtype) -> None:
    """To the last bit, and within what float32 sums allow of float64; a bfloat16 model rounds once."""
    layer, x = nn.Linear(96, 64).to(dtype), rows(7, 96).to(dtype)
    got, report = run(layer, x, recipe)
    assert got.dtype is dtype
    assert torch.equal(got, planned(recipe.plan, layer, x))
    bounds.assert_within(got, *exactly(recipe.plan, layer, x))
    (site,) = report.sites
    assert (site.decision, site.lowered_to, site.reason) == ("emulated", "", "")
    assert site.detail == f"no kernel for {recipe.plan.name}"
    assert site.detail in " ".join(str(report).split())
    assert "0 of 1 sites rewritten, 1 emulated" in report.summary()
    assert report.emulated == report.sites


@some
def test_as_planned_by_default(recipe: Recipe) -> None:
    """Where others are timed, these are not: a recipe that asks for them gets them."""
    layer, x = nn.Linear(96, 64), rows(3, 96)
    got, report = run(layer, x, recipe, plan="measured")
    assert [site.decision for site in report.sites] == ["emulated"]
    assert torch.equal(got, planned(recipe.plan, layer, x))


@pytest.mark.parametrize("recipe", [EMULATED["int2"], EMULATED["nvfp4"]], ids=lambda recipe: recipe.name)
def test_one_graph_for_every_batch(recipe: Recipe) -> None:
    layer = nn.Linear(96, 64)
    model = compiled(layer, recipe, dynamic=True)
    with torch.no_grad():
        inputs = [rows(*shape, 96) for shape in ((2, 3), (5, 7), (9, 2))]
        got, reports = reports_of(lambda: [model(x) for x in inputs])
    assert len(reports) == 1
    for x, y in zip(inputs, got, strict=True):
        assert torch.equal(y, planned(recipe.plan, layer, x))


@some
def test_changed_weights_are_noticed(recipe: Recipe) -> None:
    layer, x = nn.Linear(96, 64), rows(7, 96)
    model = compiled(layer, recipe)
    with torch.no_grad():
        first = model(x)
        layer.weight.mul_(-3)
        layer.weight[4, 5] = 2.0
        assert torch.equal(model(x), planned(recipe.plan, layer, x))
        assert not torch.equal(model(x), first)
        layer.weight = nn.Parameter(torch.randn(64, 96))
        assert torch.equal(model(x), planned(recipe.plan, layer, x))


@some
def test_free_weights(recipe: Recipe) -> None:
    layer, x = nn.Linear(96, 64).requires_grad_(False), rows(7, 96)
    want = planned(recipe.plan, layer, x)
    model = compiled(layer, recipe, free_weights=True)
    with torch.no_grad():
        assert torch.equal(model(x), want)
        assert layer.weight.untyped_storage().nbytes() == 0
        assert torch.equal(model(x), want)


@every
def test_what_is_not_finite_stays_in_its_row(recipe: Recipe) -> None:
    layer, x = nn.Linear(96, 64), rows(7, 96)
    x[2, 50] = x[4, 60] = 0.0
    x[0, 0] = 100.0  # the largest, of which the outer scale of a tensor is
    spoiled = x.clone()
    spoiled[2, 50], spoiled[4, 60] = torch.nan, torch.inf
    model = compiled(layer, recipe)
    with torch.no_grad():
        want, got = model(x), model(spoiled)
    others = torch.tensor([0, 1, 3, 5, 6])
    assert torch.equal(got[others], want[others])
    assert bool(torch.isnan(got[2]).all())
    assert not torch.isfinite(got[4]).any()


@pytest.mark.parametrize(
    "recipe", [EMULATED[name] for name in ("int2", "nvfp4", "e4m3-rotated", "mxfp4-columns")], ids=lambda recipe: recipe.name
)
def test_verify_passes(recipe: Recipe, plain_environment: pytest.MonkeyPatch) -> None:
    plain_environment.setenv("LOWBIT_VERIFY", "each")
    model, x = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 48)).bfloat16(), torch.randn(9, 96).bfloat16()
    with torch.no_grad():
        got, report = run(model, x, recipe)
        assert cosine(got, model(x)) > (0.97 if recipe.plan.w.format.grid.bits > 2 else 0.9)
    assert [site.decision for site in report.sites] == ["emulated"] * 2


class Picture(nn.Module):
    """A convolution, a normalization and a table beside one product."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, 8, 3), nn.LayerNorm(128), nn.Linear(128, 40)
        self.table = nn.Embedding(4, 128)

    def before(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x).flatten(1)) + self.table.weight[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.before(x))


@some
def test_the_rest_of_a_model_is_untouched(recipe: Recipe) -> None:
    model, x = Picture(), torch.randn(3, 3, 6, 6)
    got, report = run(model, x, recipe)
    assert {site.module: site.decision for site in report.sites} == {"conv": "declined", "out": "emulated"}
    with torch.no_grad():
        assert torch.equal(got, planned(recipe.plan, model.out, model.before(x)))


def test_a_head_with_a_kernel() -> None:
    model, x = nn.Sequential(nn.Linear(96, 64), nn.Linear(64, 5000, bias=False)), rows(5, 96)
    recipe = Recipe("mixed", "mxfp4", "mxfp4", head="weight-only")
    got, report = run(model, x, recipe)
    assert [site.decision for site in report.sites] == ["emulated", "rewritten"]
    head = recipe.head_plan
    assert head is not None
    bounds.assert_within(got, *exactly(head, model[1], planned(recipe.plan, model[0], x)))
    assert "1 of 2 sites rewritten, 1 emulated" in report.summary()


@pytest.mark.parametrize("recipe", [EMULATED["nvfp4"]], ids=lambda recipe: recipe.name)
def test_inductor(recipe: Recipe) -> None:
    """Generated code quantizes as plain torch does, also where the last block is short: only the order of sums may differ."""
    layer, x = nn.Linear(100, 64), rows(7, 100)
    x[5, 40] = torch.nan
    got, report = run(layer, x, recipe, remainder="inductor")
    assert [site.decision for site in report.sites] == ["emulated"]
    fine = torch.arange(7) != 5
    y, bound = exactly(recipe.plan, layer, x)
    bounds.assert_within(got[fine], y[fine], bound[fine])
    assert bool(torch.isnan(got[5]).all())


@pytest.mark.parametrize("around", [True, False])
def test_autocast_leaves_the_product_in_float32(around: bool) -> None:
    """Around the model or inside it."""
    layer, x = nn.Linear(96, 64), rows(7, 96)
    recipe = EMULATED["mxfp4-columns"]

    def inside(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return layer(x)

    compiled = torch.compile(
        layer if around else inside, backend="lowbit", options={"recipe": recipe, "plan": "always", "remainder": "eager"}
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=around):
        got = compiled(x)
    assert got.dtype is torch.bfloat16
    want = planned(recipe.plan, layer, x).double()
    eps = torch.finfo(torch.bfloat16).eps
    y, bound = exactly(recipe.plan, layer, x)
    assert bool(((got.double() - y).abs() <= bound + eps * (want.abs() + bound)).all())
