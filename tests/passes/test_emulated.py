"""No entry in the table of products means emulated: the quantized product stays in the graph, and nobody times it."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from helpers.bounds import EPS
from helpers.graphs import TwoLinears, before_and_after, calls, capture, context, evaluate, run_until
from helpers.recipes import EMULATED
from lowbit_compiler.passes.calls import LinearCall
from lowbit_compiler.passes.contract import Fact, PassContext, Target
from lowbit_compiler.passes.graph import aten
from lowbit_compiler.passes.pipeline import PASS_NAMES
from lowbit_compiler.passes.product import FLOAT, products
from lowbit_compiler.recipes import Recipe
from lowbit_compiler.runtime.formats import Operand
from lowbit_compiler.runtime.products import PRODUCTS, Plan
from lowbit_compiler.runtime.treatments.treatment import at_once

X = torch.randn(3, 96, generator=torch.Generator().manual_seed(3))
X[1, 5] = 30.0
every = pytest.mark.parametrize("recipe", EMULATED.values(), ids=EMULATED)


def rewritten(recipe: Recipe, model: Any = None, **options: Any) -> tuple[list[str], PassContext]:
    """Return the calls of the finished graph, and the context."""
    captured, _ = capture(model or TwoLinears(), X)
    ctx = context(captured, recipe, **options)
    facts, _ = run_until(captured, ctx)
    assert {Fact.LOWERED, Fact.PACKED} <= facts
    return calls(captured.gm), ctx


def spelled(operand: Operand, verb: str) -> str:
    name: str = operand.op(verb).name()
    return name.replace("::", ".")


@every
def test_quantized_product_stays(recipe: Recipe) -> None:
    """Lower and Pack leave it; the weight is quantized before the first run, into a constant for each of its parts."""
    names, ctx = rewritten(recipe)
    plan = recipe.plan
    assert not [name for name in names if name.startswith(("lowbit.linear", "lowbit.pack"))]
    number = len({site.node for site in ctx.sites})
    assert len(list(products(ctx))) == number
    assert names.count("lowbit.product_f32") == number * (2 if plan.treatment.splits else 1)
    inputs = 0 if plan.x is None else 2  # siblings read one
    wanted = Counter({spelled(plan.w, "dequantize"): number})
    if plan.x is not None:
        wanted += Counter({spelled(plan.x, "quantize"): inputs, spelled(plan.x, "dequantize"): inputs})
    assert Counter(name for name in names if "quantize" in name) == wanted
    assert [len(constant.outputs) for constant in ctx.constants if len(constant.outputs) > 1] == [len(plan.w.parts)] * number
    for product, _ in products(ctx):  # the one reader finds all of it, after Lower too
        assert product.plan == plan
        assert [part.op for part in product.parts] == ["placeholder"] * len(plan.w.parts)
        assert (product.quantize is None) == (plan.x is None)
        assert (product.exact is None) == (not plan.treatment.splits)
        assert product.total.target is (aten.add.Tensor if plan.treatment.splits else FLOAT)


@pytest.mark.parametrize(
    "recipe", [EMULATED[name] for name in ("int2", "nvfp4", "e4m3-rotated", "mxfp4-columns")], ids=lambda recipe: recipe.name
)
def test_values_are_those_of_the_plan(recipe: Recipe) -> None:
    """Every stage from the QDQ form on computes what Plan.emulate does, to the last bit, on the operands as they are."""
    model = TwoLinears(bias=False)
    weights = [layer.weight.detach() for layer in (model.q, model.k, model.o)]

    def product(x: torch.Tensor, *rows: torch.Tensor) -> torch.Tensor:
        weight = torch.cat(rows)
        treated = recipe.plan.treatment.weight(at_once, weight)
        return recipe.plan.emulate(x, recipe.plan.w.quantize(treated), None)

    q, k, o = weights
    together = recipe.plan.w.scale.row_local
    qk = product(X, q, k) if together else torch.cat([product(X, q), product(X, k)], 1)
    want = product(qk[:, :64].relu(), o), qk[:, 64:].relu()
    for last in ("quantize", "cleanup"):
        *_, got = before_and_after(model, (X,), last, recipe)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True)), last


def refuse(call: LinearCall) -> dict[str, float]:
    raise AssertionError(f"asked for the time of {call}")


@pytest.mark.parametrize(("name", "kernels"), [("int2", True), ("mxfp4", True), ("nvfp4", False)])
def test_never_timed_nor_declined_by_price(name: str, kernels: bool) -> None:
    """Whoever asks for it gets it; without the native library too, which has no part in it."""
    recipe = EMULATED[name]
    captured, _ = capture(TwoLinears(), X)
    ctx = context(captured, recipe, linear_costs=refuse)
    ctx.target = Target(has_kernels=kernels)
    run_until(captured, ctx, "plan")
    assert [(site.plan, site.reason, site.decision) for site in ctx.sites] == [(recipe.plan, None, "emulated")] * 3


class Mixed(nn.Module):
    """A product and an output head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(96, 64), nn.Linear(64, 5000, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def test_head_with_a_kernel_beside_emulated_products() -> None:
    recipe = Recipe("mixed", "mxfp4", "mxfp4", head="weight-only")
    names, ctx = rewritten(recipe, Mixed())
    assert {site.module: site.decision for site in ctx.sites} == {"body": "emulated", "head": "rewritten"}
    assert names.count("lowbit.linear_fs8") == names.count("lowbit.product_f32") == 1
    assert {len(constant.outputs) for constant in ctx.constants} == {1, 2}


def test_a_head_is_priced_by_its_own_gain() -> None:
    """The time of the emulated product counts nowhere; what the head gains must pay for its own call alone."""
    recipe = Recipe("mixed", "mxfp4", "mxfp4", head="weight-only")
    for seconds, decision in ((1e-6, "rewritten"), (0.9, "declined")):
        asked: list[LinearCall] = []

        def costs(call: LinearCall, asked: list[LinearCall] = asked, seconds: float = seconds) -> dict[str, float]:
            asked.append(call)
            return {"float": 1e-3, "linear_fs8": seconds}

        captured, _ = capture(Mixed(), X)
        ctx = context(captured, recipe, linear_costs=costs)
        run_until(captured, ctx, "plan")
        assert [call.widths for call in asked] == [(5000,)]
        assert {site.module: site.decision for site in ctx.sites} == {"body": "emulated", "head": decision}


@pytest.mark.parametrize(
    ("name", "merged"), [("mxfp4", True), ("e4m3-weights", True), ("int2", True), ("nvfp4", False), ("nvfp4-weights", False)]
)
def test_siblings_are_one_product_unless_the_scale_is_the_tensors(name: str, merged: bool) -> None:
    """One outer scale over two weights would be another than that of each."""
    recipe = EMULATED[name]
    assert recipe.plan.w.scale.row_local is merged
    names, ctx = rewritten(recipe)
    assert ("aten.split_with_sizes" in names) is merged
    assert (ctx.sites[0].node is ctx.sites[2].node) is merged


def test_saved_bytes_are_those_of_the_parts() -> None:
    _, ctx = rewritten(EMULATED["mxfp4-weights"])
    codes_and_scales = 64 * 96 * (1 + 1 / 32)  # a code takes a byte while there is no kernel for two in one
    (site,) = (site for site in ctx.sites if site.module == "o")
    assert site.became.saved_bytes == 4 * 64 * 96 - codes_and_scales


@pytest.mark.parametrize(
    "plan", [Recipe("a", "int4-symmetric", "float").plan, *(recipe.plan for recipe in EMULATED.values())], ids=lambda plan: plan.name
)
def test_the_table_decides(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has an op today is emulated without its entry."""
    key = (None if plan.x is None else plan.x.kind, plan.w.kind, type(plan.treatment))
    assert (plan.op == "") == (key not in PRODUCTS)
    monkeypatch.delitem(PRODUCTS, key, raising=False)
    assert plan.product is None
    assert plan.op == ""


def test_without_its_entry_a_product_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe("int4-symmetric", "int4-symmetric", "float")
    names, _ = rewritten(recipe)
    assert names.count("lowbit.linear_fs4") == 2
    plan = recipe.plan
    monkeypatch.delitem(PRODUCTS, (None, plan.w.kind, type(plan.treatment)))
    names, ctx = rewritten(recipe)
    assert names.count("lowbit.dequantize_s4") == names.count("lowbit.product_f32") == 2
    assert {site.decision for site in ctx.sites} == {"emulated"}


@pytest.mark.parametrize("recipe", [EMULATED["mxfp4-columns"]], ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("left_out", ["merge", "fold", "lower", "pack"])
def test_graphs_with_a_gap(recipe: Recipe, left_out: str) -> None:
    """Without any one of these passes the values are the same but for the order of sums, and the graph is still emulated."""
    assert left_out in PASS_NAMES
    model = TwoLinears()
    *_, want = before_and_after(model, (X,), "cleanup", recipe)
    captured, examples = capture(model, X)
    names = [node.name for node in captured.gm.graph.nodes if node.op == "placeholder"]
    ctx = context(captured, recipe)
    run_until(captured, ctx, disable=frozenset({left_out}))
    assert {site.decision for site in ctx.sites} == {"emulated"}
    got = evaluate(captured.gm, ctx, names, examples)
    first = 0 if recipe.plan.x is None else 1  # behind a sum of another order a code may be the next one
    for a, b in list(zip(got, want, strict=True))[first:]:
        assert (a - b).abs().max() <= 4 * EPS * 97 * b.abs().max()
