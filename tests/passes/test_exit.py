"""fold, lower, pack and cleanup: constants leave the graph, each planned product becomes one op, values stay."""

import pytest
import torch

from helpers.graphs import TwoLinears, before_and_after, calls, capture, context, evaluate, run_until
from lowbit_compiler.recipes import WITH_KERNELS, Recipe

ALL = [*WITH_KERNELS, Recipe("rows", treatment="rows")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("recipe", ALL, ids=str)
def test_lowered_equals_the_waist(recipe: str | Recipe, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = TwoLinears(dtype), torch.randn(2, 5, 96).to(dtype)
    x[0, 0, 3] = 30
    captured, examples = capture(model, x)
    names = [node.name for node in captured.gm.graph.nodes if node.op == "placeholder"]
    ctx = context(captured, recipe)
    run_until(captured, ctx, "fold")
    waist = evaluate(captured.gm, ctx, names, examples)

    captured, examples = capture(model, x)
    ctx = context(captured, recipe)
    run_until(captured, ctx)
    lowered = evaluate(captured.gm, ctx, names, examples)
    ops = [name for name in calls(captured.gm) if name.startswith("lowbit")]
    plan = ctx.sites[0].plan
    treated = ["lowbit.rotate"] if plan.inner != plan else []  # in front of the op, which takes x as it is
    assert ops == [*treated, f"lowbit.{plan.op}"] * 2
    assert not any(name in ("aten.to", "aten.linear") for name in calls(captured.gm) if not treated)
    for a, b in zip(lowered, waist, strict=True):
        assert a.dtype == b.dtype == dtype
        # q products: the first layer agrees to rounding; its rounding may move a code of the second by one step
        scale = b.float().abs().max()
        assert (a.float() - b.float()).abs().max() <= scale * (torch.finfo(dtype).eps * 2 + 2 / 127 * 0.5)


def test_fold_keeps_expressions_and_pack_ends_them() -> None:
    captured, ctx, *_ = before_and_after(TwoLinears(), (torch.randn(3, 96),), "fold")
    assert [constant.outputs for constant in ctx.constants] == [
        ("weight_0_q", "weight_0_scale"),
        ("bias_0",),
        ("weight_2_q", "weight_2_scale"),
    ]
    assert len(ctx.constants[0].sources) == 2
    captured, ctx, *_ = before_and_after(TwoLinears(), (torch.randn(3, 96),), "cleanup")
    assert [constant.outputs for constant in ctx.constants] == [("weight_0",), ("bias_0",), ("weight_2",)]
    names = [node.name for node in captured.gm.graph.nodes if node.op == "placeholder"]
    assert sum("weight" in name and name.startswith("l_") for name in names) == 0


def test_saved_bytes() -> None:
    _, ctx, *_ = before_and_after(TwoLinears(torch.float32), (torch.randn(3, 96),), "cleanup", "int8-vector")
    q = ctx.sites[0]
    stored = 64 // 16 * (16 * 128 + 128)  # four panels, K padded to 128
    assert q.became.saved_bytes == 64 * 96 * 4 - stored


def test_a_table_that_is_read_elsewhere_is_not_saved() -> None:
    table = torch.nn.Parameter(torch.randn(4096, 64))
    model = lambda ids: torch.nn.functional.linear(torch.nn.functional.embedding(ids, table), table)
    _, ctx, *_ = before_and_after(model, (torch.arange(6),), "cleanup")
    assert ctx.sites[0].became.saved_bytes == -(4096 // 16 * (16 * 64 + 128))
