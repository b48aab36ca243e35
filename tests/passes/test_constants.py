"""A constant computed some rows at a time is bit for bit the one computed at once, and needs memory for those rows only."""

from typing import Any

import pytest
import torch
from torch import nn

from helpers.graphs import TwoLinears, capture, context, run_until
from lowbit_compiler.compile import constants
from lowbit_compiler.passes.contract import PassContext

RECIPES = ["int8", "int8-vector", "llm-int8", "int8-weight-only", "int8-switchable", "int4-weight-only"]
MATRICES = 3  # weights: q with k, o, and the transposed one


class Weights(nn.Module):
    """Joined weights, the transposed one of a bare product, and joined biases."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = TwoLinears(torch.bfloat16)
        self.w = nn.Parameter(torch.randn(96, 50, dtype=torch.bfloat16))

    def forward(self, x: torch.Tensor) -> Any:
        o, k = self.pair(x)
        return o @ self.w, k


def folded(recipe: str) -> tuple[PassContext, dict[str, Any]]:
    captured, examples = capture(Weights().eval().requires_grad_(False), torch.randn(8, 96, dtype=torch.bfloat16))
    values = dict(zip([node.name for node in captured.gm.graph.nodes if node.op == "placeholder"], examples, strict=True))
    ctx = context(captured, recipe)
    run_until(captured, ctx, "pack")
    return ctx, values


@pytest.mark.parametrize("recipe", RECIPES)
def test_chunks(monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    ctx, values = folded(recipe)
    assert any(len(constant.sources) > 1 for constant in ctx.constants)
    rows: list[int] = []
    run = constants._run

    def count(steps: Any, known: dict[Any, Any]) -> None:
        run(steps, known)
        rows.extend(
            value.shape[0]
            for value in known.values()
            if torch.is_tensor(value) and value.dtype is torch.float32 and value.dim() == 2 and value.shape[1] > 1  # not the scales of rows
        )

    for constant in ctx.constants:
        sources = [values[name] for name in constant.sources]
        whole = constants.compute(constant.graph, *sources)
        with monkeypatch.context() as patch:
            patch.setattr(constants, "CHUNK", 1)
            patch.setattr(constants, "_run", count)
            parts = constants.compute(constant.graph, *sources)
        assert all(torch.equal(got.view(torch.uint8), want.view(torch.uint8)) for got, want in zip(parts, whole, strict=True))
    assert len(rows) >= MATRICES
    assert max(rows) <= 16


def test_a_name_that_the_model_has_already() -> None:
    """Dynamo names values after the model's own variables, and a loop over ``weight`` makes ``weight_1``."""

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both = nn.Parameter(torch.randn(2, 64, 64))
            self.bias = nn.Parameter(torch.randn(2, 64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for weight, bias in zip(self.both, self.bias, strict=True):
                x = nn.functional.linear(x, weight, bias + 1).relu()
            return x

    captured, _ = capture(Loop().eval().requires_grad_(False), torch.randn(8, 64))
    ctx = context(captured, "int8")
    run_until(captured, ctx)
    placeholders = {node.name for node in captured.gm.graph.nodes if node.op == "placeholder"}
    assert len(ctx.constants) == 4
    assert {name for constant in ctx.constants for name in constant.outputs} <= placeholders
