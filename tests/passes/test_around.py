"""What the planner is told of a softmax's surroundings before the graph is rewritten is what is there afterwards."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.graphs import calls, capture, context, run_until
from lowbit_compiler.passes.calls import Cost

torch.manual_seed(0)
X = torch.randn(4, 9, 16)
KEEP = torch.rand(9, 16) > 0.3
ADDED = torch.randn(9, 16)
V = torch.randn(4, 16, 16)
W = torch.randn(16, 16)

CASES: dict[str, tuple[Callable[[Tensor], Any], bool, int]] = {
    # alone, sides with loops
    "softmax": (lambda x: x.softmax(-1), True, 0),
    "scaled and rounded": (lambda x: (x * 0.5).softmax(-1, dtype=torch.float32).bfloat16(), True, 0),
    "mask to add": (lambda x: (x + ADDED).softmax(-1), True, 0),
    "mask to keep": (lambda x: torch.where(KEEP, x, -math.inf).softmax(-1), True, 0),
    "mask to be turned round": (lambda x: x.masked_fill(KEEP, -math.inf).softmax(-1), False, 0),
    "two masks": (lambda x: (x + ADDED + ADDED).softmax(-1), False, 0),
    "another": (lambda x: (x.softmax(-1), x.softmax(1)), False, 0),
    "loop in front": (lambda x: x.relu().softmax(-1), False, 1),
    "loop behind": (lambda x: x.softmax(-1).relu(), False, 1),
    "loops on both sides": (lambda x: x.relu().softmax(-1).relu(), False, 2),
    "two loops behind": (lambda x: (y := x.softmax(-1), y + 1, y * 2), False, 1),
    "views": (lambda x: x.view(-1, 16).softmax(-1).view(-1), False, 0),
    "loops behind views": (lambda x: x.relu().view(-1, 16).softmax(-1).t().unsqueeze(0) + 1, False, 2),
    "in-place loop": (lambda x: x.softmax(-1).mul_(3), False, 1),
    "products": (lambda x: F.linear(F.linear(x, W).softmax(-1), W), False, 0),
    "product of activations": (lambda x: torch.bmm(x, V).softmax(-1), False, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_around(case: str) -> None:
    fn, alone, loops = CASES[case]
    asked: list[Any] = []

    def costs(call: Any) -> Cost:
        asked.append(call)
        return Cost(1.0, 2.0)

    captured, _ = capture(fn, X)
    run_until(captured, context(captured, costs=costs))
    assert {(call.alone, call.loops) for call in asked} == {(alone, loops)}
    assert (len(calls(captured.gm)) == 1) is alone
