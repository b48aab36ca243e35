"""Linears stay in float where that is faster, and never lose accuracy for speed; the times come from functions of the test."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from helpers import plain
from helpers.graphs import TwoLinears, calls, capture, context, run_until
from lowbit_compiler.passes.calls import LinearCall
from lowbit_compiler.passes.contract import PassContext, Target
from lowbit_compiler.passes.price import fastest
from lowbit_compiler.passes.site import Reason
from lowbit_compiler.recipes import RECIPES, WITH_KERNELS, Recipe
from lowbit_compiler.runtime.products import Plan

ROTATED, WIDE, INT4 = plain.plan("int8", "int8", "rotation"), plain.plan("int8", "float", "none"), plain.plan("int4", "float", "none")
X = torch.randn(3, 96)


class Costs:
    """A machine on which each op takes the seconds given for it, and float takes one; it remembers what it was asked."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = {"float": 1.0, **seconds}
        self.asked: list[LinearCall] = []

    def __call__(self, call: LinearCall) -> dict[str, float]:
        self.asked.append(call)
        return {name: self.seconds.get(name, 0.5) for name in ("float", *(plan.op for plan in call.plans))}


def plan(fn: Callable[..., Any], x: torch.Tensor, costs: Any, recipe: str | Recipe = "int8", **options: Any) -> PassContext:
    captured, _ = capture(fn, x, dynamic=options.pop("dynamic", False))
    ctx = context(captured, recipe, linear_costs=costs)
    ctx.target = options.pop("target", ctx.target)
    ctx.max_rewrites = options.pop("max_rewrites", None)
    run_until(captured, ctx, "plan")
    return ctx


def test_float_is_kept_where_it_is_faster() -> None:
    ctx = plan(TwoLinears(), X, Costs(float=6e-5, linear_s8s8_rotated=7.3e-5, linear_fs8=9e-5))
    for site in ctx.sites:
        assert site.reason is Reason.SLOWER
        assert site.detail == "float 60 us, linear_s8s8_rotated 73 us, linear_fs8 90 us at 3 rows"


@pytest.mark.parametrize(("gain", "kept"), [(4e-6, True), (2e-6, False)])
def test_what_a_call_costs_is_charged_to_all_linears_together(gain: float, kept: bool) -> None:
    """Three sites in two products: 13 us."""
    ctx = plan(TwoLinears(), X, Costs(float=3 * gain, linear_s8s8_rotated=gain, linear_fs8=2 * gain))
    assert all((site.plan is not None) is kept for site in ctx.sites)
    if not kept:
        assert ctx.sites[0].reason is Reason.SLOWER
        assert ctx.sites[0].detail.endswith("3 rows), but all linears together gain 8 us, and each call checks their weights in 13 us")


def test_the_gain_is_that_of_the_rows_there_are() -> None:
    """65 rows are timed as 128: half of the gain is theirs."""
    for gain, kept in ((24e-6, True), (20e-6, False)):
        costs = Costs(float=3 * gain, linear_s8s8_rotated=2 * gain, linear_fs8=3 * gain)
        ctx = plan(nn.Linear(96, 64), torch.randn(65, 96), costs)
        assert (ctx.sites[0].plan is not None) is kept  # a call costs 11 us


def test_weights_of_a_small_model_stay_near() -> None:
    costs = Costs()
    plan(TwoLinears(), X, costs)
    assert all(call.near for call in costs.asked)
    plan(nn.Linear(1024, 1024, bias=False), torch.randn(3, 1024), costs)
    assert not costs.asked[-1].near
    shared = nn.Linear(400, 400, bias=False)  # 640 KB, read twice
    plan(lambda x: shared(shared(x)), torch.randn(3, 400), costs)
    assert costs.asked[-1].near


