"""Where times are level, accuracy decides: of a softmax in float32 on a CPU, which is nearer to the exact one than torch's."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.graphs import capture, context, run_until
from lowbit_compiler.passes.calls import Cost
from lowbit_compiler.passes.contract import PassContext, Target
from lowbit_compiler.passes.site import Reason

X = torch.randn(2, 4, 9, 17)


def plan(fn: Callable[[Tensor], Tensor], x: Tensor, seconds: float, target: Target | None = None) -> PassContext:
    """Plan ``fn`` where torch takes ``seconds`` times as long as we do."""
    captured, _ = capture(fn, x)
    ctx = context(captured, costs=lambda _: Cost(1e-4, seconds * 1e-4))
    ctx.target = target or ctx.target
    run_until(captured, ctx, "plan")
    return ctx


LEVEL: dict[str, tuple[Callable[[Tensor], Tensor], Tensor, float, str]] = {
    # function, input, torch's time by ours, and what is said of it where ours is taken
    "level": (lambda x: x.softmax(-1), X, 0.98, "level with torch (100 us, torch 98 us), and more accurate"),
    "slower": (lambda x: x.softmax(-1), X, 0.96, ""),
    "log": (lambda x: x.log_softmax(-1), X, 1.01, ""),
    "bfloat16": (lambda x: x.softmax(-1), X.bfloat16(), 1.01, ""),
    "bfloat16, faster": (lambda x: x.softmax(-1), X.bfloat16(), 1.03, "1.0x torch (100 us, torch 103 us)"),
    "to float32": (
        lambda x: x.softmax(-1, dtype=torch.float32), X.bfloat16(), 0.98, "level with torch (100 us, torch 98 us), and more accurate",
    ),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x), X, 1.01, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", LEVEL)
def test_accuracy_counts_where_times_are_level(case: str) -> None:
    fn, x, seconds, detail = LEVEL[case]
    ctx = plan(fn, x, seconds)
    (site,) = ctx.sites
    assert site.decision == ("rewritten" if detail else "declined")
    assert site.detail == detail if detail else site.reason is Reason.SLOWER


def test_accuracy_was_compared_on_a_cpu() -> None:
    ctx = plan(lambda x: x.softmax(-1), X.to("meta"), 1.01, Target("meta"))
    assert ctx.sites[0].reason is Reason.SLOWER
