"""widen, rotate, split and quantize: the graph each leaves, and the error each may introduce."""

import pytest
import torch

from helpers.graphs import TwoLinears, before_and_after, calls, rerun
from lowbit_compiler.passes.quantize import InsertQuantize
from lowbit_compiler.passes.treat import Treat
from lowbit_compiler.passes.widen import Widen

EPS = torch.finfo(torch.float32).eps
X = torch.randn(5, 96, generator=torch.Generator().manual_seed(3))
X[0, 7] = 40.0


def single(dtype: torch.dtype = torch.float32) -> torch.nn.Linear:
    torch.manual_seed(1)
    return torch.nn.Linear(96, 64, dtype=dtype)


def test_widen() -> None:
    captured, ctx, want, got = before_and_after(single(torch.bfloat16), (X.bfloat16(),), "widen")
    assert calls(captured.gm) == ["aten.to", "aten.to", "aten.to", "aten.linear", "aten.to"]
    assert got[0].dtype == torch.bfloat16
    # one rounding here, at most one there
    assert ((got[0] - want[0]).abs() <= 2 * torch.finfo(torch.bfloat16).eps * want[0].abs() + EPS * 97 * 40).all()
    assert rerun(Widen(), captured, ctx) == 0


def test_widen_leaves_float32() -> None:
    captured, *_ = before_and_after(single(), (X,), "widen")
    assert calls(captured.gm) == ["aten.linear"]


def test_rotate() -> None:
    captured, _, want, got = before_and_after(single(), (X,), "treat")
    assert calls(captured.gm) == ["lowbit.rotate", "lowbit.rotate", "aten.linear"]
    # six butterfly stages on either side and a sum over 128 padded terms
    bound = 2 * EPS * (128 + 14) * 8 * X.abs().amax(1, keepdim=True) * single().weight.abs().max() * 8
    assert ((got[0] - want[0]).abs() <= bound).all()


@pytest.mark.parametrize(("recipe", "op"), [("llm-int8", "lowbit.split_columns")])
def test_split(recipe: str, op: str) -> None:
    captured, ctx, want, got = before_and_after(single(), (X,), "treat", recipe)
    assert calls(captured.gm) == [op, "getitem", "getitem", "aten.linear", "aten.linear", "aten.add"]
    bound = 4 * EPS * 98 * X.abs().amax(1, keepdim=True) * single().weight.abs().max()
    assert ((got[0] - want[0]).abs() <= bound).all()
    assert ctx.sites[0].became.exact is not None
    assert Treat().name == "treat"


@pytest.mark.parametrize("recipe", ["int8", "int8-vector", "llm-int8", "int8-weight-only", "int4-weight-only"])
def test_quantize(recipe: str) -> None:
    captured, _, want, got = before_and_after(single(), (X,), "quantize", recipe)
    names = calls(captured.gm)
    weight_only = recipe.endswith("only")
    quantize = "lowbit.quantize_u4" if recipe.startswith("int4") else "lowbit.quantize_s8"
    assert names.count(quantize) == (1 if weight_only else 2)
    assert names[-1] in ("aten.linear", "aten.add")
    # half a step on either operand, summed over K (algorithms: the certificate of LLM.int8())
    weight = single().weight.detach()
    levels = 5 if recipe.startswith("int4") else 127
    step_w = weight.abs().amax(1) * (8 if recipe == "int8" else 1) / (2 * levels)
    step_x = torch.zeros(5) if weight_only else X.abs().amax(1) * (8 if recipe == "int8" else 1) / 254
    k = 128 if recipe == "int8" else 96
    size_x, size_w = X.norm(dim=1) * k**0.5, weight.norm(dim=1) * k**0.5  # sum|v| <= sqrt(K) |v|, kept by a rotation
    bound = step_x[:, None] * size_w + step_w * size_x[:, None] + k * step_x[:, None] * step_w
    assert ((got[0] - want[0]).abs() <= bound * (1 + 1e-3)).all()


def test_quantize_reads_a_shared_input_once() -> None:
    captured, ctx, *_ = before_and_after(TwoLinears(), (torch.randn(3, 96),), "quantize", "int8-vector")
    assert calls(captured.gm).count("lowbit.quantize_s8") == 4
    assert InsertQuantize().name == "quantize"
    assert len(ctx.planned()) == 3