class Cast(nn.Module):
    """What autocast makes of a linear: its weight is converted at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 48, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.inner.weight.to(x.dtype))


def test_a_cast_of_the_weight_is_timed_with_the_float_product() -> None:
    costs = Costs()
    plan(Cast(), torch.randn(5, 64, dtype=torch.bfloat16), costs)
    assert [(call.dtype, call.stored) for call in costs.asked] == [(torch.bfloat16, torch.float32)]


def test_gain_is_reported() -> None:
    ctx = plan(TwoLinears(), X, Costs(float=2e-3, linear_s8s8_rotated=5e-4))
    assert {(site.plan.op, site.detail) for site in ctx.sites} == {("linear_s8s8_rotated", "4.00x float (500 us, float 2.0 ms at 3 rows)")}


def test_another_op_than_the_recipes_is_reported() -> None:
    ctx = plan(TwoLinears(), X[:1], Costs(float=9e-5, linear_s8s8_rotated=4e-5, linear_fs8=2.5e-5))
    assert {site.plan.op for site in ctx.sites} == {"linear_fs8"}
    assert ctx.sites[0].detail == "3.60x float (25 us, float 90 us, linear_s8s8_rotated 40 us at 1 row)"


@pytest.mark.parametrize(
    ("recipe", "ops"),
    [
        ("int8", ["linear_s8s8_rotated", "linear_fs8"]),
        ("llm-int8", ["linear_s8s8_columns", "linear_fs8"]),
        ("int8-vector", ["linear_s8s8", "linear_fs8"]),
        ("int8-weight-only", ["linear_fs8"]),
        ("int4-weight-only", ["linear_fu4", "linear_fs8"]),
        (Recipe("rows", treatment="rows"), ["linear_s8s8_rows", "linear_fs8"]),
    ],
)
def test_candidates_are_never_less_accurate(recipe: str | Recipe, ops: list[str]) -> None:
    costs = Costs()
    plan(TwoLinears(), X, costs, recipe)
    for call in costs.asked:
        assert [plan.op for plan in call.plans] == ops


def test_siblings_are_timed_and_decided_together() -> None:
    def slow_at_two_widths(call: LinearCall) -> dict[str, float]:
        costs(call)
        return {"float": 1.0, "linear_s8s8_rotated": 2.0 if len(call.widths) == 2 else 0.5, "linear_fs8": 2.0}

    costs = Costs()
    ctx = plan(TwoLinears(), X, slow_at_two_widths)
    assert [(call.k, call.widths, call.bias) for call in costs.asked] == [(96, (32, 64), True), (64, (96,), True)]
    assert {site.module: site.decision for site in ctx.sites} == {"q": "declined", "k": "declined", "o": "rewritten"}


def test_what_cannot_be_merged_is_timed_alone() -> None:
    net = nn.ModuleList([nn.Linear(64, 32), nn.Linear(64, 48)])

    def written(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x + 1
        first = net[0](x)
        x.mul_(2)
        return first, net[1](x)

    costs = Costs()
    plan(written, torch.randn(3, 64), costs)
    assert [call.widths for call in costs.asked] == [(32,), (48,)]


@pytest.mark.parametrize(("rows", "timed"), [(1, 1), (2, 2), (63, 63), (64, 64), (65, 128), (512, 512), (600, 1024)])
def test_many_rows_are_timed_as_a_power_of_two(rows: int, timed: int) -> None:
    costs = Costs()
    plan(nn.Linear(64, 32), torch.randn(rows, 64), costs)
    assert [call.rows for call in costs.asked] == [timed]


def test_layouts() -> None:
    costs = Costs()
    weight = nn.Parameter(torch.randn(64, 48))
    plan(lambda x: x.t() @ weight, torch.randn(64, 3), costs)
    (call,) = costs.asked
    assert (call.rows, call.column_major, call.transposed, call.bias) == (3, True, True, False)
    costs = Costs()
    plan(nn.Linear(64, 48, dtype=torch.bfloat16), torch.randn(2, 5, 64, dtype=torch.bfloat16), costs)
    (call,) = costs.asked
    assert (call.rows, call.dtype, call.column_major, call.transposed, call.bias) == (10, torch.bfloat16, False, False, True)


def test_symbolic_rows_are_timed_at_the_example_and_at_one() -> None:
    costs = Costs(float=1e-3, linear_s8s8_rotated=5e-4)
    ctx = plan(nn.Linear(64, 32), torch.randn(7, 64), costs, dynamic=True)
    assert [call.rows for call in costs.asked] == [7, 1]
    assert ctx.sites[0].detail == "2.00x float (500 us, float 1.0 ms at 7 rows); 2.00x float (500 us, float 1.0 ms at 1 row)"


@pytest.mark.parametrize(
    ("hinted", "few", "choice"),
    [
        ((1.0, 0.5, 0.9), (1.0, 0.5, 0.5), ROTATED),
        ((1.0, 0.99, 0.99), (1.0, 0.1, 0.1), None),  # what is no gain at the example's rows is not taken
        ((1.0, 1.1, 0.9), (1.0, 0.1, 0.5), WIDE),
        ((1.0, 0.52, 0.5), (1.0, 0.5, 0.5), ROTATED),  # another op must gain 5 %
        ((1.0, 0.53, 0.5), (1.0, 0.5, 0.5), WIDE),
        ((1.0, 0.5, 0.9), (1.0, 1.1, 0.5), WIDE),  # both are faster than float: the one that loses nothing at one row
        ((1.0, 0.5, 1.1), (1.0, 1.1, 0.5), ROTATED),  # nothing is faster at both: the example's rows decide
        ((1.0, 0.5, 0.9), (1.0, 1.02, 0.5), ROTATED),  # within 3 % of float
    ],
)
def test_fastest(hinted: tuple[float, ...], few: tuple[float, ...], choice: Plan | None) -> None:
    names = ("float", ROTATED.op, WIDE.op)
    assert fastest((ROTATED, WIDE), dict(zip(names, hinted, strict=True)), dict(zip(names, few, strict=True))) == choice


class Vocabulary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(5000, 64), nn.Linear(64, 64), nn.Linear(64, 5000, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embed(ids)))


@pytest.mark.parametrize("recipe", WITH_KERNELS)
def test_output_head_is_timed_as_it_is_planned(recipe: str) -> None:
    costs = Costs()
    plan(Vocabulary(), torch.arange(6), costs, recipe)
    ops = {call.widths: [plan.op for plan in call.plans] for call in costs.asked}
    wanted = {"float": None, "weight-only": ["linear_fs8"], "same": ops[(64,)]}
    assert ops.get((5000,)) == wanted[RECIPES[recipe].head]


def test_limit_counts_what_is_left() -> None:
    ctx = plan(TwoLinears(), X, lambda call: {"float": 1.0, **dict.fromkeys((p.op for p in call.plans), call.k / 80)}, max_rewrites=0)
    assert {site.module: site.reason for site in ctx.sites} == {"q": Reason.SLOWER, "k": Reason.SLOWER, "o": Reason.LIMIT}


def test_no_library() -> None:
    costs = Costs()
    ctx = plan(TwoLinears(), X, costs, target=Target(has_kernels=False))
    assert {(site.reason, site.detail) for site in ctx.sites} == {
        (Reason.NO_KERNEL, "the native library is not loaded, and products in plain torch are slow")
    }
    assert not costs.asked


def test_what_cannot_be_timed_is_kept() -> None:
    def costs(call: LinearCall) -> dict[str, float]:
        raise RuntimeError("not enough memory")

    ctx = plan(TwoLinears(), X, costs)
    assert {(site.reason, site.detail) for site in ctx.sites} == {(Reason.NO_KERNEL, "not timed: RuntimeError: not enough memory")}


@pytest.mark.parametrize("recipe", ["int8", "llm-int8", "int4-weight-only"])
def test_the_choice_is_what_runs(recipe: str) -> None:
    """q and k become one weight-only product, o stays in float."""
    captured, _ = capture(TwoLinears(), X)
    ctx = context(captured, recipe, linear_costs=lambda call: {"float": 1.0, call.plans[0].op: 2.0, "linear_fs8": call.k / 128})
    ctx.ignore = ("o",)
    run_until(captured, ctx)
    assert [name for name in calls(captured.gm) if "linear" in name] == ["lowbit.linear_fs8", "aten.linear"]
    assert [site.lowered_to for site in ctx.sites] == ["linear_fs8", "", "linear_fs8"]
